// The ground floor: errors, arenas, threads, phases. The rest of core/ has test programs of its own.
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/clock.h"
#include "core/cpu.h"
#include "core/random.h"
#include "core/threads.h"
#include "tests/support/check.h"

static void test_error_first_cause_wins(void **state) {
    (void)state;
    Error error = {0};
    assert_false(error_set(&error, ERROR_USER, "no %s at %d", "key", 7));
    assert_int_equal(error_exit_code(&error), 2);
    error_set(&error, ERROR_CORRUPT, "later");
    assert_int_equal(error.kind, ERROR_USER);
    assert_string_equal(error.message, "no key at 7");
    error_context(&error, "run.ini:%d", 3);
    assert_string_equal(error.message, "run.ini:3: no key at 7");
    error_clear(&error);
    assert_int_equal(error_exit_code(&error), 0);
    error_context(&error, "nothing to put this in front of");
    assert_string_equal(error.message, "");

    errno = ENOSPC;
    assert_false(error_errno(&error, "Cannot write %s", "a/b"));
    assert_string_equal(error.message, "Cannot write a/b: No space left on device");
    assert_int_equal(error.kind, ERROR_SYSTEM);
    assert_int_equal(errno, ENOSPC);
    error_clear(&error);
    errno = ENOMEM;
    error_errno(&error, "x");
    assert_int_equal(error.kind, ERROR_MEMORY);
    assert_int_equal(error_exit_code(&error), 1);
    error_set(NULL, ERROR_USER, "nobody listens");
    check_count("errors", 12);
}

static void test_error_long_messages_are_cut(void **state) {
    (void)state;
    char path[3000];
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    Error error = {0};
    error_set(&error, ERROR_USER, "%s", path);
    assert_int_equal(strlen(error.message), sizeof error.message - 1);
    assert_string_equal(error.message + sizeof error.message - 4, "...");
    error_context(&error, "%s", path);
    assert_int_equal(strlen(error.message), sizeof error.message - 1);
    error_clear(&error);
    errno = EIO;
    error_errno(&error, "%s", path); // the path is cut, its cause is not
    assert_non_null(strstr(error.message, "...: Input/output error"));
    check_count("errors", 3);
}

static void test_require_aborts(void **state) {
    (void)state;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(3);
        REQUIRE(1 + 1 == 2);
        REQUIRE(1 + 1 == 3);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    check_count("errors", 1);
}

// A layout as the model has them: the same calls on a measuring and on a real arena.
static void lay_out(Arena *arena, Random random, void **taken, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t mark = arena_mark(arena);
        taken[i] = arena_take(arena, random_below(random, 3 * i, 5000), 1 + random_below(random, 3 * i + 1, 24));
        if (random_below(random, 3 * i + 2, 4) == 0) arena_release(arena, mark);
    }
}

static void test_arena_measures_what_it_takes(void **state) {
    (void)state;
    enum { BLOCKS = 40, LAYOUTS = 200 };
    for (size_t layout = 0; layout < LAYOUTS; layout++) {
        Random random = {.seed = layout, .stream = RANDOM_TEST};
        void *taken[BLOCKS];
        Arena measured = arena_measure("measured"), real_one;
        lay_out(&measured, random, taken, BLOCKS);
        for (size_t i = 0; i < BLOCKS; i++) assert_null(taken[i]);
        assert_true(arena_create(&real_one, "real", measured.peak, NULL));
        lay_out(&real_one, random, taken, BLOCKS);
        for (size_t i = 0; i < BLOCKS; i++) {
            assert_int_equal((uintptr_t)taken[i] % ARENA_ALIGNMENT, 0);
            assert_in_range((unsigned char *)taken[i] - real_one.base, 0, real_one.capacity);
        }
        assert_int_equal(real_one.used, measured.used);
        assert_int_equal(real_one.peak, measured.peak);
        assert_int_equal(real_one.capacity, measured.peak);
        arena_destroy(&real_one);
    }
    check_count("arena blocks", LAYOUTS * BLOCKS);
}

static void test_arena_is_zeroed_and_disjoint(void **state) {
    (void)state;
    const size_t sizes[] = {1, 63, 64, 65, 4096, 3 << 20, 0, 7}; // one above the huge page threshold
    enum { COUNT = sizeof sizes / sizeof *sizes };
    Arena measured = arena_measure("m"), arena;
    for (size_t i = 0; i < COUNT; i++) arena_take(&measured, sizes[i], 1);
    assert_true(arena_create(&arena, "a", measured.used, NULL));
    unsigned char *blocks[COUNT];
    size_t zeros = 0;
    for (size_t i = 0; i < COUNT; i++) {
        blocks[i] = ARENA_TAKE(&arena, unsigned char, sizes[i]);
        for (size_t j = 0; j < sizes[i]; j++) zeros += blocks[i][j] == 0;
        if (sizes[i]) memset(blocks[i], (int)i + 1, sizes[i]);
    }
    size_t kept = 0, total = 0;
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t j = 0; j < sizes[i]; j++) kept += blocks[i][j] == i + 1;
        total += sizes[i];
    }
    assert_int_equal(zeros, total);
    assert_int_equal(kept, total);
    check_count("arena bytes", total);
    arena_destroy(&arena);
    assert_true(arena_create(&arena, "empty", 0, NULL));
    assert_non_null(arena.base);
    arena_destroy(&arena);
}

