// Shards, the loader and `rope prepare` when memory, files or disk fail at any one call: what is read is what was written,
// what is left is whole or refused, and an old folder stays as it is until a new one can take its place.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "data/data.h"
#include "data/meta.h"
#include "data/shards.h"
#include "data/text.h"
#include "data/tokenizer.h"
#include "tests/failing/calls.h"
#include "tests/support/check.h"

enum { PATH = 512, IDS = 150000, VOCABULARY = 70000, TOKENS = 64, BATCH = 3 }; // more than the writer's buffer holds

typedef struct Case {
    const char *directory;
    char shard[PATH], text[PATH], tokenizer[PATH];
    int32_t *ids, *read; // (IDS)
    bool names_fail;     // then what is left over cannot be removed either
    bool nameless;       // the file system makes files without a name
    size_t copies;       // that went well
} Case;

static void set_up(Case *c) {
    *c = (Case){.directory = temporary_directory(),
                .ids = malloc(IDS * sizeof(int32_t)),
                .read = malloc(IDS * sizeof(int32_t))};
    assert_true(c->ids && c->read);
    for (int32_t i = 0; i < IDS; i++) c->ids[i] = (int32_t)((int64_t)i * 31 % VOCABULARY);
    snprintf(c->shard, PATH, "%s/train.bin", c->directory);
    const int nameless = open(c->directory, O_RDWR | O_TMPFILE, 0666);
    c->nameless = nameless >= 0;
    if (c->nameless) close(nameless);
}

static void tear_down(Case *c) {
    free(c->ids);
    free(c->read);
}

static void check_works(bool good, const Error *error) {
    if (!good) fail_msg("%s", error->message);
}

// ---- shards ----------------------------------------------------------------------------------------------------------

static void no_shard(void *context) { unlink(((Case *)context)->shard); }

static bool write_shard(void *context, Error *error) {
    const Case *c = context;
    uint64_t count;
    uint32_t crc;
    ShardWriter *writer = shard_create(c->shard, VOCABULARY, error);
    if (!writer) return false;
    for (size_t done = 0; done < IDS; done += IDS / 3)
        if (!shard_append(writer, c->ids + done, IDS / 3, error)) {
            assert_false(shard_append(writer, c->ids, 1, NULL) || shard_finish(writer, &count, &crc, NULL));
            return false; // it stays failed
        }
    return shard_finish(writer, &count, &crc, error);
}

static bool read_shard(void *context, Error *error) {
    const Case *c = context;
    Shard shard;
    if (!shard_open(&shard, c->shard, error)) return false;
    const bool good = shard_read(&shard, 0, IDS, VOCABULARY, c->read, error);
    shard_close(&shard);
    return good;
}

static void same_ids(void *context, bool good, const Error *error) {
    const Case *c = context;
    (void)error;
    if (good) check_same_bits("ids that came through", c->read, c->ids, IDS * sizeof *c->ids);
}

static void shard_whole_or_refused(void *context, bool good, const Error *error) {
    (void)error;
    Error why = {0};
    const bool whole = read_shard(context, &why);
    if (good) check_works(whole, &why);
    same_ids(context, whole, NULL);
}

static void test_shards(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    const Attempt writing = {"shards written under failures", no_shard, write_shard,
                             shard_whole_or_refused,          &c,       .named = c.shard};
    fail_each_call(&writing, CALL_MEMORY, ENOMEM);
    fail_each_call(&writing, CALL_DISK, EIO);
    fail_each_call(&writing, CALL_WRITE, ENOSPC);
    interrupt_each_call(&writing, CALL_OPEN | CALL_WRITE | CALL_SYNC | CALL_CLOSE);
    check_works(write_shard(&c, &error), &error);
    const Attempt reading = {"shards read under failures", NULL, read_shard, same_ids, &c, .named = c.shard};
    fail_each_call(&reading, CALL_MEMORY, ENOMEM);
    fail_each_call(&reading, CALL_OPEN | CALL_READ | CALL_STATUS, EIO);
    interrupt_each_call(&reading, CALL_READ);
    tear_down(&c);
}

// What is no file is refused as the user's mistake, whichever way it is there.
static void test_other_files(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    char absent[PATH + 8];
    snprintf(absent, sizeof absent, "%s/absent", c.shard);
    const char *const paths[] = {c.shard, c.directory, "/dev/null"}, *const words[] = {"no such", "regular", "regular"};
    for (size_t i = 0; i < 3; i++) {
        Error error = {0};
        Shard shard;
        assert_false(shard_open(&shard, paths[i], &error));
        if (error.kind != ERROR_USER || !strstr(error.message, paths[i]) || !strstr(error.message, words[i]))
            fail_msg("%s: %s", paths[i], error.message);
    }
    check_count("files that are no shards", 3);
    shard_abandon(NULL); // as free
    loader_close(NULL);
    tear_down(&c);
}

// ---- the loader ------------------------------------------------------------------------------------------------------

