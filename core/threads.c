// The number of threads, and a sum whose order is fixed by the count of its terms.
#include "core/threads.h"

#include <omp.h>
#include <sched.h>
#include <stdlib.h>

static size_t affinity_cores(void) {
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) return (size_t)CPU_COUNT(&mask);
    return (size_t)omp_get_num_procs(); // more than 1024 cores: the mask does not fit
}

size_t threads_count(void) { return (size_t)omp_get_max_threads(); }

void threads_set(size_t count) {
    if (count == 0) {
        const char *wanted = getenv("OMP_NUM_THREADS"); // may be a list, one entry per nesting level: the first counts
        long value = wanted ? strtol(wanted, NULL, 10) : 0;
        count = value > 0 && value <= 65536 ? (size_t)value : affinity_cores();
    }
    omp_set_dynamic(0); // the runtime must not hand out fewer: scratch is cut by threads_count()
    omp_set_num_threads((int)count);
}

size_t threads_here(void) { return (size_t)omp_get_thread_num(); }

double sum_pairwise(const double *values, size_t count) {
    // Runs of 32 in order, then halves: error grows with log(count), and the tree depends on count alone.
    if (count <= 32) {
        double sum = 0.0;
        for (size_t i = 0; i < count; i++) sum += values[i];
        return sum;
    }
    size_t left = 32;
    while (left < (count + 1) / 2) left *= 2;
    return sum_pairwise(values, left) + sum_pairwise(values + left, count - left);
}
