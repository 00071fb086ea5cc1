// rope bench attention: forward and backward of attention methods over context lengths. Methods take turns within each
// round, next to a 2048³ sgemm, so that what slows the machine slows all alike; shares are of that round's sgemm rate.
// Errors are against double-precision attention of the same bounded function (attention/reference.h) on sampled rows.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/reference.h"
#include "attention/toeplitz.h"
#include "core/arena.h"
#include "core/blas.h"
#include "core/clock.h"
#include "core/cpu.h"
#include "core/random.h"
#include "train/bench.h"
#include "train/statistics.h"

enum { FIT_FROM = 4096 }; // exponents are fitted from this length on, where fixed costs no longer show

// One method at one length.
typedef struct Cell {
    AttentionPlan *plan;
    const char *left_out; // why it was not measured
    AttentionSettings settings;
    AttentionNeeds needs;
    size_t rounds;                        // that were run
    double fell_back;                     // heads × batch rows that ran the exact far field
    double forward, backward;             // median seconds
    double forward_share, backward_share; // medians of the rounds' shares
    double max_error, certified_error;
    ToeplitzCounts toeplitz;
    double bare_forward, bare_backward; // seconds of toeplitz' transforms alone
} Cell;

// The tensors of one length, shared by all methods.
typedef struct Tensors {
    Arena arena;
    real *q, *k, *v, *o, *d_o, *dq, *dk, *dv;
    void *saved, *scratch;
} Tensors;

static bool make_settings(const Config *base, const char *method, size_t tokens, size_t batch, Config *config,
                          ModelSettings *model, Error *error) {
    char text[CONFIG_TEXT + 32];
    *config = *base;
    config_without_end(config);
    if (!config_set_method(config, method, error)) return false;
    snprintf(text, sizeof text, "model.tokens=%zu", tokens);
    if (!config_set(config, text, ORIGIN_COMMAND_LINE, error) || !config_resolve(config, error)) return false;
    config_model(config, batch, true, model);
    model->attention = model_attention_settings(model);
    return true;
}

static void take_tensors(Tensors *tensors, Arena *arena, const AttentionSettings *s, size_t saved, size_t scratch) {
    const size_t rows = s->batch * s->tokens, q = rows * s->heads * s->qk_size, k = rows * s->kv_heads * s->qk_size;
    const size_t v = rows * s->kv_heads * s->v_size, o = rows * s->heads * s->v_size;
    real **const outputs[] = {&tensors->q, &tensors->dq, &tensors->k, &tensors->dk,
                              &tensors->v, &tensors->dv, &tensors->o, &tensors->d_o};
    const size_t counts[] = {q, q, k, k, v, v, o, o};
    for (size_t i = 0; i < 8; i++) *outputs[i] = ARENA_TAKE(arena, real, counts[i]);
    tensors->saved = arena_take(arena, saved, 1);
    tensors->scratch = arena_take(arena, scratch, 1);
}

static bool create_tensors(Tensors *tensors, const AttentionSettings *s, size_t saved, size_t scratch, Error *error) {
    Arena measure = arena_measure("tensors of the benchmark");
    take_tensors(tensors, &measure, s, saved, scratch);
    if (measure.overflowed || !arena_create(&tensors->arena, "tensors of the benchmark", measure.used, error))
        return error_set(error, ERROR_USER, "These sizes are more than can be addressed.");
    take_tensors(tensors, &tensors->arena, s, saved, scratch);
    const size_t rows = s->batch * s->tokens;
    random_fill_normal(tensors->q, rows * s->heads * s->qk_size, 1, (Random){1, RANDOM_BENCH, 0});
    random_fill_normal(tensors->k, rows * s->kv_heads * s->qk_size, 1, (Random){1, RANDOM_BENCH, 1});
    random_fill_normal(tensors->v, rows * s->kv_heads * s->v_size, 1, (Random){1, RANDOM_BENCH, 2});
    random_fill_normal(tensors->d_o, rows * s->heads * s->v_size, 1, (Random){1, RANDOM_BENCH, 3});
    return true;
}