static void write_folder(Case *c) {
    Error error = {0};
    static const char *const names[] = {"train.bin", "train_the_second.bin"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(c->shard, PATH, "%s/%s", c->directory, names[i]);
        check_works(write_shard(c, &error), &error);
    }
}

static bool load(void *context, Error *error) {
    const Case *c = context;
    const DataSettings settings = {
        .path = c->directory, .split = "train", .batch = BATCH, .tokens = TOKENS, .vocabulary = VOCABULARY};
    Loader *loader = loader_open(&settings, error);
    if (!loader) return false;
    assert_int_equal(loader_tokens(loader), 2 * IDS);
    const bool good = loader_next(loader, c->read, c->read + BATCH * TOKENS, error);
    // after a failure the batch is still to be served
    assert_int_equal(loader_position(loader).window, good ? BATCH : 0);
    loader_close(loader);
    return good;
}

static void same_batch(void *context, bool good, const Error *error) {
    const Case *c = context;
    (void)error;
    if (!good) return;
    check_same_bits("tokens that came through", c->read, c->ids, BATCH * TOKENS * sizeof *c->ids);
    check_same_bits("targets that came through", c->read + BATCH * TOKENS, c->ids + 1, BATCH * TOKENS * sizeof *c->ids);
}

static void test_loader(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    write_folder(&c);
    Attempt attempt = {"batches loaded under failures", NULL, load, same_batch, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_OPEN | CALL_READ | CALL_LIST, EIO);
    interrupt_each_call(&attempt, CALL_READ);
    attempt.or_kind = ERROR_USER; // the folder that the settings name
    fail_each_call(&attempt, CALL_STATUS, EIO);
    tear_down(&c);
}

// ---- prepare ---------------------------------------------------------------------------------------------------------

static const char *const outputs[] = {"tokenizer.model", "train.bin", "val.bin", "meta.json"};
enum { OUTPUTS = sizeof outputs / sizeof *outputs };

static const char *in_out(const Case *c, const char *name) {
    static char path[2 * PATH];
    snprintf(path, sizeof path, "%s/out/%s", c->directory, name);
    return path;
}

static PrepareSettings settings_of(const Case *c, const char *const *input, char out[PATH]) {
    snprintf(out, PATH, "%s/out", c->directory);
    return (PrepareSettings){.inputs = input,
                             .input_count = 1,
                             .out = out,
                             .type = "char",
                             .vocabulary = 300,
                             .validation_share = 0.2,
                             .tokenizer = *c->tokenizer ? c->tokenizer : NULL,
                             .quiet = true};
}

static bool prepare(void *context, Error *error) {
    const Case *c = context;
    const char *input = c->text;
    char out[PATH];
    PrepareResult result;
    const PrepareSettings settings = settings_of(c, &input, out);
    return data_prepare(&settings, &result, error);
}

static void write_text(const Case *c, const char *line) {
    char text[4000] = "";
    while (strlen(text) + strlen(line) < sizeof text) strcat(text, line);
    check_write_file(c->text, text, strlen(text));
}

// A folder with an older text, prepared.
static void prepared_before(void *context) {
    Case *c = context;
    Error error = {0};
    char out[PATH];
    snprintf(out, sizeof out, "%s/out", c->directory);
    assert_true(directory_remove(out, NULL));
    write_text(c, "ships sailed for days\n");
    check_works(prepare(c, &error), &error);
    write_text(c, "the hares ran, and the foxes ran behind them\n");
}

// The whole of one text: of the old one, if it failed, or of the new one; or it is refused, and can be made again.
static void one_text(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    Error why = {0};
    PrepareResult meta;
    char out[PATH];
    snprintf(out, sizeof out, "%s/out", c->directory);
    for (size_t i = 0; i < OUTPUTS - 1 && !c->names_fail; i++) {
        char name[PATH];
        snprintf(name, sizeof name, "%s.new", outputs[i]);
        if (access(in_out(c, name), F_OK) == 0) fail_msg("%s is left over", name);
    }
    if (!data_read_meta(out, &meta, &why)) {
        assert_false(good);
        error_clear(&why);
        check_works(prepare(c, &why) && data_read_meta(out, &meta, &why), &why);
    }
    const DataSettings settings = {
        .path = out, .split = "train", .batch = 1, .tokens = 8, .vocabulary = meta.vocabulary};
    Loader *loader = loader_open(&settings, &why);
    check_works(loader != NULL, &why);
    assert_int_equal(loader_tokens(loader), meta.train_tokens);
    loader_close(loader);
}

static bool read_meta(void *context, Error *error) {
    const Case *c = context;
    char out[PATH];
    PrepareResult meta;
    snprintf(out, sizeof out, "%s/out", c->directory);
    const bool good = data_read_meta(out, &meta, error);
    if (good) assert_true(meta.vocabulary > 260 && meta.train_tokens > meta.val_tokens);
    return good;
}

static void anything(void *context, bool good, const Error *error) { (void)context, (void)good, (void)error; }

