// The model as a whole: it learns, its bits do not depend on threads, decoding agrees with forward, a step allocates
// nothing, the needs are what is taken, and shapes that make no sense are refused.
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/threads.h"
#include "model/internal.h"
#include "tests/support/toy_model.h"

// ---- Counting allocations made by code of this program (and not by the libraries that it calls) ---------------------

#if CHECK_SANITIZER
#define COUNTS_ALLOCATIONS 0 // sanitizers replace malloc themselves
static size_t allocations;
#else
#define COUNTS_ALLOCATIONS 1
extern char __executable_start, etext;
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
static size_t allocations;
static void count_allocation(const void *caller) {
    uintptr_t at = (uintptr_t)caller;
    if (at >= (uintptr_t)&__executable_start && at < (uintptr_t)&etext)
        __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
}
void *malloc(size_t size) {
    count_allocation(__builtin_return_address(0));
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    count_allocation(__builtin_return_address(0));
    return __libc_calloc(count, size);
}
void *realloc(void *block, size_t size) {
    count_allocation(__builtin_return_address(0));
    return __libc_realloc(block, size);
}
#endif

enum { MOST_ROWS = 160 };

typedef struct Batch {
    int32_t tokens[MOST_ROWS], targets[MOST_ROWS];
} Batch;

static Model *toy(const ModelSettings *settings, Batch *batch) {
    assert_true(settings->batch * settings->config.tokens <= MOST_ROWS);
    Model *model = toy_create(settings);
    toy_fill(model, 11);
    toy_batch(settings, 12, 7, batch->tokens, batch->targets);
    return model;
}

// Everything switched on that a model can have, and sizes that leave partial vectors and blocks.
static ModelSettings full_settings(size_t batch, size_t tokens) {
    ModelSettings settings = toy_settings(batch, tokens);
    settings.config.kv_heads = 2;
    settings.config.v_size = 7;
    settings.config.qk_norm = settings.config.token_shift = settings.config.tie = true;
    return settings;
}

static void test_no_allocation(void **state) {
    (void)state;
    Batch batch;
    ModelSettings settings = full_settings(3, 25);
    Model *model = toy(&settings, &batch);
    Decoder *decoder = decoder_create(model, NULL);
    assert_non_null(decoder);
    if (COUNTS_ALLOCATIONS) assert_true(allocations > 0);
    size_t before = allocations;
    for (size_t i = 0; i < 3; i++) model_step(model, batch.tokens, batch.targets, 1, NULL, NULL);
    for (size_t i = 0; i < 25; i++) decoder_feed(decoder, batch.tokens[i]);
    assert_int_equal(allocations, before);
    check_count("steps without an allocation", 28);
    decoder_destroy(decoder);
    model_destroy(model);
}

// ---- Learning -------------------------------------------------------------------------------------------------------

static void adam(real *parameters, const real *gradients, double *moments, size_t count, size_t step) {
    const double beta1 = 0.9, beta2 = 0.99, rate = 0.01;
    for (size_t i = 0; i < count; i++) {
        double *m = &moments[2 * i], *v = m + 1, g = gradients[i];
        *m += (1 - beta1) * (g - *m);
        *v += (1 - beta2) * (g * g - *v);
        double mean = *m / (1 - pow(beta1, (double)step)), square = *v / (1 - pow(beta2, (double)step));
        parameters[i] -= (real)(rate * mean / (sqrt(square) + 1e-8));
    }
}

static void test_overfits(void **state) {
    (void)state;
    Batch batch;
    ModelSettings settings = toy_settings(4, 16);
    settings.config.width = 32;
    settings.config.ffn = 64;
    threads_set(1); // hundreds of steps of a few microseconds' work
    Model *model = toy_create(&settings);
    size_t elements = model_tensors(model)->elements, counted;
    double *moments = calloc(2 * elements, sizeof *moments), first = 0, loss = 0;
    assert_non_null(moments);
    model_initialise(model, 1);
    toy_batch(&settings, 2, 9, batch.tokens, batch.targets);
    for (size_t row = 0; row < settings.batch; row++) // the first token must tell the sequences apart
        batch.tokens[row * settings.config.tokens] = (int32_t)row;
    counted = model_count_targets(batch.targets, 64);
    unsigned char correct[64];
    for (size_t step = 1; step <= 300; step++) {
        model_zero_gradients(model);
        loss = model_step(model, batch.tokens, batch.targets, 1.0 / (double)counted, NULL, correct);
        if (step == 1) first = loss;
        adam(model_parameters(model), model_gradients(model), moments, elements, step);
    }
    size_t hits = 0;
    for (size_t i = 0; i < 64; i++) hits += correct[i];
    print_message("loss %.3f at first, %.5f after 300 steps, %zu of %zu right\n", first, loss, hits, counted);
    assert_true(fabs(first - log(17)) < 0.1); // a fresh model knows nothing
    assert_true(loss < 0.01);
    assert_int_equal(hits, counted);
    check_count("targets learnt by heart", counted);
    threads_set(0);
    free(moments);
    model_destroy(model);
}

