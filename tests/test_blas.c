// gemm and gemm_parallel against sums in double, for every transposition, odd sizes, rows longer than the matrix, and
// NaN in what must not be read; the same bits for any number of threads.
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/blas.h"
#include "core/random.h"
#include "core/threads.h"
#include "tests/support/check.h"

typedef struct Product {
    bool transpose_a, transpose_b, parallel;
    size_t m, n, k, pad; // pad: elements between the end of a stored row and the next
    real alpha, beta;
} Product;

// rows x columns random reals; the padding stays NaN, so that reading it shows.
static real *matrix(size_t rows, size_t columns, size_t pad, uint64_t seed) {
    real *values = guarded_new(rows * (columns + pad));
    for (size_t i = 0; i < rows; i++)
        random_fill_normal(values + i * (columns + pad), columns, 1.0,
                           (Random){.seed = seed, .stream = RANDOM_TEST, .step = i});
    return values;
}

typedef struct Operands {
    real *a, *b, *c;
    size_t lda, ldb, ldc;
} Operands;

static Operands operands_new(const Product *p, uint64_t seed) {
    size_t a_columns = p->transpose_a ? p->m : p->k, b_columns = p->transpose_b ? p->k : p->n;
    Operands o = {.lda = a_columns + p->pad, .ldb = b_columns + p->pad, .ldc = p->n + p->pad};
    o.a = matrix(p->transpose_a ? p->k : p->m, a_columns, p->pad, seed);
    o.b = matrix(p->transpose_b ? p->n : p->k, b_columns, p->pad, seed + 1000);
    o.c = p->beta == 0 ? guarded_new(p->m * o.ldc) : matrix(p->m, p->n, p->pad, seed + 2000); // beta = 0: NaN in C
    return o;
}

static void operands_free(Operands *o) {
    guarded_free(o->a);
    guarded_free(o->b);
    guarded_free(o->c);
}

static void multiply(const Product *p, const Operands *o, real *c) {
    (p->parallel ? gemm_parallel : gemm)(p->transpose_a, p->transpose_b, p->m, p->n, p->k, p->alpha, o->a, o->lda, o->b,
                                         o->ldb, p->beta, c, o->ldc);
}

// |error| <= 16 u·(|alpha|·Σ|a·b| + |beta·c|), the BLAS rule of reliability.md row 2.
static void check_product(const Product *p, uint64_t seed) {
    Operands o = operands_new(p, seed);
    double *expected = malloc(sizeof *expected * p->m * p->n), *bound = malloc(sizeof *bound * p->m * p->n);
    assert_true(expected && bound);
    for (size_t i = 0; i < p->m; i++) {
        for (size_t j = 0; j < p->n; j++) {
            double sum = 0, magnitude = 0, before = p->beta == 0 ? 0 : p->beta * (double)o.c[i * o.ldc + j];
            for (size_t l = 0; l < p->k; l++) {
                double a = p->transpose_a ? o.a[l * o.lda + i] : o.a[i * o.lda + l];
                double term = a * (p->transpose_b ? o.b[j * o.ldb + l] : o.b[l * o.ldb + j]);
                sum += term, magnitude += fabs(term);
            }
            expected[i * p->n + j] = p->alpha * sum + before;
            bound[i * p->n + j] = 16 * (REAL_EPSILON / 2) * (fabs((double)p->alpha) * magnitude + fabs(before));
        }
    }
    multiply(p, &o, o.c);
    for (size_t i = 0; i < p->m; i++) {
        for (size_t j = 0; j < p->n; j++)
            check_close(p->parallel ? "gemm_parallel" : "gemm", &o.c[i * o.ldc + j], &expected[i * p->n + j], 1,
                        bound[i * p->n + j], 0);
        for (size_t j = p->n; p->beta == 0 && j < o.ldc; j++)
            assert_true(isnan(o.c[i * o.ldc + j])); // padding untouched
    }
    operands_free(&o);
    free(expected);
    free(bound);
}