static void test_prepare(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    snprintf(c.text, PATH, "%s/text", c.directory);
    write_text(&c, "the hares and the foxes, ships and days, sailed and ran\n");
    check_works(prepare(&c, &error), &error);
    snprintf(c.tokenizer, PATH, "%s/given", c.directory);
    assert_int_equal(rename(in_out(&c, "tokenizer.model"), c.tokenizer), 0);
    Attempt attempt = {"texts prepared under failures", prepared_before, prepare, one_text, &c, .stride = 5};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    attempt.named = "/"; // the text, the tokenizer, the folder or one above it
    attempt.stride = 1;
    fail_each_call(&attempt, CALL_DISK & ~CALL_STATUS & ~CALL_NAME, EIO);
    c.names_fail = true;
    fail_each_call(&attempt, CALL_NAME, EIO);
    check_works(prepare(&c, &error), &error);
    const Attempt reading = {"meta.json read under failures", NULL, read_meta, anything, &c, .named = "meta.json"};
    fail_each_call(&reading, CALL_MEMORY, ENOMEM);
    fail_each_call(&reading, CALL_OPEN | CALL_READ, EIO);
    tear_down(&c);
}

// ---- what cannot be read twice --------------------------------------------------------------------------------------

static bool open_device(void *context, Error *error) {
    const Case *c = context;
    const char *device = "/dev/null"; // no plain file, so it is copied
    Text *text = text_open(&device, 1, c->directory, error);
    text_close(text);
    return text != NULL;
}

// A copy has no name, at no moment: nothing is left wherever the attempt ended. Where the file system needs a name for a
// moment, what fails right then may leave it, and it is in nobody's way.
static void no_copy(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    for (size_t i = 0; i < 2; i++) {
        char path[2 * PATH];
        struct stat status;
        snprintf(path, sizeof path, "%s/input.%zu.tmp", c->directory, i);
        if (lstat(path, &status) != 0 || S_ISLNK(status.st_mode)) continue;
        if (good || c->nameless) fail_msg("%s is left over", path);
        assert_int_equal(unlink(path), 0);
    }
    c->copies += good;
}

static void test_copies(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    check_works(open_device(&c, &error), &error);
    const Attempt attempt = {"copies of an input under failures", NULL, open_device, no_copy, &c, .named = "/"};
    fail_each_call(&attempt, CALL_DISK, EIO);
    tear_down(&c);
}

// File systems, and kernels, without nameless files: one more attempt goes well than with other errors, and not through
// somebody's link, nor into somebody's file.
static void test_copies_with_names(void **state) {
    (void)state;
    static const int unsupported[] = {EOPNOTSUPP, EISDIR};
    Case c;
    char victim[PATH], link[PATH];
    set_up(&c);
    snprintf(victim, PATH, "%s/victim.txt", c.directory);
    snprintf(link, PATH, "%s/input.0.tmp", c.directory);
    assert_true(file_write_atomic(victim, "theirs", 6, NULL) && symlink(victim, link) == 0);
    const Attempt attempt = {"copies of an input without nameless files", NULL, open_device, no_copy, &c, .named = "/"};
    fail_each_call(&attempt, CALL_OPEN, EIO);
    const size_t others = c.copies;
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        struct stat status;
        c.copies = 0;
        fail_each_call(&attempt, CALL_OPEN, unsupported[i]);
        if (c.nameless) assert_int_equal(c.copies, others + 1);
        assert_true(stat(victim, &status) == 0 && status.st_size == 6 && lstat(link, &status) == 0);
    }
    tear_down(&c);
}

// ---- paths that are too long -----------------------------------------------------------------------------------------

// The folder under so many slashes that the names in it pass the limit one by one, the longest first.
static void test_long_paths(void **state) {
    (void)state;
    enum { LIMIT = 4096 };
    Case c;
    set_up(&c);
    write_folder(&c);
    char path[LIMIT + 4];
    size_t loaded = 0, refused = 0;
    for (size_t length = LIMIT - 40; length < LIMIT; length++) {
        memset(path, '/', length);
        memcpy(path, c.directory, strlen(c.directory));
        path[length] = 0;
        const DataSettings settings = {.path = path, .split = "train", .batch = 1, .tokens = TOKENS};
        Error error = {0};
        PrepareResult meta;
        Loader *loader = loader_open(&settings, &error);
        if (loader)
            loaded++;
        else if (error.kind == ERROR_USER && strstr(error.message, "is too long."))
            refused++;
        else
            fail_msg("%zu characters: %s", length, error.message);
        loader_close(loader);
        error_clear(&error);
        assert_false(data_read_meta(path, &meta, &error));
        assert_int_equal(error.kind, ERROR_USER);
    }
    assert_true(loaded > 8 && refused > 8);
    check_count("paths around the limit", loaded + refused);
    tear_down(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_shards),     cmocka_unit_test(test_other_files), cmocka_unit_test(test_loader),
    cmocka_unit_test(test_prepare),    cmocka_unit_test(test_copies),      cmocka_unit_test(test_copies_with_names),
    cmocka_unit_test(test_long_paths),
};
TEST_MAIN(tests)
