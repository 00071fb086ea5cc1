// What rope prepare refuses, and leaves nothing behind of: mistakes, texts that change while they are read, folders that
// are others'; and what is refused of a folder that it did not finish.
#include "tests/support/check.h"
#include "tests/support/prepared_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "data/data.h"
#include "data/text.h"

static void expect_message(const PrepareSettings *settings, ErrorKind kind, const char *message) {
    PrepareResult result;
    Error error = {0};
    assert_false(data_prepare(settings, &result, &error));
    if (!strstr(error.message, message)) fail_msg("\"%s\" does not say \"%s\"", error.message, message);
    assert_int_equal(error.kind, kind);
}

static void expect_refused(const PrepareSettings *settings, ErrorKind kind, const char *message) {
    char path[PATH + 32];
    expect_message(settings, kind, message);
    static const char *const names[] = {"train.bin",           "val.bin",      "meta.json", "tokenizer.model",
                                        "tokenizer.model.new", "train.bin.new"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", settings->out, names[i]);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    check_count("refused preparations that left nothing behind", 1);
}

// Texts that change while they are read are refused, unless what is read is the old one; "a" is open, "b" was and will be.
static void test_changing_texts(void **state) {
    (void)state;
    enum { APPEND, WRITE, CUT, RENAME, REMOVE, CHANGES };
    const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
    for (int change = 0; change < CHANGES; change++) {
        for (int opened = 0; opened < 2; opened++) {
            char paths[2][PATH], other[PATH], buffer[8];
            const char *inputs[2] = {paths[0], paths[1]};
            Error error = {0};
            in_directory(other, "other");
            for (int i = 0; i < 2; i++) {
                in_directory(paths[i], i ? "b" : "a");
                write_file(paths[i], "12345678", 8);
                assert_int_equal(utimensat(AT_FDCWD, paths[i], long_ago, 0), 0);
            }
            Text *text = text_open(inputs, 2, directory, &error);
            assert_true(text && text_read(text, 8, buffer, 8, &error) && text_read(text, 0, buffer, 8, &error));
            assert_true(text_check(text, &error));
            const char *path = paths[opened ? 0 : 1];
            write_file(other, "abcdefgh", 8);
            const int file = open(path, change == APPEND ? O_WRONLY | O_APPEND : O_WRONLY);
            if (change == APPEND || change == WRITE) assert_int_equal(write(file, "x", 1), 1);
            if (change == CUT) assert_int_equal(ftruncate(file, 4), 0);
            if (change == RENAME) assert_int_equal(rename(other, path), 0);
            if (change == REMOVE) assert_int_equal(unlink(path), 0);
            close(file);
            const bool fine = text_check(text, &error), old = opened && change >= RENAME;
            if (fine != old) fail_msg("change %d of a text: %s", change, error.message);
            if (!fine) assert_true(error.kind != ERROR_USER && strstr(error.message, path));
            error_clear(&error);
            if (text_read(text, opened ? 0 : 8, buffer, 8, &error) != old) fail_msg("change %d is read", change);
            if (old) assert_memory_equal(buffer, "12345678", 8);
            text_close(text);
            check_count("texts that change while they are read", 1);
        }
    }
}

static void test_refusals(void **state) {
    (void)state;
    char input[PATH], out[PATH];
    in_directory(input, "text.txt");
    in_directory(out, "out");
    const char *inputs[] = {input};
    PrepareSettings good = settings_for(inputs, 1, out, "bpe"), bad = good;
    expect_refused(&good, ERROR_USER, "No such file");
    write_file(input, "", 0);
    expect_refused(&good, ERROR_USER, "empty");
    write_file(input, "x", 1);
    expect_refused(&good, ERROR_USER, "too small");
    write_file(input, "\n\n\n\n\n\n\n\n\n\n", 10);
    expect_refused(&good, ERROR_USER, "only line ends");
    write_file(input, "\xFF\xFE\n\t\0\n\xC0\x80\n\n", 10);
    expect_refused(&good, ERROR_USER, "or bytes that are no UTF-8");
    size_t size = 5000;
    char *text = make_text(3, &size, "\n");
    write_file(input, text, size);
    free(text);
    bad.vocabulary = 100000;
    expect_refused(&bad, ERROR_USER, "largest possible");
    bad.vocabulary = 3;
    expect_refused(&bad, ERROR_USER, "out of range");
    bad = good;
    bad.type = "wordpiece";
    expect_refused(&bad, ERROR_USER, "choose bpe");
    bad = good;
    static const double shares[] = {0.0, 1.0, -0.1, NAN, INFINITY};
    for (size_t i = 0; i < 5; i++) {
        bad.validation_share = shares[i];
        expect_refused(&bad, ERROR_USER, "between 0 and 1");
    }
    bad = good;
    bad.input_count = 0;
    expect_refused(&bad, ERROR_USER, "no text given");
    inputs[0] = directory;
    expect_refused(&good, ERROR_USER, "folder");
    inputs[0] = input;
    bad = good;
    bad.tokenizer = input;
    expect_refused(&bad, ERROR_CORRUPT, "/text.txt: not a SentencePiece model");
    bad = good;
    bad.out = input; // a file where the folder should be
    PrepareResult result;
    Error error = {0};
    assert_false(data_prepare(&bad, &result, &error));
    assert_non_null(strstr(error.message, input));
    bad.out = "/proc/rope";
    error_clear(&error);
    assert_false(data_prepare(&bad, &result, &error));
    assert_non_null(strstr(error.message, "/proc"));
    check_count("folders that cannot be written", 2);
}

static void test_meta_refusals(void **state) {
    (void)state;
    char path[PATH];
    in_directory(path, "meta.json");
    PrepareResult meta;
    Error error = {0};
    assert_false(data_read_meta(directory, &meta, &error));
    assert_int_equal(error.kind, ERROR_USER);
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{}",
                                        "null",
                                        "{\"version\": 1, \"version\": 1}",
                                        "{\"version\":1,\"vocabulary\":0,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":-1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":2147483648,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":0,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":0,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":0},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":-1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1,"
                                        "\"lossy_bytes\":-1}",
                                        "{\"version\":2,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":\"9\",\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_file(path, texts[i], strlen(texts[i]));
        error_clear(&error);
        assert_false(data_read_meta(directory, &meta, &error));
        assert_int_equal(error.kind, ERROR_CORRUPT);
        assert_non_null(strstr(error.message, path));
    }
    check_count("meta.json refused", 1 + sizeof texts / sizeof *texts);
}

