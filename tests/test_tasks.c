// Synthetic tasks: every question has the answer that stands where its distance points to; examples depend on their
// index alone; the laws that they are drawn from hold.
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "data/tasks.h"

enum { LARGEST = 1 << 16 };
static int32_t inputs[LARGEST], targets[LARGEST], distances[LARGEST];

static TaskSettings settings_for(const char *name) {
    return (TaskSettings){
        .name = name, .batch = 1, .tokens = 128, .vocabulary = 512, .pairs = 8, .gap_power = 0.01, .seed = 3};
}

static void make(const TaskSettings *settings, uint64_t first) {
    Error error = {0};
    if (!task_check(settings, &error)) fail_msg("%s", error.message);
    assert_true(settings->batch * settings->tokens <= LARGEST);
    memset(inputs, 0x7F, sizeof inputs);
    task_batch(settings, first, inputs, targets, distances);
    for (size_t i = 0; i < settings->batch * settings->tokens; i++) {
        assert_in_range(inputs[i], 0, settings->vocabulary - 1);
        assert_in_range(targets[i] + 1, 0, settings->vocabulary);
    }
}

static size_t count_token(const int32_t *row, size_t count, int32_t token) {
    size_t found = 0;
    for (size_t t = 0; t < count; t++) found += row[t] == token;
    return found;
}

// The answer to position t is at its distance, after the same key. Returns the number of questions.
static size_t check_answers(const TaskSettings *settings, size_t row) {
    const int32_t *in = inputs + row * settings->tokens;
    size_t asked = 0;
    for (size_t t = 0; t < settings->tokens; t++) {
        int32_t target = targets[row * settings->tokens + t], distance = distances[row * settings->tokens + t];
        if (target < 0) {
            assert_int_equal(target, -1);
            assert_int_equal(distance, 0);
            continue;
        }
        assert_in_range(distance, 1, t);
        assert_int_equal(in[t - (size_t)distance], target);
        if (strcmp(settings->name, "copy") != 0) assert_int_equal(in[t - (size_t)distance - 1], in[t]);
        asked++;
    }
    return asked;
}

static void check_keys_and_values(const TaskSettings *settings, const int32_t *keys, size_t stride,
                                  const int32_t *row) {
    for (size_t j = 0; j < settings->pairs; j++) {
        int32_t key = keys[j * stride];
        assert_in_range(key, 1, settings->vocabulary / 2 - 1);
        for (size_t other = 0; other < j; other++) assert_int_not_equal(key, keys[other * stride]);
        size_t found = count_token(row, settings->tokens, key);
        if (settings->filler == TASK_FILLER_RANDOM)
            assert_true(found >= 2);
        else
            assert_int_equal(found, 2); // the pair and the query
        if (settings->filler == TASK_FILLER_BLANK)
            assert_int_equal(count_token(row, settings->tokens, 0), settings->tokens - 3 * settings->pairs);
    }
}

static void test_mqar(void **state) {
    (void)state;
    static const struct {
        size_t tokens, pairs, vocabulary;
    } shapes[] = {{64, 4, 8192}, {128, 8, 512}, {256, 16, 8192}, {512, 64, 8192},
                  {4, 1, 4},     {64, 16, 40},  {67, 5, 101}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int filler = 0; filler < TASK_FILLER_COUNT; filler++) {
            TaskSettings settings = settings_for("mqar");
            settings.tokens = shapes[i].tokens;
            settings.pairs = shapes[i].pairs;
            settings.vocabulary = shapes[i].vocabulary;
            settings.filler = (TaskFiller)filler;
            settings.batch = 50;
            make(&settings, 1000);
            for (size_t b = 0; b < settings.batch; b++) {
                const int32_t *row = inputs + b * settings.tokens;
                assert_int_equal(check_answers(&settings, b), settings.pairs);
                check_keys_and_values(&settings, row, 2, row);
                for (size_t j = 0; j < settings.pairs; j++) {
                    assert_in_range(row[2 * j + 1], settings.vocabulary / 2, settings.vocabulary - 1);
                    for (size_t other = 0; other < j; other++) assert_int_not_equal(row[2 * j + 1], row[2 * other + 1]);
                }
                for (size_t t = 0; t < settings.tokens; t++) // asked after the pairs, at every second place
                    assert_true(targets[b * settings.tokens + t] < 0 || (t >= 2 * settings.pairs && t % 2 == 0));
            }
            check_count("mqar examples", settings.batch);
        }
}

