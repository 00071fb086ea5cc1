// JSON when memory runs out at any one allocation while a text is read: nothing, and the reason; no overrun and no leak.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/json_text.h"
#include "tests/failing/calls.h"
#include "tests/support/check.h"

enum { LONGEST = 300 };

typedef struct Case {
    char text[4 * LONGEST + 200];
    json_t *before; // put together while nothing was read
} Case;

static bool read_text(void *context, Error *error) {
    const Case *c = context;
    json_t *json = json_parse("FILE", "contents", c->text, strlen(c->text), error);
    if (json && !json_equal(json, c->before)) fail_msg("another document");
    json_decref(json);
    return json != NULL;
}

static void nothing_more(void *context, bool good, const Error *error) { (void)context, (void)good, (void)error; }

// Tokens of every length around those at which jansson's buffer grows.
static void test_reading(void **state) {
    (void)state;
    for (size_t length = 1; length < LONGEST; length += length < 40 ? 1 : 37) {
        Case c;
        char word[LONGEST + 1], number[20];
        memset(word, 'w', length);
        word[length] = 0;
        snprintf(number, sizeof number, "%.*s", (int)(length % 18 + 1), "123456789123456789");
        snprintf(c.text, sizeof c.text, "{\"%s\": [\"%s\", \"\\u00e4\\n\", {\"%s\": null}], \"n\": [%s, 0.5, true]}",
                 word, word, word, number);
        json_watch();
        c.before = json_loads(c.text, 0, NULL);
        assert_non_null(c.before);
        const Attempt attempt = {"texts read without memory", NULL, read_text, nothing_more, &c, .named = "FILE"};
        fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
        json_decref(c.before);
    }
}

static void test_broken(void **state) {
    (void)state;
    static const char *const texts[] = {"", "{", "[1,", "\"open", "{\"a\":1,\"a\":2}", "[1e999]", "\"\xff\"", "{} x"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Error error = {0};
        assert_null(json_parse("FILE", "contents", texts[i], strlen(texts[i]), &error));
        assert_true(error.kind == ERROR_CORRUPT && strstr(error.message, "FILE: contents: ") && json_whole());
        check_count("texts that are no JSON", 1);
    }
}

// Time that grew as the square of the length would be many minutes here: the alarm ends the program.
static void test_long_and_broken(void **state) {
    (void)state;
    enum { NUMBERS = 2000000, SECONDS = 120 };
    static char text[2 * NUMBERS + 1];
    Error error = {0};
    text[0] = '[';
    for (size_t i = 1; i < sizeof text; i++) text[i] = i % 2 ? '0' : ',';
    alarm(SECONDS);
    assert_null(json_parse("FILE", "contents", text, sizeof text, &error));
    alarm(0);
    assert_true(error.kind == ERROR_CORRUPT && json_whole());
    check_count("numbers of a list that is cut short", NUMBERS);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_reading),
    cmocka_unit_test(test_broken),
    cmocka_unit_test(test_long_and_broken),
};
TEST_MAIN(tests)
