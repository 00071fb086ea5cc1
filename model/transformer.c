// The transformer as a script: one batch forward and backward. For each of L layers, with x (N,W) the residual stream:
//
//     q, k, v = norm(x) Wqᵀ, norm(x) Wkᵀ, norm(x) Wvᵀ      (q and k normed per head if configured)
//     x += attention(q, k, v) Woᵀ
//     x += (silu(norm(x) Wgᵀ) ⊙ norm(x) Wuᵀ) Wdᵀ
//
// An addition into the residual stream is left in `delta` and done by the norm that follows it, in the same pass.
// Cost: 2 FLOPs per weight and row forward, 4 backward, plus attention.
#include <string.h>

#include "core/blas.h"
#include "core/clock.h"
#include "model/internal.h"

// ---- Products with one or more weights of a layer, side by side -----------------------------------------------------

// The weights that read the same input; their outputs lie next to each other in a row.
typedef struct Roles {
    TensorRole role[3];
    size_t count;
} Roles;

static const Roles qkv_weights = {{TENSOR_QUERY, TENSOR_KEY, TENSOR_VALUE}, 3};
static const Roles output_weight = {{TENSOR_ATTENTION_OUTPUT}, 1};
static const Roles gate_up_weights = {{TENSOR_GATE, TENSOR_UP}, 2};
static const Roles down_weight = {{TENSOR_DOWN}, 1};

// Weights with no padding between them, multiplied by as one matrix.
typedef struct Joined {
    size_t offset;       // of the first, in the parameters
    size_t column, rows; // columns of the output: all rows of the weights
} Joined;

typedef struct Product {
    Joined joined[3];
    size_t count;
    size_t inputs, outputs; // columns of the input and of the output
} Product;

static Product product_of(const Model *model, int layer, Roles roles) {
    Product product = {.count = 0};
    for (size_t i = 0; i < roles.count; i++) {
        const Tensor *tensor = tensor_of(&model->table, roles.role[i], layer);
        Joined *last = product.count ? &product.joined[product.count - 1] : NULL;
        product.inputs = tensor->columns;
        if (last && last->offset + last->rows * tensor->columns == tensor->offset)
            last->rows += tensor->rows;
        else
            product.joined[product.count++] = (Joined){tensor->offset, product.outputs, tensor->rows};
        product.outputs += tensor->rows;
    }
    return product;
}

static void count_product(const Model *model, const Product *product, double matrices_moved_twice) {
    double rows = (double)model->rows, inputs = (double)product->inputs, outputs = (double)product->outputs;
    phase_count(2 * rows * inputs * outputs,
                sizeof(real) * (rows * (inputs + outputs) + (1 + matrices_moved_twice) * inputs * outputs));
}

// out (N,outputs) = in (N,inputs) Wᵀ
static void multiply(Model *model, int layer, Roles roles, real *out, const real *in) {
    Product product = product_of(model, layer, roles);
    for (size_t i = 0; i < product.count; i++) {
        const Joined *w = &product.joined[i];
        gemm_parallel(false, true, model->rows, w->rows, product.inputs, 1, in, product.inputs,
                      model->parameters + w->offset, product.inputs, 0, out + w->column, product.outputs);
    }
    count_product(model, &product, 0);
}

// d_in (N,inputs) = d_out (N,outputs) W
static void multiply_backward(Model *model, int layer, Roles roles, real *d_in, const real *d_out) {
    Product product = product_of(model, layer, roles);
    for (size_t i = 0; i < product.count; i++) {
        const Joined *w = &product.joined[i];
        gemm_parallel(false, false, model->rows, product.inputs, w->rows, 1, d_out + w->column, product.outputs,
                      model->parameters + w->offset, product.inputs, i > 0, d_in, product.inputs);
    }
    count_product(model, &product, 0);
}

// dW += d_outᵀ (outputs,N) in (N,inputs)
static void multiply_weight_gradient(Model *model, int layer, Roles roles, const real *d_out, const real *in) {
    Product product = product_of(model, layer, roles);
    for (size_t i = 0; i < product.count; i++) {
        const Joined *w = &product.joined[i];
        gemm_parallel(true, false, w->rows, product.inputs, model->rows, 1, d_out + w->column, product.outputs, in,
                      product.inputs, 1, model->gradients + w->offset, product.inputs);
    }
    count_product(model, &product, 1);
}

// ---- A layer --------------------------------------------------------------------------------------------------------

