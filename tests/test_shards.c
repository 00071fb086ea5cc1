// Shards: their two layouts and llm.c's, and files that lie, are damaged, unfinished, or written to while they are read.
#include "tests/support/check.h"
#include "tests/support/shard_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/shards.h"

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
            const bool harmless = how == RENAMED_OVER || how == REMOVED || how <= SAME_AGAIN;
            if (loader_next(loader, inputs, targets, &error) != harmless) fail_msg("%d: %s", how, error.message);
            for (int32_t t = 0; harmless && t < 8; t++) assert_true(inputs[t] == 8 + t && targets[t] == 9 + t);
            if (!harmless) assert_true(error.kind == ERROR_CORRUPT && strstr(error.message, path));
            if (!harmless) assert_int_equal(loader_position(loader).window, 1);
            loader_close(loader);
            loader = how == RENAMED_OVER ? open_good(&settings) : NULL; // other data have another checksum
            if (loader) assert_true(loader_checksum(loader) != crc);
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

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(test_wide_and_foreign_shards, new_directory),
    cmocka_unit_test_setup(test_ids_are_checked, new_directory),
    cmocka_unit_test_setup(test_hostile_headers, new_directory),
    cmocka_unit_test_setup(test_vocabulary_beyond_ids, new_directory),
    cmocka_unit_test_setup(test_written_to_while_read, new_directory),
    cmocka_unit_test_setup(test_every_corruption, new_directory),
    cmocka_unit_test_setup(test_unfinished_shard, new_directory),
};
TEST_MAIN(tests)
