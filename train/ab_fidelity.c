// Fidelity: on shared weights and a shared batch, how far attention and gradients of arm b are from those of arm a, and
// how far they are from the same far field with the true exp, next to what the certificates promise (ab.h).
//
// The batch runs through arm b's model; after each layer's backward an observer sees q, k, v and the gradient that
// reached the output, and runs the two references on them. Cost: two more exact attentions per layer, O(T²).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json_text.h"
#include "train/ab.h"
#include "train/figures.h"

typedef struct Side {
    AttentionPlan *plan;
    real *o, *dq, *dk, *dv; // (N, width of each): rows are tokens
    void *saved, *scratch;
} Side;

typedef struct Fidelity {
    Ab *ab;
    const Model *a, *b;
    // The references, made anew for each layer, whose methods may differ:
    Side softmax;   // arm a's attention
    Side far_exact; // arm b's bounds with the true exp: what certificates speak of; no plan if b has no far field
    size_t rows;    // N = B·T
    size_t query_width, key_width, value_width, out_width;
    Error error; // the first of any layer; an observer cannot return one
} Fidelity;

static void side_destroy(Side *side) {
    if (side->plan) attention_destroy(side->plan);
    free(side->o);
    free(side->saved);
    free(side->scratch);
    *side = (Side){0};
}

static void *aligned(size_t bytes) { return aligned_alloc(ARENA_ALIGNMENT, (bytes + ARENA_ALIGNMENT) & ~(size_t)63); }

static bool side_create(Side *side, const Fidelity *f, const AttentionMethod *method, const AttentionSettings *settings,
                        Error *error) {
    side->plan = attention_create(method, settings, error);
    if (!side->plan) return false;
    AttentionNeeds needs = attention_needs(side->plan);
    side->o = malloc(f->rows * (f->out_width + f->query_width + f->key_width + f->value_width) * sizeof(real));
    side->saved = aligned(needs.saved_bytes);
    side->scratch = aligned(needs.scratch_bytes);
    if (!side->o || !side->saved || !side->scratch)
        return error_set(error, ERROR_MEMORY, "Out of memory for measuring fidelity.");
    side->dq = side->o + f->rows * f->out_width;
    side->dk = side->dq + f->rows * f->query_width;
    side->dv = side->dk + f->rows * f->key_width;
    return true;
}

// What the model keeps in rows of its own strides, in rows as wide as they are: q, k, v one after another. NULL without
// memory.
static real *pack(const Fidelity *f, const AttentionBackward *seen) {
    real *packed = malloc(f->rows * (f->query_width + f->key_width + f->value_width) * sizeof(real));
    if (!packed) return NULL;
    real *q = packed, *k = q + f->rows * f->query_width, *v = k + f->rows * f->key_width;
    for (size_t row = 0; row < f->rows; row++) {
        memcpy(q + row * f->query_width, seen->q + row * seen->q_stride, f->query_width * sizeof(real));
        memcpy(k + row * f->key_width, seen->k + row * seen->k_stride, f->key_width * sizeof(real));
        memcpy(v + row * f->value_width, seen->v + row * seen->v_stride, f->value_width * sizeof(real));
    }
    return packed;
}

static void side_run(const Side *side, const Fidelity *f, const AttentionBackward *seen, const real *packed) {
    const real *q = packed, *k = q + f->rows * f->query_width, *v = k + f->rows * f->key_width;
    REQUIRE(seen->o_stride == f->out_width); // d_o is read with the stride of our o
    const AttentionForward forward = {
        side->o,        q,    k,    v,           f->out_width, f->query_width, f->key_width,
        f->value_width, NULL, NULL, side->saved, side->scratch};
    const AttentionBackward backward = attention_backward_after(&forward, seen->d_o, side->dq, side->dk, side->dv);
    attention_forward(side->plan, &forward);
    attention_backward(side->plan, &backward);
}

typedef struct Difference {
    double largest, relative, cosine; // max |x - y|, ‖x - y‖ / ‖y‖, x·y / ‖x‖‖y‖
} Difference;

// One head's columns: x (rows, ·) against y (rows, ·).
static Difference compare_columns(const real *x, size_t x_stride, const real *y, size_t y_stride, size_t rows,
                                  size_t columns) {
    double xx = 0, yy = 0, xy = 0, gap = 0, largest = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            double a = (double)x[r * x_stride + c], b = (double)y[r * y_stride + c];
            xx += a * a;
            yy += b * b;
            xy += a * b;
            gap += (a - b) * (a - b);
            largest = fmax(largest, fabs(a - b));
        }
    if (gap == 0) return (Difference){0, 0, 1};
    return (Difference){isnan(gap) ? NAN : largest, sqrt(gap / yy), xy / sqrt(xx * yy)};
}

