// The support S, the sequences W_t[a][b] over it, and the cached spectra of all kernels that the terms need.
// Memory: |S|·T doubles while a plan is made; kernels·N numbers for each rung afterwards.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/toeplitz.h"
#include "attention/toeplitz_plan.h"

// What is known of ‖W_t‖₂ at one lag without looking closer: √(‖W‖₁‖W‖∞), which bounds ‖|W|‖₂ too. It is ‖W‖₂ itself
// where every row and column has one entry.
typedef struct LagNorm {
    double most, largest; // that bound; the largest |entry|, which ‖W_t‖₂ is not below
    ptrdiff_t lag;
} LagNorm;

// sums: room for 2D numbers.
static LagNorm lag_norm(const Position *position, ptrdiff_t lag, double *sums) {
    const size_t size = position->qk_size;
    LagNorm norm = {.lag = lag};
    memset(sums, 0, 2 * size * sizeof *sums);
    for (size_t e = 0; e < position_support(position); e++) {
        const double w = fabs(position_weight(position, e, lag));
        const PositionEntry entry = position_entry(position, e);
        sums[entry.row] += w;
        sums[size + entry.column] += w;
        norm.largest = fmax(norm.largest, w);
    }
    double row = 0.0, column = 0.0;
    for (size_t a = 0; a < size; a++) {
        row = fmax(row, sums[a]);
        column = fmax(column, sums[size + a]);
    }
    norm.most = sqrt(row) * sqrt(column); // the product of tiny sums would be 0
    return norm;
}

static int by_most(const void *a, const void *b) {
    const double x = ((const LagNorm *)a)->most, y = ((const LagNorm *)b)->most;
    return x < y ? 1 : x > y ? -1 : 0;
}

// out = aᵀa
static void gram(double *out, const double *a, size_t size) {
    memset(out, 0, size * size * sizeof *out);
    for (size_t p = 0; p < size; p++)
        for (size_t i = 0; i < size; i++) {
            const double x = a[p * size + i];
            for (size_t j = 0; x != 0.0 && j < size; j++) out[i * size + j] += x * a[p * size + j];
        }
}

// ‖A‖∞, the largest sum of absolute values of a row.
static double row_norm(const double *a, size_t size) {
    double most = 0.0;
    for (size_t i = 0; i < size; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < size; j++) sum += fabs(a[i * size + j]);
        most = fmax(most, sum);
    }
    return most;
}

// A closer upper bound of ‖W_t‖₂: ‖W‖₂^16 is the spectral radius of (WᵀW)^8, at most its ‖·‖∞. W is divided by a power of
// two first, for the 16th power of small entries would be 0. a: room for 2D² numbers.
static double closer_norm(const Position *position, const LagNorm *norm, double *a) {
    const size_t size = position->qk_size;
    double *b = a + size * size;
    int exponent;
    frexp(norm->largest, &exponent);
    memset(a, 0, size * size * sizeof *a);
    for (size_t e = 0; e < position_support(position); e++) {
        const PositionEntry entry = position_entry(position, e);
        a[entry.row * size + entry.column] = ldexp(position_weight(position, e, norm->lag), -exponent);
    }
    for (size_t i = 0; i < 4; i++) {
        gram(b, a, size);
        memcpy(a, b, size * size * sizeof *a);
    }
    return fmin(norm->most, ldexp(pow(row_norm(a, size), 1.0 / 16.0), exponent));
}

// *largest ≥ ‖W_t‖₂ and *absolute ≥ ‖|W_t|‖₂ of a table for all lags. Closer looks are for lags that may have the largest
// norm only, of D³ operations each.
static bool table_norm(const Position *position, bool causal, double *largest, double *absolute, Error *error) {
    const ptrdiff_t tokens = (ptrdiff_t)position->tokens, first = causal ? 0 : 1 - tokens;
    const size_t size = position->qk_size, lags = (size_t)(tokens - first);
    LagNorm *norm = malloc(lags * sizeof *norm);
    double *matrices = malloc(2 * size * size * sizeof *matrices);
    const bool good = norm && matrices;
    if (!good)
        error_set(error, ERROR_MEMORY, "There is no memory for the norms of %zu matrices of size %zu.", lags, size);
    for (size_t i = 0; good && i < lags; i++) norm[i] = lag_norm(position, first + (ptrdiff_t)i, matrices);
    if (good) qsort(norm, lags, sizeof *norm, by_most);
    *absolute = good ? norm[0].most * (1.0 + 1e-9) : 0.0;
    *largest = 0.0;
    for (size_t i = 0; good && i < lags && norm[i].most * (1.0 + 1e-9) > *largest; i++) {
        const bool close = norm[i].most <= norm[i].largest * (1.0 + 1e-12);
        const double here = close ? norm[i].most : closer_norm(position, &norm[i], matrices);
        *largest = fmax(*largest, here * (1.0 + 1e-9));
    }
    free(norm);
    free(matrices);
    return good;
}

