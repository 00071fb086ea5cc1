// C (m,n) = or += A (m,k) · B (k,n) for operands in cache, without packing (core/tile.h).
//
// The register block is ROWS × 2 vectors of C: each step over p loads two vectors of B, broadcasts ROWS elements of A,
// and issues 2·ROWS fused multiply-adds, so that both FMA ports are busy and every loaded vector of B serves ROWS rows.
// Accumulating starts from C itself, so an element is one chain of additions over p in order, however m, n and k are
// cut: results do not depend on the blocking. Cost 2·m·n·k operations; the floor is the FMA rate.

#include "core/tile.h"

#if VECTOR_BYTES == 64
enum { ROWS = 12 }; // 24 of 32 registers hold C
#elif VECTOR_BYTES == 32
enum { ROWS = 6 }; // 12 of 16
#else
enum { ROWS = 4 }; // 8 of 16
#endif
enum { COLUMNS = 2 * LANES };
enum { TAIL_DEPTH = 64 }; // rows of B that are padded at a time when n is not a multiple of LANES

// One register block, k > 0. rows and vectors are constants at every call, so that the loops unroll into registers; the
// loop over p has its test at the end, because with a way around it GCC keeps a copy of the sums in memory.
static inline __attribute__((always_inline)) void block(real *c, size_t ldc, const real *a, size_t a_row,
                                                        size_t a_column, const real *b, size_t ldb, size_t k,
                                                        bool accumulate, const size_t rows, const size_t vectors) {
    Vector sum[ROWS][2];
    UNROLL
    for (size_t i = 0; i < rows; i++)
        UNROLL
        for (size_t v = 0; v < vectors; v++) sum[i][v] = accumulate ? vector_load(c + i * ldc + v * LANES) : (Vector){0};
    do {
        Vector right[2];
        UNROLL
        for (size_t v = 0; v < vectors; v++) right[v] = vector_load(b + v * LANES);
        UNROLL
        for (size_t i = 0; i < rows; i++) {
            Vector left = vector_set(a[i * a_row]);
            UNROLL
            for (size_t v = 0; v < vectors; v++) sum[i][v] += left * right[v];
        }
        a += a_column;
        b += ldb;
    } while (--k > 0);
    UNROLL
    for (size_t i = 0; i < rows; i++)
        UNROLL
        for (size_t v = 0; v < vectors; v++) vector_store(c + i * ldc + v * LANES, sum[i][v]);
}

// All rows of one panel of `vectors` vectors.
static inline __attribute__((always_inline)) void panel(real *c, size_t ldc, const real *a, size_t a_row,
                                                        size_t a_column, const real *b, size_t ldb, size_t m, size_t k,
                                                        bool accumulate, const size_t vectors) {
    size_t i = 0;
    for (; i + ROWS <= m; i += ROWS)
        block(c + i * ldc, ldc, a + i * a_row, a_row, a_column, b, ldb, k, accumulate, ROWS, vectors);
    c += i * ldc;
    a += i * a_row;
    switch (m - i) {
#define TAIL(rows)                                                                                                     \
    case rows: block(c, ldc, a, a_row, a_column, b, ldb, k, accumulate, rows, vectors); break
        TAIL(1);
        TAIL(2);
        TAIL(3);
#if VECTOR_BYTES >= 32
        TAIL(4);
        TAIL(5);
#endif
#if VECTOR_BYTES == 64
        TAIL(6);
        TAIL(7);
        TAIL(8);
        TAIL(9);
        TAIL(10);
        TAIL(11);
#endif
#undef TAIL
    default: break;
    }
}

