// Threads show only at outer loops (OpenMP). Work is cut into pieces by its shape alone, never by the number of
// threads, and every reduction runs over a fixed tree: results are the same bits for 1, 2 or 64 threads.
#ifndef ROPE_CORE_THREADS_H
#define ROPE_CORE_THREADS_H

#include <stddef.h>

#include "core/real.h"

size_t threads_count(void);          // threads that a parallel loop will use
void threads_set(size_t count);      // 0: OMP_NUM_THREADS, else all cores of the affinity mask
size_t threads_here(void);           // index of the calling thread, in [0, threads_count())

// Sum of count doubles by a fixed binary tree (pairwise): the same bits on any machine and thread count.
double sum_pairwise(const double *values, size_t count);

#endif
