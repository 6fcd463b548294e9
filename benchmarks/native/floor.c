/*
 * The floor: what delivery costs when there is nothing but the writes.
 *
 *   floor
 *
 * Accepts connections on a port that it prints, answers each upgrade with the same bytes, and then
 * writes ready-made frames to all of them: no broker, no parsing, no routing.
 *
 * Commands on standard input, each answered by one line of JSON on standard output:
 *   serve COUNT                        accept until COUNT connections are upgraded
 *   frame SIZE                         make the frame: a payload of SIZE bytes with a stamp in it
 *   burst EVENTS BATCH                 write EVENTS frames to each, BATCH of them in one send()
 *   rounds COUNT INTERVAL_NS           write one frame to each, COUNT times, stamped at its start
 *   spread COUNT INTERVAL_NS BATCH     write COUNT frames to one connection after the other, BATCH of
 *                                      them in one send()
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "samples.h"

#define MARK '^'
#define STAMP_DIGITS 19

static int listener, *sockets;
static int socket_count;
static uint8_t *frame;
static size_t frame_length, stamp_at;

static void fatal(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void write_whole(int fd, const uint8_t *data, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0)
            fatal("send");
        data += sent;
        length -= (size_t)sent;
    }
}

static void serve(int count)
{
    static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                 "Connection: Upgrade\r\n\r\n";
    sockets = realloc(sockets, (size_t)count * sizeof *sockets);
    while (socket_count < count) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            fatal("accept");
        char request[16384];
        size_t length = 0;
        do {
            ssize_t got = recv(fd, request + length, sizeof request - length, 0);
            if (got <= 0)
                fatal("request");
            length += (size_t)got;
        } while (!memmem(request, length, "\r\n\r\n", 4));
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        write_whole(fd, (const uint8_t *)answer, sizeof answer - 1);
        sockets[socket_count++] = fd;
    }
}

static void make_frame(size_t size)
{
    size_t head = size < 126 ? 2 : size < 65536 ? 4 : 10;
    frame = realloc(frame, head + size);
    frame_length = head + size;
    frame[0] = 0x81;
    if (head == 2) {
        frame[1] = (uint8_t)size;
    } else {
        frame[1] = head == 4 ? 126 : 127;
        for (size_t i = 0; i < head - 2; i++)
            frame[2 + i] = (uint8_t)(size >> 8 * (head - 3 - i));
    }
    memset(frame + head, 'x', size);
    frame[head] = MARK;
    stamp_at = head + 1;
}

static void stamp(uint8_t *at, int64_t time)
{
    char digits[STAMP_DIGITS + 1];
    snprintf(digits, sizeof digits, "%019lld", (long long)time);
    memcpy(at, digits, STAMP_DIGITS);
}

static void sleep_until(int64_t due)
{
    struct timespec time = {due / 1000000000, due % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        ;
}

static uint8_t *many(int batch)
{
    uint8_t *frames = malloc(frame_length * (size_t)batch);
    if (!frames)
        fatal("malloc");
    for (int i = 0; i < batch; i++)
        memcpy(frames + frame_length * (size_t)i, frame, frame_length);
    return frames;
}

static void stamp_many(uint8_t *frames, int count, int64_t time)
{
    for (int i = 0; i < count; i++)
        stamp(frames + frame_length * (size_t)i + stamp_at, time);
}

static void burst(int events, int batch)
{
    uint8_t *frames = many(batch);
    for (int done = 0; done < events; done += batch) {
        int now = events - done < batch ? events - done : batch;
        stamp_many(frames, now, now_ns());
        for (int i = 0; i < socket_count; i++)
            write_whole(sockets[i], frames, frame_length * (size_t)now);
    }
    free(frames);
}

static void rounds(int count, int64_t interval, struct samples *times)
{
    int64_t due = now_ns();
    for (int done = 0; done < count; done++, due += interval) {
        sleep_until(due);
        int64_t began = now_ns();
        stamp(frame + stamp_at, began);
        for (int i = 0; i < socket_count; i++)
            write_whole(sockets[i], frame, frame_length);
        samples_add(times, now_ns() - began);
    }
}

static void spread(int count, int64_t interval, int batch, struct samples *times)
{
    uint8_t *frames = many(batch);
    int64_t due = now_ns();
    int next = 0;
    for (int done = 0; done < count; done += batch, due += interval) {
        int now = count - done < batch ? count - done : batch;
        if (interval)
            sleep_until(due);
        int64_t began = now_ns();
        stamp_many(frames, now, began);
        write_whole(sockets[next], frames, frame_length * (size_t)now);
        next = (next + 1) % socket_count;
        if (interval)
            samples_add(times, now_ns() - began);
    }
    free(frames);
}

static void answer(int64_t cpu, struct samples *times)
{
    printf("{\"cpu_ns\": %lld, \"p50\": %lld, \"p99\": %lld}\n", (long long)(cpu_ns() - cpu),
           (long long)samples_percentile(times, 0.5), (long long)samples_percentile(times, 0.99));
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) < 0 ||
        listen(listener, 4096) < 0 || getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        fatal("listen");
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready %d\n", ntohs(address.sin_port));
    char line[256];
    struct samples times = {0};
    while (fgets(line, sizeof line, stdin)) {
        int64_t cpu = cpu_ns();
        long long first, second, third;
        samples_clear(&times);
        if (sscanf(line, "serve %lld", &first) == 1)
            serve((int)first);
        else if (sscanf(line, "frame %lld", &first) == 1)
            make_frame((size_t)first);
        else if (sscanf(line, "burst %lld %lld", &first, &second) == 2)
            burst((int)first, (int)second);
        else if (sscanf(line, "rounds %lld %lld", &first, &second) == 2)
            rounds((int)first, second, &times);
        else if (sscanf(line, "spread %lld %lld %lld", &first, &second, &third) == 3)
            spread((int)first, second, (int)third, &times);
        else
            return 2;
        answer(cpu, &times);
    }
    return 0;
}
