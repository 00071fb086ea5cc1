// What settings mean together: what is derived from others, what does not go together, what the floors below are told.
#include "tests/support/check.h"

#include <stdio.h>
#include <string.h>

#include "core/files.h"
#include "train/config.h"

static void defaults_are_sound(void **state) {
    (void)state;
    Config config;
    Error error = {0};
    config_defaults(&config);
    assert_true(config_resolve(&config, &error));
    assert_string_equal(config.method, "exact");
    assert_string_equal(config.bound, "none");
    assert_int_equal(config_origin(&config, "attention.bound"), ORIGIN_DERIVED);
    assert_int_equal(config.kv_heads, config.heads);
    assert_int_equal(config.qk_size, config.width / config.heads);
    assert_int_equal(config.v_size, config.qk_size);
    assert_int_equal(config.ffn % 64, 0);
    assert_true(config.ffn * 3 >= config.width * 8);
    // The table's defaults are those of the attention floor, but for the bound, which follows the method.
    ModelSettings settings;
    config_model(&config, 2, true, &settings);
    AttentionSettings wanted = attention_defaults();
    assert_int_equal(settings.attention.far_size, wanted.far_size);
    assert_int_equal(settings.attention.degree, wanted.degree);
    assert_int_equal(settings.attention.near, wanted.near);
    assert_int_equal(settings.attention.polynomial, wanted.polynomial);
    assert_int_equal(settings.attention.far, wanted.far);
    assert_int_equal(settings.attention.near_bound, wanted.near_bound);
    assert_true(settings.attention.logit_bound == wanted.logit_bound);
    assert_string_equal(settings.attention.kernel, wanted.kernel);
    check_count("derived values", 16);
}

static void bound_follows_the_method(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"exact", "none"}, {"exact,exact", "none"}, {"lowrank", "ball"}, {"auto", "ball"}, {"exact,lowrank", "ball"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Config config;
        Error error = {0};
        char assignment[64];
        config_defaults(&config);
        snprintf(assignment, sizeof assignment, "attention.method=%s", cases[i][0]);
        if (!config_set(&config, assignment, ORIGIN_COMMAND_LINE, &error)) {
            assert_non_null(strstr(error.message, "not one of")); // a method that this build does not have
            continue;
        }
        assert_true(config_set(&config, "model.layers=2", ORIGIN_COMMAND_LINE, &error));
        assert_true(config_resolve(&config, &error));
        assert_string_equal(config.bound, cases[i][1]);
        check_count("bounds", 1);
    }
    Config config;
    config_defaults(&config);
    assert_true(config_set(&config, "attention.bound=clip", ORIGIN_COMMAND_LINE, NULL));
    assert_true(config_resolve(&config, NULL));
    assert_string_equal(config.bound, "clip");
}

