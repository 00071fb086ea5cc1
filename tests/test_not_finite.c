// Numbers that are not finite (NaN, +Inf, -Inf) put into one element of everything that a training step writes: every
// activation and gradient that the model shows (model_observe), what attention keeps for its backward, the gradient
// and the moments of every tensor, the losses. The rule for each of them: the very step finds it, is counted and leaves
// weights and moments as they were; or the element was read no more, and the step ends in the same bits as without it.
// The second class is counted by itself, and only the buffers that the table below names may be in it.
#include "tests/support/check.h"
#include "tests/support/toy_trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/lowrank.h"
#include "attention/toeplitz_plan.h"
#include "core/files.h"
#include "core/random.h"
#include "core/threads.h"
#include "train/snapshot.h"

enum { PATH = 512, MOST_VIEWS = 512, SPOTS = 4 };

static const real bad[] = {(real)NAN, (real)INFINITY, (real)-INFINITY};
enum { BAD = sizeof bad / sizeof *bad };

static const char *const common[] = {"data.task=induction",
                                     "model.layers=2",
                                     "model.width=16",
                                     "model.heads=2",
                                     "model.kv_heads=1",
                                     "model.ffn=24",
                                     "model.tokens=12",
                                     "model.vocabulary=16",
                                     "train.batch=2",
                                     "train.steps=1000",
                                     "train.threads=1",
                                     "optim.warmup=5",
                                     "optim.learning_rate=0.01",
                                     NULL};

// ---- what a step shows ----------------------------------------------------------------------------------------------

typedef struct Array {
    const char *name;
    real *values; // (rows, T)
    size_t rows;
} Array;

// What a method's backward computes with, of what its forward saved. Returns how many.
static size_t saved_arrays(const AttentionPlan *plan, void *saved, Array *arrays) {
    const AttentionSettings *s = attention_plan_settings(plan);
    const char *method = attention_method_name(attention_plan_method(plan));
    const size_t rows = s->batch * s->heads, key_rows = s->batch * s->kv_heads;
    if (!strcmp(method, "exact")) {
        arrays[0] = (Array){"saved log-sum-exp", saved, rows};
        return 1;
    }
    if (!strcmp(method, "lowrank")) {
        const LowrankSaved at = lowrank_saved_at((const LowrankPlan *)plan, saved, NULL);
        arrays[0] = (Array){"saved log-sum-exp", at.log_sum, rows};
        arrays[1] = (Array){"saved far share", at.far_share, rows};
        arrays[2] = (Array){"saved query factor", at.query_factor, rows};
        arrays[3] = (Array){"saved key factor", at.key_factor, key_rows};
        return 4;
    }
    assert_string_equal(method, "toeplitz");
    const ToeplitzSaved at = toeplitz_saved_at((const ToeplitzPlan *)plan, saved, NULL);
    arrays[0] = (Array){"saved shift", at.shift, rows};
    arrays[1] = (Array){"saved inverse", at.inverse, rows};
    arrays[2] = (Array){"saved far share", at.far_share, rows};
    return 3;
}

// Calls body for the view, or for each array of what attention saved.
typedef void (*ViewBody)(void *context, const ModelView *view);
static void each_array(const Model *model, const ModelView *view, ViewBody body, void *context) {
    if (view->size != 1) {
        body(context, view);
        return;
    }
    Array arrays[4];
    const size_t count = saved_arrays(model_attention(model, (size_t)view->layer), view->values, arrays);
    const size_t tokens = model_settings(model)->config.tokens;
    for (size_t i = 0; i < count; i++)
        body(context, &(ModelView){arrays[i].name, view->layer, arrays[i].values, arrays[i].rows, tokens, tokens,
                                   sizeof(real), NULL});
}

// ---- planting -------------------------------------------------------------------------------------------------------

typedef struct Plant {
    Model *model;
    size_t target, seen; // number of the array in the step; arrays seen so far
    size_t row, column;
    real value;
    ModelView *list;        // NULL, or where to note every array
    const Tensor *gradient; // not NULL: its gradient instead, when `target` is shown
    ModelView planted;      // the target when it was shown
} Plant;

// Backward makes normed q and k again from what they were made from: the same arithmetic gives the same number.
static bool made_again(const Plant *plant, const ModelView *view, size_t number) {
    const bool normed = !strcmp(view->name, "query_normed") || !strcmp(view->name, "key_normed");
    return normed && number > plant->target && view->layer == plant->planted.layer &&
           !strcmp(view->name, plant->planted.name);
}

