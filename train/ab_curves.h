// The curves of a comparison. Private to ab*.c.
#ifndef ROPE_TRAIN_AB_CURVES_H
#define ROPE_TRAIN_AB_CURVES_H

#include "train/ab.h"
#include "train/chart.h"

extern const char *const ab_arm_keys[AB_ARMS]; // of the arms in a document, whether it has them or not

// Points of a curve, taken from the document so that page and JSON cannot differ. The caller frees x, which is NULL when
// memory is out; such a curve stays empty.
typedef struct Points {
    double *x, *y;
    size_t count;
} Points;
Points points_new(size_t capacity);
void points_add(Points *points, double x, double y);

// Calls draw with each chart of the document: losses over steps, over seconds (not if brief), and by position, or right
// answers by distance for a task. False if a curve is empty for lack of memory.
bool ab_draw_curves(const json_t *document, bool brief, void (*draw)(void *, const Chart *), void *context);

#endif