// The gap of the first query follows p(i) ∝ i^(a-1) exactly: every frequency within five deviations.
static void test_mqar_gaps(void **state) {
    (void)state;
    enum { EXAMPLES = 20000, GAPS = 24 };
    static const double powers[] = {0.01, 0.1, 0.5, 1.0};
    for (size_t a = 0; a < 4; a++) {
        TaskSettings settings = settings_for("mqar");
        settings.tokens = 2 + 2 * GAPS;
        settings.pairs = 1;
        settings.gap_power = powers[a];
        size_t seen[GAPS] = {0};
        double total = 0.0;
        for (int i = 1; i <= GAPS; i++) total += pow(i, powers[a] - 1.0);
        for (uint64_t example = 0; example < EXAMPLES; example++) {
            task_batch(&settings, example, inputs, targets, NULL);
            size_t t = 0;
            while (targets[t] < 0) t++;
            seen[(t - 2) / 2]++;
        }
        for (int i = 1; i <= GAPS; i++) {
            double p = pow(i, powers[a] - 1.0) / total, deviation = sqrt(EXAMPLES * p * (1.0 - p));
            if (fabs((double)seen[i - 1] - EXAMPLES * p) > 5.0 * deviation)
                fail_msg("gap %d came %zu times, expected %.0f ± %.0f", i, seen[i - 1], EXAMPLES * p, deviation);
        }
        check_count("frequencies of gaps", GAPS);
    }
}

// A value must not be guessable from its key.
static void test_values_do_not_follow_keys(void **state) {
    (void)state;
    enum { EXAMPLES = 8000, KEYS = 31, VALUES = 32 };
    TaskSettings settings = settings_for("mqar");
    settings.vocabulary = 2 * VALUES;
    settings.tokens = 32;
    size_t together[KEYS][VALUES] = {{0}};
    for (uint64_t example = 0; example < EXAMPLES; example++) {
        task_batch(&settings, example, inputs, targets, distances);
        for (size_t j = 0; j < settings.pairs; j++) together[inputs[2 * j] - 1][inputs[2 * j + 1] - VALUES]++;
    }
    double expected = EXAMPLES * 8.0 / (KEYS * VALUES);
    for (size_t k = 0; k < KEYS; k++)
        for (size_t v = 0; v < VALUES; v++) assert_true(fabs((double)together[k][v] - expected) < 5.5 * sqrt(expected));
    check_count("frequencies of key-value pairs", KEYS * VALUES);
}

static void test_needle(void **state) {
    (void)state;
    static const struct {
        size_t tokens, pairs, least;
    } shapes[] = {{4096, 1, 0}, {4096, 1, 2048}, {4096, 1, 4094}, {4096, 8, 500},
                  {3, 1, 0},    {64, 16, 0},     {64, 16, 17},    {1000, 7, 100}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int filler = 0; filler < TASK_FILLER_COUNT; filler++) {
            TaskSettings settings = settings_for("needle");
            settings.tokens = shapes[i].tokens;
            settings.pairs = shapes[i].pairs;
            settings.least_distance = shapes[i].least;
            settings.filler = (TaskFiller)filler;
            settings.batch = 8;
            make(&settings, 7);
            for (size_t b = 0; b < settings.batch; b++) {
                const int32_t *row = inputs + b * settings.tokens;
                size_t first_query = settings.tokens - settings.pairs;
                assert_int_equal(check_answers(&settings, b), settings.pairs);
                check_keys_and_values(&settings, row + first_query, 1, row);
                for (size_t t = 0; t < settings.tokens; t++) {
                    assert_int_equal(targets[b * settings.tokens + t] >= 0, t >= first_query);
                    if (t >= first_query)
                        assert_true((size_t)distances[b * settings.tokens + t] >= settings.least_distance);
                }
            }
            check_count("needle examples", settings.batch);
        }
}