static void set(json_t *row, const char *what, const char *measure, double value) {
    char key[64];
    snprintf(key, sizeof key, "%s_%s", what, measure);
    json_object_set_new(row, key, figure_json(value));
}

// The four quantities of one head: output, dq, dk, dv.
static void add_head(const Fidelity *f, json_t *row, size_t head, const AttentionBackward *seen,
                     const AttentionReport *report) {
    const ModelConfig *config = &model_settings(f->b)->config;
    size_t group = head / (config->heads / config->kv_heads), D = config->qk_size, E = config->v_size;
    const struct {
        const char *name;
        const real *ours;
        size_t our_stride, offset, columns, width;
        const real *softmax, *far_exact;
        const double *bound;
    } quantities[] = {
        {"output", seen->o, seen->o_stride, head * E, E, f->out_width, f->softmax.o, f->far_exact.o,
         report->output_bound},
        {"dq", seen->dq, seen->q_stride, head * D, D, f->query_width, f->softmax.dq, f->far_exact.dq, report->dq_bound},
        {"dk", seen->dk, seen->k_stride, group * D, D, f->key_width, f->softmax.dk, f->far_exact.dk, report->dk_bound},
        {"dv", seen->dv, seen->v_stride, group * E, E, f->value_width, f->softmax.dv, f->far_exact.dv,
         report->dv_bound},
    };
    // Where all its rows ran exact a head has no certificate: what it is apart from the reference is rounding.
    const bool exact = report->fell_back && report->fell_back[head] >= (double)model_settings(f->b)->batch;
    for (size_t i = 0; i < sizeof quantities / sizeof *quantities; i++) {
        size_t at = quantities[i].offset, width = quantities[i].width;
        Difference d = compare_columns(quantities[i].ours + at, quantities[i].our_stride, quantities[i].softmax + at,
                                       width, f->rows, quantities[i].columns);
        set(row, quantities[i].name, "difference", d.largest);
        set(row, quantities[i].name, "relative", d.relative);
        set(row, quantities[i].name, "cosine", d.cosine);
        if (!f->far_exact.plan) continue;
        Difference e = compare_columns(quantities[i].ours + at, quantities[i].our_stride, quantities[i].far_exact + at,
                                       width, f->rows, quantities[i].columns);
        set(row, quantities[i].name, "error", e.largest);
        set(row, quantities[i].name, "bound", quantities[i].bound && !exact ? quantities[i].bound[head] : NAN);
    }
    json_object_set_new(row, "logit_bound", figure_json(report->logit_bound ? report->logit_bound[head] : NAN));
    json_object_set_new(row, "clipped", figure_json(report->clipped ? report->clipped[head] : 0));
    json_object_set_new(row, "fell_back", figure_json(report->fell_back ? report->fell_back[head] : 0));
}

// b's true-exp reference exists for lowrank alone.
static bool make_sides(Fidelity *f, size_t layer, Error *error) {
    const AttentionPlan *of_a = model_attention(f->a, layer), *of_b = model_attention(f->b, layer);
    AttentionSettings reference = *attention_plan_settings(of_b);
    const AttentionMethod *lowrank = attention_method_find("lowrank");
    bool has_reference = attention_plan_method(of_b) == lowrank && reference.far == FAR_POLYNOMIAL;
    reference.far = FAR_EXACT;
    return side_create(&f->softmax, f, attention_plan_method(of_a), attention_plan_settings(of_a), error) &&
           (!has_reference || side_create(&f->far_exact, f, lowrank, &reference, error));
}

static void observe(void *context, const ModelView *view) {
    Fidelity *f = context;
    const AttentionBackward *seen = view->attention;
    const size_t layer = (size_t)view->layer;
    if (!seen || f->error.kind != ERROR_NONE) return;
    real *packed = pack(f, seen);
    if (!packed) error_set(&f->error, ERROR_MEMORY, "Out of memory for measuring fidelity.");
    if (packed && make_sides(f, layer, &f->error)) {
        side_run(&f->softmax, f, seen, packed);
        if (f->far_exact.plan) side_run(&f->far_exact, f, seen, packed);
        for (size_t head = 0; head < model_settings(f->b)->config.heads; head++) {
            json_t *row = json_pack("{s:I, s:I, s:I, s:I}", "seed", (json_int_t)ab_seed(f->ab, f->ab->seed), "step",
                                    (json_int_t)f->ab->step, "layer", (json_int_t)layer, "head", (json_int_t)head);
            add_head(f, row, head, seen, model_report(f->b, layer));
            json_array_append_new(f->ab->fidelity, row);
        }
    }
    side_destroy(&f->softmax);
    side_destroy(&f->far_exact);
    free(packed);
}