static AttentionForward forward_of(const Cell *cell, const Tensors *t) {
    const AttentionSettings *s = &cell->settings;
    return (AttentionForward){
        .o = t->o,
        .q = t->q,
        .k = t->k,
        .v = t->v,
        .o_stride = s->heads * s->v_size,
        .q_stride = s->heads * s->qk_size,
        .k_stride = s->kv_heads * s->qk_size,
        .v_stride = s->kv_heads * s->v_size,
        .saved = t->saved,
        .scratch = t->scratch,
    };
}

static void run_forward(const Cell *cell, const Tensors *t, AttentionReport *report) {
    AttentionForward forward = forward_of(cell, t);
    forward.report = report;
    attention_forward(cell->plan, &forward);
}

static void run_backward(const Cell *cell, const Tensors *t) {
    const AttentionForward forward = forward_of(cell, t);
    const AttentionBackward backward = attention_backward_after(&forward, t->d_o, t->dq, t->dk, t->dv);
    attention_backward(cell->plan, &backward);
}

// Largest |o - reference| over sampled tokens of the first batch row, and the largest certificate of its heads.
static bool check_error(Cell *cell, const Tensors *t, Error *error) {
    enum { SAMPLES = 12 };
    const AttentionSettings *s = &cell->settings;
    double *certified = calloc(3 * s->heads, sizeof *certified), *method = certified ? certified + s->heads : NULL;
    double *fell_back = certified ? method + s->heads : NULL;
    double *row = calloc(s->v_size, sizeof *row);
    AttentionSettings bounded = *s;
    bounded.far = s->far == FAR_NONE ? FAR_NONE : FAR_EXACT;
    AttentionReference *references[2] = {reference_create(s, false, NULL, error),
                                         reference_create(&bounded, true, NULL, error)};
    const bool fine = certified && row && references[0] && references[1];
    if (fine)
        run_forward(cell, t,
                    &(AttentionReport){.output_bound = certified, .fell_back = fell_back, .method_used = method});
    for (size_t h = 0; fine && h < s->heads; h++) {
        const bool exact = attention_method_at((size_t)method[h]) == attention_method_find("exact");
        AttentionReference *reference = references[!exact];
        const size_t g = h / (s->heads / s->kv_heads);
        reference_load(reference, h, t->q + h * s->qk_size, s->heads * s->qk_size, t->k + g * s->qk_size,
                       s->kv_heads * s->qk_size, t->v + g * s->v_size, s->kv_heads * s->v_size);
        for (size_t sample = 0; sample < SAMPLES; sample++) {
            const size_t i = s->tokens - 1 - sample * s->tokens / SAMPLES;
            reference_row(reference, i, row);
            for (size_t e = 0; e < s->v_size; e++) {
                const double difference = fabs((double)t->o[(i * s->heads + h) * s->v_size + e] - row[e]);
                cell->max_error = larger_or_nan(cell->max_error, difference);
            }
        }
        cell->certified_error = larger_or_nan(cell->certified_error, certified[h]);
        cell->fell_back += fell_back[h];
    }
    reference_destroy(references[0]);
    reference_destroy(references[1]);
    free(certified);
    free(row);
    return fine || error_set(error, ERROR_MEMORY, "There is no memory for the reference.");
}

// Rounds of sgemm, then forward and backward of each method.
static void time_methods(Cell *cells, size_t count, const Tensors *tensors, size_t rounds, double *sgemm) {
    static double times[BENCH_MAX_METHODS][2][BENCH_MAX_ROUNDS], shares[BENCH_MAX_METHODS][2][BENCH_MAX_ROUNDS];
    double rates[BENCH_MAX_ROUNDS];
    for (size_t r = 0; r < rounds; r++) {
        rates[r] = blas_library_rate(BENCH_SGEMM, 1);
        for (size_t m = 0; m < count; m++) {
            if (cells[m].left_out) continue;
            const double start = clock_seconds();
            run_forward(&cells[m], tensors, NULL);
            const double middle = clock_seconds();
            run_backward(&cells[m], tensors);
            times[m][0][r] = middle - start;
            times[m][1][r] = clock_seconds() - middle;
            shares[m][0][r] = cells[m].needs.forward_flops / times[m][0][r] / (1e9 * rates[r]);
            shares[m][1][r] = cells[m].needs.backward_flops / times[m][1][r] / (1e9 * rates[r]);
        }
    }
    for (size_t m = 0; m < count; m++) {
        if (cells[m].left_out) continue;
        cells[m].rounds = rounds;
        cells[m].forward = median(times[m][0], rounds);
        cells[m].backward = median(times[m][1], rounds);
        // The method's operations are not what a fallback ran.
        cells[m].forward_share = cells[m].fell_back > 0 ? NAN : median(shares[m][0], rounds);
        cells[m].backward_share = cells[m].fell_back > 0 ? NAN : median(shares[m][1], rounds);
    }
    *sgemm = median(rates, rounds);
}

