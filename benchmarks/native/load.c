/*
 * The load client: many WebSocket connections in one thread, read in large pieces.
 *
 *   load PORT frames|marks SAMPLE_EVERY SCRIPT
 *
 * SCRIPT holds what each connection says: u32 connections, then for each u32 steps, then for each
 * step u32 length and bytes of what to wait for, u32 length and bytes of what to send then (all in
 * the machine's order). The first step is the HTTP request and waits for nothing. A connection is
 * ready when its last step is done.
 *
 * `frames` counts whole data frames, `marks` counts the mark in payloads, for a server that puts
 * several messages into one frame. Every SAMPLE_EVERY-th connection measures latency: after the mark
 * come 19 digits, CLOCK_MONOTONIC in nanoseconds when the event was published. Once they are ready
 * these are read before all others, so that connecting, which is work here too, is not in what is
 * measured.
 *
 * Commands on standard input, each answered by one line of JSON on standard output:
 *   connect TO WINDOW MS   open connections up to number TO, WINDOW at once, within MS
 *   reset                  forget counts and latencies
 *   wait COUNT MS          answer when COUNT messages came since the reset, or after MS
 *   report                 counts, percentiles, CPU
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"
#include "samples.h"

#define MARK '^'
#define STAMP_DIGITS 19
#define READ_SIZE (256 * 1024)
#define MOST_EVENTS 1024
#define MOST_SETUP (256 * 1024)

struct bytes {
    const uint8_t *data;
    uint32_t length;
};

struct step {
    struct bytes wait, send;
};

enum state { UNUSED, CONNECTING, UPGRADING, TALKING, READY, DEAD };

struct connection {
    int fd;
    enum state state;
    struct step *steps;
    uint32_t step_count, step;
    struct walk walk;
    uint8_t *heard; /* what came since the last step, until the connection is ready */
    size_t heard_length;
    uint8_t control[125];
    uint8_t control_length;
    uint8_t sampled, digits;
    int64_t stamp;
};

static struct connection *connections;
static uint32_t connection_count;
static int epoll_fd, sampled_fd, count_marks;
static struct connection all_sampled; /* stands for them in epoll_fd */
static struct sockaddr_in server;
static int64_t read_at;

static struct {
    uint64_t messages, bytes, reads, closed;
    int64_t first, last;
    int close_code;
    struct samples latencies;
} seen;

static struct {
    uint32_t next, target, window, ready, failed, under_way;
    int64_t began, deadline;
    int active;
} connecting;

static struct {
    uint64_t goal;
    int64_t deadline;
    int active;
} waiting;

static void fatal(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* One connection's life. */

static void lose(struct connection *connection)
{
    if (connection->state == DEAD)
        return;
    if (connection->state == READY)
        seen.closed++;
    else {
        connecting.failed++;
        connecting.under_way--;
    }
    close(connection->fd);
    connection->state = DEAD;
    free(connection->heard);
    connection->heard = NULL;
}

static int say(struct connection *connection, struct bytes bytes)
{
    if (bytes.length == 0)
        return 1;
    ssize_t sent = send(connection->fd, bytes.data, bytes.length, MSG_NOSIGNAL);
    return sent == (ssize_t)bytes.length;
}

static void take_steps(struct connection *connection)
{
    while (connection->step < connection->step_count) {
        struct step *step = &connection->steps[connection->step];
        if (!memmem(connection->heard, connection->heard_length, step->wait.data,
                    step->wait.length))
            return;
        connection->step++;
        connection->heard_length = 0;
        if (!say(connection, step->send)) {
            lose(connection);
            return;
        }
    }
    connection->state = READY;
    free(connection->heard);
    connection->heard = NULL;
    if (connection->sampled) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = connection};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL) < 0 ||
            epoll_ctl(sampled_fd, EPOLL_CTL_ADD, connection->fd, &wanted) < 0)
            fatal("epoll_ctl");
    }
    connecting.ready++;
    connecting.under_way--;
}

static void hear(struct connection *connection, const uint8_t *data, size_t length)
{
    if (connection->heard_length + length > MOST_SETUP)
        connection->heard_length = 0;
    if (length > MOST_SETUP)
        length = MOST_SETUP;
    uint8_t *heard = realloc(connection->heard, connection->heard_length + length);
    if (!heard)
        fatal("memory");
    memcpy(heard + connection->heard_length, data, length);
    connection->heard = heard;
    connection->heard_length += length;
}

static void count_message(uint64_t more)
{
    if (seen.messages == 0)
        seen.first = read_at;
    seen.messages += more;
    seen.last = read_at;
}

static void find_stamps(struct connection *connection, const uint8_t *data, size_t length)
{
    const uint8_t *end = data + length;
    while (data < end) {
        if (connection->digits == 0) {
            data = memchr(data, MARK, (size_t)(end - data));
            if (!data)
                return;
            data++;
            connection->digits = STAMP_DIGITS;
            connection->stamp = 0;
            continue;
        }
        connection->stamp = connection->stamp * 10 + (*data++ - '0');
        if (--connection->digits == 0 && connection->stamp > 0)
            samples_add(&seen.latencies, read_at - connection->stamp);
    }
}

