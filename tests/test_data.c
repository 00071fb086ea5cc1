// The loader: order, epochs, resuming, boundaries of shards.
#include "tests/support/check.h"
#include "tests/support/shard_files.h"

#include "core/random.h"

// Three shards whose ids tell where they come from: 10 windows, one token too few for any, 5 windows and a part.
static void write_three(void) {
    write_shard("train.bin", 1000, 0, 10 * 8 + 1);
    write_shard("train_1.bin", 1000, 100, 8);
    write_shard("train_2.bin", 1000, 200, 5 * 8 + 6);
    write_shard("val.bin", 1000, 900, 20);
    Error error = {0};
    assert_true(file_write_atomic(in_directory("train.bin.new"), "half", 4, &error));
    assert_true(file_write_atomic(in_directory("train.txt"), "text", 4, &error));
}

static void test_order_in_shards(void **state) {
    (void)state;
    write_three();
    DataSettings settings = settings_for(directory, 4, 8);
    settings.shuffle = false;
    Loader *loader = open_good(&settings);
    assert_int_equal(loader_windows(loader), 15);
    assert_int_equal(loader_tokens(loader), 81 + 8 + 46);
    Error error = {0};
    int32_t inputs[4 * 8], targets[4 * 8];
    for (size_t window = 0; window < 40; window += 4) {
        assert_true(loader_next(loader, inputs, targets, &error));
        for (size_t b = 0; b < 4; b++) {
            size_t w = (window + b) % 15;
            int32_t first = w < 10 ? (int32_t)(8 * w) : 200 + (int32_t)(8 * (w - 10));
            for (int32_t t = 0; t < 8; t++) {
                assert_int_equal(inputs[b * 8 + (size_t)t], first + t);
                assert_int_equal(targets[b * 8 + (size_t)t], first + t + 1);
            }
            check_count("tokens in order", 8);
        }
    }
    DataPosition position = loader_position(loader);
    assert_int_equal(position.epoch, 2);
    assert_int_equal(position.window, 10);
    loader_close(loader);
}

static void test_shards_are_sorted(void **state) {
    (void)state;
    enum { SHARDS = 20 };
    for (size_t i = 0; i < SHARDS; i++) { // created in another order than that of their names
        char name[32];
        size_t number = i * 7 % SHARDS;
        snprintf(name, sizeof name, "train_%03zu.bin", number);
        write_shard(name, 1000, (int32_t)(10 * number), 10);
    }
    DataSettings settings = settings_for(directory, SHARDS, 9);
    settings.shuffle = false;
    Loader *loader = open_good(&settings);
    int32_t inputs[SHARDS * 9], targets[SHARDS * 9];
    Error error = {0};
    assert_true(loader_next(loader, inputs, targets, &error));
    for (size_t i = 0; i < SHARDS; i++) assert_int_equal(inputs[9 * i], 10 * i);
    loader_close(loader);
    check_count("shards in the order of their names", SHARDS);
}

static void test_epochs_are_permutations(void **state) {
    (void)state;
    write_three();
    enum { WINDOWS = 15, EPOCHS = 20, SEEDS = 3 };
    int32_t order[SEEDS][EPOCHS][WINDOWS];
    for (size_t seed = 0; seed < SEEDS; seed++) {
        DataSettings settings = settings_for(directory, 1, 8);
        settings.seed = seed;
        Loader *loader = open_good(&settings);
        for (size_t epoch = 0; epoch < EPOCHS; epoch++) {
            bool seen[300] = {false};
            for (size_t w = 0; w < WINDOWS; w++) {
                int32_t inputs[8], targets[8];
                Error error = {0};
                assert_int_equal(loader_position(loader).epoch, epoch);
                assert_true(loader_next(loader, inputs, targets, &error));
                for (size_t t = 0; t < 8; t++) assert_int_equal(targets[t], inputs[t] + 1); // no window crosses shards
                assert_false(seen[inputs[0]]);
                seen[inputs[0]] = true;
                order[seed][epoch][w] = inputs[0];
            }
            for (size_t other = 0; other < epoch; other++)
                assert_memory_not_equal(order[seed][epoch], order[seed][other], sizeof order[seed][epoch]);
        }
        loader_close(loader);
    }
    assert_memory_not_equal(order[0], order[1], sizeof order[0]);
    check_count("shuffled epochs, each window once, no two alike", SEEDS * EPOCHS);
}

// A batch is `batch` windows in a row of the same order, whatever the batch size, also over the end of an epoch.
static void test_batches_do_not_change_the_order(void **state) {
    (void)state;
    write_three();
    int32_t one[60 * 8], many[60 * 8], targets[60 * 8];
    Error error = {0};
    for (size_t batch = 1; batch <= 60; batch++) {
        if (60 % batch != 0) continue;
        DataSettings settings = settings_for(directory, batch, 8);
        Loader *loader = open_good(&settings);
        for (size_t i = 0; i < 60; i += batch) assert_true(loader_next(loader, many + i * 8, targets, &error));
        if (batch == 1) memcpy(one, many, sizeof one);
        check_same_bits("batches of every size", one, many, sizeof one);
        loader_close(loader);
    }
}