// Forward and backward at this length, from the length before: operations, at the rate measured there. A fallback's
// grow with the square.
static double expected_seconds(const Cell *before, const Cell *cell) {
    if (!before) return cell->needs.forward_flops * 3.5 / 20e9;
    const double longer = (double)cell->settings.tokens / (double)before->settings.tokens;
    const double growth = (cell->needs.forward_flops + cell->needs.backward_flops) /
                          (before->needs.forward_flops + before->needs.backward_flops);
    return (before->forward + before->backward) * (before->fell_back > 0 ? longer * longer : growth);
}

// One length: plans, tensors, times, errors. Plans are gone afterwards, figures stay in the cells.
static bool measure_length(const Config *config, const BenchOptions *options, size_t length, Cell *cells,
                           const Cell *before, double *sgemm, Error *error) {
    static Config configs[BENCH_MAX_METHODS];
    static ModelSettings model;
    CpuInfo cpu;
    cpu_info(&cpu);
    size_t saved = 0, scratch = 0, running = 0, rounds = options->rounds;
    double expected = 0;
    bool fine = true;
    for (size_t m = 0; fine && m < options->method_count; m++) {
        Cell *cell = &cells[m];
        Error refusal = {0};
        fine = make_settings(config, options->methods[m], options->lengths[length], options->batch, &configs[m], &model,
                             error);
        if (!fine) break;
        cell->settings = model.attention;
        // For the same reason; lengths that return behind a gap would also be compared with other lengths of the yardstick.
        cell->left_out = before ? before[m].left_out : NULL;
        if (cell->left_out) continue;
        cell->plan = attention_create(model.methods[0], &cell->settings, &refusal);
        if (!cell->plan) {
            fprintf(stderr, "%s at T=%zu: %s\n", options->methods[m], options->lengths[length], refusal.message);
            cell->left_out = "refused";
            continue;
        }
        cell->needs = attention_needs(cell->plan);
        const AttentionSettings *s = &cell->settings;
        const double tensors = 2.0 * sizeof(real) * (double)(s->batch * s->tokens) *
                               (double)((s->heads + s->kv_heads) * (s->qk_size + s->v_size));
        const double seconds = expected_seconds(before ? &before[m] : NULL, cell);
        if (tensors + (double)cell->needs.scratch_bytes + (double)cell->needs.saved_bytes >
            0.9 * (double)cpu.memory_available)
            cell->left_out = "memory";
        else if (seconds > options->limit)
            cell->left_out = "time";
        if (cell->left_out) continue;
        expected += seconds;
        running++;
        saved = cell->needs.saved_bytes > saved ? cell->needs.saved_bytes : saved;
        scratch = cell->needs.scratch_bytes > scratch ? cell->needs.scratch_bytes : scratch;
    }
    while (rounds > 1 && expected * (double)rounds > 2.0 * options->limit) rounds--;
    Tensors tensors = {0};
    if (fine && running && (fine = create_tensors(&tensors, &cells[0].settings, saved, scratch, error))) {
        for (size_t m = 0; fine && m < options->method_count; m++) // also warms caches and pages
            fine = cells[m].left_out || check_error(&cells[m], &tensors, error);
        time_methods(cells, options->method_count, &tensors, rounds, sgemm);
        for (size_t m = 0; m < options->method_count; m++)
            if (!cells[m].left_out && toeplitz_counts(cells[m].plan, &cells[m].toeplitz)) {
                cells[m].bare_forward = toeplitz_bare_seconds(cells[m].plan, false, 3);
                cells[m].bare_backward = toeplitz_bare_seconds(cells[m].plan, true, 3);
            }
        arena_destroy(&tensors.arena);
    }
    for (size_t m = 0; m < options->method_count; m++) {
        attention_destroy(cells[m].plan);
        cells[m].plan = NULL;
    }
    return fine;
}