static void test_arena_refuses_what_wraps(void **state) {
    (void)state;
    const size_t hostile[][2] = {{SIZE_MAX, 2},        {SIZE_MAX / 2 + 1, 2}, {(size_t)1 << 32, (size_t)1 << 32},
                                 {SIZE_MAX, 1},        {SIZE_MAX - 62, 1},    {SIZE_MAX / 4, 4},
                                 {(size_t)1 << 62, 1}, {SIZE_MAX / 2, 1}};
    enum { COUNT = sizeof hostile / sizeof *hostile };
    for (size_t i = 0; i < COUNT; i++) {
        Arena measured = arena_measure("hostile"), arena;
        arena_take(&measured, 100, 1);
        size_t mark = arena_mark(&measured);
        arena_take(&measured, hostile[i][0], hostile[i][1]);
        bool wrapped = measured.overflowed;
        arena_take(&measured, 10, 10); // more after it must not make it small again
        if (wrapped) arena_release(&measured, mark);
        Error error = {0};
        assert_false(arena_create(&arena, "hostile", measured.used, &error));
        assert_int_equal(error.kind, ERROR_MEMORY);
        assert_non_null(strstr(error.message, "hostile"));
    }
    size_t product;
    assert_false(size_multiply(SIZE_MAX, 2, &product));
    assert_true(size_multiply(SIZE_MAX, 1, &product) && product == SIZE_MAX);
    assert_false(size_add(SIZE_MAX, 1, &product));
    assert_true(size_add(SIZE_MAX - 1, 1, &product) && product == SIZE_MAX);
    check_count("sizes refused", COUNT + 2);
}

static void test_threads(void **state) {
    (void)state;
    size_t before = threads_count();
    for (size_t count = 1; count <= 8; count++) {
        threads_set(count);
        assert_int_equal(threads_count(), count);
        size_t seen[8] = {0};
#pragma omp parallel num_threads((int)count)
        seen[threads_here()]++;
        for (size_t i = 0; i < count; i++) assert_int_equal(seen[i], 1);
    }
    setenv("OMP_NUM_THREADS", "3,2", 1);
    threads_set(0);
    assert_int_equal(threads_count(), 3);
    unsetenv("OMP_NUM_THREADS");
    threads_set(0);
    CpuInfo info;
    cpu_info(&info);
    assert_int_equal(threads_count(), info.cores);
    threads_set(before);
    check_count("thread counts", 10);
}

static void test_sum_pairwise(void **state) {
    (void)state;
    enum { MOST = 10000 };
    static double values[MOST];
    Random random = {.seed = 5, .stream = RANDOM_TEST};
    for (size_t i = 0; i < MOST; i++)
        values[i] = ldexp(random_normal(random, i), (int)random_below(random, MOST + i, 40));
    size_t cases = 0;
    for (size_t count = 0; count <= MOST; count = count < 200 ? count + 1 : count * 3 / 2, cases++) {
        long double exact = 0, magnitude = 0;
        for (size_t i = 0; i < count; i++) exact += values[i], magnitude += fabsl((long double)values[i]);
        double first = sum_pairwise(values, count), error = fabs((double)(first - exact));
        assert_true(error <= (32 + 10) * 0x1p-53 * (double)magnitude);
        double again[4];
#pragma omp parallel for num_threads(4)
        for (int i = 0; i < 4; i++) again[i] = sum_pairwise(values, count);
        for (int i = 0; i < 4; i++) assert_memory_equal(&again[i], &first, sizeof first);
    }
    check_count("pairwise sums", cases);
}

static void burn(double seconds) {
    double end = clock_seconds() + seconds;
    while (clock_seconds() < end) continue;
}

static void test_phases_add_up(void **state) {
    (void)state;
    PhaseTimes times;
    phase_enter(PHASE_OTHER);
    phase_take(&times);
    double start = clock_seconds();
    assert_int_equal(phase_enter(PHASE_PROJECTION), PHASE_OTHER);
    burn(0.02);
    phase_count(100, 7);
    assert_int_equal(phase_enter(PHASE_ATTENTION_FORWARD), PHASE_PROJECTION); // nested: comes back to projection
    burn(0.01);
    phase_count(50, 3);
    assert_int_equal(phase_enter(PHASE_PROJECTION), PHASE_ATTENTION_FORWARD);
    burn(0.01);
    phase_count(11, 1);
    phase_enter(PHASE_OTHER);
    phase_take(&times);
    double whole = clock_seconds() - start, sum = 0;
    for (size_t i = 0; i < PHASE_COUNT; i++) sum += times.seconds[i];
    assert_true(fabs(sum - whole) < 1e-3);
    assert_true(times.seconds[PHASE_PROJECTION] >= 0.03 && times.seconds[PHASE_ATTENTION_FORWARD] >= 0.01);
    assert_true(times.flops[PHASE_PROJECTION] == 111 && times.bytes[PHASE_PROJECTION] == 8);
    assert_true(times.flops[PHASE_ATTENTION_FORWARD] == 50 && times.bytes[PHASE_ATTENTION_FORWARD] == 3);
    phase_take(&times); // was reset
    assert_true(times.flops[PHASE_PROJECTION] == 0 && times.seconds[PHASE_PROJECTION] == 0);
    for (size_t i = 0; i < PHASE_COUNT; i++)
        for (size_t j = 0; j < i; j++) assert_string_not_equal(phase_name((Phase)i), phase_name((Phase)j));
    assert_string_equal(phase_name(PHASE_ATTENTION_FORWARD), "attention_forward");
    check_count("phases", PHASE_COUNT);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_error_first_cause_wins),
    cmocka_unit_test(test_error_long_messages_are_cut),
    cmocka_unit_test(test_require_aborts),
    cmocka_unit_test(test_arena_measures_what_it_takes),
    cmocka_unit_test(test_arena_is_zeroed_and_disjoint),
    cmocka_unit_test(test_arena_refuses_what_wraps),
    cmocka_unit_test(test_threads),
    cmocka_unit_test(test_sum_pairwise),
    cmocka_unit_test(test_phases_add_up),
};

TEST_MAIN(tests)