// Shards beside the two that are written would be trained on with them; what has other names is left alone.
static void test_other_shards(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool refused;
    } cases[] = {{"train_000001.bin", true}, {"val_2.bin", true},  {"validation.bin", true}, {"train.bin.bin", true},
                 {"train.bin", false},       {"val.bin", false},   {"train.txt", false},     {"train.bin.new", false},
                 {"my_train.bin", false},    {"train_bin", false}, {"meta.json.new", false}};
    char input[PATH], out[PATH], path[PATH + 32], text[2000];
    in_directory(input, "others.txt");
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 40 == 39 ? '\n' : (char)('a' + i % 7);
    write_file(input, text, sizeof text);
    const char *inputs[] = {input};
    PrepareSettings settings = settings_for(inputs, 1, out, "char");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[32], kept[8];
        snprintf(name, sizeof name, "others_%zu", i);
        in_directory(out, name);
        assert_int_equal(mkdir(out, 0777), 0);
        snprintf(path, sizeof path, "%s/%s", out, cases[i].name);
        write_file(path, "theirs", 6);
        PrepareResult result;
        Error error = {0};
        if (cases[i].refused) {
            expect_refused(&settings, ERROR_USER, path);
            FILE *file = fopen(path, "rb");
            assert_non_null(file);
            assert_int_equal(fread(kept, 1, 8, file), 6);
            assert_memory_equal(kept, "theirs", 6);
            fclose(file);
            assert_int_equal(unlink(path), 0);
        }
        if (!data_prepare(&settings, &result, &error)) fail_msg("%s: %s", cases[i].name, error.message);
        check_prepared(out, text, sizeof text, &result, false);
    }
}

