// rope bench: the documents have the keys that people and scripts rely on, and figures that can be true; lists of lengths.

#include <string.h>

#include "core/threads.h"
#include "tests/support/check.h"
#include "train/bench.h"
#include "train/lists.h"

static Config config;
static BenchOptions options;

static void set(const char *assignment) {
    Error error = {0};
    if (!config_set(&config, assignment, ORIGIN_COMMAND_LINE, &error)) fail_msg("%s", error.message);
}

static void prepare(void) {
    config_defaults(&config);
    const char *const settings[] = {"model.heads=2",        "model.width=16",    "model.qk_size=8",
                                    "model.v_size=4",       "model.layers=2",    "model.tokens=32",
                                    "model.vocabulary=50",  "train.batch=2",     "attention.near=16",
                                    "attention.far_size=4", "attention.degree=2"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) set(settings[i]);
    options = (BenchOptions){.lengths = {48, 130},
                             .length_count = 2,
                             .methods = {"exact", "lowrank"},
                             .method_count = 2,
                             .rounds = 1,
                             .batch = 1,
                             .limit = 100};
}

static void check_keys(json_t *object, const char *const *keys) {
    size_t count = 0;
    for (; keys[count]; count++)
        if (!json_object_get(object, keys[count])) fail_msg("the key %s is missing", keys[count]);
    check_count("keys of JSON", count);
}