static void plant_body(void *context, const ModelView *view) {
    Plant *plant = context;
    const size_t number = plant->seen++, at = plant->row * view->stride + plant->column;
    if (plant->list) {
        assert_true(number < MOST_VIEWS);
        plant->list[number] = *view;
        return;
    }
    if (number == plant->target) plant->planted = *view;
    if (number != plant->target && !made_again(plant, view, number)) return;
    if (plant->gradient)
        model_gradients(plant->model)[plant->gradient->offset + plant->column] = plant->value;
    else if (view->size == sizeof(real))
        ((real *)view->values)[at] = plant->value;
    else
        ((double *)view->values)[at] = (double)plant->value;
}

static void plant_observer(void *context, const ModelView *view) {
    each_array(((Plant *)context)->model, view, plant_body, context);
}

// ---- a case ---------------------------------------------------------------------------------------------------------

// A trainer that takes the same step again and again, and what that step does if nobody interferes.
typedef struct Case {
    const char *label;
    Config config;
    Trainer trainer;
    RunState state;
    uint64_t steps;
    Copy before, after;
    StepResult clean;
    ModelView view[MOST_VIEWS];
    size_t views;
} Case;

static void rewind_case(Case *c) {
    c->trainer.state = c->state;
    batches_seek(c->trainer.train, c->state.data);
    optim_set_step_count(c->trainer.optim, c->steps);
}

static void begin_case(Case *c, const char *label, const char *const *more) {
    c->label = label;
    c->config = toy_settings(common, more);
    toy_trainer_create(&c->trainer, &c->config);
    for (size_t i = 0; i < 3; i++) // far enough from the start that all weights and moments matter
        if (toy_trainer_step(&c->trainer).skipped) fail_msg("%s: a clean step was skipped", label);
    c->state = c->trainer.state;
    c->steps = optim_step_count(c->trainer.optim);
    c->before = copy_of(&c->trainer);
    Plant list = {.model = c->trainer.model, .list = c->view};
    model_observe(c->trainer.model, plant_observer, &list);
    c->clean = toy_trainer_step(&c->trainer);
    model_observe(c->trainer.model, NULL, NULL);
    c->views = list.seen;
    c->after = copy_of(&c->trainer);
    if (c->clean.skipped) fail_msg("%s: the clean step was skipped", label);
    put_back(&c->trainer, &c->before);
    rewind_case(c);
}

static void end_case(Case *c) {
    free_copy(&c->before);
    free_copy(&c->after);
    trainer_destroy(&c->trainer);
}

// The step with something planted in it. True: found; false: read no more. Anything else fails.
static bool planted_step(Case *c, const char *what, int layer, real value) {
    Trainer *trainer = &c->trainer;
    const StepResult result = toy_trainer_step(trainer);
    const RunState *state = &trainer->state;
    const Copy *wanted = result.skipped ? &c->before : &c->after;
    if (!result.skipped && (result.loss != c->clean.loss || result.gradient_norm != c->clean.gradient_norm ||
                            !same_numbers(trainer, wanted)))
        fail_msg("%s: %g in %s of layer %d changed the step and was not found", c->label, (double)value, what, layer);
    if (!same_numbers(trainer, wanted))
        fail_msg("%s: %g in %s of layer %d: the skipped step changed weights or moments", c->label, (double)value, what,
                 layer);
    assert_int_equal(state->step, c->state.step + 1);
    assert_int_equal(state->skipped, c->state.skipped + result.skipped);
    assert_int_equal(state->skipped_in_row, result.skipped);
    assert_int_equal(state->updates, c->state.updates + !result.skipped);
    if (!result.skipped) put_back(trainer, &c->before);
    rewind_case(c);
    return result.skipped;
}

// ---- activations, gradients of activations, losses ------------------------------------------------------------------

// Every array that a step shows. Read: each element of it matters. Unread: some may not, and why; but some must.
typedef struct Known {
    const char *name, *unread;
    bool always_unread;
    size_t found, harmless;
} Known;