// ---- The same function, however it is computed ----------------------------------------------------------------------

// Gradients, losses and hits of one step, to compare.
typedef struct Outcome {
    double loss;
    real position_loss[MOST_ROWS];
    unsigned char correct[MOST_ROWS];
    real *gradients;
    size_t elements, rows;
} Outcome;

static Outcome run(const ModelSettings *settings, size_t threads) {
    Batch batch;
    Outcome outcome = {.rows = settings->batch * settings->config.tokens};
    threads_set(threads);
    Model *model = toy(settings, &batch);
    outcome.elements = model_tensors(model)->elements;
    outcome.gradients = calloc(outcome.elements, sizeof(real));
    assert_non_null(outcome.gradients);
    outcome.loss = model_step(model, batch.tokens, batch.targets, 0.125, outcome.position_loss, outcome.correct);
    if (settings->training) memcpy(outcome.gradients, model_gradients(model), outcome.elements * sizeof(real));
    model_destroy(model);
    threads_set(0);
    return outcome;
}

static void check_same(const char *what, const Outcome *a, const Outcome *b, bool gradients) {
    assert_true(a->loss > 0);
    check_same_bits(what, &a->loss, &b->loss, sizeof a->loss);
    check_same_bits(what, a->position_loss, b->position_loss, a->rows * sizeof(real));
    check_same_bits(what, a->correct, b->correct, a->rows);
    if (gradients) check_same_bits(what, a->gradients, b->gradients, a->elements * sizeof(real));
}

static void test_threads(void **state) {
    (void)state;
    ModelSettings small = full_settings(5, 31), wide = toy_settings(2, 70);
    wide.config.width = 40;
    wide.config.ffn = 100;
    wide.config.vocabulary = 16500; // two blocks of logits
    const ModelSettings *settings[] = {&small, &wide};
    for (size_t i = 0; i < 2; i++) {
        Outcome one = run(settings[i], 1);
        for (size_t threads = 2; threads <= 4; threads++) {
            Outcome many = run(settings[i], threads);
            check_same("bytes equal for 1, 2, 3 and 4 threads", &one, &many, true);
            free(many.gradients);
        }
        free(one.gradients);
    }
}

static void test_recompute_and_inference(void **state) {
    (void)state;
    ModelSettings settings = full_settings(3, 29);
    Outcome kept = run(&settings, 0);
    settings.recompute = true;
    Outcome recomputed = run(&settings, 0);
    settings.recompute = false;
    settings.training = false;
    Outcome inference = run(&settings, 0);
    check_same("bytes equal with recomputed activations", &kept, &recomputed, true);
    check_same("bytes equal without training", &kept, &inference, false);
    free(kept.gradients);
    free(recomputed.gradients);
    free(inference.gradients);
}

static double log_sum_exp(const real *logits, size_t count) {
    double most = logits[0], sum = 0;
    for (size_t i = 1; i < count; i++) most = fmax(most, logits[i]);
    for (size_t i = 0; i < count; i++) sum += exp(logits[i] - most);
    return most + log(sum);
}

