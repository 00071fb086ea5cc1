// ‖g‖₂ over the flat gradient: at most PIECES pieces, cut by the number of elements alone, each summed in double, the
// pieces added by a fixed tree. A single-precision gradient can neither overflow nor underflow on the way: squares lie
// between 2e-90 and 2e77. Padding between tensors is zero and adds nothing.

#include <math.h>

#include "core/clock.h"
#include "core/threads.h"
#include "optim/norm_kernels.h"
#include "optim/optim.h"

enum { PIECES = 1024, SMALLEST_PIECE = 4096 };

double optim_gradient_norm(const real *gradient, size_t elements) {
    double sums[PIECES] = {0};
    size_t piece = elements / PIECES + 1;
    if (piece < SMALLEST_PIECE) piece = SMALLEST_PIECE;
    size_t count = (elements + piece - 1) / piece;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < count; i++) {
        size_t left = elements - i * piece;
        sums[i] = norm_kernels()->sum_of_squares(gradient + i * piece, left < piece ? left : piece);
    }
    phase_count(2.0 * (double)elements, (double)elements * sizeof(real));
    return sqrt(sum_pairwise(sums, count));
}