static Known known[] = {
    {"input", NULL, false, 0, 0},
    {"input_normed", NULL, false, 0, 0},
    {"query", NULL, false, 0, 0},
    {"key", NULL, false, 0, 0},
    {"value", NULL, false, 0, 0},
    {"query_normed", NULL, false, 0, 0},
    {"key_normed", NULL, false, 0, 0},
    {"heads_out", NULL, false, 0, 0},
    {"saved log-sum-exp", "recompute makes it again before backward reads it", false, 0, 0},
    {"saved query factor", "there is no ball, or no far field", false, 0, 0},
    {"saved key factor", "the same, or the key is near to all queries after it", false, 0, 0},
    {"saved far share", "only certificates need it", true, 0, 0},
    {"saved shift", NULL, false, 0, 0},
    {"saved inverse", NULL, false, 0, 0},
    {"delta", NULL, false, 0, 0},
    {"middle", NULL, false, 0, 0},
    {"middle_normed", NULL, false, 0, 0},
    {"gate_up", NULL, false, 0, 0},
    {"swiglu", NULL, false, 0, 0},
    {"last", NULL, false, 0, 0},
    {"last_normed", "the row has no target", false, 0, 0},
    {"logits", NULL, false, 0, 0},
    {"losses", NULL, false, 0, 0},
    {"loss", NULL, false, 0, 0},
    {"d_logits", NULL, false, 0, 0},
    {"d_last_normed", NULL, false, 0, 0},
    {"d_last", NULL, false, 0, 0},
    {"d_swiglu", NULL, false, 0, 0},
    {"d_gate_up", NULL, false, 0, 0},
    {"d_middle_normed", NULL, false, 0, 0},
    {"d_middle", NULL, false, 0, 0},
    {"d_heads_out", NULL, false, 0, 0},
    {"d_query_normed", NULL, false, 0, 0},
    {"d_key_normed", NULL, false, 0, 0},
    {"d_query", NULL, false, 0, 0},
    {"d_key", NULL, false, 0, 0},
    {"d_value", NULL, false, 0, 0},
    {"d_input_normed", NULL, false, 0, 0},
    {"d_input", NULL, false, 0, 0},
};
enum { KNOWN = sizeof known / sizeof *known };

static Known *known_view(const Case *c, const ModelView *view) {
    for (size_t i = 0; i < KNOWN; i++)
        if (!strcmp(known[i].name, view->name)) return &known[i];
    fail_msg("%s: the step shows %s, which the table does not know", c->label, view->name);
    return NULL;
}

#define LOWRANK "attention.method=lowrank", "attention.near=3", "attention.degree=2"
#define TOEPLITZ "attention.method=toeplitz", "attention.near=3", "attention.degree=2", "attention.far_size=2"
#define CLIP "attention.bound=clip", "attention.entry_bound=0.3"
#define FALLBACK "attention.bound=none", "attention.logit_bound=0.01", "attention.degree=1"
#define NORMS "model.qk_norm=true", "model.token_shift=true", "model.tie=false"
#define MOST_SETTINGS 10

static const struct {
    const char *label, *more[MOST_SETTINGS];
} cases[] = {
    {"exact", {NULL}},
    {"exact, all rows asked", {"data.task=copy", "train.batch=1", NULL}},
    {"exact, norms of heads, shift, untied", {NORMS, NULL}},
    {"exact, clip", {CLIP, NULL}},
    {"exact, ball", {"attention.bound=ball", "attention.logit_bound=0.1", NULL}},
    {"exact, recompute", {NORMS, "train.recompute=true", NULL}},
    {"exact, accumulate, no clipping of gradients", {"train.accumulate=2", "optim.clip=0", NULL}},
    {"lowrank, features", {LOWRANK, "attention.chunk=4", NULL}},
    {"lowrank, features, norms, recompute", {LOWRANK, NORMS, "attention.chunk=4", "train.recompute=true", NULL}},
    {"lowrank, features, clip", {LOWRANK, CLIP, "attention.chunk=4", "attention.near_bound=same", NULL}},
    {"lowrank, fallback", {LOWRANK, FALLBACK, "attention.chunk=4", NULL}},
    {"lowrank, all pairs", {LOWRANK, "attention.chunk=12", "train.accumulate=2", "optim.clip=0", NULL}},
    {"lowrank, all pairs, clip", {LOWRANK, CLIP, "attention.chunk=12", NULL}},
    {"lowrank, window alone", {LOWRANK, "attention.far=none", "attention.chunk=4", NULL}},
    {"toeplitz", {TOEPLITZ, NULL}},
    {"toeplitz, norms, shift, untied", {TOEPLITZ, NORMS, NULL}},
    {"toeplitz, clip", {TOEPLITZ, CLIP, "attention.near_bound=same", NULL}},
    {"toeplitz, fallback", {TOEPLITZ, FALLBACK, NULL}},
};
enum { CASES = sizeof cases / sizeof *cases };