// Not the time of the exact attention that the method fell back to.
static bool is_own_time(const Cell *cell) { return !cell->left_out && !(cell->fell_back > 0); }

static json_t *row_json(const char *method, size_t tokens, const Cell *cell) {
    json_t *row = json_pack("{s:s, s:I}", "method", method, "tokens", (json_int_t)tokens);
    if (cell->left_out) {
        json_object_set_new(row, "left_out", json_string(cell->left_out));
        return row;
    }
    const AttentionSettings *s = &cell->settings;
    const bool exact = strcmp(method, "exact") == 0;
    const bool own = is_own_time(cell);
    json_object_update_new(
        row, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:f, s:f, s:o, s:o, s:o, s:o, s:I, s:I, s:I}",
                       "rounds", (json_int_t)cell->rounds, "fell_back", (json_int_t)cell->fell_back, "qk_size",
                       (json_int_t)s->qk_size, "v_size", (json_int_t)s->v_size, "far_size",
                       (json_int_t)(exact ? 0 : s->far_size), "degree", (json_int_t)(exact ? 0 : s->degree),
                       "logit_bound", s->bound == BOUND_NONE ? json_null() : json_real(s->logit_bound), "features",
                       (json_int_t)cell->needs.features, "forward_ms", 1e3 * cell->forward, "backward_ms",
                       1e3 * cell->backward, "forward_share", bench_number(cell->forward_share), "backward_share",
                       bench_number(cell->backward_share), "max_error", bench_number(cell->max_error),
                       "certified_error", bench_number(cell->certified_error), "state_bytes",
                       (json_int_t)cell->needs.state_bytes, "scratch_bytes", (json_int_t)cell->needs.scratch_bytes,
                       "saved_bytes", (json_int_t)cell->needs.saved_bytes));
    if (cell->toeplitz.terms)
        json_object_update_new(
            row,
            json_pack("{s:I, s:f, s:f, s:I, s:o, s:o}", "terms", (json_int_t)cell->toeplitz.terms, "forward_transforms",
                      cell->toeplitz.forward_transforms, "backward_transforms", cell->toeplitz.backward_transforms,
                      "spectra_bytes", (json_int_t)cell->toeplitz.spectra_bytes, "forward_transform_ratio",
                      bench_number(own ? cell->forward / cell->bare_forward : NAN), "backward_transform_ratio",
                      bench_number(own ? cell->backward / cell->bare_backward : NAN)));
    return row;
}

static void print_row(const char *method, size_t tokens, const Cell *cell) {
    if (cell->left_out) {
        fprintf(stderr, "%-10s %8zu  left out: %s\n", method, tokens, cell->left_out);
        return;
    }
    char shares[2][16] = {"-", "-"};
    const double of_sgemm[] = {cell->forward_share, cell->backward_share};
    for (size_t i = 0; i < 2; i++)
        if (isfinite(of_sgemm[i])) snprintf(shares[i], sizeof shares[i], "%.0f%%", 100 * of_sgemm[i]);
    fprintf(stderr, "%-10s %8zu %8zu %11.2f %11.2f %8s %8s %10.2g %10.2g %9.0f %6zu\n", method, tokens,
            cell->needs.features, 1e3 * cell->forward, 1e3 * cell->backward, shares[0], shares[1], cell->max_error,
            cell->certified_error, cell->fell_back, cell->rounds);
}

// Times of one method from `first` tokens on: forward (0) or backward (1) in units of sgemm's time in the same rounds, so
// that a machine which slows down meanwhile bends no slope. Lengths where it fell back are not the method's.
static size_t curve(const BenchOptions *options, Cell (*cells)[BENCH_MAX_METHODS], size_t method, size_t first,
                    int which, double *x, double *y) {
    size_t count = 0;
    for (size_t l = 0; l < options->length_count; l++) {
        const Cell *cell = &cells[l][method];
        if (!is_own_time(cell) || options->lengths[l] < first) continue;
        x[count] = (double)options->lengths[l];
        y[count++] =
            which ? cell->needs.backward_flops / cell->backward_share : cell->needs.forward_flops / cell->forward_share;
    }
    return count;
}

