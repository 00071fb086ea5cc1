// Measured numbers that may be NaN or infinite. JSON knows neither, so those are null there, and back.
#ifndef ROPE_TRAIN_FIGURES_H
#define ROPE_TRAIN_FIGURES_H

#include <jansson.h>
#include <math.h>

static inline json_t *figure_json(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static inline double figure_number(const json_t *value) {
    return json_is_number(value) ? json_number_value(value) : NAN;
}

// As it is printed: "nan", not "-nan".
static inline double unsigned_nan(double value) { return isnan(value) ? (double)NAN : value; }

// The number under `key`; NaN where there is none.
static inline double figure_of(const json_t *object, const char *key) {
    return figure_number(json_object_get(object, key));
}

#endif