// That the settings lead to where the label says.
static void check_path(const Case *c) {
    const AttentionPlan *plan = model_attention(c->trainer.model, 0);
    if (!strncmp(c->label, "lowrank", 7)) {
        const LowrankPlan *lowrank = (const LowrankPlan *)plan;
        assert_int_equal(lowrank->all_pairs, strstr(c->label, "all pairs") != NULL);
        assert_int_equal(lowrank->polynomial_far, strstr(c->label, "window") == NULL);
    }
    assert_int_equal(c->state.fell_back > 0, strstr(c->label, "fallback") != NULL);
}

static void plant_everywhere(Case *c, size_t view, uint64_t stream) {
    const ModelView *v = &c->view[view];
    const Random random = {stream, RANDOM_TEST, view};
    Known *row = known_view(c, v);
    for (size_t spot = 0; spot < SPOTS; spot++)
        for (size_t b = 0; b < BAD; b++) {
            Plant plant = {.model = c->trainer.model, .target = view, .value = bad[b]};
            plant.row = spot == 0 ? 0 : spot == 1 ? v->rows - 1 : random_below(random, 2 * spot, v->rows);
            plant.column = spot == 0 ? 0 : spot == 1 ? v->columns - 1 : random_below(random, 2 * spot + 1, v->columns);
            model_observe(c->trainer.model, plant_observer, &plant);
            const bool found = planted_step(c, v->name, v->layer, bad[b]);
            if (!found && !row->unread)
                fail_msg("%s: %g in %s of layer %d was not read", c->label, (double)bad[b], v->name, v->layer);
            row->found += found;
            row->harmless += !found;
        }
    model_observe(c->trainer.model, NULL, NULL);
}

static void test_activations(void **unused) {
    (void)unused;
    static Case c;
    for (size_t n = 0; n < CASES; n++) {
        begin_case(&c, cases[n].label, cases[n].more);
        check_path(&c);
        for (size_t view = 0; view < c.views; view++) plant_everywhere(&c, view, n);
        end_case(&c);
    }
    size_t found = 0, harmless = 0;
    for (size_t i = 0; i < KNOWN; i++) {
        if (known[i].found == 0 && !known[i].always_unread) fail_msg("%s was never found", known[i].name);
        found += known[i].found;
        harmless += known[i].harmless;
    }
    check_count("activations and their gradients, found", found);
    check_count("activations that the step read no more", harmless);
}

// ---- gradients, moments and weights of every tensor -----------------------------------------------------------------

// The first, the last and a few other elements of a tensor.
static size_t element(const Tensor *tensor, size_t spot, uint64_t stream) {
    const size_t count = tensor->rows * tensor->columns;
    if (spot < 2) return spot * (count - 1);
    return random_below((Random){stream, RANDOM_TEST, tensor->offset}, spot, count);
}

static void test_gradients(void **unused) {
    (void)unused;
    static Case c;
    for (size_t n = 0; n < CASES; n++) {
        begin_case(&c, cases[n].label, cases[n].more);
        const TensorTable *table = model_tensors(c.trainer.model);
        for (size_t t = 0; t < table->count; t++)
            for (size_t spot = 0; spot < SPOTS; spot++)
                for (size_t b = 0; b < BAD; b++) {
                    const Tensor *tensor = &table->tensors[t];
                    // the last thing that a step shows is its loss; all gradients are made by then
                    Plant plant = {.model = c.trainer.model, .target = c.views - 1, .value = bad[b]};
                    plant.gradient = tensor;
                    plant.column = element(tensor, spot, n);
                    model_observe(c.trainer.model, plant_observer, &plant);
                    if (!planted_step(&c, tensor->name, tensor->layer, bad[b]))
                        fail_msg("%s: %g in the gradient of %s was not found", c.label, (double)bad[b], tensor->name);
                    check_count("gradients of tensors, found", 1);
                }
        end_case(&c);
    }
}

// A moment stays as it is, good or bad: what was planted is still there afterwards.
static void test_moments(void **unused) {
    (void)unused;
    static Case c;
    begin_case(&c, cases[2].label, cases[2].more);
    const TensorTable *table = model_tensors(c.trainer.model);
    for (size_t t = 0; t < table->count; t++)
        for (size_t moment = 1; moment <= 2; moment++)
            for (size_t spot = 0; spot < SPOTS; spot++)
                for (size_t b = 0; b < BAD; b++) {
                    const size_t at = table->tensors[t].offset + element(&table->tensors[t], spot, moment);
                    real *here = numbers_of(&c.trainer).values[moment] + at, kept = *here;
                    *here = c.before.values[moment][at] = bad[b];
                    if (!planted_step(&c, "moments", table->tensors[t].layer, bad[b]))
                        fail_msg("%g in a moment of %s was not found", (double)bad[b], table->tensors[t].name);
                    *here = c.before.values[moment][at] = kept;
                    check_count("moments of tensors, found", 1);
                }
    end_case(&c);
}