// A shard that came from another folder is not what meta.json speaks of: it is neither trained on nor held out.
static void test_shard_of_other_data(void **state) {
    (void)state;
    static const char *const names[] = {"train.bin", "val.bin"}, *const splits[] = {"train", "val"};
    char input[PATH], out[2][PATH], from[PATH + 32], to[PATH + 32];
    for (size_t n = 0; n < 2; n++) {
        size_t size = 20000;
        char *text = make_text(n, &size, "\n");
        in_directory(input, "mixed.txt");
        in_directory(out[n], n ? "mixed_b" : "mixed_a");
        write_file(input, text, size);
        free(text);
        const char *inputs[] = {input};
        const PrepareSettings settings = settings_for(inputs, 1, out[n], "char");
        PrepareResult result;
        Error error = {0};
        if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
    }
    for (size_t n = 0; n < 6; n++) { // before, in the place of its own, after
        const DataSettings settings = {.path = out[1], .split = splits[n % 2], .batch = 1, .tokens = 16, .seed = 1};
        const bool mixed = n / 2 == 1;
        char aside[PATH + 40];
        Error error = {0};
        snprintf(from, sizeof from, "%s/%s", out[0], names[n % 2]);
        snprintf(to, sizeof to, "%s/%s", out[1], names[n % 2]);
        snprintf(aside, sizeof aside, "%s.aside", to);
        if (mixed) assert_true(rename(to, aside) == 0 && link(from, to) == 0);
        Loader *loader = loader_open(&settings, &error);
        if ((loader == NULL) != mixed) fail_msg("case %zu: %s", n, mixed ? "accepted" : error.message);
        if (mixed) {
            assert_true(error.kind == ERROR_CORRUPT && strstr(error.message, to) && strstr(error.message, "meta.json"));
            assert_int_equal(rename(aside, to), 0);
        } else {
            loader_close(loader);
        }
        check_count("shards of one folder or two", 1);
    }
}

static void change_in_file(const char *path, const char *from, const char *to) {
    size_t size;
    char *text = file_read_all(path, 1 << 20, &size, NULL);
    assert_non_null(text);
    for (char *at = text; (at = strstr(at, from)); at += strlen(to)) memcpy(at, to, strlen(to));
    write_file(path, text, size);
    free(text);
}

static PrepareResult described(const char *path, const char *split) {
    const DataSettings settings = {.path = path, .split = split, .batch = 1, .tokens = 16};
    Error error = {0};
    Loader *loader = loader_open(&settings, &error);
    if (!loader) fail_msg("%s", error.message);
    const PrepareResult meta = *loader_meta(loader);
    loader_close(loader);
    check_count("what meta.json says of shards", 1);
    return meta;
}

// What meta.json says is said of its own shards alone: its bits per byte are nobody else's. Its tokenizer is the only one
// that may lie beside it.
static void test_described(void **state) {
    (void)state;
    const PrepareResult nothing = {0};
    char input[PATH], out[PATH], paths[5][PATH + 32];
    static const char *const names[] = {"val.bin", "val_2.bin", "train.bin", "meta.json", "tokenizer.model"};
    size_t size = 20000;
    char *text = make_text(0, &size, "\n");
    in_directory(input, "described.txt");
    in_directory(out, "described");
    for (size_t i = 0; i < 5; i++) snprintf(paths[i], sizeof paths[i], "%s/%s", out, names[i]);
    write_file(input, text, size);
    free(text);
    const char *inputs[] = {input}, *val = paths[0], *second = paths[1], *train = paths[2], *json = paths[3],
               *tokenizer = paths[4];
    const PrepareSettings settings = settings_for(inputs, 1, out, "char");
    PrepareResult result;
    Error error = {0};
    if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
    for (size_t i = 0; i < 2; i++) {
        const PrepareResult meta = described(out, i ? "val" : "train");
        check_same_result(&meta, &result);
    }
    PrepareResult meta = described(val, "val"); // named itself
    check_same_result(&meta, &result);
    assert_int_equal(link(val, second), 0);
    meta = described(out, "val");
    check_same_result(&meta, &nothing);
    assert_int_equal(described(out, "train").val_tokens, result.val_tokens);
    assert_int_equal(unlink(second), 0);

    int file = open(val, O_WRONLY); // as llm.c writes it, without checksums
    char old[12];
    const int again = open(val, O_RDONLY);
    assert_true(pread(again, old, sizeof old, 12) == 12 && pwrite(file, (char[12]){0}, 12, 12) == 12);
    meta = described(out, "val");
    check_same_result(&meta, &nothing);
    assert_int_equal(pwrite(file, old, sizeof old, 12), 12);
    close(file);
    close(again);

    // Another tokenizer's tokens mean something else.
    file = open(tokenizer, O_RDWR | O_APPEND);
    assert_int_equal(write(file, "\n", 1), 1);
    const DataSettings loading = {.path = out, .split = "val", .batch = 1, .tokens = 16};
    assert_null(loader_open(&loading, &error));
    assert_true(error.kind == ERROR_CORRUPT && strstr(error.message, tokenizer));
    char copy[PATH + 32]; // a shard of another name beside it has tokens of which tokenizer?
    snprintf(copy, sizeof copy, "%s/copy.bin", out);
    assert_int_equal(link(val, copy), 0);
    const char *const alone[] = {val, copy};
    for (size_t i = 0; i < 2; i++) {
        const DataSettings shard = {.path = alone[i], .split = "val", .batch = 1, .tokens = 16};
        error_clear(&error);
        assert_null(loader_open(&shard, &error));
        assert_true(error.kind == ERROR_CORRUPT && strstr(error.message, tokenizer));
    }
    // A meta.json of another kind is nobody's, but not beside the names of prepare's shards.
    char kept[PATH + 32], unfinished[PATH + 32], here[PATH];
    snprintf(kept, sizeof kept, "%s/kept.json", out);
    snprintf(unfinished, sizeof unfinished, "%s/meta.json.new", out);
    assert_int_equal(rename(json, kept), 0);
    write_file(json, "{}", 2);
    assert_int_equal(described(copy, "val").val_tokens, 0);
    assert_true(getcwd(here, sizeof here) && chdir(out) == 0);
    assert_int_equal(described("copy.bin", "val").val_tokens, 0);
    assert_int_equal(rename(json, unfinished), 0); // half prepared
    assert_int_equal(described("copy.bin", "val").val_tokens, 0);
    const DataSettings half = {.path = "val.bin", .split = "val", .batch = 1, .tokens = 16};
    error_clear(&error);
    assert_null(loader_open(&half, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "was stopped there"));
    assert_true(chdir(here) == 0 && unlink(unfinished) == 0 && rename(kept, json) == 0);
    change_in_file(json, "crc32", "other"); // as before there were checksums: the number of tokens must do
    assert_int_equal(described(out, "val").val_tokens, result.val_tokens);
    assert_int_equal(described(copy, "val").val_tokens, 0);
    assert_true(unlink(val) == 0 && link(train, val) == 0);
    meta = described(out, "val");
    check_same_result(&meta, &nothing);
    change_in_file(json, "other", "crc32");
    assert_true(unlink(tokenizer) == 0 && mkdir(tokenizer, 0777) == 0);
    error_clear(&error);
    assert_null(loader_open(&loading, &error));
    assert_true(error.kind == ERROR_SYSTEM && strstr(error.message, tokenizer));
    assert_int_equal(rmdir(tokenizer), 0);
    assert_int_equal(described(out, "train").train_tokens, result.train_tokens);
    close(file);
}

