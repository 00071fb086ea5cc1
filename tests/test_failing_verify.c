// rope verify's instances and their solutions when memory fails at any one call.
#include "tests/failing/calls.h"
#include "tests/support/check.h"
#include "train/verify.h"

typedef struct Case {
    Config config;
    Instance instance;
    AttentionSettings settings;
    const char *method;
    Answer answer;
} Case;

static bool create(void *context, Error *error) {
    Case *c = context;
    return instance_create(&c->instance, 40, 6, 1.0, 1, error);
}

static void destroy(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    if (good) instance_destroy(&c->instance);
}

static bool solve(void *context, Error *error) {
    Case *c = context;
    return instance_solve(&c->instance, attention_method_find(c->method), &c->settings, 1, &c->answer, error);
}

static void give_back(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    if (good) answer_destroy(&c->answer);
    assert_null(c->answer.o);
    assert_null(c->answer.gradient);
}

static void test_memory(void **state) {
    (void)state;
    static Case c;
    Error error = {0};
    config_defaults(&c.config);
    const Attempt instances = {.what = "instances under failures", .run = create, .after = destroy, .context = &c};
    fail_each_call(&instances, CALL_MEMORY, ENOMEM);
    if (!create(&c, &error)) fail_msg("%s", error.message);
    static const char *const methods[] = {"exact", "lowrank", "toeplitz"};
    for (size_t m = 0; m < 3; m++) {
        c.method = methods[m];
        c.settings = instance_settings(&c.instance, &c.config, m < 2, 2);
        const Attempt solutions = {.what = "solutions under failures", .run = solve, .after = give_back, .context = &c};
        fail_each_call(&solutions, CALL_MEMORY, ENOMEM);
    }
    instance_destroy(&c.instance);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory)};
TEST_MAIN(tests)