static bool find_line(ToeplitzPlan *plan, Error *error) {
    const size_t size = plan->base.settings.qk_size;
    size_t *rows = calloc(2 * size, sizeof *rows);
    if (!rows) return error_set(error, ERROR_MEMORY, "There is no memory for the counts of %zu rows.", size);
    size_t *columns = rows + size;
    for (size_t e = 0; e < plan->support; e++) {
        const size_t row = ++rows[plan->entry[e].row], column = ++columns[plan->entry[e].column];
        const size_t most = row > column ? row : column;
        if (most > plan->line) plan->line = most;
    }
    free(rows);
    return true;
}

static void find_shifts(ToeplitzPlan *plan) {
    const AttentionSettings *settings = &plan->base.settings;
    const ptrdiff_t tokens = (ptrdiff_t)settings->tokens;
    for (size_t h = 0; h < settings->heads; h++) {
        double most = -INFINITY;
        for (ptrdiff_t lag = settings->causal ? 0 : 1 - tokens; lag < tokens && plan->position.bias; lag++)
            if (!toeplitz_is_near(plan, lag)) most = fmax(most, position_bias(&plan->position, h, lag));
        plan->shift[h] = isfinite(most) ? most : 0.0;
    }
}

bool toeplitz_support_create(ToeplitzPlan *plan, Error *error) {
    const AttentionSettings *settings = &plan->base.settings;
    const Position *position = &plan->position;
    const size_t size = settings->qk_size, lags = position->lag_count;
    plan->support = position_support(position);
    size_t numbers, bytes;
    plan->entry = malloc(plan->support * sizeof *plan->entry);
    plan->far_entry = malloc(plan->support * sizeof *plan->far_entry);
    plan->far_place = malloc(plan->support * sizeof *plan->far_place);
    plan->dimension = malloc(size * sizeof *plan->dimension);
    plan->shift = malloc(settings->heads * sizeof *plan->shift);
    if (size_multiply(plan->support, lags, &numbers) && size_multiply(numbers, sizeof(real), &bytes))
        plan->weight = calloc(numbers, sizeof(real));
    if (!plan->entry || !plan->far_entry || !plan->far_place || !plan->dimension || !plan->shift || !plan->weight)
        return error_set(error, ERROR_MEMORY, "There is no memory for a position kernel of %zu entries and %zu lags.",
                         plan->support, lags);
    // the slowest pairs (p, p + D/2) are the last ones
    const size_t half = size / 2, pairs = plan->far_size / 2;
    for (size_t i = 0; i < plan->far_size; i++)
        plan->dimension[i] = plan->far_size == size ? i : i < pairs ? half - pairs + i : size - 2 * pairs + i;
    for (size_t e = 0; e < plan->support; e++) {
        plan->entry[e] = position_entry(position, e);
        for (ptrdiff_t i = 0; i < 2 * (ptrdiff_t)settings->tokens - 1; i++)
            plan->weight[e * lags + (size_t)i] =
                (real)position_weight(position, e, (ptrdiff_t)settings->tokens - 1 - i);
        size_t row = 0, column = 0;
        while (row < plan->far_size && plan->dimension[row] != plan->entry[e].row) row++;
        while (column < plan->far_size && plan->dimension[column] != plan->entry[e].column) column++;
        if (row == plan->far_size || column == plan->far_size) continue;
        plan->far_entry[plan->far_entries] = e;
        plan->far_place[plan->far_entries++] = (PositionEntry){row, column};
    }
    if (!find_line(plan, error)) return false;
    find_shifts(plan);
    plan->weight_norm = 1.0; // rotations keep lengths; decay and window only shorten
    plan->absolute_share = position->rotates ? sqrt(2.0) : 1.0;
    if (position->kind != POSITION_TABLE) return true;
    double absolute;
    if (!table_norm(position, settings->causal, &plan->weight_norm, &absolute, error)) return false;
    plan->absolute_share = plan->weight_norm > 0.0 ? absolute / plan->weight_norm : 0.0;
    return true;
}