static void test_resume_everywhere(void **state) {
    (void)state;
    write_three();
    enum { STEPS = 30, SIZE = 3 * 8 };
    int32_t inputs[STEPS][SIZE], targets[STEPS][SIZE], again[SIZE], again_targets[SIZE];
    DataPosition positions[STEPS];
    Error error = {0};
    DataSettings settings = settings_for(directory, 3, 8);
    Loader *loader = open_good(&settings);
    for (size_t step = 0; step < STEPS; step++) {
        positions[step] = loader_position(loader);
        assert_true(loader_next(loader, inputs[step], targets[step], &error));
    }
    loader_close(loader);
    for (size_t start = 0; start < STEPS; start++) {
        loader = open_good(&settings);
        loader_seek(loader, positions[start]);
        for (size_t step = start; step < STEPS; step++) {
            assert_true(loader_next(loader, again, again_targets, &error));
            check_same_bits("batches after resuming at every step", again, inputs[step], sizeof again);
            check_same_bits("batches after resuming at every step", again_targets, targets[step], sizeof again);
        }
        loader_close(loader);
    }
    loader = open_good(&settings); // a position of a longer epoch is brought back into this one
    loader_seek(loader, (DataPosition){.epoch = 1, .window = 15 * 7 + 2});
    assert_int_equal(loader_position(loader).epoch, 8);
    assert_int_equal(loader_position(loader).window, 2);
    loader_close(loader);
}

static void test_any_length_that_fits(void **state) {
    (void)state;
    enum { COUNT = 50 };
    write_shard("train.bin", 60, 0, COUNT);
    for (size_t tokens = 1; tokens < COUNT; tokens++) {
        DataSettings settings = settings_for(in_directory("train.bin"), 2, tokens);
        Loader *loader = open_good(&settings);
        assert_int_equal(loader_windows(loader), (COUNT - 1) / tokens);
        int32_t inputs[2 * COUNT], targets[2 * COUNT];
        Error error = {0};
        assert_true(loader_next(loader, inputs, targets, &error));
        for (size_t t = 0; t < 2 * tokens; t++) assert_int_equal(targets[t], inputs[t] + 1);
        loader_close(loader);
    }
    check_count("context lengths", COUNT - 1);
    static const size_t too_long[] = {COUNT, COUNT + 1, (size_t)1 << 31, (size_t)1 << 32, (size_t)1 << 63, SIZE_MAX};
    for (size_t i = 0; i < sizeof too_long / sizeof *too_long; i++) {
        DataSettings settings = settings_for(in_directory("train.bin"), 2, too_long[i]);
        expect_refused(&settings, ERROR_USER, "the longest train shard has 50");
    }
    DataSettings settings = settings_for(in_directory("train.bin"), 0, 4);
    expect_refused(&settings, ERROR_USER, "at least 1");
    settings = settings_for(in_directory("train.bin"), 4, 0);
    expect_refused(&settings, ERROR_USER, "at least 1");
}

// One token predicts nothing; two make one window of one. T tokens are one too few for a window, T + 1 are one window.
static void test_smallest_shards(void **state) {
    (void)state;
    for (size_t tokens = 1; tokens <= 9; tokens += 4)
        for (size_t count = 1; count <= tokens + 1; count++) {
            write_shard("train.bin", 60, 7, count);
            DataSettings settings = settings_for(in_directory("train.bin"), 2, tokens);
            if (count <= tokens) {
                expect_refused(&settings, ERROR_USER, "needs one more");
                continue;
            }
            Loader *loader = open_good(&settings);
            int32_t inputs[2 * 9], targets[2 * 9];
            Error error = {0};
            assert_int_equal(loader_windows(loader), 1);
            assert_true(loader_next(loader, inputs, targets, &error)); // both rows are the only window
            for (size_t t = 0; t < 2 * tokens; t++) {
                assert_int_equal(inputs[t], 7 + t % tokens);
                assert_int_equal(targets[t], 8 + t % tokens);
            }
            loader_close(loader);
            check_count("shards of one window", 1);
        }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(test_order_in_shards, new_directory),
    cmocka_unit_test_setup(test_shards_are_sorted, new_directory),
    cmocka_unit_test_setup(test_epochs_are_permutations, new_directory),
    cmocka_unit_test_setup(test_batches_do_not_change_the_order, new_directory),
    cmocka_unit_test_setup(test_resume_everywhere, new_directory),
    cmocka_unit_test_setup(test_any_length_that_fits, new_directory),
    cmocka_unit_test_setup(test_smallest_shards, new_directory),
};
TEST_MAIN(tests)