static void test_needle_lies_anywhere(void **state) {
    (void)state;
    enum { TOKENS = 34, EXAMPLES = 16000 };
    TaskSettings settings = settings_for("needle");
    settings.tokens = TOKENS;
    settings.pairs = 1;
    size_t seen[TOKENS] = {0};
    for (uint64_t example = 0; example < EXAMPLES; example++) {
        task_batch(&settings, example, inputs, targets, distances);
        seen[distances[TOKENS - 1]]++;
    }
    double expected = EXAMPLES / (TOKENS - 2.0); // distances 1 to TOKENS - 2
    for (size_t d = 1; d <= TOKENS - 2; d++) assert_true(fabs((double)seen[d] - expected) < 5.0 * sqrt(expected));
    check_count("frequencies of distances", TOKENS - 2);
}

static void test_induction(void **state) {
    (void)state;
    static const size_t lengths[] = {8, 9, 15, 16, 100, 128, 256, 511};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        TaskSettings settings = settings_for("induction");
        settings.tokens = lengths[i];
        settings.batch = 20;
        make(&settings, 0);
        for (size_t b = 0; b < settings.batch; b++) {
            const int32_t *row = inputs + b * settings.tokens;
            size_t blocks = settings.tokens / 8;
            assert_int_equal(check_answers(&settings, b), 3 * blocks);
            for (size_t t = 0; t < settings.tokens; t++) { // one earlier place at most: one answer
                assert_in_range(count_token(row, t + 1, row[t]), 1, 2);
                if (targets[b * settings.tokens + t] >= 0) assert_int_equal(count_token(row, t, row[t]), 1);
            }
        }
        check_count("induction examples", settings.batch);
    }
}

static void test_copy(void **state) {
    (void)state;
    for (size_t tokens = 2; tokens < 70; tokens++) {
        TaskSettings settings = settings_for("copy");
        settings.tokens = tokens;
        settings.vocabulary = 10;
        settings.batch = 5;
        make(&settings, 50);
        size_t length = tokens / 2;
        for (size_t b = 0; b < settings.batch; b++) {
            const int32_t *row = inputs + b * tokens, *asked = targets + b * tokens;
            assert_int_equal(check_answers(&settings, b), length);
            assert_int_equal(row[length], 0);
            assert_int_equal(count_token(row, tokens, 0), 1);
            for (size_t t = 0; t < length; t++) assert_int_equal(asked[length + t], row[t]);
            for (size_t t = length + 1; t < tokens; t++) assert_int_equal(row[t], row[t - length - 1]);
        }
        check_count("copy examples", settings.batch);
    }
}

