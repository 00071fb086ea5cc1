// Tensors as other programs want them: F32, whole or row by row in another order.
#include "model/dtype.h"
#include "model/export_internal.h"

static void export_rows(FileWriter *writer, Model *model, const Tensor *tensor, size_t first, size_t rows) {
    const real *numbers = model_parameters(model) + tensor->offset + first * tensor->columns;
    dtype_pass(dtype_find("F32"), numbers, rows * tensor->columns, writer, NULL);
}

void export_tensor(FileWriter *writer, Model *model, const Tensor *tensor) {
    export_rows(writer, model, tensor, 0, tensor->rows);
}

void export_interleaved(FileWriter *writer, Model *model, const Tensor *tensor, size_t head_size) {
    for (size_t head = 0; head < tensor->rows; head += head_size)
        for (size_t i = 0; i < head_size; i++)
            export_rows(writer, model, tensor, head + i / 2 + i % 2 * (head_size / 2), 1);
}

void export_ordered(FileWriter *writer, Model *model, const Tensor *tensor, const size_t *order) {
    for (size_t i = 0; i < tensor->rows; i++) export_rows(writer, model, tensor, order[i], 1);
}