// The N rows of a buffer.
static void show_rows(const Model *model, const char *name, int layer, real *values, size_t columns) {
    show(model, (ModelView){name, layer, values, model->rows, columns, columns, sizeof(real), NULL});
}

// Columns of the N rows of qkv, or of something laid out like it.
static void show_queries(const Model *model, const char *name, int layer, real *qkv) {
    show(model, (ModelView){name, layer, qkv, model->rows, model->query_width, model->qkv_width, sizeof(real), NULL});
}
static void show_keys(const Model *model, const char *name, int layer, real *qkv) {
    show(model, (ModelView){name, layer, qkv + model->query_width, model->rows, model->key_width, model->qkv_width,
                            sizeof(real), NULL});
}
static void show_values(const Model *model, const char *name, int layer, real *qkv, const AttentionBackward *io) {
    show(model, (ModelView){name, layer, qkv + model->query_width + model->key_width, model->rows, model->value_width,
                            model->qkv_width, sizeof(real), io});
}

// What of the layer's report is to be filled.
static AttentionReport report_of(const Model *model, int layer) {
    if (model->report == MODEL_REPORT_NONE) return (AttentionReport){0};
    AttentionReport report = model->reports[layer];
    if (model->report != MODEL_REPORT_CERTIFICATES)
        report.output_bound = report.dq_bound = report.dk_bound = report.dv_bound = NULL;
    return report;
}

// Bytes that attention cannot avoid: q, k, v and o once, and their gradients once more in backward.
static void count_attention(const Model *model, double flops, double times) {
    phase_count(flops, times * sizeof(real) * (double)model->rows * (double)(model->qkv_width + model->heads_width));
}

// The rows that attention reads q and k from: qkv itself, or its normed copy, made here.
static const real *attention_rows(Model *model, int layer, const LayerScratch *scratch) {
    const LayerActivations *a = &model->layers[layer];
    if (!scratch->normed) return a->qkv;
    phase_enter(PHASE_NORM);
    pass_head_norm(model, layer, scratch->normed, a->qkv);
    show_queries(model, "query_normed", layer, scratch->normed);
    show_keys(model, "key_normed", layer, scratch->normed);
    return scratch->normed;
}

static void attention_part_forward(Model *model, int layer, const LayerScratch *scratch) {
    LayerActivations *a = &model->layers[layer];
    const real *queries = attention_rows(model, layer, scratch);
    AttentionReport report = report_of(model, layer);
    phase_enter(PHASE_ATTENTION_FORWARD);
    attention_forward(model->plans[layer], &(AttentionForward){
                                               .o = a->heads_out,
                                               .q = queries,
                                               .k = queries + model->query_width,
                                               .v = a->qkv + model->query_width + model->key_width,
                                               .o_stride = model->heads_width,
                                               .q_stride = model->qkv_width,
                                               .k_stride = model->qkv_width,
                                               .v_stride = model->qkv_width,
                                               .report = &report,
                                               .saved = a->attention_saved,
                                               .scratch = scratch->attention,
                                           });
    const AttentionNeeds needs = attention_needs(model->plans[layer]);
    count_attention(model, needs.forward_flops, 1);
    show_rows(model, "heads_out", layer, a->heads_out, model->heads_width);
    show(model,
         (ModelView){"attention_saved", layer, a->attention_saved, 1, needs.saved_bytes, needs.saved_bytes, 1, NULL});
}

// d_o (N,H·E) → scratch->dqkv (N,qkv width)
static void attention_part_backward(Model *model, int layer, const LayerScratch *scratch, const real *d_o) {
    LayerActivations *a = &model->layers[layer];
    const real *queries = attention_rows(model, layer, scratch);
    AttentionReport report = report_of(model, layer);
    real *dqkv = scratch->dqkv;
    phase_enter(PHASE_ATTENTION_BACKWARD);
    AttentionBackward io = {
        .dq = dqkv,
        .dk = dqkv + model->query_width,
        .dv = dqkv + model->query_width + model->key_width,
        .d_o = d_o,
        .o = a->heads_out,
        .q = queries,
        .k = queries + model->query_width,
        .v = a->qkv + model->query_width + model->key_width,
        .o_stride = model->heads_width,
        .q_stride = model->qkv_width,
        .k_stride = model->qkv_width,
        .v_stride = model->qkv_width,
        .report = &report,
        .saved = a->attention_saved,
        .scratch = scratch->attention,
    };
    attention_backward(model->plans[layer], &io);
    count_attention(model, attention_needs(model->plans[layer]).backward_flops, 2);
    show_queries(model, scratch->normed ? "d_query_normed" : "d_query", layer, dqkv);
    show_keys(model, scratch->normed ? "d_key_normed" : "d_key", layer, dqkv);
    show_values(model, "d_value", layer, dqkv, &io);
    if (scratch->normed) {
        phase_enter(PHASE_NORM);
        pass_head_norm_backward(model, layer, dqkv, a->qkv);
        show_queries(model, "d_query", layer, dqkv);
        show_keys(model, "d_key", layer, dqkv);
    }
}

