// Real transforms by FFTW, single or double as the build is. A spectrum of N reals is N/2+1 complex numbers, real and
// imaginary part in turn.
#ifndef ROPE_ATTENTION_TOEPLITZ_TRANSFORM_H
#define ROPE_ATTENTION_TOEPLITZ_TRANSFORM_H

#include <stdbool.h>

#include "core/error.h"
#include "core/real.h"

typedef struct Transform {
    size_t length;           // N
    void *forward, *inverse; // FFTW plans
} Transform;

// The best even length ≥ minimum with factors 2, 3, 5, 7 only. Not simply the smallest: see the .c file.
size_t transform_length(size_t minimum);
// Plans by FFTW_ESTIMATE, which looks at the length alone, so that results are the same bits from run to run.
// ERROR_MEMORY. Creating and destroying take a lock (FFTW's planner is not thread-safe); executing needs none.
bool transform_create(Transform *transform, size_t length, Error *error);
void transform_destroy(Transform *transform);
// Both pointers 64-byte aligned; not in place. The input of the inverse is destroyed. Unnormalised.
void transform_forward(const Transform *transform, real *spectrum, real *signal);
void transform_inverse(const Transform *transform, real *signal, real *spectrum);

// For kernels, whose spectra are made once: in double whatever the build is, rounded once at the end.
typedef struct KernelTransform {
    size_t length;
    void *plan;
    double *signal;   // (N): write the kernel here
    double *spectrum; // (N/2+1, 2)
} KernelTransform;

bool kernel_transform_create(KernelTransform *transform, size_t length, Error *error); // ERROR_MEMORY
// spectrum (N/2+1, 2) = that of transform->signal
void kernel_transform_run(const KernelTransform *transform, real *spectrum);
void kernel_transform_destroy(KernelTransform *transform);

#endif
