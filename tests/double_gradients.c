// Gradients of every parameter of small models against central differences, in double (reliability.md, row 1):
// |analytic − numeric| ≤ 1e-8 + 1e-6·|numeric| with h = 6e-6·max(1, |x|).
#include <stdio.h>
#include <string.h>

#include "core/threads.h"
#include "tests/support/toy_model.h"

enum { LARGEST_BATCH = 70 };

typedef struct Problem {
    Model *model;
    int32_t tokens[LARGEST_BATCH], targets[LARGEST_BATCH];
    size_t rows;
} Problem;

static double total_loss(Problem *problem) {
    return model_step(problem->model, problem->tokens, problem->targets, 0, NULL, NULL) *
           (double)model_count_targets(problem->targets, problem->rows);
}

static double difference(Problem *problem, real *parameter) {
    real kept = *parameter, h = 6e-6 * fmax(1, fabs(kept));
    *parameter = kept + h;
    double above = total_loss(problem);
    *parameter = kept - h;
    double below = total_loss(problem);
    *parameter = kept;
    return (above - below) / (2 * h);
}

// Says which tensor an element that check_close is about to complain of belongs to.
static void name_mistakes(Problem *problem, const Tensor *tensor, const double *numeric) {
    const real *analytic = model_gradients(problem->model) + tensor->offset;
    size_t mistakes = 0, count = tensor->rows * tensor->columns;
    for (size_t i = 0; i < count; i++) mistakes += !(fabs(analytic[i] - numeric[i]) <= 1e-8 + 1e-6 * fabs(numeric[i]));
    if (mistakes) print_error("%s: %zu of %zu gradients are wrong\n", tensor->name, mistakes, count);
}

// All parameters of a model; padding between tensors must have no gradient.
static void compare_all(const char *name, const ModelSettings *settings, size_t ignored_every) {
    Problem problem = {.model = toy_create(settings), .rows = settings->batch * settings->config.tokens};
    const TensorTable *table = model_tensors(problem.model);
    double *numeric = calloc(table->elements, sizeof *numeric);
    assert_non_null(numeric);
    assert_true(problem.rows <= LARGEST_BATCH);
    toy_fill(problem.model, 7);
    toy_batch(settings, 3, ignored_every, problem.tokens, problem.targets);
    model_step(problem.model, problem.tokens, problem.targets, 1, NULL, NULL);
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        for (size_t j = tensor->offset; j < tensor->offset + tensor->rows * tensor->columns; j++)
            numeric[j] = difference(&problem, model_parameters(problem.model) + j);
        name_mistakes(&problem, tensor, numeric + tensor->offset);
    }
    check_close(name, model_gradients(problem.model), numeric, table->elements, 1e-8, 1e-6);
    check_count("parameters against central differences", table->parameters);
    free(numeric);
    model_destroy(problem.model);
}

static void test_plain(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(2, 7);
    compare_all("plain", &settings, 0);
}

static void test_one_token(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(3, 1);
    compare_all("T=1", &settings, 0);
}

static void test_grouped_heads_tied(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(2, 5);
    settings.config.kv_heads = 2;
    settings.config.tie = true;
    compare_all("grouped, tied, ignored targets", &settings, 3);
}

// every size odd where it may be, so that padding separates q, k, v and gate, up
static void test_odd_sizes(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(1, 11);
    settings.config.width = 7;
    settings.config.heads = 3;
    settings.config.kv_heads = 1;
    settings.config.qk_size = 4;
    settings.config.v_size = 5;
    settings.config.ffn = 13;
    settings.config.layers = 1;
    compare_all("odd sizes", &settings, 4);
}

static void test_qk_norm(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(2, 5);
    settings.config.qk_norm = true;
    settings.config.kv_heads = 2;
    settings.config.v_size = 3;
    compare_all("qk_norm", &settings, 0);
}

static void test_token_shift(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(2, 5);
    settings.config.token_shift = true;
    settings.config.layers = 1;
    compare_all("token_shift", &settings, 0);
    settings.config.tie = true;
    settings.config.tokens = 1;
    compare_all("token_shift, T=1, tied", &settings, 0);
}

// more rows than one block, so that the blocks' partial sums are added
static void test_many_rows(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(2, 35);
    settings.config.layers = 1;
    settings.config.heads = settings.config.kv_heads = 1;
    settings.config.qk_norm = true;
    compare_all("many rows", &settings, 0);
}

static void test_recompute(void **state) {
    (void)state;
    ModelSettings settings = toy_settings(2, 5);
    settings.recompute = true;
    settings.config.qk_norm = settings.config.token_shift = true;
    compare_all("recompute", &settings, 0);
}

// Two halves, each weighted by all targets of the step, add up to the gradient of the whole.
static void compare_halves(size_t vocabulary, size_t tokens_each) {
    ModelSettings whole = toy_settings(4, tokens_each), half = toy_settings(2, tokens_each);
    whole.config.token_shift = half.config.token_shift = true;
    whole.config.vocabulary = half.config.vocabulary = vocabulary;
    size_t rows = 4 * tokens_each;
    Model *a = toy_create(&whole), *b = toy_create(&half);
    int32_t tokens[200], targets[200];
    assert_true(rows <= 200);
    toy_fill(a, 5);
    toy_fill(b, 5);
    toy_batch(&whole, 9, 5, tokens, targets);
    double weight = 1.0 / (double)model_count_targets(targets, rows);
    model_step(a, tokens, targets, weight, NULL, NULL);
    for (size_t i = 0; i < rows; i += rows / 2) model_step(b, tokens + i, targets + i, weight, NULL, NULL);
    check_close("two halves against one batch", model_gradients(b), model_gradients(a), model_tensors(a)->elements,
                1e-14, 1e-12);
    model_destroy(a);
    model_destroy(b);
}

static void test_accumulation(void **state) {
    (void)state;
    compare_halves(17, 9);
    compare_halves(9001, 37); // the whole takes two blocks of logits, 128 and 20 rows, a half takes one
}

int main(int argc, char **argv) {
    (void)argc;
    test_begin(argv);
    threads_set(1); // tiny models: starting threads would be most of the time
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),     cmocka_unit_test(test_one_token),   cmocka_unit_test(test_grouped_heads_tied),
        cmocka_unit_test(test_odd_sizes), cmocka_unit_test(test_qk_norm),     cmocka_unit_test(test_token_shift),
        cmocka_unit_test(test_many_rows), cmocka_unit_test(test_recompute),   cmocka_unit_test(test_accumulation),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    check_report();
    return failed != 0;
}
