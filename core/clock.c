// Phases: one clock that is always running in exactly one of them.
#include "core/clock.h"

#include <time.h>

#include "core/error.h"

double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static const char *const phase_names[PHASE_COUNT] = {
    [PHASE_OTHER] = "other",
    [PHASE_LOADER] = "loader",
    [PHASE_EMBEDDING] = "embedding",
    [PHASE_NORM] = "norm",
    [PHASE_PROJECTION] = "projection",
    [PHASE_ATTENTION_FORWARD] = "attention_forward",
    [PHASE_ATTENTION_BACKWARD] = "attention_backward",
    [PHASE_FEED_FORWARD] = "feed_forward",
    [PHASE_OUTPUT] = "output",
    [PHASE_OPTIMIZER] = "optimizer",
    [PHASE_CHECKPOINT] = "checkpoint",
};

// One set per thread, so that two steps in two threads cannot mix; only the thread that runs the script uses its own.
static _Thread_local PhaseTimes accumulated;
static _Thread_local Phase running = PHASE_OTHER;
static _Thread_local double since = -1.0; // start of the running span; negative before the first call

static void close_span(void) {
    double now = clock_seconds();
    if (since >= 0.0) accumulated.seconds[running] += now - since;
    since = now;
}

const char *phase_name(Phase phase) {
    REQUIRE((size_t)phase < PHASE_COUNT);
    return phase_names[phase];
}

Phase phase_enter(Phase phase) {
    REQUIRE((size_t)phase < PHASE_COUNT);
    Phase before = running;
    close_span();
    running = phase;
    accumulated.entries++;
    return before;
}

void phase_count(double flops, double bytes) {
    accumulated.flops[running] += flops;
    accumulated.bytes[running] += bytes;
}

void phase_add(PhaseTimes *sum, const PhaseTimes *times, double weight) {
    for (size_t p = 0; p < PHASE_COUNT; p++) {
        sum->seconds[p] += weight * times->seconds[p];
        sum->flops[p] += weight * times->flops[p];
        sum->bytes[p] += weight * times->bytes[p];
    }
}

void phase_take(PhaseTimes *times) {
    close_span();
    *times = accumulated;
    accumulated = (PhaseTimes){0};
}
