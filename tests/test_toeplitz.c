// Method toeplitz in single precision: against the double reference of the same polynomial, against lowrank where both
// compute the same function, certificates, causality, rounding of long transforms, threads, decoding, refusals.
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/method.h"
#include "attention/polynomial.h"
#include "attention/toeplitz.h"
#include "core/random.h"
#include "core/threads.h"
#include "tests/support/attention_reference.h"
#include "tests/support/check.h"
#include "tests/support/table_file.h"

static AttentionSettings base_settings(const char *kernel, size_t tokens, size_t size, size_t degree) {
    AttentionSettings settings = attention_defaults();
    settings.batch = 1;
    settings.tokens = tokens;
    settings.heads = 2;
    settings.kv_heads = 1;
    settings.qk_size = size;
    settings.v_size = 5;
    settings.kernel = kernel;
    settings.rope_theta = 100.0;
    settings.kernel_decay = 0.99;
    settings.kernel_window = 20;
    settings.logit_bound = 2.0;
    settings.far_size = 0;
    settings.near = 0;
    settings.degree = degree;
    return settings;
}

static void test_reference(void **state) {
    (void)state;
    const char *kernels[] = {"rope", "rope-decay", "rope-window", "alibi", "table"};
    for (size_t k = 0; k < 5; k++)
        for (size_t degree = 2; degree <= 4; degree += 2)
            for (size_t causal = 0; causal < 2; causal++) {
                AttentionSettings settings = base_settings(kernels[k], 257, 4, degree);
                if (k == 4) settings.kernel = table_file_write("reference", 4, 257, true);
                if (k == 4) settings.logit_scale = 0.2, settings.bound = BOUND_CLIP;
                settings.causal = causal;
                settings.near = degree == 2 ? 0 : 9; // on both sides without the mask
                Polynomial polynomial;
                Error error = {0};
                const ReferenceFar far = reference_polynomial(&polynomial);
                AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
                assert_true(
                    polynomial_create(&polynomial, settings.polynomial, degree, toeplitz_interval(plan), &error));
                AttentionProblem problem = attention_problem_new(&settings, 1, 1.0, k);
                attention_problem_run(&problem, plan, NULL, NULL);
                AttentionSolution solution = attention_solve(&problem, true, &far);
                attention_compare("double reference", settings.kernel, &problem, &solution, 3e-6, 2e-5);
                attention_solution_free(&solution);
                attention_problem_free(&problem);
                attention_destroy(plan);
            }
}