bool toeplitz_kernel_norm(const AttentionSettings *settings, double *norm, Error *error) {
    *norm = 1.0;
    if (position_kind(settings->kernel) != POSITION_TABLE) return true;
    Position position = {0};
    double absolute;
    const bool good =
        position_create(&position, settings, error) && table_norm(&position, settings->causal, norm, &absolute, error);
    position_destroy(&position);
    return good;
}

// Sequences over lags first_lag … T-1 that the entries of S are multiples of.
typedef struct Symbols {
    double *values; // (symbols, lags)
    size_t count, lags;
    ptrdiff_t first_lag;
} Symbols;

// The symbol and scale of far entry e, in weight_units; a new sequence is added where no earlier one is equal up to a
// sign.
static TermsEntry find_symbol(const ToeplitzPlan *plan, Symbols *symbols, size_t e) {
    TermsEntry entry = {plan->far_place[e].row, plan->far_place[e].column, TERMS_ONE, 0.0};
    double *candidate = symbols->values + symbols->count * symbols->lags;
    bool constant = true, zero = true;
    for (size_t i = 0; i < symbols->lags; i++) {
        const double weight = position_weight(&plan->position, plan->far_entry[e], symbols->first_lag + (ptrdiff_t)i);
        candidate[i] = weight / plan->weight_unit;
        constant = constant && candidate[i] == candidate[0];
        zero = zero && candidate[i] == 0.0;
    }
    if (zero) return entry;
    entry.scale = constant ? candidate[0] : 1.0;
    if (constant) return entry;
    for (size_t s = 0; s < symbols->count; s++) {
        const double *other = symbols->values + s * symbols->lags;
        bool same = true, opposite = true;
        for (size_t i = 0; i < symbols->lags && (same || opposite); i++) {
            same = same && other[i] == candidate[i];
            opposite = opposite && other[i] == -candidate[i];
        }
        if (!same && !opposite) continue;
        entry.symbol = (int)s;
        entry.scale = same ? 1.0 : -1.0;
        return entry;
    }
    entry.symbol = (int)symbols->count++;
    return entry;
}

// signal (N) = Σ_parts coefficient · Π symbols · exp(b_t - shift) / N at the lags of the rung's far field, else 0. Lag t
// is at place t, negative ones at N + t.
static void write_kernel(const ToeplitzPlan *plan, const Symbols *symbols, const Kernel *kernel, const double *bias,
                         double *signal, size_t length, size_t rung_lags) {
    memset(signal, 0, length * sizeof *signal);
    for (size_t i = 0; i < symbols->lags; i++) {
        const ptrdiff_t lag = symbols->first_lag + (ptrdiff_t)i;
        if (toeplitz_is_near(plan, lag) || lag >= (ptrdiff_t)rung_lags) continue;
        double sum = 0.0;
        for (size_t p = kernel->first; p < kernel->first + kernel->count; p++) {
            const KernelPart *part = &plan->terms.part[p];
            double product = part->coefficient;
            for (size_t f = 0; f < POLYNOMIAL_MAX_DEGREE && part->symbols.factor[f] != MONOMIAL_NONE; f++)
                product *= symbols->values[part->symbols.factor[f] * symbols->lags + i];
            sum += product;
        }
        signal[lag >= 0 ? (size_t)lag : length - (size_t)-lag] = sum * bias[i] / (double)length;
    }
}

