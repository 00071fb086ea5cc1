// The order of the monomials; the walks over it are in feature_kernels.c.
#include "attention/features.h"

#include <math.h>
#include <stdlib.h>

#include "core/arena.h"

bool features_count(size_t size, size_t degree, size_t *count) {
    size_t value = 1; // C(size + t, t) = C(size + t - 1, t - 1)·(size + t)/t, exact at every step
    for (size_t t = 1; t <= degree; t++) {
        if (!size_multiply(value, size + t, &value)) return false;
        value /= t;
    }
    *count = value;
    return true;
}

// Ratio of a row to its parent on the query side: (c_t/c_{t-1})·t/(power of the last variable in the monomial).
static void fill_ratios(Features *features, const double *c, size_t *power) {
    features->query_ratio[0] = (real)c[0];
    power[0] = 0;
    size_t degree = 0;
    for (size_t n = 0; n < features->run_count; n++) {
        const FeatureRun *run = &features->run[n];
        if (run->row >= features->degree_start[degree + 1]) degree++;
        // the parents of one degree less whose last variable is the same one sit in the previous degree's run of it
        size_t same = degree > 1 ? features->run[n - features->size].row : 0;
        for (size_t r = 0; r < run->count; r++) {
            size_t parent = run->parent + r;
            power[run->row + r] = degree > 1 && parent >= same ? power[parent] + 1 : 1;
            features->query_ratio[run->row + r] =
                (real)(c[degree] / c[degree - 1] * (double)degree / (double)power[run->row + r]);
        }
    }
    for (size_t r = 0; r < features->count; r++) features->key_ratio[r] = 1;
}

bool features_create(Features *features, size_t size, const Polynomial *polynomial, Error *error) {
    size_t degree = polynomial->degree;
    *features = (Features){.size = size, .degree = degree, .run_count = degree * size};
    for (size_t t = 0; t <= degree; t++)
        if (!(fabs(polynomial->coefficient[t]) > 1e-30))
            return error_set(error, ERROR_USER, "attention.degree=%zu with attention.logit_bound=%g: the polynomial's "
                             "coefficient of degree %zu vanishes. Use a lower degree.", degree, polynomial->interval, t);
    REQUIRE(features_count(size, degree, &features->count));
    features->run = calloc(features->run_count, sizeof *features->run);
    features->degree_start = calloc(degree + 2, sizeof *features->degree_start);
    features->query_ratio = calloc(features->count, sizeof *features->query_ratio);
    features->key_ratio = calloc(features->count, sizeof *features->key_ratio);
    size_t *power = calloc(features->count, sizeof *power);
    if (!features->run || !features->degree_start || !features->query_ratio || !features->key_ratio || !power) {
        free(power);
        features_destroy(features);
        return error_set(error, ERROR_MEMORY, "no memory for the tables of %zu features.", features->count);
    }
    size_t row = 1, n = 0;
    features->degree_start[0] = 0;
    for (size_t t = 1; t <= degree; t++) {
        features->degree_start[t] = row;
        for (size_t i = 0, parents = 1; i < size; i++) { // parents = C(t-1+i, i)
            features->run[n++] = (FeatureRun){row, features->degree_start[t - 1], parents, i};
            row += parents;
            parents = parents * (t + i) / (i + 1);
        }
    }
    features->degree_start[degree + 1] = row;
    REQUIRE(row == features->count);
    fill_ratios(features, polynomial->coefficient, power);
    free(power);
    return true;
}

void features_destroy(Features *features) {
    free(features->run);
    free(features->degree_start);
    free(features->query_ratio);
    free(features->key_ratio);
    *features = (Features){0};
}