// Logits of the full forward explain the losses, and decoding gives the same.
static void test_logits_and_decoder(void **state) {
    (void)state;
    enum { TOKENS = 40, VOCABULARY = 17 };
    Batch batch;
    real losses[MOST_ROWS], logits[VOCABULARY];
    unsigned char correct[MOST_ROWS];
    for (size_t variant = 0; variant < 2; variant++) {
        ModelSettings settings = variant ? full_settings(2, TOKENS) : toy_settings(2, TOKENS);
        settings.training = variant;
        Model *model = toy(&settings, &batch);
        Decoder *decoder = decoder_create(model, NULL);
        assert_non_null(decoder);
        model_step(model, batch.tokens, batch.targets, 1, losses, correct);
        for (size_t i = 0; i < 2 * TOKENS; i++) {
            if (i % TOKENS == 0) decoder_reset(decoder);
            assert_int_equal(decoder_position(decoder), i % TOKENS);
            const real *decoded = decoder_feed(decoder, batch.tokens[i]);
            double expected[VOCABULARY], loss = 0;
            model_logits(model, i / TOKENS, i % TOKENS, logits);
            for (size_t v = 0; v < VOCABULARY; v++) expected[v] = logits[v];
            check_close("decoded logits against forward", decoded, expected, VOCABULARY, 1e-4, 0);
            bool hit = batch.targets[i] >= 0;
            for (size_t v = 0; v < VOCABULARY && hit; v++) hit = logits[v] <= logits[batch.targets[i]];
            if (batch.targets[i] >= 0) loss = log_sum_exp(logits, VOCABULARY) - logits[batch.targets[i]];
            check_close("losses against logits", &losses[i], &loss, 1, 1e-5, 0);
            assert_int_equal(correct[i], hit);
        }
        decoder_destroy(decoder);
        model_destroy(model);
    }
}

// ---- Memory and sizes -----------------------------------------------------------------------------------------------

static void check_needs(const ModelSettings *settings) {
    ModelNeeds needs;
    Batch batch;
    assert_true(model_needs(settings, &needs, NULL));
    Model *model = toy(settings, &batch);
    model_step(model, batch.tokens, batch.targets, 1, NULL, NULL);
    assert_int_equal(needs.parameters, model->table.parameters);
    // neither less than what was allocated, nor more than what a step used
    const Arena *arenas[] = {&model->parameter_arena, &model->gradient_arena, &model->activation_arena,
                             &model->scratch_arena};
    size_t bytes[] = {needs.parameter_bytes, needs.gradient_bytes, needs.activation_bytes, needs.scratch_bytes};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(bytes[i], arenas[i]->capacity);
        assert_int_equal(bytes[i], arenas[i]->peak);
    }
    check_count("arenas exactly as large as needed", 4);
    model_destroy(model);
}

static void test_needs(void **state) {
    (void)state;
    ModelSettings settings = full_settings(2, 50), plain = toy_settings(3, 1);
    check_needs(&plain);
    for (int bits = 0; bits < 4; bits++) {
        settings.training = bits & 1;
        settings.recompute = bits & 2;
        check_needs(&settings);
    }
}

static void test_flops_are_counted(void **state) {
    (void)state;
    Batch batch;
    ModelSettings settings = toy_settings(2, 64);
    settings.config.width = 64;
    settings.config.ffn = 160;
    settings.config.vocabulary = 500;
    ModelNeeds needs;
    PhaseTimes times;
    double counted = 0;
    Model *model = toy(&settings, &batch);
    for (size_t i = 0; i < 2 * 64; i++) // rows without a target are spared the output matrix
        if (batch.targets[i] < 0) batch.targets[i] = 1;
    assert_true(model_needs(&settings, &needs, NULL));
    phase_enter(PHASE_LOADER);
    phase_take(&times);
    model_step(model, batch.tokens, batch.targets, 1, NULL, NULL);
    assert_int_equal(phase_enter(PHASE_OTHER), PHASE_LOADER); // the step gives back the phase that it found
    phase_take(&times);
    for (Phase phase = 0; phase < PHASE_COUNT; phase++) counted += times.flops[phase];
    assert_true(counted >= needs.forward_flops + needs.backward_flops);         // the products, all of them,
    assert_true(counted <= 1.05 * (needs.forward_flops + needs.backward_flops)); // and a little elementwise work
    check_count("phases counted", PHASE_COUNT);
    model_destroy(model);
}