// From the residual stream x (+ delta, if not NULL) to everything that backward needs: all but the last product.
static void layer_forward(Model *model, int layer, const LayerScratch *scratch, const real *x, const real *delta) {
    LayerActivations *a = &model->layers[layer];
    const size_t width = model->settings.config.width;
    phase_enter(PHASE_NORM);
    pass_norm(model, TENSOR_INPUT_NORM, layer, a->input_normed, a->input, x, delta);
    if (delta) show_rows(model, "input", layer, a->input, width);
    show_rows(model, "input_normed", layer, a->input_normed, width);
    phase_enter(PHASE_PROJECTION);
    multiply(model, layer, qkv_weights, a->qkv, a->input_normed);
    show_queries(model, "query", layer, a->qkv);
    show_keys(model, "key", layer, a->qkv);
    show_values(model, "value", layer, a->qkv, NULL);
    attention_part_forward(model, layer, scratch);
    phase_enter(PHASE_PROJECTION);
    multiply(model, layer, output_weight, model->delta, a->heads_out);
    show_rows(model, "delta", layer, model->delta, width);
    phase_enter(PHASE_NORM);
    pass_norm(model, TENSOR_MIDDLE_NORM, layer, a->middle_normed, a->middle, a->input, model->delta);
    show_rows(model, "middle", layer, a->middle, width);
    show_rows(model, "middle_normed", layer, a->middle_normed, width);
    phase_enter(PHASE_FEED_FORWARD);
    multiply(model, layer, gate_up_weights, a->gate_up, a->middle_normed);
    show_rows(model, "gate_up", layer, a->gate_up, 2 * model->settings.config.ffn);
}

// The last product: model->delta is what to add to a->middle.
static void layer_forward_end(Model *model, int layer, const LayerScratch *scratch) {
    pass_swiglu(model, scratch->wide, model->layers[layer].gate_up);
    show_rows(model, "swiglu", layer, scratch->wide, model->settings.config.ffn);
    multiply(model, layer, down_weight, model->delta, scratch->wide);
    show_rows(model, "delta", layer, model->delta, model->settings.config.width);
}

// model->dx: gradient of the layer's output in, of its input out.
static void layer_backward(Model *model, int layer, const LayerScratch *scratch) {
    LayerActivations *a = &model->layers[layer];
    if (model->settings.recompute) layer_forward(model, layer, scratch, a->input, NULL);
    real *dx = model->dx, *d_normed = model->delta, *wide = scratch->wide, *dqkv = scratch->dqkv;
    const size_t width = model->settings.config.width, ffn = model->settings.config.ffn;

    phase_enter(PHASE_FEED_FORWARD);
    multiply_backward(model, layer, down_weight, wide, dx);
    show_rows(model, "d_swiglu", layer, wide, ffn);
    pass_swiglu_backward(model, wide, a->gate_up); // gate_up is its gradient now, wide the output of SwiGLU
    show_rows(model, "d_gate_up", layer, a->gate_up, 2 * ffn);
    show_rows(model, "swiglu", layer, wide, ffn);
    multiply_weight_gradient(model, layer, down_weight, dx, wide);
    multiply_backward(model, layer, gate_up_weights, d_normed, a->gate_up);
    show_rows(model, "d_middle_normed", layer, d_normed, width);
    multiply_weight_gradient(model, layer, gate_up_weights, a->gate_up, a->middle_normed);
    phase_enter(PHASE_NORM);
    pass_norm_backward(model, TENSOR_MIDDLE_NORM, layer, dx, d_normed, a->middle, true);
    show_rows(model, "d_middle", layer, dx, width);

    phase_enter(PHASE_PROJECTION);
    multiply_backward(model, layer, output_weight, wide, dx);
    show_rows(model, "d_heads_out", layer, wide, model->heads_width);
    multiply_weight_gradient(model, layer, output_weight, dx, a->heads_out);
    attention_part_backward(model, layer, scratch, wide);
    phase_enter(PHASE_PROJECTION);
    multiply_backward(model, layer, qkv_weights, d_normed, dqkv);
    show_rows(model, "d_input_normed", layer, d_normed, width);
    multiply_weight_gradient(model, layer, qkv_weights, dqkv, a->input_normed);
    phase_enter(PHASE_NORM);
    pass_norm_backward(model, TENSOR_INPUT_NORM, layer, dx, d_normed, a->input, true);
    show_rows(model, "d_input", layer, dx, width);
}

