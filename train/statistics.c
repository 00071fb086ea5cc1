// Medians and their intervals, exponents, crossovers (statistics.h).
#include "train/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

// How many of `count` sorted values to leave out at either end of an interval around the median: the most such that
// the chance of it being beyond them, P(Bin(count, 1/2) <= left) at either end, is 5 % at most. count >= INTERVAL_PAIRS.
static size_t outside_interval(size_t count) {
    const double n = (double)count;
    double beyond = 0;
    for (size_t left = 0;; left++) {
        const double k = (double)left;
        beyond += 2 * exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2));
        if (beyond > 0.05) return left - 1;
    }
}

Interval paired_ratio(const double *a, const double *b, size_t count) {
    Interval interval = {NAN, NAN, NAN};
    double *ratios = count ? malloc(count * sizeof *ratios) : NULL;
    if (!ratios) return interval;
    for (size_t i = 0; i < count; i++) ratios[i] = a[i] / b[i];
    interval.value = middle(ratios, count); // which sorts them
    if (count >= INTERVAL_PAIRS) {
        const size_t left_out = outside_interval(count);
        interval.low = ratios[left_out];
        interval.high = ratios[count - 1 - left_out];
    }
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
