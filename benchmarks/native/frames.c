#include "frames.h"

/* Length of the whole header, as far as its first two bytes tell. A server's frames have no mask. */
static size_t header_size(const uint8_t *header)
{
    uint8_t length = header[1] & 0x7f;
    return length == 126 ? 4 : length == 127 ? 10 : 2;
}

static void begin(struct walk *walk, const uint8_t *header)
{
    uint64_t length = header[1] & 0x7f;
    size_t extended = header_size(header) - 2;
    if (extended) {
        length = 0;
        for (size_t i = 0; i < extended; i++)
            length = length << 8 | header[2 + i];
    }
    walk->opcode = header[0] & 0x0f;
    walk->final = header[0] >> 7;
    walk->left = length;
    walk->in_payload = 1;
    walk->header_length = 0;
}

void walk_bytes(struct walk *walk, const struct walker *walker, void *owner, const uint8_t *data,
                size_t length)
{
    const uint8_t *end = data + length;
    while (data < end || (walk->in_payload && walk->left == 0)) {
        if (!walk->in_payload) {
            if (walk->header_length == 0 && end - data >= 10) {
                begin(walk, data);
                data += header_size(data);
            } else {
                walk->header[walk->header_length++] = *data++;
                if (walk->header_length >= 2 && walk->header_length == header_size(walk->header))
                    begin(walk, walk->header);
                continue;
            }
        }
        size_t here = (uint64_t)(end - data) < walk->left ? (size_t)(end - data) : walk->left;
        if (here)
            walker->piece(owner, walk, data, here);
        data += here;
        walk->left -= here;
        if (walk->left == 0) {
            walk->in_payload = 0;
            walker->end(owner, walk);
        } else {
            return;
        }
    }
}