static bool create_rung(ToeplitzPlan *plan, Rung *rung, const Symbols *symbols, double *bias, Error *error) {
    rung->spectra =
        aligned_alloc(ARENA_ALIGNMENT, plan->bias_heads * plan->terms.kernels * rung->stride * sizeof(real));
    if (!rung->spectra)
        return error_set(error, ERROR_MEMORY, "There is no memory for %zu spectra of length %zu.",
                         plan->bias_heads * plan->terms.kernels, rung->transform.length);
    memset(rung->spectra, 0, plan->bias_heads * plan->terms.kernels * rung->stride * sizeof(real));
    KernelTransform transform;
    if (!kernel_transform_create(&transform, rung->transform.length, error)) return false;
    for (size_t h = 0; h < plan->bias_heads; h++) {
        for (size_t i = 0; i < symbols->lags; i++)
            bias[i] = exp(position_bias(&plan->position, h, symbols->first_lag + (ptrdiff_t)i) - plan->shift[h]);
        for (size_t k = 0; k < plan->terms.kernels; k++) {
            write_kernel(plan, symbols, &plan->terms.kernel[k], bias, transform.signal, transform.length, rung->inputs);
            kernel_transform_run(&transform, rung->spectra + (h * plan->terms.kernels + k) * rung->stride);
        }
    }
    kernel_transform_destroy(&transform);
    return true;
}

// Output ranges and transform lengths, without spectra yet.
static bool create_rungs(ToeplitzPlan *plan, Error *error) {
    const AttentionSettings *settings = &plan->base.settings;
    for (size_t last = settings->tokens; last > 0;) {
        // a rung that the near field covers whole has nothing to do
        if (settings->causal && last <= settings->near) break;
        Rung *rung = &plan->rung[plan->rungs];
        const bool whole = !settings->causal || last <= TOEPLITZ_RUNG_LAST;
        rung->last = rung->inputs = last;
        rung->first = whole ? 0 : last / TOEPLITZ_RUNG_RATIO;
        if (!transform_create(&rung->transform, transform_length(2 * last - rung->first), error)) return false;
        plan->rungs++;
        const size_t numbers = 2 * (rung->transform.length / 2 + 1), unit = ARENA_ALIGNMENT / sizeof(real);
        rung->stride = (numbers + unit - 1) / unit * unit;
        plan->spectra_bytes += plan->bias_heads * plan->terms.kernels * rung->stride * sizeof(real);
        if (rung->stride > plan->most_stride) plan->most_stride = rung->stride;
        if (rung->transform.length > plan->most_length) plan->most_length = rung->transform.length;
        last = rung->first;
    }
    return true;
}

double toeplitz_bias_norm(const ToeplitzPlan *plan, size_t head, const Rung *rung) {
    const ptrdiff_t inputs = (ptrdiff_t)rung->inputs;
    double square = 0.0;
    for (ptrdiff_t lag = plan->base.settings.causal ? 0 : 1 - inputs; lag < inputs; lag++) {
        if (toeplitz_is_near(plan, lag)) continue;
        const double bias = plan->position.bias ? position_bias(&plan->position, head, lag) : 0.0;
        square += exp(2.0 * (bias - plan->shift[head]));
    }
    return sqrt(square);
}

double toeplitz_noise(const Rung *rung, double bias_norm, double magnitude) {
    return TOEPLITZ_ROUNDING * REAL_EPSILON * log2((double)rung->transform.length) * bias_norm *
           sqrt((double)rung->inputs) * magnitude;
}

// mass (T) = Σ exp(b_t - shift) over the far lags that each token sees.
static void far_mass(const ToeplitzPlan *plan, double *mass) {
    const ptrdiff_t tokens = (ptrdiff_t)plan->base.settings.tokens;
    double total = 0.0;
    for (ptrdiff_t i = 0; i < tokens; i++) {
        if (!toeplitz_is_near(plan, i)) total += exp(position_bias(&plan->position, 0, i) - plan->shift[0]);
        mass[i] = total;
    }
    total = 0.0;
    for (ptrdiff_t i = tokens - 1; !plan->base.settings.causal && i-- > 0;) {
        const ptrdiff_t lag = i + 1 - tokens;
        if (!toeplitz_is_near(plan, lag)) total += exp(position_bias(&plan->position, 0, lag) - plan->shift[0]);
        mass[i] += total;
    }
}

