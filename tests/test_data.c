// Shards and the loader: order, epochs, resuming, boundaries, and files that lie.
#include "tests/support/check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/random.h"
#include "data/data.h"
#include "data/shards.h"

enum { PATH = 512, HEADER = 1024 };

static const char *directory; // a new one for every test

static int new_directory(void **state) {
    (void)state;
    directory = temporary_directory();
    return 0;
}

static const char *in_directory(const char *name) {
    static char path[PATH];
    assert_true(snprintf(path, sizeof path, "%s/%s", directory, name) < PATH);
    return path;
}

// A shard whose ids are first, first+1, …
static void write_shard(const char *name, size_t vocabulary, int32_t first, size_t count) {
    Error error = {0};
    ShardWriter *writer = shard_create(in_directory(name), vocabulary, &error);
    assert_non_null(writer);
    for (size_t i = 0; i < count; i++) {
        int32_t id = first + (int32_t)i;
        assert_true(shard_append(writer, &id, 1, &error));
    }
    uint64_t written;
    uint32_t crc;
    if (!shard_finish(writer, &written, &crc, &error)) fail_msg("%s", error.message);
    assert_int_equal(written, count);
}

// As llm.c writes it: nothing in the header but magic, version and count.
static void write_foreign(const char *name, uint32_t magic, uint32_t version, uint32_t count, const void *ids,
                          size_t bytes) {
    uint32_t header[256] = {magic, version, count};
    char *file = malloc(HEADER + bytes);
    Error error = {0};
    memcpy(file, header, HEADER);
    if (bytes > 0) memcpy(file + HEADER, ids, bytes);
    assert_true(file_write_atomic(in_directory(name), file, HEADER + bytes, &error));
    free(file);
}

static DataSettings settings_for(const char *path, size_t batch, size_t tokens) {
    return (DataSettings){.path = path, .split = "train", .batch = batch, .tokens = tokens, .seed = 1, .shuffle = true};
}

static Loader *open_good(const DataSettings *settings) {
    Error error = {0};
    Loader *loader = loader_open(settings, &error);
    if (!loader) fail_msg("%s", error.message);
    return loader;
}

static void expect_refused(const DataSettings *settings, ErrorKind kind, const char *message) {
    Error error = {0};
    assert_null(loader_open(settings, &error));
    if (!strstr(error.message, message)) fail_msg("\"%s\" does not say \"%s\"", error.message, message);
    if (!strstr(error.message, settings->path)) fail_msg("\"%s\" does not name the file", error.message);
    assert_int_equal(error.kind, kind);
    check_count("refused shards and settings", 1);
}

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

static void test_wide_and_foreign_shards(void **state) {
    (void)state;
    Error error = {0};
    int32_t inputs[3], targets[3];
    write_shard("train.bin", 70000, 69990, 10); // needs 32 bits: version 2
    struct stat status;
    assert_int_equal(stat(in_directory("train.bin"), &status), 0);
    assert_int_equal(status.st_size, HEADER + 4 * 10);
    DataSettings settings = settings_for(in_directory("train.bin"), 1, 3);
    settings.shuffle = false;
    Loader *loader = open_good(&settings);
    assert_true(loader_next(loader, inputs, targets, &error) && loader_next(loader, inputs, targets, &error));
    assert_int_equal(inputs[0], 69993);
    assert_int_equal(targets[2], 69996);
    loader_close(loader);

    uint16_t ids[] = {50256, 1, 2, 65535};
    write_foreign("train.bin", 20240520, 1, 4, ids, sizeof ids); // llm.c's own
    loader = open_good(&settings);
    assert_true(loader_next(loader, inputs, targets, &error));
    assert_int_equal(inputs[0], 50256);
    assert_int_equal(targets[2], 65535);
    loader_close(loader);
    check_count("shards in u32 and by llm.c", 2);
}