static double number(json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

static void test_bench_attention(void **state) {
    (void)state;
    prepare();
    Error error = {0};
    json_t *document = bench_attention(&config, &options, &error), *row, *fit;
    if (!document) fail_msg("%s", error.message);
    static const char *const keys[] = {"method",        "tokens",         "qk_size",   "v_size",          "far_size",
                                       "degree",        "logit_bound",    "features",  "forward_ms",      "backward_ms",
                                       "forward_share", "backward_share", "max_error", "certified_error", "state_bytes",
                                       "fell_back",     "rounds",         NULL};
    static const char *const fit_keys[] = {"method", "forward_exponent", "backward_exponent", "crossover_tokens", NULL};
    size_t index;
    assert_int_equal(json_array_size(json_object_get(document, "rows")), 4);
    json_array_foreach(json_object_get(document, "rows"), index, row) {
        check_keys(row, keys);
        assert_true(number(row, "forward_ms") > 0 && number(row, "backward_share") > 0);
        const bool exact = strcmp(json_string_value(json_object_get(row, "method")), "exact") == 0;
        assert_int_equal((size_t)number(row, "tokens"), options.lengths[index / 2]);
        assert_true(number(row, "fell_back") == 0 && number(row, "rounds") == 1);
        if (exact)
            assert_true(number(row, "max_error") < 1e-5 && number(row, "certified_error") == 0);
        else
            assert_true(number(row, "features") == 15 && number(row, "max_error") <= number(row, "certified_error"));
    }
    json_array_foreach(json_object_get(document, "fits"), index, fit) check_keys(fit, fit_keys);
    assert_int_equal(index, 2);
    json_decref(document);
}

// Without a bound the random logits leave the polynomial's interval and exact attention runs, in every head and row.
// Its time is not the method's: no share of sgemm, no exponent, no crossover.
static void test_bench_attention_falls_back(void **state) {
    (void)state;
    Error error = {0};
    prepare();
    set("attention.bound=none");
    set("attention.logit_bound=0.1");
    options.batch = 2;
    options.lengths[0] = 4096; // exponents are fitted from here on
    options.lengths[1] = 4608;
    json_t *document = bench_attention(&config, &options, &error), *row, *fit;
    if (!document) fail_msg("%s", error.message);
    size_t index;
    json_array_foreach(json_object_get(document, "rows"), index, row) {
        const bool exact = index % 2 == 0;
        assert_true(number(row, "fell_back") == (exact ? 0 : 4));
        assert_true(json_is_real(json_object_get(row, "forward_share")) == exact);
        assert_true(json_is_real(json_object_get(row, "backward_share")) == exact);
        assert_true(number(row, "forward_ms") > 0);
    }
    check_count("rows that fell back or did not", index);
    json_array_foreach(json_object_get(document, "fits"), index, fit) {
        assert_true(json_is_real(json_object_get(fit, "forward_exponent")) == (index == 0));
        assert_true(json_is_real(json_object_get(fit, "backward_exponent")) == (index == 0));
        assert_true(json_is_null(json_object_get(fit, "crossover_tokens")));
    }
    json_decref(document);
}

// Fewer rounds than were asked for, where the limit leaves no time, are said.
static void test_bench_attention_rounds(void **state) {
    (void)state;
    Error error = {0};
    prepare();
    options.rounds = BENCH_MAX_ROUNDS;
    options.length_count = 1;
    options.method_count = 1;
    options.lengths[0] = 128;
    options.limit = 1e-3; // the first length's time is expected from operations alone
    json_t *document = bench_attention(&config, &options, &error);
    if (!document) fail_msg("%s", error.message);
    const double rounds = number(json_array_get(json_object_get(document, "rows"), 0), "rounds");
    if (!(rounds >= 1 && rounds < BENCH_MAX_ROUNDS)) fail_msg("%g rounds", rounds);
    check_count("rounds that the limit allows", 1);
    json_decref(document);
}

static void test_bench_attention_leaves_out(void **state) {
    (void)state;
    prepare();
    options.limit = 1e-12;
    Error error = {0};
    json_t *document = bench_attention(&config, &options, &error), *row;
    if (!document) fail_msg("%s", error.message);
    size_t index;
    json_array_foreach(json_object_get(document, "rows"), index, row)
        assert_string_equal(json_string_value(json_object_get(row, "left_out")), "time");
    check_count("left out", index);
    json_decref(document);

    // Many heads of two tokens have hardly an operation, and take their time all the same: the first length is run, the
    // second would take too long by that measure, and no length behind it comes back.
    const size_t threads = threads_count();
    threads_set(1);
    set("model.heads=2048");
    set("model.kv_heads=2048");
    options = (BenchOptions){.lengths = {1, 2, 3, 4},
                             .length_count = 4,
                             .methods = {"exact"},
                             .method_count = 1,
                             .rounds = 1,
                             .batch = 1,
                             .limit = 2e-4};
    document = bench_attention(&config, &options, &error);
    if (!document) fail_msg("%s", error.message);
    threads_set(threads);
    json_array_foreach(json_object_get(document, "rows"), index, row)
        assert_true((json_object_get(row, "left_out") == NULL) == (index == 0));
    check_count("left out behind a gap", index);
    json_decref(document);
    options.methods[0] = "none such";
    assert_null(bench_attention(&config, &options, &error));
    assert_int_equal(error.kind, ERROR_USER);
}

static void test_bench_step(void **state) {
    (void)state;
    prepare();
    Error error = {0};
    json_t *document = bench_step(&config, &options, &error);
    if (!document) fail_msg("%s", error.message);
    static const char *const keys[] = {"sgemm_gflops", "step_ms",      "tokens_per_s", "step_gflops",
                                       "sgemm_share",  "linear_share", "phases",       NULL};
    static const char *const phases[] = {
        "embedding", "norm",      "projection", "attention_forward", "attention_backward", "feed_forward",
        "output",    "optimizer", NULL};
    check_keys(document, keys);
    check_keys(json_object_get(document, "phases"), phases);
    assert_string_equal(json_string_value(json_object_get(document, "data")),
                        "random tokens"); // whatever is configured
    assert_true(number(document, "step_ms") > 0 && number(document, "sgemm_share") > 0);
    json_decref(document);
}

// Exact attention that ran in a fast method's place has no share by the method's operations.
static void test_bench_step_falls_back(void **state) {
    (void)state;
    Error error = {0};
    prepare();
    const char *const settings[] = {"attention.method=lowrank", "attention.bound=none", "attention.near=0",
                                    "attention.logit_bound=0.001"};
    for (size_t i = 0; i < 4; i++) set(settings[i]);
    json_t *document = bench_step(&config, &options, &error);
    if (!document) fail_msg("%s", error.message);
    assert_true(number(document, "fell_back") == 2 * 2 * 2); // layers, heads, batch rows of one round
    assert_true(json_is_null(json_object_get(document, "sgemm_share")));
    assert_true(json_is_null(json_object_get(document, "step_gflops")) && number(document, "step_ms") > 0);
    check_count("steps that fell back", 1);
    json_decref(document);
}

// The phases are of the step in the middle: their means over the rounds added up to more than the median where one
// round was slow.
static void test_bench_step_phases(void **state) {
    (void)state;
    Error error = {0};
    const char *name;
    json_t *phase;
    double all = 0;
    prepare();
    options.rounds = 6;
    json_t *document = bench_step(&config, &options, &error);
    if (!document) fail_msg("%s", error.message);
    json_object_foreach(json_object_get(document, "phases"), name, phase) all += number(phase, "ms");
    const double step = number(document, "step_ms");
    if (!(all > 0.98 * step && all < 1.02 * step + 0.05)) fail_msg("a step of %g ms has phases of %g", step, all);
    check_count("steps that their phases add up to", 1);
    json_decref(document);
}

// An embedding that is only looked up is no product: a step has no more operations than its phases together.
static void test_bench_step_operations(void **state) {
    (void)state;
    static const char *const more[] = {"model.tie=true", "model.tie=false", "train.recompute=true"};
    for (size_t i = 0; i < 3; i++) {
        Error error = {0};
        const char *name;
        json_t *phase;
        double all = 0;
        prepare();
        set("model.vocabulary=2000");
        set(more[i]);
        json_t *document = bench_step(&config, &options, &error);
        if (!document) fail_msg("%s", error.message);
        json_object_foreach(json_object_get(document, "phases"), name, phase) all += number(phase, "flops");
        const double step = 1e6 * number(document, "step_gflops") * number(document, "step_ms");
        if (!(step > 0.8 * all && step < 1.001 * all)) fail_msg("%s: %g of %g operations", more[i], step, all);
        json_decref(document);
    }
    check_count("steps whose operations add up", 3);
}

// The vocabulary is that of the data which the settings name, though the tokens are random.
static void test_bench_step_vocabulary(void **state) {
    (void)state;
    static const struct {
        const char *more;
        double expected;
    } cases[] = {{"data.task=copy", 512}, {"data.dir=/nowhere", 4096}, {"model.vocabulary=70", 70}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error error = {0};
        prepare();
        config.vocabulary = 0;
        set(cases[i].more);
        json_t *document = bench_step(&config, &options, &error);
        if (!document) fail_msg("%s", error.message);
        if (number(document, "vocabulary") != cases[i].expected)
            fail_msg("%s: a vocabulary of %g", cases[i].more, number(document, "vocabulary"));
        json_decref(document);
    }
    check_count("vocabularies of steps", sizeof cases / sizeof *cases);
}

static void test_lengths(void **state) {
    (void)state;
    size_t lengths[3];
    assert_int_equal(list_lengths("1,4K,65536", lengths, 3), 3);
    assert_true(lengths[0] == 1 && lengths[1] == 4096 && lengths[2] == 65536);
    const char *const wrong[] = {"",
                                 "0",
                                 "-1",
                                 "2,1",
                                 "1,1",
                                 "1,",
                                 ",1",
                                 "1;2",
                                 "x",
                                 "1,2,3,4",
                                 "99999999",
                                 "1 K",
                                 "2147483648",
                                 "4294967296",
                                 "9223372036854775808",
                                 "18446744073709551617",
                                 "+1",
                                 " 1",
                                 " -18446744073709551615", // 1, to strtoull
                                 "18014398509481985K"};    // 1024, where the product wraps
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_int_equal(list_lengths(wrong[i], lengths, 3), 0);
    check_count("lists of lengths", 1 + sizeof wrong / sizeof *wrong);
    char text[] = "exact,lowrank";
    const char *words[4];
    assert_int_equal(list_words(text, words, 4), 2);
    assert_string_equal(words[0], "exact");
    assert_string_equal(words[1], "lowrank");
    char longer[] = "exact,lowrank,toeplitz,auto,exact";
    assert_int_equal(list_words(longer, words, 4), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_bench_attention),
    cmocka_unit_test(test_bench_attention_leaves_out),
    cmocka_unit_test(test_bench_step),
    cmocka_unit_test(test_bench_step_operations),
    cmocka_unit_test(test_bench_step_vocabulary),
    cmocka_unit_test(test_bench_attention_falls_back),
    cmocka_unit_test(test_bench_attention_rounds),
    cmocka_unit_test(test_bench_step_phases),
    cmocka_unit_test(test_bench_step_falls_back),
    cmocka_unit_test(test_lengths),
};

TEST_MAIN(tests)