// A run of exact attention is unbounded, because nothing asked for a bound; one of lowrank, because its user did.
static void bounds_go_with_their_method(void **state) {
    (void)state;
    static const struct {
        const char *method, *expected;
    } cases[] = {{"exact", "ball"}, {"exact,exact", "ball"}, {"lowrank", "none"}, {"exact,lowrank", "none"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Config base, over;
        Error error = {0};
        char assignment[64];
        snprintf(assignment, sizeof assignment, "attention.method=%s", cases[i].method);
        config_defaults(&base);
        config_defaults(&over);
        assert_true(config_set(&base, "model.layers=2", ORIGIN_FILE, NULL));
        assert_true(config_set(&base, assignment, ORIGIN_FILE, NULL));
        assert_true(config_set(&base, "attention.bound=none", ORIGIN_FILE, NULL));
        assert_true(config_set(&over, "attention.method=lowrank", ORIGIN_COMMAND_LINE, NULL));
        config_overlay(&base, &over);
        if (!config_resolve(&base, &error)) fail_msg("%s", error.message);
        if (strcmp(base.bound, cases[i].expected)) fail_msg("%s, then lowrank: %s", cases[i].method, base.bound);
        for (int asked = 0; asked < 2; asked++) { // the same for a command that tries methods, unless it is asked for
            Config tried;
            config_defaults(&tried);
            assert_true(config_set(&tried, "model.layers=2", ORIGIN_FILE, NULL));
            assert_true(config_set(&tried, assignment, ORIGIN_FILE, NULL));
            assert_true(
                config_set(&tried, "attention.bound=none", asked ? ORIGIN_COMMAND_LINE : ORIGIN_FILE, NULL));
            assert_true(config_set_method(&tried, "lowrank", &error) && config_resolve(&tried, &error));
            assert_string_equal(tried.bound, asked ? "none" : cases[i].expected);
        }
    }
    check_count("bounds of another method", 12);
}

// What only makes sense together.
static void combinations_are_refused(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"model.heads=3", "model.width=100", "qk_size"},
        {"model.heads=4", "model.kv_heads=3", "kv_heads"},
        {"model.qk_size=7", "model.heads=4", "qk_size"},
        {"attention.method=exact,exact", "model.layers=3", "one for each"},
        {"attention.far_size=7", "model.heads=4", "far_size"},
        {"attention.far_size=66", "model.qk_size=64", "far_size"},
        {"optim.warmup=50", "train.steps=50", "optim.warmup = 50 leaves"},
        {"data.dir=/nowhere/at/all", "data.task=mqar", "exclude"},
        {"model.width=3", "model.heads=4", "size 0"},
        {"optim.epsilon=0", "model.heads=4", "optim.epsilon = 0"},
        {"optim.beta1=0.999995", "optim.beta2=0.999999", "optim.beta1 = 0.999995: above 0.99999 single"},
        {"optim.beta1=0.99999", "optim.beta2=0.999999", "optim.beta2 = 0.999999: above 0.99999 single"},
        {"optim.learning_rate=1", "optim.weight_decay=2", "optim.weight_decay = 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Config config;
        Error error = {0};
        config_defaults(&config);
        if (!config_set(&config, cases[i][0], ORIGIN_COMMAND_LINE, &error)) fail_msg("%s", error.message);
        assert_true(config_set(&config, cases[i][1], ORIGIN_COMMAND_LINE, &error));
        if (config_resolve(&config, &error) || error.kind != ERROR_USER || !strstr(error.message, cases[i][2]))
            fail_msg("%s %s: %s", cases[i][0], cases[i][1], error.message);
        check_count("refusals", 1);
    }
}