static void test_hostile_shapes(void **state) {
    (void)state;
    const ModelSettings good = toy_settings(2, 8);
    size_t refused = 0;
    const size_t hostile[] = {0, (size_t)-1, (size_t)1 << 31, (size_t)1 << 32, (size_t)1 << 63};
    for (size_t field = 0; field < 10; field++)
        for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++, refused++) {
            ModelSettings bad = good;
            ModelConfig *c = &bad.config;
            size_t *fields[] = {&c->vocabulary, &c->layers, &c->width, &c->heads,  &c->kv_heads,
                                &c->qk_size,    &c->v_size, &c->ffn,   &c->tokens, &bad.batch};
            Error error = {0};
            ModelNeeds needs;
            *fields[field] = hostile[i];
            assert_false(model_needs(&bad, &needs, &error));
            assert_int_equal(error.kind, ERROR_USER);
            error_clear(&error);
            assert_null(model_create(&bad, &error));
        }
    // each size passes alone; their products wrap, or make no sense
    const char *named[10] = {"model.kv_heads",     "model.qk_size",    "model.heads",      "model.ffn",   "train.batch",
                             "model.norm_epsilon", "model.rope_theta", "attention.method", "model.layers", "model."};
    ModelSettings bad[10];
    for (size_t i = 0; i < 10; i++) bad[i] = good;
    bad[0].config.kv_heads = 3;
    bad[1].config.qk_size = 5;
    bad[2].config.heads = bad[2].config.kv_heads = bad[2].config.qk_size = 1 << 20;
    bad[3].config.ffn = INT32_MAX;
    bad[4].batch = bad[4].config.tokens = 1 << 20;
    bad[5].config.norm_epsilon = NAN;
    bad[6].config.rope_theta = -1;
    bad[7].method_count = 3;
    bad[8].config.layers = MODEL_MAX_LAYERS + 1;
    bad[9].config.vocabulary = bad[9].config.width = INT32_MAX;
    for (size_t i = 0; i < 10; i++, refused++) {
        Error error = {0};
        ModelNeeds needs;
        assert_false(model_needs(&bad[i], &needs, &error));
        assert_int_equal(error.kind, ERROR_USER);
        assert_non_null(strstr(error.message, named[i]));
    }
    check_count("shapes refused before allocation", refused);
}

// Ids beyond the vocabulary are the programmer's error (loaders refuse them): nothing is read or written at their place.
static void test_wrong_ids(void **state) {
    (void)state;
    const ModelSettings settings = toy_settings(2, 8);
    const int32_t vocabulary = (int32_t)settings.config.vocabulary, wrong[] = {vocabulary, -1, INT32_MAX, INT32_MIN};
    Model *model = toy_create(&settings);
    for (size_t i = 0; i < 8; i++) {
        int32_t ids[2][16] = {{0}}, *id = &ids[i / 4][i % 4 * 5];
        *id = i == 5 ? -2 : wrong[i % 4]; // -1 is a target: nothing is asked
        fflush(NULL);
        const pid_t child = fork();
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            if (!freopen("/dev/null", "w", stderr)) _exit(3);
            model_step(model, ids[0], ids[1], 1, NULL, NULL);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
    model_destroy(model);
    check_count("wrong ids stopped before the step", 8);
}

// ---- Tensors --------------------------------------------------------------------------------------------------------

static void check_padding(const TensorTable *table, const real *values) {
    size_t at = 0, zeros = 0;
    for (size_t i = 0; i <= table->count; i++) {
        size_t next = i < table->count ? table->tensors[i].offset : table->elements;
        for (; at < next; at++, zeros++) assert_true(values[at] == 0);
        if (i < table->count) at = next + table->tensors[i].rows * table->tensors[i].columns;
    }
    assert_int_equal(at, table->elements);
    check_count("elements of padding that are zero", zeros);
}

static void test_table(void **state) {
    (void)state;
    Batch batch;
    ModelSettings settings = full_settings(2, 9);
    Model *model = toy(&settings, &batch);
    const TensorTable *table = model_tensors(model);
    model_step(model, batch.tokens, batch.targets, 1, NULL, NULL);
    check_padding(table, model_parameters(model));
    check_padding(table, model_gradients(model));
    size_t end = 0;
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        assert_int_equal(tensor->offset % 16, 0);
        assert_true(tensor->offset >= end);
        end = tensor->offset + tensor->rows * tensor->columns;
        assert_ptr_equal(tensor_find(table, tensor->name), tensor);
        assert_ptr_equal(tensor_of(table, tensor->role, tensor->layer), tensor);
        if (tensor->decay != (tensor->rank == 2)) fail_msg("%s: matrices decay, vectors do not", tensor->name);
    }
    assert_non_null(tensor_find(table, "model.layers.1.self_attn.k_norm.weight"));
    assert_null(tensor_find(table, "lm_head.weight")); // tied
    check_count("tensors in the table", table->count);
    model_destroy(model);
}

