// Random numbers: known answers of the generator, distributions, permutations, independence of threads.
#include <math.h>
#include <string.h>

#include <Random123/philox.h>

#include "core/random.h"
#include "core/threads.h"
#include "tests/support/check.h"

// Published known answers of philox4x32-10 (Random123, kat_vectors), by the library and through our counters and keys.
static void test_philox_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t fill;
        uint32_t words[4];
    } known[] = {{0x00000000, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
                 {0xffffffff, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}};
    for (size_t i = 0; i < 2; i++) {
        uint32_t fill = known[i].fill;
        const uint32_t *w = known[i].words;
        philox4x32_ctr_t out =
            philox4x32_R(10, (philox4x32_ctr_t){{fill, fill, fill, fill}}, (philox4x32_key_t){{fill, fill}});
        assert_memory_equal(out.v, w, sizeof known[i].words);
        uint64_t wide = fill | (uint64_t)fill << 32;
        Random random = {.seed = wide, .stream = 0, .step = wide};
        assert_int_equal(random_bits(random, wide), w[0]);
        uint64_t low = w[0] | (uint64_t)w[1] << 32, high = w[2] | (uint64_t)w[3] << 32;
        assert_true(random_uniform(random, wide) == (double)(low >> 11) * 0x1p-53);
        assert_int_equal(random_below(random, wide, (uint64_t)1 << 63), low >> 1);
        double normal =
            sqrt(-2 * log(1 - (double)(low >> 11) * 0x1p-53)) * cos(2 * M_PI * (double)(high >> 11) * 0x1p-53);
        assert_true(fabs(random_normal(random, wide) - normal) < 1e-14);
    }
    check_count("philox words", 8);
}

static void test_random_coordinates_matter(void **state) {
    (void)state;
    // Every coordinate, in every one of its 64 (32) bits, leads to another draw.
    Random base = {.seed = 42, .stream = RANDOM_INIT, .step = 9};
    uint64_t draws[1 + 64 * 3 + 32];
    size_t count = 0;
    draws[count++] = random_below(base, 77, UINT64_MAX);
    for (unsigned bit = 0; bit < 64; bit++) {
        Random seed = base, step = base, stream = base;
        seed.seed ^= (uint64_t)1 << bit;
        step.step ^= (uint64_t)1 << bit;
        draws[count++] = random_below(seed, 77, UINT64_MAX);
        draws[count++] = random_below(step, 77, UINT64_MAX);
        draws[count++] = random_below(base, 77 ^ (uint64_t)1 << bit, UINT64_MAX);
        if (bit >= 32) continue;
        stream.stream ^= (uint32_t)1 << bit;
        draws[count++] = random_below(stream, 77, UINT64_MAX);
    }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++) assert_true(draws[i] != draws[j]);
    check_count("random coordinates", count);
}

static void test_random_moments(void **state) {
    (void)state;
    enum { COUNT = 400000, CELLS = 64 };
    Random random = {.seed = 1, .stream = RANDOM_TEST};
    double uniform = 0, squares = 0, moments[5] = {0};
    size_t cells[CELLS] = {0}, below[7] = {0}, ones[32] = {0};
    for (size_t i = 0; i < COUNT; i++) {
        double u = random_uniform(random, i), x = random_normal(random, i), power = 1;
        assert_true(u >= 0 && u < 1);
        uniform += u, squares += u * u, cells[(size_t)(u * CELLS)]++;
        for (size_t p = 1; p <= 4; p++) power *= x, moments[p] += power;
        below[random_below(random, i, 7)]++;
        for (size_t bit = 0; bit < 32; bit++) ones[bit] += random_bits(random, i) >> bit & 1;
    }
    // Five standard errors each: sqrt(Var/COUNT).
    double root = sqrt(COUNT);
    assert_true(fabs(uniform / COUNT - 0.5) < 5 * sqrt(1.0 / 12) / root);
    assert_true(fabs(squares / COUNT - 1.0 / 3) < 5 * sqrt(4.0 / 45) / root);
    assert_true(fabs(moments[1] / COUNT) < 5 / root);
    assert_true(fabs(moments[2] / COUNT - 1) < 5 * sqrt(2) / root);
    assert_true(fabs(moments[3] / COUNT) < 5 * sqrt(15) / root);
    assert_true(fabs(moments[4] / COUNT - 3) < 5 * sqrt(96) / root);
    double chi = 0;
    for (size_t i = 0; i < CELLS; i++)
        chi += pow((double)cells[i] - (double)COUNT / CELLS, 2) / ((double)COUNT / CELLS);
    assert_true(chi < CELLS - 1 + 5 * sqrt(2 * (CELLS - 1)));
    for (size_t i = 0; i < 7; i++) assert_true(fabs((double)below[i] - COUNT / 7.0) < 5 * sqrt(COUNT * 6.0 / 49));
    for (size_t bit = 0; bit < 32; bit++) assert_true(fabs((double)ones[bit] - COUNT / 2.0) < 5 * root / 2);
    check_count("random draws", COUNT);
}

