#include "samples.h"

#include <stdlib.h>
#include <time.h>

#define MOST_SAMPLES (1u << 22)

void samples_add(struct samples *samples, int64_t value)
{
    if (samples->count == samples->room) {
        size_t room = samples->room ? samples->room * 2 : 4096;
        int64_t *values;
        if (room > MOST_SAMPLES || !(values = realloc(samples->values, room * sizeof *values)))
            return;
        samples->values = values;
        samples->room = room;
    }
    samples->values[samples->count++] = value;
}

void samples_clear(struct samples *samples) { samples->count = 0; }

static int order(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

int64_t samples_percentile(struct samples *samples, double share)
{
    if (samples->count == 0)
        return 0;
    qsort(samples->values, samples->count, sizeof *samples->values, order);
    size_t at = (size_t)(share * (double)samples->count);
    return samples->values[at < samples->count ? at : samples->count - 1];
}

static int64_t read_clock(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int64_t now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

int64_t cpu_ns(void) { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }
