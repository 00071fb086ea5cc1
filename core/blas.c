// Matrix products on OpenBLAS, and how they are shared out to threads.
//
// OpenBLAS's own threading cuts by the number of threads, so its bits depend on it, and on small or skinny products two
// threads can be slower than one. Here C is cut into tiles by (m, n, k) alone; each tile is one single-threaded
// product. The price is that every tile packs its own strips of A and B: (1/tile rows + 1/tile columns) packed elements
// per multiplication, a few percent at 512 x 512.
#include "core/blas.h"

#include <cblas.h>
#include <limits.h>
#include <omp.h>

#include "core/error.h"

#ifdef ROPE_DOUBLE
#define blas_gemm cblas_dgemm
#else
#define blas_gemm cblas_sgemm
#endif

void gemm(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, real alpha, const real *a, size_t lda,
          const real *b, size_t ldb, real beta, real *c, size_t ldc) {
    if (m == 0 || n == 0) return;
    REQUIRE(lda >= (transpose_a ? m : k) && ldb >= (transpose_b ? k : n) && ldc >= n);
    REQUIRE(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX && ldc <= INT_MAX);
    // Inside a parallel region OpenBLAS runs on the calling thread; outside it must be told, or it takes them all.
    bool alone = !omp_in_parallel();
    int threads = alone ? omp_get_max_threads() : 0;
    if (alone) omp_set_num_threads(1);
    blas_gemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, (int)m,
              (int)n, (int)k, alpha, a, lda ? (int)lda : 1, b, ldb ? (int)ldb : 1, beta, c, (int)ldc);
    if (alone) omp_set_num_threads(threads);
}

typedef struct Cut {
    size_t rows, columns; // of one tile
    size_t across, count; // tiles side by side, tiles in all
} Cut;

enum {
    LARGEST_SIDE = 512,       // beyond this, packing costs nothing that can be measured
    ENOUGH_TILES = 8,         // to balance a few threads, or a busy core
    GOOD_AREA = 256 * 256,    // smaller tiles pay for packing ...
    FEWEST_TILES = 4,         // ... but idle cores cost more
    SMALLEST_AREA = 64 * 128, //
    SMALLEST_WORK = 1 << 20,  // multiplications per tile: some 20 microseconds, ten times what starting a region costs
    SIDE_MULTIPLE = 32,       // whole register blocks of every OpenBLAS kernel
};

static size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }

static size_t even_pieces(size_t size, size_t pieces) {
    size_t piece = divide_up(size, pieces);
    piece = divide_up(piece, SIDE_MULTIPLE) * SIDE_MULTIPLE;
    return piece < size ? piece : size;
}

static Cut cut_product(size_t m, size_t n, size_t k) {
    size_t down = divide_up(m, LARGEST_SIDE), across = divide_up(n, LARGEST_SIDE);
    for (;;) {
        size_t rows = even_pieces(m, down), columns = even_pieces(n, across), half = rows * columns / 2;
        size_t tiles = divide_up(m, rows) * divide_up(n, columns);
        bool worth = (tiles < ENOUGH_TILES && half >= GOOD_AREA) || (tiles < FEWEST_TILES && half >= SMALLEST_AREA);
        if (!worth || half * k < SMALLEST_WORK) {
            across = divide_up(n, columns);
            return (Cut){.rows = rows, .columns = columns, .across = across, .count = divide_up(m, rows) * across};
        }
        if (rows >= columns)
            down *= 2;
        else
            across *= 2;
    }
}

void gemm_parallel(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, real alpha, const real *a,
                   size_t lda, const real *b, size_t ldb, real beta, real *c, size_t ldc) {
    if (m == 0 || n == 0) return;
    Cut cut = cut_product(m, n, k);
#pragma omp parallel for schedule(dynamic, 1) if (cut.count > 1)
    for (size_t tile = 0; tile < cut.count; tile++) {
        size_t i = tile / cut.across * cut.rows, j = tile % cut.across * cut.columns;
        size_t rows = m - i < cut.rows ? m - i : cut.rows, columns = n - j < cut.columns ? n - j : cut.columns;
        gemm(transpose_a, transpose_b, rows, columns, k, alpha, a + (transpose_a ? i : i * lda), lda,
             b + (transpose_b ? j * ldb : j), ldb, beta, c + i * ldc + j, ldc);
    }
}