static void test_ids_are_checked(void **state) {
    (void)state;
    uint16_t ids[] = {5, 6, 100, 7};
    uint32_t wide[] = {5, 6, 0x80000000u, 7};
    int32_t inputs[3], targets[3];
    write_foreign("train.bin", 20240520, 1, 4, ids, sizeof ids);
    write_foreign("wide.bin", 20240520, 2, 4, wide, sizeof wide);
    const char *names[] = {"train.bin", "wide.bin"};
    for (size_t i = 0; i < 2; i++) {
        DataSettings settings = settings_for(in_directory(names[i]), 1, 3);
        settings.vocabulary = i == 0 ? 100 : 0; // 2^31 is refused even where no vocabulary is known
        Loader *loader = open_good(&settings);
        Error error = {0};
        assert_false(loader_next(loader, inputs, targets, &error));
        assert_int_equal(error.kind, ERROR_USER);
        assert_non_null(strstr(error.message, names[i]));
        assert_non_null(strstr(error.message, i == 0 ? "byte 1028" : "byte 1032"));
        assert_int_equal(loader_position(loader).window, 0); // a failed batch does not move on
        loader_close(loader);
    }
    write_shard("own.bin", 100, 0, 50);
    DataSettings settings = settings_for(in_directory("own.bin"), 1, 3);
    settings.vocabulary = 99;
    expect_refused(&settings, ERROR_USER, "vocabulary of 100; the model has 99");
    settings.vocabulary = 100;
    loader_close(open_good(&settings));
    Error error = {0};
    ShardWriter *writer = shard_create(in_directory("bad.bin"), 100, &error);
    int32_t bad[] = {100, -1, INT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        error_clear(&error);
        assert_false(shard_append(writer, bad + i, 1, &error));
        assert_int_equal(error.kind, ERROR_USER);
    }
    shard_abandon(writer);
    check_count("ids out of range", 5);
}

static void test_hostile_headers(void **state) {
    (void)state;
    uint16_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const struct {
        uint32_t magic, version, count;
        const char *message;
    } cases[] = {
        {0, 1, 8, "no token shard"},
        {20240519, 1, 8, "no token shard"},
        {0x28d83401, 1, 8, "no token shard"}, // the magic in the other byte order
        {20240520, 0, 8, "version 0"},
        {20240520, 3, 8, "version 3"},
        {20240520, 0xFFFFFFFF, 8, "version -1"},
        {20240520, 2, 8, "truncated"}, // u32 would need twice as much
        {20240520, 1, 0, "holds no tokens"},
        {20240520, 1, 7, "after the last token"},
        {20240520, 1, 9, "truncated"},
        {20240520, 1, 0x7FFFFFFF, "truncated"},
        {20240520, 1, 0x80000000, "negative"},
        {20240520, 1, 0xFFFFFFFF, "negative"},
        {20240520, 2, 0x40000000, "truncated"}, // count·4 = 2^32
        {20240520, 2, 0x40000004, "truncated"},
    };
    DataSettings settings = settings_for(in_directory("train.bin"), 1, 3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_foreign("train.bin", cases[i].magic, cases[i].version, cases[i].count, ids, sizeof ids);
        expect_refused(&settings, ERROR_CORRUPT, cases[i].message);
    }
    Error error = {0};
    assert_true(file_write_atomic(in_directory("train.bin"), "", 0, &error));
    expect_refused(&settings, ERROR_CORRUPT, "truncated");
    settings.path = "/nonexistent/rope";
    expect_refused(&settings, ERROR_USER, "No such file");
    char empty[PATH];
    snprintf(empty, sizeof empty, "%s", in_directory("empty"));
    assert_true(directory_make(empty, &error));
    settings.path = empty;
    expect_refused(&settings, ERROR_USER, "no train*.bin");
}