// A weight that is not finite stays where it is; the step finds it through activations, and nothing saves it.
static void test_weights(void **unused) {
    (void)unused;
    static Case c;
    char path[PATH];
    Error error = {0};
    assert_true(path_join(path, sizeof path, temporary_directory(), "refused", &error));
    begin_case(&c, cases[2].label, cases[2].more);
    const TensorTable *table = model_tensors(c.trainer.model);
    for (size_t t = 0; t < table->count; t++)
        for (size_t b = 0; b < BAD; b++) {
            const Tensor *tensor = &table->tensors[t];
            real *weight = model_parameters(c.trainer.model) + tensor->offset;
            Copy before = c.before;
            for (size_t i = 0; i < tensor->rows * tensor->columns; i += tensor->columns) weight[i] = bad[b];
            c.before = copy_of(&c.trainer);
            if (!planted_step(&c, tensor->name, tensor->layer, bad[b]))
                fail_msg("%g in the weights of %s was not found", (double)bad[b], tensor->name);
            assert_false(snapshot_save(path, &c.trainer, NULL, &error));
            assert_int_equal(error.kind, ERROR_CORRUPT);
            error_clear(&error);
            free_copy(&c.before);
            c.before = before;
            put_back(&c.trainer, &before);
            check_count("weights of tensors, found and not saved", 1);
        }
    end_case(&c);
}

// ---- over several steps ---------------------------------------------------------------------------------------------

// Skipped steps count up in a row, and a good one starts the row again, and goes on from the weights before them.
static void test_row(void **unused) {
    (void)unused;
    static Case c;
    begin_case(&c, cases[0].label, cases[0].more);
    for (uint64_t bad_steps = 1; bad_steps <= 12; bad_steps++) {
        Plant plant = {.model = c.trainer.model, .row = 1, .column = 1, .value = bad[bad_steps % BAD]};
        model_observe(c.trainer.model, plant_observer, &plant);
        for (uint64_t i = 1; i <= bad_steps; i++) {
            plant.seen = 0;
            assert_true(toy_trainer_step(&c.trainer).skipped);
            assert_int_equal(c.trainer.state.skipped_in_row, i);
        }
        assert_true(same_numbers(&c.trainer, &c.before));
        model_observe(c.trainer.model, NULL, NULL);
        assert_int_equal(optim_step_count(c.trainer.optim), c.steps);
        batches_seek(c.trainer.train, c.state.data); // the clean step's batch, at the clean step's learning rate
        c.trainer.state.step = c.state.step;
        assert_false(toy_trainer_step(&c.trainer).skipped);
        assert_true(same_numbers(&c.trainer, &c.after));
        assert_int_equal(c.trainer.state.skipped_in_row, 0);
        assert_int_equal(c.trainer.state.skipped, c.state.skipped + bad_steps);
        put_back(&c.trainer, &c.before);
        rewind_case(&c);
        check_count("rows of skipped steps", 1);
    }
    end_case(&c);
}

// A gradient whose squares overflow is finite, and its second moment would not be.
static void test_huge_gradient(void **unused) {
    (void)unused;
    static Case c;
    const char *more[] = {"optim.clip=0", NULL};
    begin_case(&c, "a gradient of 1e30", more);
    for (size_t view = 0; view < c.views; view++) {
        if (strcmp(c.view[view].name, "d_query")) continue;
        Plant plant = {.model = c.trainer.model, .target = view, .row = 3, .column = 3, .value = (real)1e30};
        model_observe(c.trainer.model, plant_observer, &plant);
        if (!planted_step(&c, "d_query", c.view[view].layer, plant.value)) fail_msg("a gradient of 1e30 was not found");
        model_observe(c.trainer.model, NULL, NULL);
        if (toy_trainer_step(&c.trainer).skipped || !trainer_finite(&c.trainer))
            fail_msg("the second moment did not survive");
        put_back(&c.trainer, &c.before);
        rewind_case(&c);
        check_count("huge gradients", 1);
    }
    end_case(&c);
}

static int one_thread(void **unused) { // toys are too small to be shared
    (void)unused;
    threads_set(1);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(test_activations, one_thread), cmocka_unit_test_setup(test_gradients, one_thread),
    cmocka_unit_test_setup(test_moments, one_thread),     cmocka_unit_test_setup(test_weights, one_thread),
    cmocka_unit_test_setup(test_row, one_thread),         cmocka_unit_test_setup(test_huge_gradient, one_thread),
};
TEST_MAIN(tests)
