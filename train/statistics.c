// Medians, bootstrap intervals, exponents (statistics.h).
#include "train/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"

enum { RESAMPLES = 2000 };

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double middle(double *values, size_t count) {
    qsort(values, count, sizeof *values, ascending);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

double median(const double *values, size_t count) {
    if (!count) return NAN;
    double *copy = malloc(count * sizeof *copy);
    if (!copy) return NAN;
    memcpy(copy, values, count * sizeof *copy);
    double result = middle(copy, count);
    free(copy);
    return result;
}

void middle_places(const double *values, size_t count, size_t places[2]) {
    for (size_t i = 0; i < count; i++) {
        size_t rank = 0;
        for (size_t k = 0; k < count; k++) rank += values[k] < values[i] || (values[k] == values[i] && k < i);
        if (rank == (count - 1) / 2) places[0] = i;
        if (rank == count / 2) places[1] = i;
    }
}

Interval paired_ratio(const double *a, const double *b, size_t count, uint64_t seed) {
    if (!count) return (Interval){NAN, NAN, NAN};
    double *ratios = malloc((2 * count + RESAMPLES) * sizeof *ratios);
    if (!ratios) return (Interval){NAN, NAN, NAN};
    double *resample = ratios + count, *medians = resample + count;
    for (size_t i = 0; i < count; i++) ratios[i] = a[i] / b[i];
    for (size_t r = 0; r < RESAMPLES; r++) {
        Random random = {seed, RANDOM_BOOTSTRAP, r};
        for (size_t i = 0; i < count; i++) resample[i] = ratios[random_below(random, i, count)];
        medians[r] = middle(resample, count);
    }
    qsort(medians, RESAMPLES, sizeof *medians, ascending);
    Interval interval = {middle(ratios, count), medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40]};
    if (count < INTERVAL_PAIRS) interval.low = interval.high = NAN;
    free(ratios);
    return interval;
}

double growth_exponent(const double *x, const double *y, size_t count) {
    double mean_x = 0, mean_y = 0, covariance = 0, variance = 0;
    for (size_t i = 0; i < count; i++) {
        mean_x += log(x[i]) / (double)count;
        mean_y += log(y[i]) / (double)count;
    }
    for (size_t i = 0; i < count; i++) {
        covariance += (log(x[i]) - mean_x) * (log(y[i]) - mean_y);
        variance += (log(x[i]) - mean_x) * (log(x[i]) - mean_x);
    }
    return variance > 0 ? covariance / variance : NAN;
}

double crossover(const double *x, const double *a, const double *b, size_t count) {
    size_t from = count; // b wins from this length on; who is ahead at a shorter one, by chance or not, is no answer
    while (from > 0 && a[from - 1] >= b[from - 1]) from--;
    if (from == count) return NAN;
    if (from == 0) return 0;
    const double before = log(b[from - 1] / a[from - 1]), after = log(b[from] / a[from]);
    return exp(log(x[from - 1]) + before / (before - after) * log(x[from] / x[from - 1]));
}
