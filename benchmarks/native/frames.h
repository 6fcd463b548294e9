/* Walks the frames of a WebSocket server (RFC 6455 section 5.2) without copying their payloads. */
#ifndef FRAMES_H
#define FRAMES_H

#include <stddef.h>
#include <stdint.h>

enum opcode { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

/* Where the walk through one connection's bytes stands. */
struct walk {
    uint8_t header[10];
    uint8_t header_length;
    uint8_t opcode;
    uint8_t final;
    uint8_t in_payload;
    uint64_t left; /* bytes of the present payload that are still to come */
};

/* What is told on the way. A payload comes in as many pieces as reads cut it into. */
struct walker {
    void (*piece)(void *owner, const struct walk *walk, const uint8_t *data, size_t length);
    void (*end)(void *owner, const struct walk *walk);
};

void walk_bytes(struct walk *walk, const struct walker *walker, void *owner, const uint8_t *data,
                size_t length);

#endif