static void on_piece(void *owner, const struct walk *walk, const uint8_t *data, size_t length)
{
    struct connection *connection = owner;
    if (walk->opcode >= CLOSE) {
        if (connection->control_length + length <= sizeof connection->control) {
            memcpy(connection->control + connection->control_length, data, length);
            connection->control_length += (uint8_t)length;
        }
        return;
    }
    if (connection->state == TALKING) {
        hear(connection, data, length);
        return;
    }
    if (count_marks) {
        uint64_t marks = 0;
        const uint8_t *at = data, *end = data + length;
        while (at < end && (at = memchr(at, MARK, (size_t)(end - at)))) {
            marks++;
            at++;
        }
        if (marks)
            count_message(marks);
    }
    if (connection->sampled)
        find_stamps(connection, data, length);
}

static void on_end(void *owner, const struct walk *walk)
{
    struct connection *connection = owner;
    if (walk->opcode < CLOSE) {
        if (connection->state == TALKING)
            take_steps(connection);
        else if (walk->final && !count_marks)
            count_message(1);
        return;
    }
    if (walk->opcode == PING) {
        /* Masked with zeros, which leaves the payload as it is. */
        uint8_t pong[6 + sizeof connection->control] = {0x8a, 0x80};
        pong[1] |= connection->control_length;
        memcpy(pong + 6, connection->control, connection->control_length);
        say(connection, (struct bytes){pong, 6u + connection->control_length});
    } else if (walk->opcode == CLOSE && connection->control_length >= 2) {
        seen.close_code = connection->control[0] << 8 | connection->control[1];
    }
    connection->control_length = 0;
}

static const struct walker walker = {on_piece, on_end};

static void on_readable(struct connection *connection)
{
    static uint8_t buffer[READ_SIZE];
    ssize_t got = recv(connection->fd, buffer, sizeof buffer, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            lose(connection);
        return;
    }
    read_at = now_ns();
    seen.bytes += (uint64_t)got;
    seen.reads++;
    const uint8_t *data = buffer;
    size_t length = (size_t)got;
    if (connection->state == UPGRADING) {
        size_t before = connection->heard_length;
        hear(connection, data, length);
        uint8_t *end = memmem(connection->heard, connection->heard_length, "\r\n\r\n", 4);
        if (!end)
            return;
        if (connection->heard_length < 12 || memcmp(connection->heard + 9, "101", 3) != 0) {
            lose(connection);
            return;
        }
        size_t head = (size_t)(end + 4 - connection->heard) - before;
        data += head;
        length -= head;
        connection->heard_length = 0;
        connection->state = TALKING;
        if (connection->step == connection->step_count)
            take_steps(connection);
    }
    walk_bytes(&connection->walk, &walker, connection, data, length);
}

static void on_event(struct connection *connection, uint32_t events)
{
    if (connection->state == CONNECTING) {
        int problem = 0;
        socklen_t size = sizeof problem;
        getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &problem, &size);
        if (problem || !say(connection, connection->steps[0].send)) {
            lose(connection);
            return;
        }
        connection->step = 1;
        connection->state = UPGRADING;
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &wanted);
    } else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && connection->state != DEAD) {
        on_readable(connection);
    }
}

static void read_sampled(void)
{
    static struct epoll_event events[MOST_EVENTS];
    int found = epoll_wait(sampled_fd, events, MOST_EVENTS, 0);
    for (int i = 0; i < found; i++)
        on_event(events[i].data.ptr, events[i].events);
}

static void open_connection(struct connection *connection)
{
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connection->fd < 0)
        fatal("socket");
    int one = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connection->state = CONNECTING;
    connecting.under_way++;
    if (connect(connection->fd, (struct sockaddr *)&server, sizeof server) < 0 &&
        errno != EINPROGRESS) {
        lose(connection);
        return;
    }
    struct epoll_event wanted = {.events = EPOLLOUT, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &wanted) < 0)
        fatal("epoll_ctl");
}

/* Commands. */

