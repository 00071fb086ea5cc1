// Training with position kernels other than a plain rotation: a small model trained with toeplitz and with exact
// attention of the same bounded function goes the same way, up to the certified error of the outputs.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "tests/support/check.h"
#include "tests/support/table_file.h"
#include "tests/support/toy_model.h"

enum { BATCH = 2, TOKENS = 32, STEPS = 12 };

static ModelSettings kernel_settings(const char *method, const char *kernel) {
    ModelSettings settings = toy_settings(BATCH, TOKENS);
    settings.methods[0] = attention_method_find(method);
    settings.attention.kernel = kernel;
    settings.attention.kernel_window = 10;
    settings.attention.kernel_decay = 0.95;
    settings.attention.bound = BOUND_BALL;
    settings.attention.logit_bound = 0.5;
    settings.config.qk_size = 4;
    settings.attention.near = settings.attention.far_size = 0;
    settings.attention.degree = 4;
    return settings;
}

// Plain gradient descent; losses (STEPS) =, certified (STEPS) = the largest ‖ô - o‖∞ bound of each step over layers.
static void train(const ModelSettings *settings, double *losses, double *certified) {
    Model *model = toy_create(settings);
    toy_fill(model, 5);
    model_enable_report(model, MODEL_REPORT_CERTIFICATES);
    int32_t tokens[BATCH * TOKENS], targets[BATCH * TOKENS];
    toy_batch(settings, 3, 0, tokens, targets);
    size_t parameters = 0;
    ModelNeeds needs;
    assert_true(model_needs(settings, &needs, NULL));
    parameters = needs.parameters;
    for (size_t step = 0; step < STEPS; step++) {
        model_zero_gradients(model);
        losses[step] = model_step(model, tokens, targets, 1.0 / (BATCH * TOKENS), NULL, NULL);
        certified[step] = 0.0;
        for (size_t l = 0; l < settings->config.layers; l++)
            for (size_t h = 0; h < settings->config.heads; h++) {
                const AttentionReport *report = model_report(model, l);
                assert_true(report->fell_back[h] == 0.0);
                certified[step] = fmax(certified[step], report->output_bound[h]);
            }
        for (size_t i = 0; i < parameters; i++) model_parameters(model)[i] -= (real)0.05 * model_gradients(model)[i];
    }
    model_destroy(model);
}

static void test_training(void **state) {
    (void)state;
    const char *kernels[] = {"rope-window", "alibi", "rope-decay", "table"};
    for (size_t k = 0; k < 4; k++) {
        const char *kernel = k == 3 ? table_file_write("trained", 4, TOKENS, true) : kernels[k];
        ModelSettings fast = kernel_settings("toeplitz", kernel), exact = kernel_settings("exact", kernel);
        // a table's ‖W‖ may be above 1, which the ball does not know of
        if (k == 3) fast.attention.entry_bound = exact.attention.entry_bound = 0.5;
        if (k == 3) fast.attention.bound = exact.attention.bound = BOUND_CLIP;
        if (k == 3) fast.attention.logit_bound = exact.attention.logit_bound = 2.0; // clipping guarantees less
        double losses[2][STEPS], certified[2][STEPS], most = 0.0, sum = 0.0;
        train(&fast, losses[0], certified[0]);
        train(&exact, losses[1], certified[1]);
        for (size_t step = 0; step < STEPS; step++) {
            // every step differs by no more than its own certified error, and carries on the differences before it
            sum += certified[0][step];
            const double difference = fabs(losses[0][step] - losses[1][step]);
            if (!(difference <= sum))
                fail_msg("%s, step %zu: losses differ by %g, certified %g", kernels[k], step, difference, sum);
            most = fmax(most, difference);
            check_count("losses of toeplitz and exact", 1);
        }
        printf("%s: loss %.4f to %.4f, largest difference %.2g, certified output error %.2g\n", kernels[k],
               losses[0][0], losses[0][STEPS - 1], most, certified[0][0]);
        assert_true(losses[0][STEPS - 1] < 0.95 * losses[0][0]);
        assert_true(most < 2e-3);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_training)};
TEST_MAIN(tests)