// Where W_t is a rotation, with or without decay, lowrank evaluates the same polynomial without transforms.
static void test_lowrank(void **state) {
    (void)state;
    for (size_t near = 0; near <= 40; near += 20)
        for (size_t far_size = 0; far_size <= 4; far_size += 4)
            for (size_t tokens = 1; tokens < 700; tokens = 3 * tokens + 7) {
                AttentionSettings settings = base_settings(near == 20 ? "rope-decay" : "rope", tokens, 8, 2);
                settings.near = near;
                settings.far_size = far_size;
                AttentionPlan *plans[] = {attention_plan_new("toeplitz", &settings),
                                          attention_plan_new("lowrank", &settings)};
                AttentionProblem problems[2];
                for (size_t m = 0; m < 2; m++) {
                    problems[m] = attention_problem_new(&settings, 0, 1.0, near);
                    attention_problem_run(&problems[m], plans[m], NULL, NULL);
                }
                const struct {
                    const char *what;
                    real *a, *b;
                    size_t count;
                } pairs[] = {
                    {"o against lowrank", problems[0].o, problems[1].o, problems[0].o_count},
                    {"dq against lowrank", problems[0].dq, problems[1].dq, problems[0].q_count},
                    {"dk against lowrank", problems[0].dk, problems[1].dk, problems[0].k_count},
                    {"dv against lowrank", problems[0].dv, problems[1].dv, problems[0].v_count},
                };
                for (size_t p = 0; p < 4; p++) {
                    double *expected = malloc(pairs[p].count * sizeof *expected);
                    for (size_t i = 0; i < pairs[p].count; i++) expected[i] = (double)pairs[p].b[i];
                    check_close(pairs[p].what, pairs[p].a, expected, pairs[p].count, 2e-5, 2e-5);
                    free(expected);
                }
                for (size_t m = 0; m < 2; m++) {
                    attention_problem_free(&problems[m]);
                    attention_destroy(plans[m]);
                }
            }
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median_of(double *values, size_t count) {
    qsort(values, count, sizeof *values, by_value);
    return values[count / 2];
}

// The bounds of output, dq, dk, dv and the fallbacks of two heads.
static AttentionReport report_into(double numbers[5][2]) {
    return (AttentionReport){.output_bound = numbers[0],
                             .dq_bound = numbers[1],
                             .dk_bound = numbers[2],
                             .dv_bound = numbers[3],
                             .fell_back = numbers[4]};
}

// Errors against the true exp over the same fields never exceed what the report certifies.
static void test_certificates(void **state) {
    (void)state;
    enum { CASES = 60 };
    const size_t degrees[] = {1, 2, 4, 7}; // at 7 rounding is most of the certificate
    double ratios[4][CASES];
    const char *kernels[] = {"rope", "rope-decay", "rope-window", "alibi", "table"};
    for (size_t n = 0; n < CASES; n++) {
        AttentionSettings settings = base_settings(kernels[n % 5], 60 + n, 4, degrees[n / 5 % 4]);
        if (n % 5 == 4) settings.kernel = table_file_write("certified", 4, settings.tokens, n % 2);
        settings.near = n % 3 == 2 ? 9 : 0;
        settings.causal = settings.near > 0 || n % 2;
        settings.logit_bound = 1.0 + 0.25 * (double)(n % 4);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, n % 7 == 0 ? 0.3 : 1.0, n);
        const size_t q_row = problem.q_stride, k_row = problem.k_stride;
        for (size_t i = 0; n % 4 == 1 && i < problem.q_count; i++) // all tokens agree: every logit at its largest
            problem.q[i] = problem.q[i % q_row];
        for (size_t i = 0; n % 4 == 1 && i < problem.k_count; i++) problem.k[i] = problem.k[i % k_row];
        double numbers[5][2];
        AttentionReport report = report_into(numbers);
        attention_problem_run(&problem, plan, NULL, &report);
        problem.settings.far = FAR_EXACT;
        AttentionSolution solution = attention_solve(&problem, true, NULL);
        const struct {
            real *actual;
            double *expected;
            size_t heads, size;
        } parts[] = {{problem.o, solution.o, 2, 5},
                     {problem.dq, solution.dq, 2, 4},
                     {problem.dk, solution.dk, 1, 4},
                     {problem.dv, solution.dv, 1, 5}};
        for (size_t p = 0; p < 4; p++) {
            double most = 0.0;
            for (size_t t = 0; t < settings.tokens; t++)
                for (size_t h = 0; h < parts[p].heads; h++)
                    for (size_t e = 0; e < parts[p].size; e++) {
                        const size_t at = (t * parts[p].heads + h) * parts[p].size + e;
                        const double difference = fabs((double)parts[p].actual[at] - parts[p].expected[at]);
                        if (!(difference <= numbers[p][h] + 1e-6 * fabs(parts[p].expected[at])) && numbers[4][h] == 0.0)
                            fail_msg("case %zu (%s), part %zu: error %g above the certified %g", n, settings.kernel, p,
                                     difference, numbers[p][h]);
                        most = fmax(most, difference / numbers[p][h]);
                    }
            ratios[p][n] = numbers[4][0] > 0.0 ? 0.0 : most;
        }
        attention_solution_free(&solution);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
    check_count("certified problems", CASES);
    printf("median of measured over certified: o %.2g, dq %.2g, dk %.2g, dv %.2g\n", median_of(ratios[0], CASES),
           median_of(ratios[1], CASES), median_of(ratios[2], CASES), median_of(ratios[3], CASES));
}

// Keys that oppose their queries make e^{-L} of the first tokens, which see nearby keys alone, infinite: certificates are
// numbers nevertheless, also where a token has no gradient.
static void test_certificates_of_low_logits(void **state) {
    (void)state;
    static const char *const methods[] = {"lowrank", "toeplitz"};
    for (size_t n = 0; n < 4; n++) {
        const size_t m = n / 2, without = n % 2 ? 5 : 0; // tokens without a gradient
        AttentionSettings settings = base_settings("rope", 60, 4, 2);
        settings.near = 9;
        settings.near_bound = NEAR_BOUND_NONE;
        settings.causal = true;
        AttentionPlan *plan = attention_plan_new(methods[m], &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, 31);
        for (size_t t = 0; t < settings.tokens; t++)
            for (size_t a = 0; a < 4;
                 a++) { // all of them the same, and turned so little that no pair of a window agrees
                problem.q[t * problem.q_stride + a] = problem.q[t * problem.q_stride + 4 + a] = a % 2 ? 30 : 0;
                problem.k[t * problem.k_stride + a] = a % 2 ? -60 : 0;
            }
        memset(problem.d_o, 0, without * problem.o_stride * sizeof *problem.d_o);
        double numbers[5][2];
        AttentionReport report = report_into(numbers);
        attention_problem_run(&problem, plan, NULL, &report);
        for (size_t i = 0; i < 8; i++)
            if (!(numbers[i / 2][i % 2] > 0 && isfinite(numbers[i / 2][i % 2])))
                fail_msg("%s: certificate %zu is %g", methods[m], i / 2, numbers[i / 2][i % 2]);
        assert_true(numbers[4][0] == 0 && numbers[4][1] == 0);
        attention_problem_free(&problem);
        attention_destroy(plan);
        check_count("certificates of low logits", 8);
    }
}

// Changing token t changes earlier outputs by rounding only: transforms leak, but no more than their noise.
static void test_causality(void **state) {
    (void)state;
    const size_t tokens = 1000;
    double most = 0.0;
    for (size_t near = 0; near <= 16; near += 16) {
        AttentionSettings settings = base_settings("rope-window", tokens, 4, 2);
        settings.near = near;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        for (size_t t = 1; t < tokens; t += 333) {
            AttentionProblem before = attention_problem_new(&settings, 0, 1.0, 1),
                             after = attention_problem_new(&settings, 0, 1.0, 1);
            for (size_t i = t * after.k_stride; i < after.k_count; i++) after.k[i] = -after.k[i];
            for (size_t i = t * after.v_stride; i < after.v_count; i++) after.v[i] = 3 - after.v[i];
            attention_problem_run(&before, plan, NULL, NULL);
            attention_problem_run(&after, plan, NULL, NULL);
            for (size_t i = 0; i < t * before.o_stride; i++)
                most = fmax(most, fabs((double)(before.o[i] - after.o[i])));
            check_count("outputs before a change", t * before.o_stride);
            double later = 0.0;
            for (size_t i = t * before.o_stride; i < before.o_count; i++)
                later = fmax(later, fabs((double)(before.o[i] - after.o[i])));
            assert_true(later > 0.01);
            attention_problem_free(&before);
            attention_problem_free(&after);
        }
        attention_destroy(plan);
    }
    printf("largest change of an output before the changed token: %.2g\n", most);
    assert_true(most < 5e-5);
}

// Largest error of sampled outputs against the reference, in units of ε: it must grow as slowly as √log T. Token 0 and
// its neighbours are among the samples: without rungs their error would grow as T.
static void test_growth(void **state) {
    (void)state;
    double first = 0.0;
    for (size_t tokens = 128; tokens <= 32768; tokens *= 4) {
        AttentionSettings settings = base_settings("rope", tokens, 2, 2);
        settings.rope_theta = 1e4;
        settings.heads = 1;
        settings.v_size = 2;
        Polynomial polynomial;
        Error error = {0};
        const ReferenceFar far = reference_polynomial(&polynomial);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        assert_true(polynomial_create(&polynomial, settings.polynomial, 2, toeplitz_interval(plan), &error));
        AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, 9);
        attention_problem_run(&problem, plan, NULL, NULL);
        AttentionReference *reference = reference_create(&settings, true, &far, &error);
        assert_non_null(reference);
        reference_load(reference, 0, problem.q, 2, problem.k, 2, problem.v, 2);
        double most = 0.0, row[2];
        for (size_t n = 0; n < 200; n++) {
            const size_t i = n < 100 ? n : tokens - 1 - (n - 100) * (tokens - 100) / 100;
            reference_row(reference, i, row);
            for (size_t e = 0; e < 2; e++) most = fmax(most, fabs((double)problem.o[2 * i + e] - row[e]));
        }
        check_count("outputs of long sequences", 200);
        const double scaled = most / (double)FLT_EPSILON / sqrt(log2((double)tokens));
        printf("T=%zu: error %.2g = %.2f ε √log2 T\n", tokens, most, scaled);
        if (first == 0.0) first = scaled;
        assert_true(scaled < 4.0 * first && scaled < 60.0);
        reference_destroy(reference);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

static void test_threads(void **state) {
    (void)state;
    const size_t restore = threads_count();
    AttentionSettings settings = base_settings("rope-decay", 333, 4, 3);
    settings.batch = 2;
    settings.near = 10;
    AttentionProblem problems[3];
    for (size_t n = 0; n < 3; n++) {
        threads_set(n == 0 ? 1 : n == 1 ? 2 : 5);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        problems[n] = attention_problem_new(&settings, 0, 1.0, 4);
        attention_problem_run(&problems[n], plan, NULL, NULL);
        attention_destroy(plan);
    }
    threads_set(restore);
    for (size_t n = 1; n < 3; n++) {
        check_same_bits("o over threads", problems[0].o, problems[n].o, problems[0].o_count * sizeof(real));
        check_same_bits("dq over threads", problems[0].dq, problems[n].dq, problems[0].q_count * sizeof(real));
        check_same_bits("dk over threads", problems[0].dk, problems[n].dk, problems[0].k_count * sizeof(real));
        check_same_bits("dv over threads", problems[0].dv, problems[n].dv, problems[0].v_count * sizeof(real));
    }
    for (size_t n = 0; n < 3; n++) attention_problem_free(&problems[n]);
}

static void test_decode(void **state) {
    (void)state;
    const char *kernels[] = {"rope", "rope-window", "alibi", "table"};
    for (size_t k = 0; k < 4; k++)
        for (size_t near = 0; near <= 6; near += 6) {
            AttentionSettings settings = base_settings(kernels[k], 50, 4, 3);
            if (k == 3) settings.kernel = table_file_write("decode", 4, 50, true), settings.logit_scale = 0.2;
            if (k == 3) settings.bound = BOUND_CLIP; // the ball's guarantee is for ‖W‖ ≤ 1
            settings.near = near;
            AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
            AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, k);
            attention_problem_run(&problem, plan, NULL, NULL);
            const AttentionNeeds needs = attention_needs(plan);
            void *cache = aligned_alloc(64, (needs.decode_bytes + 63) / 64 * 64);
            void *scratch = aligned_alloc(64, (needs.scratch_bytes + 63) / 64 * 64);
            attention_decode_begin(plan, cache);
            for (size_t t = 0; t < settings.tokens; t++) {
                real o[10];
                double expected[10];
                attention_decode(plan, cache, o, problem.q + t * problem.q_stride, problem.k + t * problem.k_stride,
                                 problem.v + t * problem.v_stride, t, scratch);
                for (size_t e = 0; e < 10; e++) expected[e] = (double)problem.o[t * problem.o_stride + e];
                check_close("decode against forward", o, expected, 10, 5e-6, 5e-6);
            }
            free(cache);
            free(scratch);
            attention_problem_free(&problem);
            attention_destroy(plan);
        }
}

static void refuse(const AttentionSettings *settings, const char *message) {
    Error error = {0};
    AttentionPlan *plan = attention_create(&attention_toeplitz, settings, &error);
    if (plan || error.kind != ERROR_USER || !strstr(error.message, message))
        fail_msg("expected a refusal with '%s', got '%s'", message, plan ? "a plan" : error.message);
    check_count("refusals", 1);
}

static void test_counts(void **state) {
    (void)state;
    AttentionSettings settings = base_settings("rope", 100, 8, 2);
    AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
    ToeplitzCounts counts;
    assert_true(toeplitz_counts(plan, &counts));
    assert_int_equal(counts.support, 16);
    assert_int_equal(counts.terms, 153); // C(18, 2), Lemma C.2
    assert_int_equal(counts.query_monomials, 45);
    assert_int_equal(counts.pairs, 149);
    assert_int_equal(counts.rungs, 2);
    assert_true(counts.forward_transforms == 2.0 * 6.0 * (45.0 + 2.0 * 45.0)); // rungs · (E+1) · (keys + 2 heads)
    assert_true(toeplitz_bare_seconds(plan, false, 1) > 0.0);
    attention_destroy(plan);
    plan = attention_plan_new("exact", &settings);
    assert_false(toeplitz_counts(plan, &counts));
    attention_destroy(plan);
    settings.qk_size = 64;
    settings.degree = 4;
    refuse(&settings, "more than 1048576 terms");
    settings.degree = 2;
    settings.tokens = (size_t)1 << 29; // more than the memory of most machines, and than transforms of any
    refuse(&settings, "536870912");
    settings.tokens = 1; // q, k and v are small; tables of W_t over lags are not, for they are padded by a tile
    settings.qk_size = (size_t)1 << 26;
    refuse(&settings, "MiB for the position kernel of 1 tokens");
    settings = base_settings("alibi", 100, 8, 2);
    settings.far_size = 4;
    refuse(&settings, "attention.far_size");
    settings = base_settings("rope", 100, 8, 2);
    settings.far = FAR_NONE;
    refuse(&settings, "attention.near");
    settings = base_settings("/nonexistent", 100, 8, 2);
    refuse(&settings, "/nonexistent");
}

// A plan says what it holds: spectra, tables over positions, or the terms, of which there may be more than of all else.
static void test_plan_bytes(void **state) {
    (void)state;
    const struct { size_t tokens, size, degree; } plans[] = {{64, 12, 4}, {64, 16, 4}, {4096, 8, 2}};
    for (size_t n = 0; n < sizeof plans / sizeof *plans; n++) {
        const AttentionSettings settings = base_settings("rope", plans[n].tokens, plans[n].size, plans[n].degree);
        attention_destroy(attention_plan_new("toeplitz", &settings)); // what FFTW keeps from the first time
        const struct mallinfo2 before = mallinfo2();
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        const struct mallinfo2 after = mallinfo2();
        const double held = (double)(after.uordblks + after.hblkhd) - (double)(before.uordblks + before.hblkhd);
        const double said = (double)attention_needs(plan).plan_bytes;
        // sanitizers and valgrind have allocators of their own, of which mallinfo2 knows nothing
        if (held > 0.0 && fabs(said / held - 1.0) > 0.1)
            fail_msg("plan %zu holds %.0f bytes and says %.0f", n, held, said);
        check_count("bytes of plans", 1);
        attention_destroy(plan);
    }
}

// ‖W_t‖₂ by the power method on WᵀW.
static double spectral_norm(const double *w, size_t size) {
    double x[16], y[16], norm = 0.0;
    for (size_t a = 0; a < size; a++) x[a] = 1.0 + 0.1 * (double)a;
    for (size_t n = 0; n < 3000; n++) {
        memset(y, 0, sizeof y);
        double length = 0.0;
        for (size_t a = 0; a < size; a++) length += x[a] * x[a];
        for (size_t a = 0; a < size; a++) {
            double sum = 0.0;
            for (size_t b = 0; b < size; b++) sum += w[a * size + b] * x[b] / sqrt(length);
            for (size_t b = 0; b < size; b++) y[b] += w[a * size + b] * sum;
        }
        norm = 0.0;
        for (size_t a = 0; a < size; a++) norm += y[a] * y[a];
        norm = sqrt(sqrt(norm));
        memcpy(x, y, sizeof x);
    }
    return norm;
}

// The norm of a table is an upper bound of the largest over its lags, and close; of one with an entry in each row and
// column it is the largest entry.
static void test_table_norm(void **state) {
    (void)state;
    enum { SIZE = 12, TOKENS = 30 };
    char path[512];
    snprintf(path, sizeof path, "%s/norms", temporary_directory());
    for (size_t n = 0; n < 24; n++) {
        const size_t kind = n % 3; // a permutation, few entries, all of them
        const Random random = {n, RANDOM_TEST, 9};
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fprintf(file, "rope-table 1\nsize %d\nlags %d %d\n", SIZE, 1 - TOKENS, TOKENS - 1);
        bool used[SIZE * SIZE];
        for (size_t e = 0; e < SIZE * SIZE; e++) {
            used[e] = kind == 0 ? e % SIZE == (e / SIZE * 5 + 3) % SIZE : kind == 2 || e % 5 == 0;
            if (used[e]) fprintf(file, "support %zu:%zu\n", e / SIZE, e % SIZE);
        }
        fprintf(file, "data\n");
        double both = 0.0, causal = 0.0;
        for (int t = 1 - TOKENS; t < TOKENS; t++) {
            double w[SIZE * SIZE] = {0};
            fprintf(file, "%d", t);
            const size_t at = (size_t)(t + TOKENS) * SIZE * SIZE;
            const double scale = t < 0 ? 1.0 : 0.5 + 0.01 * random_uniform(random, at);
            for (size_t e = 0; e < SIZE * SIZE; e++) {
                if (!used[e]) continue;
                w[e] = scale * (2.0 * random_uniform(random, at + e) - 1.0);
                fprintf(file, " %.17g", w[e]);
            }
            fprintf(file, "\n");
            const double norm = spectral_norm(w, SIZE);
            both = fmax(both, norm);
            if (t >= 0) causal = fmax(causal, norm);
        }
        fprintf(file, "end\n");
        assert_int_equal(fclose(file), 0);
        AttentionSettings settings = base_settings(path, TOKENS, SIZE, 2);
        for (size_t c = 0; c < 2; c++) {
            settings.causal = c;
            Error error = {0};
            double norm;
            assert_true(toeplitz_kernel_norm(&settings, &norm, &error));
            const double expected = c ? causal : both, above = kind == 0 ? 1.0 + 2e-9 : pow(SIZE, 1.0 / 16.0);
            if (!(norm >= expected * (1.0 - 1e-13) && norm <= expected * above))
                fail_msg("table %zu, causal %zu: norm %.12g instead of %.12g", n, c, norm, expected);
            check_count("norms of tables", 1);
        }
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_reference),    cmocka_unit_test(test_lowrank),
    cmocka_unit_test(test_certificates), cmocka_unit_test(test_certificates_of_low_logits),
    cmocka_unit_test(test_causality),    cmocka_unit_test(test_growth),
    cmocka_unit_test(test_threads),      cmocka_unit_test(test_decode),
    cmocka_unit_test(test_counts),       cmocka_unit_test(test_table_norm),
    cmocka_unit_test(test_plan_bytes),
};
TEST_MAIN(tests)