static uint64_t segments(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < connection_count; i++) {
        struct tcp_info info;
        socklen_t size = sizeof info;
        if (connections[i].state == READY &&
            getsockopt(connections[i].fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
            sum += info.tcpi_data_segs_in;
    }
    return sum;
}

static void answer_connect(void)
{
    connecting.active = 0;
    printf("{\"ready\": %u, \"failed\": %u, \"ns\": %lld}\n", connecting.ready, connecting.failed,
           (long long)(now_ns() - connecting.began));
}

static void answer_wait(void)
{
    waiting.active = 0;
    printf("{\"messages\": %llu, \"first\": %lld, \"last\": %lld}\n",
           (unsigned long long)seen.messages, (long long)seen.first, (long long)seen.last);
}

static void report(void)
{
    struct samples *found = &seen.latencies;
    printf("{\"messages\": %llu, \"bytes\": %llu, \"reads\": %llu, \"closed\": %llu, "
           "\"close_code\": %d, \"segments\": %llu, \"cpu_ns\": %lld, \"samples\": %zu, "
           "\"p50\": %lld, \"p99\": %lld, \"p999\": %lld, \"max\": %lld}\n",
           (unsigned long long)seen.messages, (unsigned long long)seen.bytes,
           (unsigned long long)seen.reads, (unsigned long long)seen.closed, seen.close_code,
           (unsigned long long)segments(), (long long)cpu_ns(), found->count,
           (long long)samples_percentile(found, 0.5), (long long)samples_percentile(found, 0.99),
           (long long)samples_percentile(found, 0.999), (long long)samples_percentile(found, 1));
}

static void command(const char *line)
{
    unsigned long long count;
    unsigned to, window, milliseconds;
    if (sscanf(line, "connect %u %u %u", &to, &window, &milliseconds) == 3) {
        connecting.target = to < connection_count ? to : connection_count;
        connecting.window = window;
        connecting.began = now_ns();
        connecting.deadline = connecting.began + milliseconds * 1000000ll;
        connecting.active = 1;
    } else if (sscanf(line, "wait %llu %u", &count, &milliseconds) == 2) {
        waiting.goal = count;
        waiting.deadline = now_ns() + milliseconds * 1000000ll;
        waiting.active = 1;
    } else if (strcmp(line, "reset") == 0) {
        seen.messages = seen.bytes = seen.reads = seen.closed = 0;
        seen.first = seen.last = 0;
        samples_clear(&seen.latencies);
        printf("{}\n");
    } else if (strcmp(line, "report") == 0) {
        report();
    } else {
        fprintf(stderr, "load: unknown command: %s\n", line);
        exit(2);
    }
}

static void read_commands(void)
{
    static char buffer[4096];
    static size_t length;
    ssize_t got = read(STDIN_FILENO, buffer + length, sizeof buffer - 1 - length);
    if (got <= 0)
        exit(0);
    length += (size_t)got;
    buffer[length] = 0;
    char *line = buffer, *end;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        command(line);
        line = end + 1;
    }
    length = strlen(line);
    memmove(buffer, line, length);
}

static void advance(void)
{
    while (connecting.active && connecting.next < connecting.target &&
           connecting.under_way < connecting.window) {
        open_connection(&connections[connecting.next++]);
        read_sampled();
    }
    if (connecting.active && (connecting.ready + connecting.failed >= connecting.target ||
                              now_ns() > connecting.deadline))
        answer_connect();
    if (waiting.active && (seen.messages >= waiting.goal || now_ns() > waiting.deadline))
        answer_wait();
}

/* Start. */

static uint32_t read_number(const uint8_t **at)
{
    uint32_t value;
    memcpy(&value, *at, sizeof value);
    *at += sizeof value;
    return value;
}

static struct bytes read_bytes(const uint8_t **at)
{
    struct bytes bytes = {.length = read_number(at)};
    bytes.data = *at;
    *at += bytes.length;
    return bytes;
}

static void read_script(const char *path, uint32_t sample_every)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fatal(path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    uint8_t *script = malloc((size_t)size);
    if (!script || fread(script, 1, (size_t)size, file) != (size_t)size)
        fatal(path);
    fclose(file);
    const uint8_t *at = script;
    connection_count = read_number(&at);
    connections = calloc(connection_count, sizeof *connections);
    for (uint32_t i = 0; i < connection_count; i++) {
        struct connection *connection = &connections[i];
        connection->sampled = i % sample_every == 0;
        connection->step_count = read_number(&at);
        connection->steps = calloc(connection->step_count, sizeof *connection->steps);
        for (uint32_t j = 0; j < connection->step_count; j++) {
            connection->steps[j].wait = read_bytes(&at);
            connection->steps[j].send = read_bytes(&at);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: load PORT frames|marks SAMPLE_EVERY SCRIPT\n");
        return 2;
    }
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    count_marks = strcmp(argv[2], "marks") == 0;
    read_script(argv[4], (uint32_t)atoi(argv[3]));
    setvbuf(stdout, NULL, _IOLBF, 0);
    epoll_fd = epoll_create1(0);
    sampled_fd = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    struct epoll_event sampled = {.events = EPOLLIN, .data.ptr = &all_sampled};
    if (epoll_fd < 0 || sampled_fd < 0 ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &input) < 0 ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sampled_fd, &sampled) < 0)
        fatal("epoll");
    for (;;) {
        static struct epoll_event events[MOST_EVENTS];
        int found = epoll_wait(epoll_fd, events, MOST_EVENTS, 50);
        for (int i = 0; i < found; i++) {
            if (connecting.active)
                read_sampled();
            if (events[i].data.ptr == &all_sampled)
                read_sampled();
            else if (events[i].data.ptr)
                on_event(events[i].data.ptr, events[i].events);
            else
                read_commands();
        }
        advance();
    }
}