// Models share the initial weights of every tensor that both have in the same shape.
static void test_shared_initial_weights(void **state) {
    (void)state;
    ModelSettings settings[] = {toy_settings(1, 4), full_settings(2, 9)};
    Model *a = toy_create(&settings[0]), *b = toy_create(&settings[1]);
    model_initialise(a, 3);
    model_initialise(b, 3);
    const TensorTable *of_a = model_tensors(a), *of_b = model_tensors(b);
    size_t shared = 0;
    for (size_t i = 0; i < of_a->count; i++) {
        const Tensor *x = &of_a->tensors[i], *y = tensor_find(of_b, x->name);
        if (!y || x->rows != y->rows || x->columns != y->columns) continue;
        check_same_bits("bytes of initial weights shared", model_parameters(a) + x->offset,
                        model_parameters(b) + y->offset, x->rows * x->columns * sizeof(real));
        shared++;
    }
    assert_true(shared >= 14);
    const Tensor *up = tensor_find(of_a, "model.layers.0.mlp.up_proj.weight"), *gate = tensor_of(of_a, TENSOR_GATE, 0);
    assert_memory_not_equal(model_parameters(a) + up->offset, model_parameters(a) + gate->offset, 240 * sizeof(real));
    model_initialise(b, 4);
    assert_memory_not_equal(model_parameters(a), model_parameters(b), 17 * 12 * sizeof(real));
    model_destroy(a);
    model_destroy(b);
}

static double deviation_of(const Model *model, TensorRole role) {
    const Tensor *tensor = tensor_of(&model->table, role, 0);
    const real *values = model->parameters + tensor->offset;
    size_t count = tensor->rows * tensor->columns;
    double squares = 0;
    for (size_t i = 0; i < count; i++) squares += (double)values[i] * values[i];
    check_count("initial weights in a deviation", count);
    return sqrt(squares / (double)count);
}

// 0.02, less what the 2·layers additions into the residual stream would make of it. 5 % is four standard errors.
static void test_initial_deviations(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(1, 2);
    settings.config.width = 60;
    settings.config.ffn = 90;
    settings.config.layers = 8;
    Model *model = toy_create(&settings);
    model_initialise(model, 1);
    assert_float_equal(deviation_of(model, TENSOR_GATE) / 0.02, 1, 0.05);
    assert_float_equal(deviation_of(model, TENSOR_DOWN) / (0.02 / 4), 1, 0.05);
    const real *mix = model_weight(model, TENSOR_SHIFT, -1), *norm = model_weight(model, TENSOR_FINAL_NORM, -1);
    assert_null(mix); // not configured
    assert_true(norm[0] == 1 && norm[59] == 1);
    model_destroy(model);
}

static void test_counts_targets(void **state) {
    (void)state;
    const int32_t targets[] = {-1, 0, 5, -1, 16, -1};
    assert_int_equal(model_count_targets(targets, 6), 3);
    assert_int_equal(model_count_targets(targets, 0), 0);
    ModelSettings settings = toy_settings(1, 2);
    Model *model = toy_create(&settings);
    model_initialise(model, 1);
    int32_t ignored[] = {-1, -1}, tokens[] = {1, 2};
    assert_true(model_step(model, tokens, ignored, 1, NULL, NULL) == 0);
    for (size_t i = 0; i < model_tensors(model)->elements; i++) assert_true(model_gradients(model)[i] == 0);
    check_count("target counts", 3);
    model_destroy(model);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_no_allocation),
    cmocka_unit_test(test_overfits),
    cmocka_unit_test(test_threads),
    cmocka_unit_test(test_recompute_and_inference),
    cmocka_unit_test(test_logits_and_decoder),
    cmocka_unit_test(test_needs),
    cmocka_unit_test(test_flops_are_counted),
    cmocka_unit_test(test_hostile_shapes),
    cmocka_unit_test(test_wrong_ids),
    cmocka_unit_test(test_table),
    cmocka_unit_test(test_shared_initial_weights),
    cmocka_unit_test(test_initial_deviations),
    cmocka_unit_test(test_counts_targets),
};

TEST_MAIN(tests)
