// The tokenizer when memory, files, pipes or the child that trains fail at any one call of our own: what SentencePiece
// asks for itself is granted, which it would not survive being refused.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/files.h"
#include "data/tokenizer.h"
#include "tests/failing/calls.h"
#include "tests/support/check.h"

enum { PATH = 512 };

static const char text[] =
    "the hares and the foxes, ships and days, sailed and ran\nthe men and the hills, \xff\xfe and more\n"
    "the days and the ships\n";

typedef struct Case {
    const char *directory, *type;
    char path[PATH];
    Tokenizer *tokenizer;
    int32_t *ids;
    size_t count;
    char *decoded;
    size_t size;
    bool given;  // the text, to the trainer
    char *model; // as it was trained without failures
    size_t model_size;
} Case;

static bool next(void *context, const char **piece, size_t *size) {
    Case *c = context;
    *piece = text;
    *size = c->given ? 0 : sizeof text - 1;
    c->given = true;
    return true;
}

static bool train(void *context, Error *error) {
    Case *c = context;
    c->given = false;
    const TokenizerTraining training = {
        .type = c->type, .vocabulary = 290, .model_path = c->path, .next = next, .context = c, .sample_bytes = 1 << 20};
    return tokenizer_train(&training, error);
}

static void set_up(Case *c) {
    Error error = {0};
    *c = (Case){.directory = temporary_directory(), .type = "char"};
    snprintf(c->path, PATH, "%s/tokenizer.model", c->directory);
    if (!train(c, &error)) fail_msg("%s", error.message);
    c->model = file_read_all(c->path, 1 << 20, &c->model_size, &error);
    c->tokenizer = tokenizer_load(c->path, &error);
    if (!c->model || !c->tokenizer) fail_msg("%s", error.message);
}

static void tear_down(Case *c) {
    tokenizer_free(c->tokenizer);
    free(c->model);
}

// ---- loading ---------------------------------------------------------------------------------------------------------

static bool load(void *context, Error *error) {
    const Case *c = context;
    Tokenizer *tokenizer = tokenizer_load(c->path, error);
    if (tokenizer) assert_int_equal(tokenizer_vocabulary(tokenizer), tokenizer_vocabulary(c->tokenizer));
    tokenizer_free(tokenizer);
    return tokenizer != NULL;
}

static void anything(void *context, bool good, const Error *error) { (void)context, (void)good, (void)error; }

static void test_load(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    Attempt attempt = {"tokenizers loaded under failures", NULL, load, anything, &c, .named = c.path};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_OPEN | CALL_READ, EIO);
    interrupt_each_call(&attempt, CALL_READ);
    attempt.or_kind = ERROR_MEMORY; // where it is malloc that fails
    calls_throw_otherwise = true;
    fail_each_call(&attempt, CALL_MEMORY, 0);
    calls_throw_otherwise = false;
    tear_down(&c);
}

// ---- encoding and decoding -------------------------------------------------------------------------------------------

static bool encode(void *context, Error *error) {
    Case *c = context;
    return tokenizer_encode(c->tokenizer, text, sizeof text - 1, &c->ids, &c->count, error);
}

static void decodes(void *context, bool good, const Error *error) {
    Case *c = context;
    Error why = {0};
    (void)error;
    if (good != (c->ids != NULL) || (!good && c->count)) fail_msg("%zu ids after a failure", c->count);
    if (!good) return;
    char *back;
    size_t size;
    if (!tokenizer_decode(c->tokenizer, c->ids, c->count, &back, &size, &why)) fail_msg("%s", why.message);
    assert_int_equal(size, sizeof text - 1);
    check_same_bits("texts that came through", back, text, size);
    free(back);
    free(c->ids);
}

static bool decode(void *context, Error *error) {
    Case *c = context;
    return tokenizer_decode(c->tokenizer, c->ids, c->count, &c->decoded, &c->size, error);
}

static void same_text(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    assert_true(good == (c->decoded != NULL));
    if (!good) return;
    assert_int_equal(c->size, sizeof text - 1);
    check_same_bits("texts that came through", c->decoded, text, c->size);
    free(c->decoded);
}

static void test_encode(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    const Attempt encoding = {"texts encoded without memory", NULL, encode, decodes, &c, .named = NULL};
    fail_each_call(&encoding, CALL_MEMORY, ENOMEM);
    if (!encode(&c, &error)) fail_msg("%s", error.message);
    const Attempt decoding = {"texts decoded without memory", NULL, decode, same_text, &c, .named = NULL};
    fail_each_call(&decoding, CALL_MEMORY, ENOMEM);
    free(c.ids);
    tear_down(&c);
}

// ---- training --------------------------------------------------------------------------------------------------------

static void no_model(void *context) { unlink(((Case *)context)->path); }

// The model of an undisturbed training or none, nothing temporary, and no child that nobody waits for.
static void same_model(void *context, bool good, const Error *error) {
    const Case *c = context;
    char temporary[PATH + 8];
    Error why = {0};
    size_t size;
    (void)error;
    snprintf(temporary, sizeof temporary, "%s.tmp", c->path);
    assert_int_not_equal(access(temporary, F_OK), 0);
    char *model = file_read_all(c->path, 1 << 20, &size, &why);
    if (good && !model) fail_msg("%s", why.message);
    if (model && (size != c->model_size || memcmp(model, c->model, size))) fail_msg("another model");
    free(model);
    while (waitpid(-1, NULL, 0) > 0) fail_msg("a child is left");
}

static void test_train(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    Attempt attempt = {"tokenizers trained under failures", no_model, train, same_model, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_OPEN | CALL_READ | CALL_WRITE | CALL_SYNC | CALL_CLOSE, EIO);
    fail_each_call(&attempt, CALL_PROCESS, EAGAIN);
    interrupt_each_call(&attempt, CALL_READ | CALL_WRITE | CALL_SYNC | CALL_CLOSE | CALL_WAIT);
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    tear_down(&c);
}

// The child ends, and says nothing more.
static void test_child(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    Attempt attempt = {"tokenizers trained by failing children",
                       no_model,
                       train,
                       same_model,
                       &c,
                       .named = c.type,
                       .or_kind = ERROR_USER,
                       .in_child = true};
    fail_each_call(&attempt, CALL_BEGIN, EIO);
    fail_each_call(&attempt, CALL_WRITE, EIO);
    interrupt_each_call(&attempt, CALL_WRITE);
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    tear_down(&c);
}

// A program that ignores its children's ends leaves none to wait for.
static void test_ignored_child(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    no_model(&c);
    signal(SIGCHLD, SIG_IGN);
    if (!train(&c, &error)) fail_msg("%s", error.message);
    signal(SIGCHLD, SIG_DFL);
    same_model(&c, true, &error);
    check_count("tokenizers trained by ignored children", 1);
    tear_down(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_load),  cmocka_unit_test(test_encode),        cmocka_unit_test(test_train),
    cmocka_unit_test(test_child), cmocka_unit_test(test_ignored_child),
};
TEST_MAIN(tests)