// From where on a method is faster than the first, by the lengths at which both ran as themselves.
static double crossing_of(const BenchOptions *options, Cell (*cells)[BENCH_MAX_METHODS], size_t method) {
    double x[BENCH_MAX_LENGTHS], first[BENCH_MAX_LENGTHS], own[BENCH_MAX_LENGTHS];
    size_t count = 0;
    for (size_t l = 0; l < options->length_count; l++) {
        const Cell *of_first = &cells[l][0], *of_own = &cells[l][method];
        if (!is_own_time(of_first) || !is_own_time(of_own)) continue;
        x[count] = (double)options->lengths[l];
        first[count] = of_first->forward + of_first->backward;
        own[count++] = of_own->forward + of_own->backward;
    }
    return method ? crossover(x, first, own, count) : NAN;
}

static double fallbacks(const BenchOptions *options, Cell (*cells)[BENCH_MAX_METHODS], size_t method) {
    double count = 0;
    for (size_t l = 0; l < options->length_count; l++) count += cells[l][method].fell_back;
    return count;
}

static json_t *fit_json(const BenchOptions *options, Cell (*cells)[BENCH_MAX_METHODS], size_t method) {
    static const char *const keys[] = {"forward_exponent", "backward_exponent"};
    double x[BENCH_MAX_LENGTHS], y[BENCH_MAX_LENGTHS];
    json_t *fit = json_pack("{s:s}", "method", options->methods[method]);
    bool fitted = false;
    fprintf(stderr, "%s (from %d tokens on):", options->methods[method], FIT_FROM);
    for (int which = 0; which < 2; which++) {
        const double exponent = growth_exponent(x, y, curve(options, cells, method, FIT_FROM, which, x, y));
        json_object_set_new(fit, keys[which], bench_number(exponent));
        if (isfinite(exponent)) fprintf(stderr, " %s grows as T^%.2f;", which ? "backward" : "forward", exponent);
        fitted |= isfinite(exponent);
    }
    if (!fitted) fprintf(stderr, " too few lengths to see it grow;");
    const double crossing = crossing_of(options, cells, method);
    json_object_set_new(fit, "crossover_tokens", bench_number(crossing));
    if (crossing > 0) // NaN where it never is
        fprintf(stderr, " faster than %s from %.0f tokens on", options->methods[0], crossing);
    else if (crossing == 0)
        fprintf(stderr, " faster than %s from the first length on", options->methods[0]);
    if (fallbacks(options, cells, method) > 0)
        fprintf(stderr, " where it fell back to exact its times are exact's, and not looked at");
    fprintf(stderr, "\n");
    return fit;
}

json_t *bench_attention(const Config *config, const BenchOptions *options, Error *error) {
    static Cell cells[BENCH_MAX_LENGTHS][BENCH_MAX_METHODS];
    double rates[BENCH_MAX_LENGTHS];
    json_t *rows = json_array(), *fits = json_array();
    size_t measured = 0;
    memset(cells, 0, sizeof cells);
    fprintf(stderr, "%-10s %8s %8s %11s %11s %8s %8s %10s %10s %9s %6s\n", "method", "tokens", "features", "forward ms",
            "backward ms", "of sgemm", "of sgemm", "error", "certified", "fell back", "rounds");
    for (size_t l = 0; l < options->length_count; l++) {
        rates[measured] = 0;
        if (!measure_length(config, options, l, cells[l], l ? cells[l - 1] : NULL, &rates[measured], error)) {
            json_decref(rows);
            json_decref(fits);
            return NULL;
        }
        measured += rates[measured] > 0;
        for (size_t m = 0; m < options->method_count; m++) {
            print_row(options->methods[m], options->lengths[l], &cells[l][m]);
            json_array_append_new(rows, row_json(options->methods[m], options->lengths[l], &cells[l][m]));
        }
    }
    for (size_t m = 0; m < options->method_count; m++) json_array_append_new(fits, fit_json(options, cells, m));
    const double sgemm = median(rates, measured);
    if (measured) fprintf(stderr, "sgemm %.0f GFLOP/s\n", sgemm);
    return json_pack("{s:o, s:I, s:I, s:o, s:o}", "sgemm_gflops", bench_number(sgemm), "heads",
                     (json_int_t)cells[0][0].settings.heads, "batch", (json_int_t)options->batch, "rows", rows, "fits",
                     fits);
}