// Example n is the same in any batch, on any number of threads; other examples, seeds and streams differ.
static void test_examples_depend_on_their_index(void **state) {
    (void)state;
    enum { EXAMPLES = 24, TOKENS = 64 };
    static int32_t all[EXAMPLES * TOKENS], all_targets[EXAMPLES * TOKENS], all_distances[EXAMPLES * TOKENS];
    size_t task = 0;
    for (; task_name(task); task++) {
        TaskSettings settings = settings_for(task_name(task));
        settings.tokens = TOKENS;
        settings.batch = EXAMPLES;
        task_batch(&settings, 100, all, all_targets, all_distances);
        for (size_t batch = 1; batch <= 8; batch *= 2) {
            settings.batch = batch;
            threads_set(batch / 2 + 1);
            for (size_t i = 0; i < EXAMPLES; i += batch) {
                size_t bytes = batch * TOKENS * sizeof *inputs;
                task_batch(&settings, 100 + i, inputs, targets, distances);
                check_same_bits("examples in other batches", inputs, all + i * TOKENS, bytes);
                check_same_bits("examples in other batches", targets, all_targets + i * TOKENS, bytes);
                check_same_bits("examples in other batches", distances, all_distances + i * TOKENS, bytes);
            }
        }
        threads_set(0);
        size_t row = TOKENS * sizeof *inputs;
        for (size_t i = 0; i < EXAMPLES; i++)
            for (size_t j = 0; j < i; j++) assert_memory_not_equal(all + i * TOKENS, all + j * TOKENS, row);
        settings.batch = 1;
        for (int change = 0; change < 2; change++) {
            TaskSettings other = settings;
            if (change == 0) other.held_out = true;
            if (change == 1) other.seed++;
            for (uint64_t index = 0; index < 500; index++) {
                task_batch(&other, index, inputs, targets, distances);
                for (size_t i = 0; i < EXAMPLES; i++) assert_memory_not_equal(inputs, all + i * TOKENS, row);
                check_count("examples of other streams", 1);
            }
        }
    }
    assert_int_equal(task, 4);
}

static void test_refusals(void **state) {
    (void)state;
    Error error = {0};
    const TaskSettings good = settings_for("mqar"), needle = settings_for("needle");
#define REFUSED(base, field, value)                                                                                    \
    do {                                                                                                               \
        TaskSettings bad = base;                                                                                       \
        bad.field = value;                                                                                             \
        error_clear(&error);                                                                                           \
        assert_false(task_check(&bad, &error));                                                                        \
        assert_int_equal(error.kind, ERROR_USER);                                                                      \
        check_count("refused task settings", 1);                                                                       \
    } while (0)
    REFUSED(good, name, "sorting");
    REFUSED(good, batch, 0);
    REFUSED(good, tokens, 0);
    REFUSED(good, tokens, 31); // 8 pairs need 32
    REFUSED(good, tokens, SIZE_MAX);
    REFUSED(good, vocabulary, 0);
    REFUSED(good, vocabulary, 3);
    REFUSED(good, vocabulary, 17); // 7 keys
    REFUSED(good, vocabulary, SIZE_MAX);
    REFUSED(good, pairs, 0);
    REFUSED(good, pairs, 33);
    REFUSED(good, pairs, SIZE_MAX);
    REFUSED(good, gap_power, 0.0);
    REFUSED(good, gap_power, 1.1);
    REFUSED(good, gap_power, NAN);
    REFUSED(good, filler, TASK_FILLER_COUNT);
    REFUSED(needle, pairs, 43); // 43 · 3 = 129
    REFUSED(needle, least_distance, 106);
    REFUSED(needle, least_distance, SIZE_MAX);
    REFUSED(needle, tokens, 8);
    REFUSED(settings_for("induction"), tokens, 7);
    REFUSED(settings_for("induction"), vocabulary, 63);
    REFUSED(settings_for("copy"), tokens, 1);
#undef REFUSED
    TaskSettings edge = needle;
    edge.least_distance = 105; // 128 - 8 - 104 = 16: two for each pair
    error_clear(&error);
    if (!task_check(&edge, &error)) fail_msg("%s", error.message);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_mqar),
    cmocka_unit_test(test_mqar_gaps),
    cmocka_unit_test(test_values_do_not_follow_keys),
    cmocka_unit_test(test_needle),
    cmocka_unit_test(test_needle_lies_anywhere),
    cmocka_unit_test(test_induction),
    cmocka_unit_test(test_copy),
    cmocka_unit_test(test_examples_depend_on_their_index),
    cmocka_unit_test(test_refusals),
};

TEST_MAIN(tests)
