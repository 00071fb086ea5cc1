// Few numbers from noisy ones: medians, paired ratios with their intervals, and exponents of growth.
#ifndef ROPE_TRAIN_STATISTICS_H
#define ROPE_TRAIN_STATISTICS_H

#include <stddef.h>
#include <stdint.h>

// The middle value (mean of the two middle ones); NaN for count 0, or when memory is out. Leaves values as they are.
double median(const double *values, size_t count);

// The places of the two values in the middle; of an odd count, and of one value, twice the same. Their mean is the
// median; what else belongs to them (the phases of a step) is then of a step that there was.
void middle_places(const double *values, size_t count, size_t places[2]);

typedef struct Interval {
    double value, low, high;
} Interval;

// Median of a[i] / b[i] with its 95 % interval: the narrowest pair of ratios, as far from either end, between which the
// true median lies in at least 95 % of cases whatever the noise is, by the sign test: each ratio is above the true median
// as often as below, so how many are below it is binomial. Pairing cancels what slows both: steps that follow each other
// share the machine's mood. What it does not cancel may last for several pairs, and then the interval is too narrow: it
// takes them for independent. Below INTERVAL_PAIRS it is NaN: even from the smallest ratio to the largest it would hold
// the median too rarely, 1 - 2^(1-count).
enum { INTERVAL_PAIRS = 6 };
Interval paired_ratio(const double *a, const double *b, size_t count);

// Slope of log y over log x by least squares: the exponent p in y ~ x^p. NaN with fewer than two points.
double growth_exponent(const double *x, const double *y, size_t count);

// From which x on b wins (is not above a), of two curves of times over ascending x: interpolated on log-log axes
// between the last x where b loses and the next one. 0 if b wins everywhere, NaN if it loses at the last x or
// there is none.
double crossover(const double *x, const double *a, const double *b, size_t count);

#endif