static bool same_shape(const Model *a, const Model *b) {
    const TensorTable *x = model_tensors(a), *y = model_tensors(b);
    if (x->count != y->count || x->elements != y->elements) return false;
    if (model_settings(a)->batch != model_settings(b)->batch) return false;
    for (size_t i = 0; i < x->count; i++)
        if (strcmp(x->tensors[i].name, y->tensors[i].name) || x->tensors[i].rows != y->tensors[i].rows ||
            x->tensors[i].columns != y->tensors[i].columns)
            return false;
    return model_settings(a)->config.tokens == model_settings(b)->config.tokens;
}

static bool read_batch(Trainer *trainer, int32_t *inputs, int32_t *targets, Error *error) {
    batches_seek(trainer->held_out, (DataPosition){0});
    return batches_next(trainer->held_out, inputs, targets, error);
}

// Gradients of all weights by both arms on b's weights; a's weights are put back.
static bool compare_gradients(Ab *ab, Trainer *a, Trainer *b, const int32_t *inputs, const int32_t *targets,
                              Error *error) {
    size_t elements = model_tensors(b->model)->elements, bytes = elements * sizeof(real);
    size_t count = model_settings(b->model)->batch * model_settings(b->model)->config.tokens;
    double weight = 1.0 / (double)model_count_targets(targets, count);
    real *kept = malloc(bytes);
    if (!kept) return error_set(error, ERROR_MEMORY, "Out of memory for comparing gradients.");
    memcpy(kept, model_parameters(a->model), bytes);
    memcpy(model_parameters(a->model), model_parameters(b->model), bytes);
    model_zero_gradients(a->model);
    double loss_a = model_step(a->model, inputs, targets, weight, NULL, NULL);
    memcpy(model_parameters(a->model), kept, bytes);
    free(kept);
    model_zero_gradients(b->model);
    double loss_b = model_step(b->model, inputs, targets, weight, NULL, NULL);
    Difference d =
        compare_columns(model_gradients(b->model), elements, model_gradients(a->model), elements, 1, elements);
    json_array_append_new(ab->gradients,
                          json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "seed", (json_int_t)ab_seed(ab, ab->seed),
                                    "step", (json_int_t)ab->step, "loss_a", figure_json(loss_a), "loss_b",
                                    figure_json(loss_b), "difference", figure_json(d.largest), "relative",
                                    figure_json(d.relative), "cosine", figure_json(d.cosine)));
    return true;
}

static void shorten(json_t *array, size_t size) {
    while (json_array_size(array) > size) json_array_remove(array, json_array_size(array) - 1);
}

bool ab_fidelity(Ab *ab, Trainer *a, Trainer *b, Error *error) {
    if (!same_shape(a->model, b->model)) return true;
    const ModelConfig *config = &model_settings(b->model)->config;
    Fidelity f = {.ab = ab,
                  .a = a->model,
                  .b = b->model,
                  .rows = model_settings(b->model)->batch * config->tokens,
                  .query_width = config->heads * config->qk_size,
                  .key_width = config->kv_heads * config->qk_size,
                  .value_width = config->kv_heads * config->v_size,
                  .out_width = config->heads * config->v_size};
    const size_t rows = json_array_size(ab->fidelity), gradients = json_array_size(ab->gradients);
    json_watch();
    int32_t *inputs = malloc(2 * f.rows * sizeof *inputs);
    bool fine = inputs || error_set(error, ERROR_MEMORY, "Out of memory for the batch of the comparison.");
    fine = fine && read_batch(b, inputs, inputs + f.rows, error);
    if (fine) {
        model_enable_report(b->model, MODEL_REPORT_CERTIFICATES);
        model_observe(b->model, observe, &f);
        fine = compare_gradients(ab, a, b, inputs, inputs + f.rows, error);
        model_observe(b->model, NULL, NULL);
    }
    free(inputs);
    if (f.error.kind != ERROR_NONE) fine = error_set(error, f.error.kind, "%s", f.error.message);
    if (!json_whole()) fine = error_set(error, ERROR_MEMORY, "Out of memory for the figures of fidelity.");
    if (fine) return true;
    // Some of a measurement's rows would be taken for all of them.
    shorten(ab->fidelity, rows);
    shorten(ab->gradients, gradients);
    return false;
}
