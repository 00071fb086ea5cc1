// rope bench gemm: our tiled matrix products against OpenBLAS's own threading, square sizes and the copy bandwidth.
#include <stdio.h>

#include "core/blas.h"
#include "train/bench.h"

enum { COPY_BYTES = 1 << 28 };

json_t *bench_gemm(const BenchOptions *options, Error *error) {
    static const size_t sizes[] = {128, 256, 512, 1024, BENCH_SGEMM};
    (void)error;
    json_t *rows = json_array();
    double library = 0;
    fprintf(stderr, "%8s %16s %16s %8s\n", "size", "OpenBLAS GF/s", "rope GF/s", "ratio");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        library = blas_library_rate(sizes[i], options->rounds);
        const double own = blas_rate(sizes[i], options->rounds);
        fprintf(stderr, "%8zu %16.1f %16.1f %8.2f\n", sizes[i], library, own, own / library);
        json_array_append_new(
            rows, json_pack("{s:I, s:f, s:f}", "size", (json_int_t)sizes[i], "library_gflops", library, "gflops", own));
    }
    const double copy = copy_rate(COPY_BYTES, options->rounds);
    fprintf(stderr, "copy %.1f GB/s\n", 1e-9 * copy);
    return json_pack("{s:f, s:f, s:o}", "sgemm_gflops", library, "copy_gb_per_s", 1e-9 * copy, "rows", rows);
}