// Texts that prepare would write over or delete, by that name or through a link, stay as they are.
static void test_own_names(void **state) {
    (void)state;
    static const char *const names[] = {"train.bin",     "val.bin",     "tokenizer.model",     "meta.json",
                                        "train.bin.new", "val.bin.new", "tokenizer.model.new", "meta.json.new",
                                        "tokenizer.model.new.tmp", "meta.json.new.tmp"};
    char out[PATH], path[PATH + 32], link[PATH], text[2000], kept[2001];
    in_directory(out, "own");
    in_directory(link, "link");
    assert_int_equal(mkdir(out, 0777), 0);
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 40 == 39 ? '\n' : (char)('a' + i % 7);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", out, names[i]);
        write_file(path, text, sizeof text);
        assert_int_equal(symlink(path, link), 0);
        for (size_t linked = 0; linked < 2; linked++) {
            const char *inputs[] = {linked ? link : path};
            PrepareSettings settings = settings_for(inputs, 1, out, "char");
            expect_message(&settings, ERROR_USER, "is one of the texts, and would be written over");
            check_count("texts of the names that prepare writes", 1);
            FILE *file = fopen(path, "rb");
            assert_non_null(file);
            assert_int_equal(fread(kept, 1, sizeof kept, file), sizeof text);
            assert_memory_equal(kept, text, sizeof text);
            fclose(file);
        }
        assert_true(unlink(path) == 0 && unlink(link) == 0);
    }
    in_directory(path, "once.txt");
    write_file(path, text, sizeof text);
    assert_int_equal(symlink(path, link), 0);
    for (size_t linked = 0; linked < 2; linked++) {
        const char *inputs[] = {path, linked ? link : path};
        PrepareSettings settings = settings_for(inputs, 2, out, "char");
        expect_refused(&settings, ERROR_USER, "is there twice");
    }
    const int saved = dup(STDIN_FILENO), opened = open(path, O_RDONLY); // nor as what is read only once
    assert_true(saved >= 0 && dup2(opened, STDIN_FILENO) == STDIN_FILENO);
    static const char *const ways[] = {"-", "/dev/stdin"};
    for (size_t i = 0; i < 3; i++) {
        const char *inputs[] = {i == 2 ? "/dev/stdin" : path, ways[i % 2]};
        PrepareSettings settings = settings_for(inputs, 2, out, "char");
        expect_refused(&settings, ERROR_USER, "is there twice");
    }
    dup2(saved, STDIN_FILENO);
    close(saved);
    close(opened);
}