// ---- A step ---------------------------------------------------------------------------------------------------------

static void forward(Model *model, const int32_t *tokens) {
    size_t mark = arena_mark(&model->scratch_arena);
    LayerScratch scratch = layer_scratch_take(model, &model->scratch_arena);
    phase_enter(PHASE_EMBEDDING);
    const real *x = model->layers[0].input, *delta = NULL;
    embedding_forward(model, model->layers[0].input, tokens);
    show_rows(model, "input", 0, model->layers[0].input, model->settings.config.width);
    for (size_t layer = 0; layer < model->settings.config.layers; layer++) {
        layer_forward(model, (int)layer, &scratch, x, delta);
        layer_forward_end(model, (int)layer, &scratch);
        x = model->layers[layer].middle;
        delta = model->delta;
    }
    phase_enter(PHASE_NORM);
    pass_norm(model, TENSOR_FINAL_NORM, -1, model->last_normed, model->last, x, delta);
    show_rows(model, "last", -1, model->last, model->settings.config.width);
    show_rows(model, "last_normed", -1, model->last_normed, model->settings.config.width);
    arena_release(&model->scratch_arena, mark);
}

// From the gradient of last_normed in model->delta to all the others.
static void backward(Model *model, const int32_t *tokens) {
    size_t mark = arena_mark(&model->scratch_arena);
    LayerScratch scratch = layer_scratch_take(model, &model->scratch_arena);
    show_rows(model, "d_last_normed", -1, model->delta, model->settings.config.width);
    phase_enter(PHASE_NORM);
    pass_norm_backward(model, TENSOR_FINAL_NORM, -1, model->dx, model->delta, model->last, false);
    show_rows(model, "d_last", -1, model->dx, model->settings.config.width);
    for (size_t layer = model->settings.config.layers; layer-- > 0;) layer_backward(model, (int)layer, &scratch);
    arena_release(&model->scratch_arena, mark);
    phase_enter(PHASE_EMBEDDING);
    embedding_backward(model, model->dx, tokens);
}

static void require_ids(const Model *model, const int32_t *tokens, const int32_t *targets) {
    int32_t vocabulary = (int32_t)model->settings.config.vocabulary;
    bool good = true;
    for (size_t row = 0; row < model->rows; row++)
        good = good && tokens[row] >= 0 && tokens[row] < vocabulary && targets[row] >= -1 && targets[row] < vocabulary;
    REQUIRE(good);
}

static void clear_reports(Model *model) {
    for (size_t layer = 0; layer < model->settings.config.layers; layer++) {
        AttentionReport *r = &model->reports[layer];
        double *arrays[] = {r->logit_bound, r->output_bound, r->dq_bound,  r->dk_bound,
                            r->dv_bound,    r->clipped,      r->fell_back, r->method_used};
        for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
            memset(arrays[i], 0, model->settings.config.heads * sizeof(double));
    }
}

double model_step(Model *model, const int32_t *tokens, const int32_t *targets, double gradient_weight,
                  real *position_loss, unsigned char *correct) {
    require_ids(model, tokens, targets);
    if (model->report != MODEL_REPORT_NONE) clear_reports(model);
    if (!model->settings.training) gradient_weight = 0;
    Phase outer = phase_enter(PHASE_OTHER);
    forward(model, tokens);
    phase_enter(PHASE_OUTPUT);
    double loss = output_loss(model, model->delta, targets, gradient_weight, position_loss, correct);
    if (gradient_weight != 0) backward(model, tokens);
    phase_enter(outer);
    size_t counted = model_count_targets(targets, model->rows);
    loss = counted ? loss / (double)counted : 0;
    show(model, (ModelView){"loss", -1, &loss, 1, 1, 1, sizeof loss, NULL});
    return loss;
}