// The vocabulary is that of the data, unless it is set: what stands in their place is said.
static void data_give_their_vocabulary(void **state) {
    (void)state;
    const char *folder = temporary_directory();
    char file[512];
    snprintf(file, sizeof file, "%s/file", folder);
    check_write_file(file, "", 0);
    const struct {
        const char *path, *words;
    } cases[] = {{"/nowhere/at/all", "is no directory that `rope prepare` made"},
                 {file, "is no directory that `rope prepare` made"},
                 {folder, "model.vocabulary is not set"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char assignment[600];
        snprintf(assignment, sizeof assignment, "data.dir=%s", cases[i].path);
        for (int set = 0; set < 2; set++) {
            Config config;
            Error error = {0};
            config_defaults(&config);
            assert_true(config_set(&config, assignment, ORIGIN_COMMAND_LINE, &error));
            if (set) assert_true(config_set(&config, "model.vocabulary=77", ORIGIN_COMMAND_LINE, &error));
            if (config_resolve(&config, &error) != (set == 1) || (!set && !strstr(error.message, cases[i].words)))
                fail_msg("%s: %s", assignment, error.message);
            if (!set) assert_true(error.kind == ERROR_USER && strstr(error.message, cases[i].path));
            check_count("data without a vocabulary", 1);
        }
    }
}

// far = none is a window for methods that have a far field; what it does not do for others is said to who asked for it.
static void windows_are_asked_for(void **state) {
    (void)state;
    static const struct {
        const char *method, *far;
        ConfigOrigin origin;
        bool said;
    } cases[] = {{"exact", "none", ORIGIN_COMMAND_LINE, true},
                 {"auto", "none", ORIGIN_FILE, true},
                 {"exact", "none", ORIGIN_DERIVED, false},
                 {"exact", "exact", ORIGIN_COMMAND_LINE, false},
                 {"lowrank", "none", ORIGIN_COMMAND_LINE, false},
                 {"exact,toeplitz", "none", ORIGIN_COMMAND_LINE, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char method[64], far[64];
        Config config;
        snprintf(method, sizeof method, "attention.method=%s", cases[i].method);
        snprintf(far, sizeof far, "attention.far=%s", cases[i].far);
        config_defaults(&config);
        assert_true(config_set(&config, method, ORIGIN_COMMAND_LINE, NULL));
        assert_true(config_set(&config, far, cases[i].origin, NULL));
        if (config_warn_of_no_window(&config) != cases[i].said)
            fail_msg("%s, %s: %s", method, far, cases[i].said ? "nothing was said" : "a warning");
        check_count("windows", 1);
    }
}

// Tokens in all, as whole steps; a product that does not fit is refused.
static void tokens_become_steps(void **state) {
    (void)state;
    static const char *const sizes[] = {"train.batch=3", "train.accumulate=2", "model.tokens=10", "train.tokens=121",
                                        "data.task="};
    Config config;
    Error error = {0};
    config_defaults(&config);
    for (size_t i = 0; i < 5; i++) assert_true(config_set(&config, sizes[i], ORIGIN_COMMAND_LINE, &error));
    if (!config_resolve(&config, &error)) fail_msg("%s", error.message);
    assert_int_equal(config.steps, 3); // of 60
    assert_int_equal(config_origin(&config, "train.steps"), ORIGIN_DERIVED);
    assert_int_equal(config.vocabulary, 4096);
    config_defaults(&config);
    assert_true(config_set(&config, "data.task=copy", ORIGIN_COMMAND_LINE, &error) && config_resolve(&config, &error));
    assert_int_equal(config.vocabulary, 512);
    config_defaults(&config);
    for (size_t i = 0; i < 5; i++) assert_true(config_set(&config, sizes[i], ORIGIN_COMMAND_LINE, &error));
    static const char *const huge[] = {"train.batch=1048576", "train.accumulate=1048576", "model.tokens=1000000000"};
    for (size_t i = 0; i < 3; i++) assert_true(config_set(&config, huge[i], ORIGIN_COMMAND_LINE, &error));
    assert_false(config_resolve(&config, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "does not fit"));
    // Steps named on the command line outweigh tokens of a file, not tokens that are named there as well.
    static const ConfigOrigin origins[] = {ORIGIN_FILE, ORIGIN_COMMAND_LINE};
    for (size_t i = 0; i < 2; i++) {
        config_defaults(&config);
        assert_true(config_set(&config, "train.tokens=40960", origins[i], &error));
        assert_true(config_set(&config, "train.steps=25", ORIGIN_COMMAND_LINE, &error));
        if (!config_resolve(&config, &error)) fail_msg("%s", error.message);
        assert_int_equal(config.steps, i == 0 ? 25 : 10); // of 8·512 tokens
        assert_int_equal(config.train_tokens, i == 0 ? 0 : 40960);
    }
    check_count("tokens as steps", 5);
}

// What the floors below are told.
static void models_are_told(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double scale;
    } scales[] = {{"1/sqrt(d)", 0}, {"1/d", -1}, {"0.25", 0.25}};
    Config config;
    ModelSettings settings;
    for (size_t i = 0; i < 3; i++) {
        char assignment[64];
        config_defaults(&config);
        snprintf(assignment, sizeof assignment, "attention.logit_scale=%s", scales[i].text);
        assert_true(config_set(&config, assignment, ORIGIN_COMMAND_LINE, NULL));
        assert_true(config_set(&config, "attention.method=exact,lowrank,exact", ORIGIN_COMMAND_LINE, NULL));
        assert_true(config_set(&config, "attention.bound=clip", ORIGIN_COMMAND_LINE, NULL));
        config_model(&config, 2, true, &settings);
        assert_true(settings.attention.logit_scale == scales[i].scale && settings.attention.bound == BOUND_CLIP);
        assert_int_equal(settings.method_count, 3);
        assert_string_equal(attention_method_name(settings.methods[1]), "lowrank");
    }
    const ModelConfig shape = {.vocabulary = 99,
                               .layers = 3,
                               .width = 24,
                               .heads = 2,
                               .kv_heads = 1,
                               .qk_size = 12,
                               .v_size = 8,
                               .ffn = 30,
                               .tokens = 77,
                               .rope_theta = 5,
                               .norm_epsilon = 1e-3,
                               .tie = true,
                               .qk_norm = true,
                               .token_shift = true};
    config_take_model(&config, &shape, ORIGIN_DERIVED);
    config_model(&config, 1, false, &settings);
    const ModelConfig *told = &settings.config;
    assert_true(told->vocabulary == 99 && told->layers == 3 && told->width == 24 && told->heads == 2);
    assert_true(told->kv_heads == 1 && told->qk_size == 12 && told->v_size == 8 && told->ffn == 30);
    assert_true(told->tokens == 77 && told->rope_theta == 5 && told->norm_epsilon == 1e-3);
    assert_true(told->tie && told->qk_norm && told->token_shift);
    assert_int_equal(config_origin(&config, "model.ffn"), ORIGIN_DERIVED);
    assert_int_equal(config_origin(&config, "attention.bound"), ORIGIN_COMMAND_LINE);
    check_count("settings of models", 18);
}

// A later file gives the earlier one's settings up as the command line would, with what follows from them.
static void later_files_win(void **state) {
    (void)state;
    static const struct {
        const char *first, *second, *bound;
        size_t steps;
    } cases[] = {
        {"[attention]\nmethod = exact\nbound = none\n", "[attention]\nmethod = lowrank\n", "ball", 1000},
        {"[attention]\nmethod = exact\nbound = none\n", "[attention]\nmethod = lowrank\nbound = none\n", "none", 1000},
        {"[attention]\nmethod = lowrank\nbound = none\n", "[attention]\nmethod = lowrank\n", "none", 1000},
        {"[attention]\nbound = none\n", "[train]\nseed = 2\n", "none", 1000},
        {"[train]\ntokens = 10000\n", "[train]\nsteps = 7\n", "none", 7},
        {"[train]\ntokens = 10000\nsteps = 3\n", "[train]\nseed = 2\n", "none", 25},
        {"[train]\nsteps = 3\n", "[train]\ntokens = 10000\nsteps = 7\n", "none", 25},
        {"[train]\nsteps = 3\n", "[train]\ntokens = 10000\n", "none", 25},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *texts[] = {cases[i].first, cases[i].second};
        Config config;
        Error error = {0};
        config_defaults(&config);
        for (size_t file = 0; file < 2; file++) {
            char path[512];
            snprintf(path, sizeof path, "%s/%zu_%zu.ini", temporary_directory(), i, file);
            assert_true(file_write_atomic(path, texts[file], strlen(texts[file]), &error));
            if (!config_read(&config, path, &error)) fail_msg("%s", error.message);
        }
        assert_true(config_set(&config, "train.batch=4", ORIGIN_FILE, NULL) &&
                    config_set(&config, "model.tokens=100", ORIGIN_FILE, NULL));
        if (!config_resolve(&config, &error)) fail_msg("case %zu: %s", i, error.message);
        if (strcmp(config.bound, cases[i].bound) || config.steps != cases[i].steps)
            fail_msg("case %zu: bound %s, %zu steps", i, config.bound, config.steps);
        check_count("files over files", 1);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(defaults_are_sound),
    cmocka_unit_test(bound_follows_the_method),
    cmocka_unit_test(bounds_go_with_their_method),
    cmocka_unit_test(combinations_are_refused),
    cmocka_unit_test(data_give_their_vocabulary),
    cmocka_unit_test(windows_are_asked_for),
    cmocka_unit_test(tokens_become_steps),
    cmocka_unit_test(models_are_told),
    cmocka_unit_test(later_files_win),
};
TEST_MAIN(tests)