static void test_random_fill_is_the_same_for_any_threads(void **state) {
    (void)state;
    enum { COUNT = 10007 };
    Random random = {.seed = 3, .stream = RANDOM_INIT, .step = 12};
    size_t before = threads_count();
    real *one = guarded_new(COUNT), *other = guarded_new(COUNT);
    for (size_t threads = 1; threads <= 4; threads++) {
        threads_set(threads);
        random_fill_normal(threads == 1 ? one : other, COUNT, 0.02, random);
        if (threads > 1) check_same_bits("random fills", one, other, COUNT * sizeof *one);
    }
    for (size_t i = 0; i < COUNT; i++) assert_true(one[i] == (real)(0.02 * random_normal(random, i)));
    random_fill_uniform(one, COUNT, -2, 5, random);
    for (size_t i = 0; i < COUNT; i++) assert_true(one[i] == (real)(-2 + 7 * random_uniform(random, i)));
    threads_set(before);
    guarded_free(one);
    guarded_free(other);
}

static void test_random_permute_is_a_permutation(void **state) {
    (void)state;
    enum { MOST = 70000 };
    static unsigned char seen[MOST];
    size_t cases = 0;
    for (uint64_t count = 1; count <= MOST; count = count < 70 ? count + 1 : count * 7 / 4 + 1) {
        for (uint64_t epoch = 0; epoch < (count < 70 ? 8 : 2); epoch++, cases += count) {
            Random random = {.seed = 11, .stream = RANDOM_SHUFFLE, .step = epoch};
            memset(seen, 0, count);
            size_t fixed = 0;
            for (uint64_t i = 0; i < count; i++) {
                uint64_t at = random_permute(random, i, count);
                assert_true(at < count && !seen[at]);
                seen[at] = 1;
                fixed += at == i;
            }
            if (count >= 70) assert_true(fixed < 12); // one fixed point is expected
        }
    }
    // Beyond what can be listed: in range, and no two of a few collide.
    uint64_t large = (uint64_t)3 << 61, drawn[64];
    for (size_t i = 0; i < 64; i++) {
        drawn[i] = random_permute((Random){.seed = 2, .stream = RANDOM_SHUFFLE}, large - 1 - i, large);
        assert_true(drawn[i] < large);
        for (size_t j = 0; j < i; j++) assert_true(drawn[i] != drawn[j]);
    }
    check_count("permuted positions", cases + 64);
}

// Over many seeds, every element comes to every place equally often, also for counts where the network is tiny.
static void test_random_permute_is_fair(void **state) {
    (void)state;
    enum { MOST = 17, SEEDS = 6000 };
    size_t cases = 0;
    for (size_t count = 2; count <= MOST; count++) {
        size_t hits[MOST][MOST] = {0};
        for (uint64_t seed = 0; seed < SEEDS; seed++)
            for (size_t i = 0; i < count; i++)
                hits[i][random_permute((Random){.seed = seed, .stream = RANDOM_SHUFFLE}, i, count)]++;
        double expected = (double)SEEDS / (double)count, chi = 0, freedom = (double)((count - 1) * (count - 1));
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < count; j++) chi += pow((double)hits[i][j] - expected, 2) / expected;
        chi *= (double)(count - 1) / (double)count; // the margins of a table of permutations are fixed
        if (chi > freedom + 6 * sqrt(2 * freedom)) fail_msg("count %zu: chi-square %.1f of %.0f", count, chi, freedom);
        cases += count * count;
    }
    check_count("permutation cells", cases);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_philox_known_answers),
    cmocka_unit_test(test_random_coordinates_matter),
    cmocka_unit_test(test_random_moments),
    cmocka_unit_test(test_random_fill_is_the_same_for_any_threads),
    cmocka_unit_test(test_random_permute_is_a_permutation),
    cmocka_unit_test(test_random_permute_is_fair),
};

TEST_MAIN(tests)
