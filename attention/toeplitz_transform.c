// FFTW behind four functions. O(N log N) a transform.
#include "attention/toeplitz_transform.h"

#include <fftw3.h>
#include <pthread.h>

#ifdef ROPE_DOUBLE
#define FFTW(name) fftw_##name
#else
#define FFTW(name) fftwf_##name
#endif

static pthread_mutex_t planner = PTHREAD_MUTEX_INITIALIZER;

// Time of a transform relative to its length. Plans of FFTW_ESTIMATE were measured (3.3.10, AVX2, 112 to 131072): a
// factor 7 costs about a third more, and beyond 2^11 each further factor 2 makes the strides collide in the cache.
static double length_cost(size_t length) {
    double cost = (double)length;
    size_t twos = 0;
    for (; length % 2 == 0; length /= 2) twos++;
    if (twos > 11) cost *= 1.0 + 0.04 * (double)(twos - 11);
    for (; length % 7 == 0; length /= 7) cost *= 1.3;
    return cost;
}

static bool is_smooth(size_t length) {
    for (size_t prime = 2; prime <= 7; prime++)
        while (length % prime == 0) length /= prime;
    return length == 1;
}

size_t transform_length(size_t minimum) {
    if (minimum < 2) minimum = 2;
    size_t best = 0;
    double best_cost = 0.0;
    // 5/4 of the minimum always contains a power of two times 1, 3, 5 or 15; nothing longer can win
    for (size_t length = minimum + minimum % 2; length <= minimum + minimum / 4 + 2; length += 2) {
        if (!is_smooth(length)) continue;
        double cost = length_cost(length);
        if (best && cost >= best_cost) continue;
        best = length;
        best_cost = cost;
    }
    REQUIRE(best >= minimum);
    return best;
}

bool transform_create(Transform *transform, size_t length, Error *error) {
    *transform = (Transform){.length = length};
    real *signal = FFTW(malloc)(length * sizeof(real) + 64);
    FFTW(complex) *spectrum = FFTW(malloc)((length / 2 + 1) * sizeof *spectrum);
    pthread_mutex_lock(&planner);
    if (signal && spectrum) {
        transform->forward = FFTW(plan_dft_r2c_1d)((int)length, signal, spectrum, FFTW_ESTIMATE);
        transform->inverse = FFTW(plan_dft_c2r_1d)((int)length, spectrum, signal, FFTW_ESTIMATE);
    }
    pthread_mutex_unlock(&planner);
    FFTW(free)(signal);
    FFTW(free)(spectrum);
    if (transform->forward && transform->inverse) return true;
    transform_destroy(transform);
    return error_set(error, ERROR_MEMORY, "There is no memory for transforms of length %zu.", length);
}

void transform_destroy(Transform *transform) {
    pthread_mutex_lock(&planner);
    if (transform->forward) FFTW(destroy_plan)(transform->forward);
    if (transform->inverse) FFTW(destroy_plan)(transform->inverse);
    pthread_mutex_unlock(&planner);
    *transform = (Transform){0};
}

void transform_forward(const Transform *transform, real *spectrum, real *signal) {
    FFTW(execute_dft_r2c)(transform->forward, signal, (FFTW(complex) *)spectrum);
}

void transform_inverse(const Transform *transform, real *signal, real *spectrum) {
    FFTW(execute_dft_c2r)(transform->inverse, (FFTW(complex) *)spectrum, signal);
}

bool kernel_transform_create(KernelTransform *transform, size_t length, Error *error) {
    *transform = (KernelTransform){.length = length};
    transform->signal = fftw_malloc(length * sizeof(double));
    transform->spectrum = fftw_malloc(2 * (length / 2 + 1) * sizeof(double));
    pthread_mutex_lock(&planner);
    if (transform->signal && transform->spectrum)
        transform->plan =
            fftw_plan_dft_r2c_1d((int)length, transform->signal, (fftw_complex *)transform->spectrum, FFTW_ESTIMATE);
    pthread_mutex_unlock(&planner);
    if (transform->plan) return true;
    kernel_transform_destroy(transform);
    return error_set(error, ERROR_MEMORY, "There is no memory for transforms of length %zu.", length);
}

void kernel_transform_run(const KernelTransform *transform, real *spectrum) {
    fftw_execute(transform->plan);
    for (size_t i = 0; i < 2 * (transform->length / 2 + 1); i++) spectrum[i] = (real)transform->spectrum[i];
}

void kernel_transform_destroy(KernelTransform *transform) {
    pthread_mutex_lock(&planner);
    if (transform->plan) fftw_destroy_plan(transform->plan);
    pthread_mutex_unlock(&planner);
    fftw_free(transform->signal);
    fftw_free(transform->spectrum);
    *transform = (KernelTransform){0};
}