// What says that it is empty, and is not.
static void test_sizes_that_lie(void **state) {
    (void)state;
    const char *paths[] = {"/proc/version", "/proc/self/limits"};
    Error error = {0};
    for (size_t i = 0; i < 2; i++) {
        size_t size;
        char *expected = file_read_all(paths[i], 1 << 16, &size, NULL), read[1 << 16];
        if (!expected) continue; // no such file system
        Text *text = text_open(&paths[i], 1, directory, &error);
        if (!text) fail_msg("%s", error.message);
        assert_int_equal(text_size(text), size);
        assert_true(size > 0 && text_read(text, 0, read, size, &error));
        check_same_bits("files of /proc", read, expected, size);
        text_close(text);
        free(expected);
    }
}

// A preparation that was stopped among its renames has left the next meta.json under its first name, and no other.
static void test_stopped(void **state) {
    (void)state;
    char input[PATH], text[2000], out[PATH], path[PATH + 32];
    in_directory(input, "stopped.txt");
    in_directory(out, "stopped");
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 40 == 39 ? '\n' : (char)('a' + i % 7);
    write_file(input, text, sizeof text);
    const char *inputs[] = {input};
    PrepareSettings settings = settings_for(inputs, 1, out, "char");
    PrepareResult result;
    Error error = {0};
    if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
    for (size_t split = 0; split < 2; split++) {
        DataSettings loading = {.path = out, .split = split ? "val" : "train", .batch = 1, .tokens = 8};
        for (size_t stopped = 0; stopped < 3; stopped++) { // meta.json: there, beside the next one, replaced by it
            char meta[PATH + 32];
            snprintf(path, sizeof path, "%s/meta.json.new", out);
            snprintf(meta, sizeof meta, "%s/meta.json", out);
            if (stopped == 1) write_file(path, "{}", 2);
            if (stopped == 2) assert_int_equal(rename(meta, path), 0);
            error_clear(&error);
            Loader *loader = loader_open(&loading, &error);
            PrepareResult read;
            if (stopped < 2) {
                if (!loader) fail_msg("%s", error.message);
                loader_close(loader);
                assert_true(data_read_meta(out, &read, &error));
            } else {
                assert_null(loader);
                assert_int_equal(error.kind, ERROR_USER);
                assert_non_null(strstr(error.message, out));
                error_clear(&error);
                assert_false(data_read_meta(out, &read, &error));
                assert_non_null(strstr(error.message, "stopped"));
                assert_int_equal(rename(path, meta), 0);
            }
            check_count("states of a folder", 1);
        }
    }
    snprintf(path, sizeof path, "%s/meta.json.new", out); // an unfinished one is prepared again
    char meta[PATH + 32];
    snprintf(meta, sizeof meta, "%s/meta.json", out);
    assert_int_equal(rename(meta, path), 0);
    if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
    check_prepared(out, text, sizeof text, &result, false);
    assert_int_not_equal(access(path, F_OK), 0);
    snprintf(path, sizeof path, "%s/meta.json", out); // without either, shards were made elsewhere, which is fine
    assert_int_equal(unlink(path), 0);
    DataSettings loading = {.path = out, .split = "train", .batch = 1, .tokens = 8};
    error_clear(&error);
    Loader *loader = loader_open(&loading, &error);
    if (!loader) fail_msg("%s", error.message);
    loader_close(loader);
    check_count("states of a folder", 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(test_changing_texts, new_directory),
    cmocka_unit_test_setup(test_refusals, new_directory),
    cmocka_unit_test_setup(test_meta_refusals, new_directory),
    cmocka_unit_test_setup(test_other_shards, new_directory),
    cmocka_unit_test_setup(test_shard_of_other_data, new_directory),
    cmocka_unit_test_setup(test_described, new_directory),
    cmocka_unit_test_setup(test_own_names, new_directory),
    cmocka_unit_test_setup(test_sizes_that_lie, new_directory),
    cmocka_unit_test_setup(test_stopped, new_directory),
};
TEST_MAIN(tests)