// Kernels are scaled by the largest far bias. A token that sees only far lags of much lower ones, as under a mask, has a
// sum below the rounding of the transforms, which is that of the largest sums, of tokens behind it too. Whether that
// matters depends on its near weights, which may be as small as they like: such tokens meet their far keys one by one.
// A token that sees the lag of the largest bias has a sum like any other's, whose rounding certificates know. Refused
// where pairs are most of the work. mass: room for T numbers.
static bool find_pair_by_pair(ToeplitzPlan *plan, double *mass, Error *error) {
    const double least = 1e-30; // products of kernels below it are no numbers of single precision
    const AttentionSettings *settings = &plan->base.settings;
    const Polynomial *polynomial = &plan->polynomial;
    // noise as at the largest logits, sums as at logits of 0; power has no interval
    const double largest = polynomial->kind == POLYNOMIAL_POWER ? 0.0 : polynomial->interval;
    bool *drowned = calloc(settings->tokens, sizeof *drowned);
    if (!drowned) return error_set(error, ERROR_MEMORY, "There is no memory for %zu tokens.", settings->tokens);
    far_mass(plan, mass);
    double pairs = 0.0, all = 0.0;
    size_t last = 0;
    for (size_t r = 0; r < plan->rungs; r++) {
        const Rung *rung = &plan->rung[r];
        const double norm = toeplitz_bias_norm(plan, 0, rung);
        const double noise = toeplitz_noise(rung, norm, polynomial_magnitude(polynomial, largest));
        for (size_t i = rung->first; i < rung->last; i++) {
            const double keys = (double)toeplitz_far_keys(plan, i);
            all += keys;
            if (keys == 0.0 || mass[i] >= 1.0) continue; // the largest bias alone adds 1
            if (noise <= mass[i] / 16.0 && mass[i] >= least) continue;
            drowned[i] = true;
            plan->pair_by_pair_count++;
            pairs += keys;
            last = i > last ? i : last;
        }
    }
    if (pairs == 0.0) {
        free(drowned);
        return true;
    }
    plan->pair_by_pair = drowned;
    plan->pair_by_pair_end = last + 1;
    plan->pair_by_pair_keys = pairs;
    if (pairs <= all / 2.0) return true;
    ptrdiff_t peak = settings->causal ? 0 : 1 - (ptrdiff_t)settings->tokens;
    while (toeplitz_is_near(plan, peak) || position_bias(&plan->position, 0, peak) < plan->shift[0]) peak++;
    return error_set(error, ERROR_USER,
                     "attention.kernel=%s: the biases that most tokens up to number %zu see are so far below that of "
                     "lag %td, %g, that rounding of the transforms would drown their sums. Set attention.near = %td, "
                     "so that lags before that one are added one by one, or attention.method = exact.",
                     settings->kernel, last, peak, plan->shift[0], peak < 0 ? -peak : peak);
}

bool toeplitz_terms_create(ToeplitzPlan *plan, Error *error) {
    const AttentionSettings *settings = &plan->base.settings;
    Symbols symbols = {.first_lag = settings->causal ? 0 : 1 - (ptrdiff_t)settings->tokens};
    symbols.lags = (size_t)((ptrdiff_t)settings->tokens - symbols.first_lag);
    // one row more than entries: a candidate is written before it is known to be new
    symbols.values = malloc((plan->far_entries + 1) * symbols.lags * sizeof *symbols.values);
    TermsEntry *entry = malloc((plan->far_entries + 1) * sizeof *entry);
    double *bias = malloc(symbols.lags * sizeof *bias);
    bool good = symbols.values && entry && bias;
    if (!good)
        error_set(error, ERROR_MEMORY, "There is no memory for %zu sequences of %zu lags.", plan->far_entries,
                  symbols.lags);
    size_t entries = 0;
    for (size_t e = 0; good && e < plan->far_entries; e++) {
        entry[entries] = find_symbol(plan, &symbols, e);
        if (entry[entries].scale != 0.0) entries++;
    }
    good = good &&
           terms_create(&plan->terms, entry, entries, plan->polynomial.coefficient, settings->degree,
                        plan->logit_rest * plan->weight_unit, error) &&
           create_rungs(plan, error) &&
           // alibi's largest bias is that of the nearest far lag, which every token sees that sees any
           (!plan->position.table.bias || find_pair_by_pair(plan, bias, error)) && toeplitz_check_memory(plan, error);
    for (size_t r = 0; good && r < plan->rungs; r++) good = create_rung(plan, &plan->rung[r], &symbols, bias, error);
    free(symbols.values);
    free(entry);
    free(bias);
    return good;
}
