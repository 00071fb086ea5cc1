// What the formats share. Private to export_*.c.
#ifndef ROPE_MODEL_EXPORT_INTERNAL_H
#define ROPE_MODEL_EXPORT_INTERNAL_H

#include "core/files.h"
#include "model/export.h"

// A tensor's numbers as F32; a failure stays with the writer.
void export_tensor(FileWriter *writer, Model *model, const Tensor *tensor);
// The same of q or k, rows of each head of `head_size` in the order 0, D/2, 1, D/2 + 1, …: neighbours instead of
// halves.
void export_interleaved(FileWriter *writer, Model *model, const Tensor *tensor, size_t head_size);
// The same with row order[i] of the tensor as row i (rows).
void export_ordered(FileWriter *writer, Model *model, const Tensor *tensor, const size_t *order);

#endif