// The last n < LANES columns: B and C go through padded copies.
static void narrow(real *c, size_t ldc, const real *a, size_t a_row, size_t a_column, const real *b, size_t ldb,
                   size_t m, size_t n, size_t k, bool accumulate) {
    _Alignas(64) real right[TAIL_DEPTH][LANES];
    _Alignas(64) real sums[ROWS][LANES];
    memset(right, 0, sizeof right);
    memset(sums, 0, sizeof sums);
    size_t p = 0;
    do {
        const size_t depth = k - p < TAIL_DEPTH ? k - p : TAIL_DEPTH;
        for (size_t q = 0; q < depth; q++) memcpy(right[q], b + (p + q) * ldb, n * sizeof(real));
        for (size_t i = 0; i < m; i += ROWS) {
            const size_t rows = m - i < ROWS ? m - i : ROWS;
            const bool add = accumulate || p > 0;
            if (add)
                for (size_t r = 0; r < rows; r++) memcpy(sums[r], c + (i + r) * ldc, n * sizeof(real));
            panel(sums[0], LANES, a + i * a_row + p * a_column, a_row, a_column, right[0], LANES, rows, depth, add, 1);
            for (size_t r = 0; r < rows; r++) memcpy(c + (i + r) * ldc, sums[r], n * sizeof(real));
        }
        p += depth;
    } while (p < k);
}

static void multiply(real *c, size_t ldc, const real *a, size_t a_row, size_t a_column, const real *b, size_t ldb,
                     size_t m, size_t n, size_t k, bool accumulate) {
    if (m == 0 || n == 0) return;
    if (k == 0) {
        for (size_t i = 0; !accumulate && i < m; i++) memset(c + i * ldc, 0, n * sizeof(real));
        return;
    }
    size_t j = 0;
    for (; j + COLUMNS <= n; j += COLUMNS) panel(c + j, ldc, a, a_row, a_column, b + j, ldb, m, k, accumulate, 2);
    if (j + LANES <= n) {
        panel(c + j, ldc, a, a_row, a_column, b + j, ldb, m, k, accumulate, 1);
        j += LANES;
    }
    if (j < n) narrow(c + j, ldc, a, a_row, a_column, b + j, ldb, m, n - j, k, accumulate);
}

enum { SIDE = 8 };
typedef real Line __attribute__((vector_size(SIDE * sizeof(real))));

// out (8,8) = in (8,8)ᵀ in registers: pairs, then pairs of pairs, then halves change places.
static inline __attribute__((always_inline)) void transpose_square(real *out, size_t ld_out, const real *in, size_t ld_in) {
    Line a[SIDE], b[SIDE];
    UNROLL
    for (size_t r = 0; r < SIDE; r++) memcpy(&a[r], in + r * ld_in, sizeof a[r]);
    UNROLL
    for (size_t r = 0; r < SIDE; r += 2) {
        b[r] = __builtin_shufflevector(a[r], a[r + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        b[r + 1] = __builtin_shufflevector(a[r], a[r + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    UNROLL
    for (size_t n = 0; n < SIDE / 2; n++) {
        const size_t r = n / 2 * 4 + n % 2;
        a[r] = __builtin_shufflevector(b[r], b[r + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        a[r + 2] = __builtin_shufflevector(b[r], b[r + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    UNROLL
    for (size_t r = 0; r < SIDE / 2; r++) {
        Line low = __builtin_shufflevector(a[r], a[r + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        Line high = __builtin_shufflevector(a[r], a[r + 4], 4, 5, 6, 7, 12, 13, 14, 15);
        memcpy(out + r * ld_out, &low, sizeof low);
        memcpy(out + (r + 4) * ld_out, &high, sizeof high);
    }
}

static void transpose(real *out, size_t ld_out, const real *in, size_t ld_in, size_t rows, size_t columns) {
    size_t i = 0;
    for (; i + SIDE <= rows; i += SIDE) {
        size_t j = 0;
        for (; j + SIDE <= columns; j += SIDE)
            transpose_square(out + j * ld_out + i, ld_out, in + i * ld_in + j, ld_in);
        for (size_t r = i; r < i + SIDE; r++)
            for (size_t s = j; s < columns; s++) out[s * ld_out + r] = in[r * ld_in + s];
    }
    for (; i < rows; i++)
        for (size_t s = 0; s < columns; s++) out[s * ld_out + i] = in[i * ld_in + s];
}

const TileKernels ISA_NAME(tile_kernels) = {multiply, transpose};
