/* Latencies in nanoseconds, and their percentiles. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include <stddef.h>
#include <stdint.h>

struct samples {
    int64_t *values;
    size_t count, room;
};

void samples_add(struct samples *samples, int64_t value);
void samples_clear(struct samples *samples);

/* Sort, and return the value that `share` (0..1) of the samples do not exceed; 0 without any. */
int64_t samples_percentile(struct samples *samples, double share);

/* CLOCK_MONOTONIC in nanoseconds: what stamps in payloads are made of. */
int64_t now_ns(void);

/* CPU time of this process in nanoseconds. */
int64_t cpu_ns(void);

#endif