// Ids are int32_t: a header of ours that is whole but for a vocabulary beyond them would let negative ones through.
static void test_vocabulary_beyond_ids(void **state) {
    (void)state;
    static const uint32_t vocabularies[] = {INT32_MAX, (uint32_t)INT32_MAX + 1, 0xFFFFFF70, 0xFFFFFFFF};
    write_shard("train.bin", 70000, 7, 9);
    const char *path = in_directory("train.bin");
    uint32_t words[6];
    Error error = {0};
    int file = open(path, O_RDWR);
    assert_int_equal(pread(file, words, sizeof words, 0), sizeof words);
    for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; i++) {
        words[3] = vocabularies[i];
        words[5] = checksum(0, words, 5 * sizeof *words);
        assert_int_equal(pwrite(file, words, sizeof words, 0), sizeof words);
        Shard shard;
        assert_int_equal(shard_open(&shard, path, &error), i == 0);
        if (i == 0) shard_close(&shard);
        if (i > 0) assert_non_null(strstr(error.message, "a vocabulary of"));
        error = (Error){0};
        check_count("vocabularies up to and beyond int32_t", 1);
    }
    close(file);
}

// What other programs may do to a shard that is being read. What they leave of its ids is served, or nothing.
typedef enum Meddling { TOUCHED, LONGER, SAME_AGAIN, RENAMED_OVER, REMOVED, ONE_ID, SHORTER, MEDDLINGS } Meddling;

static void meddle(Meddling how, const char *path) {
    uint16_t id = 12, other = 99;
    const int file = open(path, O_RDWR);
    assert_true(file >= 0);
    switch (how) {
    case TOUCHED: assert_int_equal(futimens(file, NULL), 0); break;
    case LONGER: assert_int_equal(pwrite(file, "more", 4, HEADER + 2 * 17), 4); break;
    case SAME_AGAIN: assert_int_equal(pwrite(file, &id, 2, HEADER + 2 * 12), 2); break;
    case RENAMED_OVER: write_shard("other.bin", 100, 50, 17); break;
    case REMOVED: assert_int_equal(unlink(path), 0); break;
    case ONE_ID: assert_int_equal(pwrite(file, &other, 2, HEADER + 2 * 12), 2); break;
    default: assert_int_equal(ftruncate(file, HEADER + 2 * 16), 0); break;
    }
    close(file);
    if (how == RENAMED_OVER) {
        char other_path[PATH];
        snprintf(other_path, sizeof other_path, "%s/other.bin", directory);
        assert_int_equal(rename(other_path, path), 0);
    }
}

static void test_written_to_while_read(void **state) {
    (void)state;
    for (Meddling how = 0; how < MEDDLINGS; how++) {
        for (int foreign = 0; foreign < 2; foreign++) {
            const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
            uint16_t ids[17];
            char path[PATH];
            int32_t inputs[8], targets[8];
            Error error = {0};
            for (uint16_t i = 0; i < 17; i++) ids[i] = i;
            if (foreign)
                write_foreign("train.bin", 20240520, 1, 17, ids, sizeof ids);
            else
                write_shard("train.bin", 100, 0, 17);
            snprintf(path, sizeof path, "%s", in_directory("train.bin"));
            assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0); // so that any clock tells the change
            DataSettings settings = settings_for(path, 1, 8);
            settings.shuffle = false;
            Loader *loader = open_good(&settings);
            const uint32_t crc = loader_checksum(loader);
            assert_true(loader_next(loader, inputs, targets, &error));
            meddle(how, path);
            const bool harmless = how == RENAMED_OVER || how == REMOVED || (how <= SAME_AGAIN && !foreign);
            if (loader_next(loader, inputs, targets, &error) != harmless) fail_msg("%d: %s", how, error.message);
            for (int32_t t = 0; harmless && t < 8; t++) assert_true(inputs[t] == 8 + t && targets[t] == 9 + t);
            if (!harmless) assert_true(error.kind == ERROR_CORRUPT && strstr(error.message, path));
            if (!harmless) assert_int_equal(loader_position(loader).window, 1);
            loader_close(loader);
            loader = how == RENAMED_OVER ? open_good(&settings) : NULL; // other data have another checksum
            if (loader && !foreign) assert_true(loader_checksum(loader) != crc);
            loader_close(loader);
            check_count("shards written to while they are read", 1);
        }
    }
}

static void expect_corrupt(const char *path) {
    Shard shard;
    Error error = {0};
    assert_false(shard_open(&shard, path, &error));
    assert_int_equal(error.kind, ERROR_CORRUPT);
    assert_non_null(strstr(error.message, path));
    check_count("corruptions of a shard refused", 1);
}