static const size_t shapes[][3] = {{1, 1, 1},     {1, 7, 5},     {7, 1, 3},     {3, 5, 0},      {2, 3, 1},
                                   {17, 13, 11},  {33, 65, 31},  {64, 64, 64},  {1, 130, 67},   {131, 1, 19},
                                   {129, 70, 40}, {97, 161, 77}, {256, 96, 48}, {130, 157, 90}, {519, 33, 40}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void test_products(void **state) {
    (void)state;
    static const real scales[][2] = {{1, 0}, {1, 1}, {(real)-0.5, 2}, {2, (real)0.25}};
    for (size_t i = 0; i < SHAPES; i++)
        for (unsigned variant = 0; variant < 32; variant++) {
            const real *scale = scales[variant >> 3 & 3];
            Product product = {.transpose_a = variant & 1,
                               .transpose_b = variant & 2,
                               .parallel = variant & 4,
                               .m = shapes[i][0],
                               .n = shapes[i][1],
                               .k = shapes[i][2],
                               .pad = (variant + i) % 3 * 4,
                               .alpha = scale[0],
                               .beta = scale[1]};
            check_product(&product, 100 * i + variant);
        }
}

static void test_empty_products_touch_nothing(void **state) {
    (void)state;
    real *c = guarded_new(16);
    gemm(false, false, 0, 4, 4, 1, NULL, 4, NULL, 4, 0, c, 4);
    gemm_parallel(false, false, 4, 0, 4, 1, NULL, 4, NULL, 4, 0, c, 4);
    for (size_t i = 0; i < 16; i++) assert_true(isnan(c[i]));
    guarded_free(c);
    check_count("empty products", 2);
}

// What test_products checks in small shapes, here for many tiles: c from gemm_parallel against one gemm.
static void compare_with_gemm(const Product *product, Operands *o, const real *c) {
    Product whole = *product;
    whole.parallel = false;
    multiply(&whole, o, o->c);
    double *expected = malloc(sizeof *expected * product->n),
           bound = 16 * (REAL_EPSILON / 2) * (double)(product->k + 1);
    assert_non_null(expected);
    for (size_t i = 0; i < product->m; i++) {
        for (size_t j = 0; j < product->n; j++) expected[j] = o->c[i * o->ldc + j];
        check_close("many tiles", c + i * o->ldc, expected, product->n, fabs((double)product->alpha) * bound, 0);
    }
    free(expected);
}

// Shapes as in training, cut into many tiles: the same bits whoever computes which.
static void test_bits_do_not_depend_on_threads(void **state) {
    (void)state;
    static const Product products[] = {
        {.transpose_b = true, .parallel = true, .m = 1030, .n = 520, .k = 64, .alpha = 1},
        {.parallel = true, .m = 700, .n = 193, .k = 100, .alpha = 1},
        {.transpose_a = true, .parallel = true, .m = 128, .n = 128, .k = 2048, .alpha = 1, .beta = 1},
        {.transpose_a = true, .parallel = true, .m = 512, .n = 300, .k = 257, .pad = 3, .alpha = 1},
        {.transpose_b = true, .parallel = true, .m = 64, .n = 512, .k = 512, .alpha = 2},
        {.parallel = true, .m = 1, .n = 2000, .k = 96, .alpha = 1},
    };
    size_t before = threads_count();
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        Operands o = operands_new(&products[i], i);
        size_t bytes = products[i].m * o.ldc * sizeof(real);
        real *one = guarded_new(bytes / sizeof(real)), *other = guarded_new(bytes / sizeof(real));
        for (size_t threads = 1; threads <= 5; threads++) {
            threads_set(threads);
            memcpy(threads == 1 ? one : other, o.c, bytes);
            multiply(&products[i], &o, threads == 1 ? one : other);
            if (threads > 1) check_same_bits("threads 1 to 5", one, other, bytes);
        }
        compare_with_gemm(&products[i], &o, one);
        guarded_free(one);
        guarded_free(other);
        operands_free(&o);
    }
    threads_set(before);
}

static size_t threads_alive(void) {
    DIR *folder = opendir("/proc/self/task");
    size_t count = 0;
    while (folder && readdir(folder)) count++;
    if (folder) closedir(folder);
    return count;
}

// Runs first, before any parallel region has started threads that would stay: gemm must start none.
static void test_gemm_stays_on_its_thread(void **state) {
    (void)state;
    if (CHECK_SANITIZER) skip(); // it has threads of its own
    size_t before = threads_count();
    threads_set(4);
    Product product = {.m = 600, .n = 600, .k = 600, .alpha = 1};
    Operands o = {.a = calloc(360000, sizeof(real)),
                  .b = calloc(360000, sizeof(real)),
                  .c = calloc(360000, sizeof(real)),
                  .lda = 600,
                  .ldb = 600,
                  .ldc = 600};
    assert_true(o.a && o.b && o.c);
    size_t alive = threads_alive();
    multiply(&product, &o, o.c);
    assert_int_equal(threads_alive(), alive);
    product.parallel = true; // the same count sees the threads of the other one
    multiply(&product, &o, o.c);
    assert_int_equal(threads_alive(), alive + 3);
    free(o.a);
    free(o.b);
    free(o.c);
    threads_set(before);
    check_count("products without threads", 1);
}

// Inside a parallel region: the bits of a product on one thread, and the setting is given back.
static void test_gemm_inside_a_region(void **state) {
    (void)state;
    Product product = {.transpose_b = true, .m = 300, .n = 300, .k = 300, .alpha = 1};
    size_t before = threads_count(), bytes = product.m * product.n * sizeof(real);
    Operands o = operands_new(&product, 1);
    real *copies[4];
    for (size_t i = 0; i < 4; i++) copies[i] = guarded_new(product.m * product.n);
    threads_set(4);
    gemm(false, true, 300, 300, 300, 1, o.a, o.lda, o.b, o.ldb, 0, o.c, o.ldc);
    assert_int_equal(threads_count(), 4); // given back
#pragma omp parallel for num_threads(4)
    for (size_t i = 0; i < 4; i++) gemm(false, true, 300, 300, 300, 1, o.a, o.lda, o.b, o.ldb, 0, copies[i], o.ldc);
    assert_int_equal(threads_count(), 4);
    for (size_t i = 0; i < 4; i++) check_same_bits("inside a region", o.c, copies[i], bytes);
    for (size_t i = 0; i < 4; i++) guarded_free(copies[i]);
    operands_free(&o);
    threads_set(before);
}

static void test_rates(void **state) {
    (void)state;
    double ours = blas_rate(256, 3), library = blas_library_rate(256, 3), copy = copy_rate(4 << 20, 3);
    assert_true(ours > 0.1 && ours < 1e5);
    assert_true(library > 0.1 && library < 1e5);
    assert_true(copy > 1e7 && copy < 1e13);
    check_count("rates", 3);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_gemm_stays_on_its_thread),     cmocka_unit_test(test_products),
    cmocka_unit_test(test_empty_products_touch_nothing), cmocka_unit_test(test_bits_do_not_depend_on_threads),
    cmocka_unit_test(test_gemm_inside_a_region),         cmocka_unit_test(test_rates),
};

TEST_MAIN(tests)