// A file of our own: every truncation, appended bytes, every bit flip, 00 and FF in every byte are noticed. The file is
// changed in place, which costs no disk writes.
static void test_every_corruption(void **state) {
    (void)state;
    write_shard("train.bin", 512, 3, 40);
    const char *path = in_directory("train.bin");
    size_t size;
    Error error = {0};
    unsigned char *bytes = (unsigned char *)file_read_all(path, 1 << 20, &size, &error);
    assert_int_equal(size, HEADER + 80);
    int file = open(path, O_RDWR);
    for (size_t at = 0; at < size; at++) {
        for (int change = 0; change < 10; change++) {
            unsigned char changed = change < 8 ? bytes[at] ^ (unsigned char)(1 << change) : change == 8 ? 0 : 0xFF;
            if (changed == bytes[at]) continue;
            assert_int_equal(pwrite(file, &changed, 1, (off_t)at), 1);
            expect_corrupt(path);
        }
        assert_int_equal(pwrite(file, bytes + at, 1, (off_t)at), 1);
    }
    for (size_t more = 1; more <= 16; more++) {
        assert_int_equal(ftruncate(file, (off_t)(size + more)), 0);
        expect_corrupt(path);
    }
    assert_int_equal(ftruncate(file, (off_t)size), 0);
    Shard shard;
    assert_true(shard_open(&shard, path, &error)); // it is whole again
    shard_close(&shard);
    for (size_t length = size; length-- > 0;) {
        assert_int_equal(ftruncate(file, (off_t)length), 0);
        expect_corrupt(path);
    }
    close(file);
    free(bytes);
}

static void test_unfinished_shard(void **state) {
    (void)state;
    Error error = {0};
    int32_t ids[] = {1, 2, 3};
    ShardWriter *writer = shard_create(in_directory("train.bin"), 10, &error);
    assert_true(shard_append(writer, ids, 3, &error));
    shard_abandon(writer);
    Shard shard;
    assert_false(shard_open(&shard, in_directory("train.bin"), &error));
    error_clear(&error);
    assert_null(shard_create(in_directory("absent/train.bin"), 10, &error));
    assert_non_null(strstr(error.message, "absent/train.bin"));
    assert_null(shard_create(in_directory("train.bin"), 0, NULL));
    assert_null(shard_create(in_directory("train.bin"), (size_t)INT32_MAX + 1, NULL));
    error_clear(&error);
    writer = shard_create(in_directory("train.bin"), 10, &error);
    assert_true(shard_append(writer, ids, 3, &error));
    assert_false(shard_append(writer, ids, INT32_MAX - 2, &error)); // refused before an id is looked at
    assert_true(error.kind == ERROR_USER && strstr(error.message, "2^31-1") && strstr(error.message, "train.bin"));
    shard_abandon(writer);
    check_count("unfinished and impossible shards", 5);
}

int main(int argc, char **argv) {
    (void)argc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_order_in_shards, new_directory),
        cmocka_unit_test_setup(test_shards_are_sorted, new_directory),
        cmocka_unit_test_setup(test_epochs_are_permutations, new_directory),
        cmocka_unit_test_setup(test_batches_do_not_change_the_order, new_directory),
        cmocka_unit_test_setup(test_resume_everywhere, new_directory),
        cmocka_unit_test_setup(test_any_length_that_fits, new_directory),
        cmocka_unit_test_setup(test_smallest_shards, new_directory),
        cmocka_unit_test_setup(test_wide_and_foreign_shards, new_directory),
        cmocka_unit_test_setup(test_ids_are_checked, new_directory),
        cmocka_unit_test_setup(test_hostile_headers, new_directory),
        cmocka_unit_test_setup(test_vocabulary_beyond_ids, new_directory),
        cmocka_unit_test_setup(test_written_to_while_read, new_directory),
        cmocka_unit_test_setup(test_every_corruption, new_directory),
        cmocka_unit_test_setup(test_unfinished_shard, new_directory),
    };
    test_begin(argv);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    check_report();
    return failed != 0;
}
