// Plans of method `toeplitz`: validation, sizes, counts, and the timing of the bare transforms.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/toeplitz.h"
#include "attention/toeplitz_kernels.h"
#include "attention/toeplitz_plan.h"
#include "core/clock.h"
#include "core/cpu.h"
#include "core/threads.h"

static bool check_settings(const ToeplitzPlan *plan, Error *error) {
    const AttentionSettings *settings = &plan->base.settings;
    if (settings->far == FAR_NONE && settings->near == 0)
        return error_set(error, ERROR_USER,
                         "attention.far = none needs attention.near of at least 1: a token must see "
                         "something.");
    if (plan->far_size < settings->qk_size && !plan->position.rotates)
        return error_set(
            error, ERROR_USER,
            "attention.far_size = %zu chooses the slowest rotary dimensions, but kernel %s does not rotate. "
            "Set attention.far_size = 0.",
            settings->far_size, settings->kernel);
    if (plan->far_size % 2 && plan->position.rotates)
        return error_set(error, ERROR_USER, "attention.far_size = %zu is not even: rotary dimensions come in pairs.",
                         settings->far_size);
    return true;
}

// Tables over lags come before anything else is known: a length that is out of reach must not be tried.
static bool check_tables(const AttentionSettings *settings, Error *error) {
    const double size = (double)settings->qk_size;
    const double tokens = (double)settings->tokens + POSITION_LAG_PADDING / 2.0; // 2T lags, and their padding
    // rotations (T·D), W_t over 2D entries and 2T lags, and as many doubles while the plan is made
    const double bytes = tokens * size * (5.0 * sizeof(real) + (settings->causal ? 2.0 : 4.0) * sizeof(double));
    CpuInfo cpu;
    cpu_info(&cpu);
    if (settings->tokens > (size_t)1 << 28)
        return error_set(error, ERROR_USER, "%zu tokens are more than transforms of method toeplitz are made for.",
                         settings->tokens);
    return bytes <= (double)cpu.memory_available ||
           error_set(
               error, ERROR_USER,
               "Method toeplitz needs %.0f MiB for the position kernel of %zu tokens and size %zu, but %.0f MiB of "
               "memory are available.",
               bytes / 1048576.0, settings->tokens, settings->qk_size, (double)cpu.memory_available / 1048576.0);
}

static void choose_wave(ToeplitzPlan *plan) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t units = settings->batch * settings->kv_heads, few = 32u << 20;
    size_t one, two;
    plan->wave = 1;
    toeplitz_scratch_at(plan, NULL, &one);
    plan->wave = 2;
    toeplitz_scratch_at(plan, NULL, &two);
    // enough tasks for all threads, and more where units are small, so that waves are worth their barriers
    const size_t busy = (2 * plan->workers + plan->slices - 1) / plan->slices, small = few / (two - one);
    plan->wave = toeplitz_least(units, small > busy ? small : busy);
}

static bool create_polynomial(ToeplitzPlan *plan, Error *error) {
    const AttentionSettings *settings = &plan->base.settings;
    const double norm = plan->weight_norm;
    Error narrow = {0};
    if (polynomial_create(&plan->polynomial, settings->polynomial, settings->degree, bound_interval(settings, norm),
                          norm < 1.0 ? &narrow : error))
        return true;
    if (norm > 1.0)
        error_context(error,
                      "attention.kernel=%s: its W has norm %.4g, by which logits go beyond attention.logit_bound",
                      settings->kernel, norm);
    error_clear(&narrow);
    // logits of a table may be 0, or so small that an error of this degree could not be told from rounding: any wider
    // interval holds them
    return norm < 1.0 && polynomial_create(&plan->polynomial, settings->polynomial, settings->degree,
                                           bound_interval(settings, 1.0), error);
}

// far_scale² is s‖W‖ up to a factor of 4: products of a monomial of q and one of k are then as large as a power of logits.
static void choose_scales(ToeplitzPlan *plan) {
    const int least = -120; // what is left of s stays a normal number beside any norm
    int scale_exponent, unit_exponent;
    frexp(plan->base.settings.logit_scale, &scale_exponent);
    frexp(plan->weight_norm, &unit_exponent); // 0 for a table of zeros
    if (unit_exponent < least) unit_exponent = least;
    plan->weight_unit = ldexp(1.0, unit_exponent);
    plan->far_scale = ldexp(1.0, (scale_exponent + unit_exponent) / 2);
    plan->logit_rest = plan->base.settings.logit_scale / plan->far_scale / plan->far_scale;
}

// A plan without its terms: sizes of everything that does not depend on them.
static bool lay_out(ToeplitzPlan *plan, Error *error) {
    const AttentionSettings *settings = &plan->base.settings;
    plan->group = settings->heads / settings->kv_heads;
    plan->far_size =
        settings->far_size && settings->far_size < settings->qk_size ? settings->far_size : settings->qk_size;
    plan->expands = settings->far == FAR_POLYNOMIAL;
    plan->stride = (settings->tokens + 15) / 16 * 16 + TOEPLITZ_TILE;
    plan->slices = toeplitz_least(settings->v_size + 1, TOEPLITZ_SLICES);
    plan->workers = threads_count();
    plan->bound = bound_make(settings);
    if (!check_tables(settings, error) || !position_create(&plan->position, settings, error) ||
        !check_settings(plan, error) || !toeplitz_support_create(plan, error))
        return false;
    choose_scales(plan);
    plan->bias_heads = plan->position.kind == POSITION_ALIBI ? settings->heads : 1;
    if (!plan->expands) return toeplitz_check_memory(plan, error);
    return create_polynomial(plan, error) && toeplitz_terms_create(plan, error);
}

AttentionPlan *toeplitz_create(const AttentionSettings *settings, Error *error) {
    ToeplitzPlan *plan = calloc(1, sizeof *plan);
    if (!plan) {
        error_set(error, ERROR_MEMORY, "There is no memory for an attention plan.");
        return NULL;
    }
    plan->base.settings = *settings;
    if (lay_out(plan, error)) return &plan->base;
    toeplitz_destroy(&plan->base);
    return NULL;
}

void toeplitz_destroy(AttentionPlan *base) {
    ToeplitzPlan *plan = (ToeplitzPlan *)base;
    for (size_t r = 0; r < plan->rungs; r++) {
        transform_destroy(&plan->rung[r].transform);
        free(plan->rung[r].spectra);
    }
    terms_destroy(&plan->terms);
    position_destroy(&plan->position);
    free(plan->dimension);
    free(plan->entry);
    free(plan->far_entry);
    free(plan->far_place);
    free(plan->weight);
    free(plan->shift);
    free(plan->pair_by_pair);
    free(plan);
}

// Transforms of one unit, one column, one rung: keys forward, queries of every head back (attention/toeplitz.c).
static double unit_transforms(const ToeplitzPlan *plan) {
    return (double)plan->terms.keys + (double)plan->group * (double)plan->terms.queries;
}

static double transform_flops(const Rung *rung) {
    return 2.5 * (double)rung->transform.length * log2((double)rung->transform.length);
}

bool toeplitz_counts(const AttentionPlan *base, ToeplitzCounts *counts) {
    *counts = (ToeplitzCounts){0};
    if (base->method != &attention_toeplitz) return false;
    const ToeplitzPlan *plan = (const ToeplitzPlan *)base;
    const AttentionSettings *settings = &base->settings;
    *counts = (ToeplitzCounts){
        .support = plan->far_entries,
        .terms = plan->terms.terms,
        .pairs = plan->terms.pairs,
        .kernels = plan->terms.kernels,
        .query_monomials = plan->terms.queries,
        .key_monomials = plan->terms.keys,
        .components = plan->terms.components,
        .rungs = plan->rungs,
        .longest = plan->most_length,
        .spectra_bytes = plan->spectra_bytes,
    };
    const double units = (double)(settings->batch * settings->kv_heads), columns = (double)settings->v_size + 1.0;
    for (size_t r = 0; r < plan->rungs; r++) {
        const double transforms = units * columns * unit_transforms(plan);
        counts->forward_transforms += transforms;
        counts->forward_flops += transforms * transform_flops(&plan->rung[r]);
    }
    counts->backward_transforms = 2.0 * counts->forward_transforms;
    counts->backward_flops = 2.0 * counts->forward_flops;
    return true;
}

double toeplitz_interval(const AttentionPlan *base) {
    return base->method == &attention_toeplitz ? ((const ToeplitzPlan *)base)->polynomial.interval : 0.0;
}

// Operations of one forward call: transforms, products of pairs, monomials, and pairs of tokens one by one.
static double forward_flops(const ToeplitzPlan *plan) {
    const AttentionSettings *settings = &plan->base.settings;
    const double units = (double)(settings->batch * settings->kv_heads), columns = (double)settings->v_size + 1.0;
    const double group = (double)plan->group, tokens = (double)settings->tokens;
    double flops = 0.0;
    for (size_t r = 0; r < plan->rungs; r++) {
        const Rung *rung = &plan->rung[r];
        flops += columns * unit_transforms(plan) * (transform_flops(rung) + 2.0 * (double)rung->last);
        flops += columns * group * (double)plan->terms.pairs * 4.0 * (double)rung->transform.length;
    }
    flops += (double)plan->slices * unit_transforms(plan) * (double)settings->degree * tokens;
    const double reach = settings->far == FAR_EXACT ? tokens / (settings->causal ? 2.0 : 1.0) : (double)settings->near;
    const double met = tokens * fmin(reach, tokens) + plan->pair_by_pair_keys;
    flops += group * met * 2.0 * (1.5 * (double)plan->support + (double)settings->v_size);
    return units * flops;
}

bool toeplitz_check_memory(ToeplitzPlan *plan, Error *error) {
    AttentionNeeds *needs = &plan->base.needs;
    choose_wave(plan);
    toeplitz_saved_at(plan, NULL, &needs->saved_bytes);
    toeplitz_scratch_at(plan, NULL, &needs->scratch_bytes);
    needs->decode_bytes = toeplitz_decode_bytes(plan);
    needs->features = plan->terms.queries;
    needs->plan_bytes = sizeof *plan + plan->spectra_bytes + position_bytes(&plan->position) +
                        terms_bytes(&plan->terms) + plan->support * plan->position.lag_count * sizeof(real) + // W_t
                        (plan->pair_by_pair ? plan->base.settings.tokens * sizeof *plan->pair_by_pair : 0);
    needs->forward_flops = forward_flops(plan);
    needs->backward_flops = 2.0 * needs->forward_flops;
    CpuInfo cpu;
    cpu_info(&cpu);
    size_t total;
    if (size_add(plan->spectra_bytes, needs->scratch_bytes, &total) && total <= cpu.memory_available) return true;
    const double mebibyte = 1048576.0;
    return error_set(
        error, ERROR_USER,
        "Method toeplitz with %zu entries of the position kernel, degree %zu and %zu tokens expands to %zu "
        "terms, %zu kernels in %zu lengths: %.0f MiB of spectra and %.0f MiB of scratch, but %.0f MiB of "
        "memory are available. Lower attention.degree, attention.far_size or model.tokens, or use "
        "attention.method = lowrank.",
        plan->far_entries, plan->base.settings.degree, plan->base.settings.tokens, plan->terms.terms,
        plan->bias_heads * plan->terms.kernels, plan->rungs, (double)plan->spectra_bytes / mebibyte,
        (double)needs->scratch_bytes / mebibyte, (double)cpu.memory_available / mebibyte);
}

void toeplitz_explain(const AttentionPlan *base, char *text, size_t size) {
    const ToeplitzPlan *plan = (const ToeplitzPlan *)base;
    ToeplitzCounts counts;
    char met[96] = "";
    if (plan->pair_by_pair)
        snprintf(met, sizeof met, "; %zu tokens below the rest meet their far keys one by one, %.3g pairs",
                 plan->pair_by_pair_count, plan->pair_by_pair_keys);
    if (!toeplitz_counts(base, &counts) || counts.terms == 0) {
        snprintf(text, size, "near field of %zu tokens pair by pair, no transforms", base->settings.near);
        return;
    }
    snprintf(text, size,
             "%zu terms over %zu entries of W (%zu pairs of monomials, %zu kernels), %.0f real transforms forward and "
             "%.0f backward of up to %zu points, %.1f MiB of spectra%s",
             counts.terms, counts.support, counts.pairs, counts.kernels, counts.forward_transforms,
             counts.backward_transforms, counts.longest, (double)counts.spectra_bytes / 1048576.0, met);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

// Seconds of one forward and one inverse transform of a rung, with every worker at it. buffers: (workers) pairs.
static double time_pair(const ToeplitzPlan *plan, const Rung *rung, real *buffers, size_t size) {
    const size_t pairs = 1 + ((size_t)1 << 20) / rung->transform.length;
    const double start = clock_seconds();
#pragma omp parallel num_threads((int)plan->workers)
    {
        real *spectrum = buffers + threads_here() * 2 * size, *signal = spectrum + size;
        for (size_t i = 0; i < pairs; i++) {
            transform_forward(&rung->transform, spectrum, signal);
            transform_inverse(&rung->transform, signal, spectrum);
            // numbers must not grow from pass to pass
            for (size_t t = 0; t < rung->transform.length; t += 16) signal[t] = 0;
        }
    }
    return (clock_seconds() - start) / (double)pairs;
}

double toeplitz_bare_seconds(const AttentionPlan *base, bool backward, size_t repeats) {
    enum { MOST = 15 };
    if (base->method != &attention_toeplitz) return 0.0;
    const ToeplitzPlan *plan = (const ToeplitzPlan *)base;
    const AttentionSettings *settings = &base->settings;
    const size_t size = plan->most_stride > plan->most_length ? plan->most_stride : (plan->most_length + 15) / 16 * 16;
    real *buffers = aligned_alloc(ARENA_ALIGNMENT, plan->workers * 2 * size * sizeof(real));
    if (!buffers || repeats == 0) {
        free(buffers);
        return 0.0;
    }
    memset(buffers, 0, plan->workers * 2 * size * sizeof(real));
    double seconds = 0.0, times[MOST];
    const double columns = (double)settings->v_size + 1.0, units = (double)(settings->batch * settings->kv_heads);
    for (size_t r = 0; r < plan->rungs; r++) {
        const size_t count = toeplitz_least(repeats, MOST);
        for (size_t i = 0; i < count; i++) times[i] = time_pair(plan, &plan->rung[r], buffers, size);
        qsort(times, count, sizeof *times, by_value);
        seconds += times[count / 2] / 2.0 * units * columns * unit_transforms(plan) / (double)plan->workers;
    }
    free(buffers);
    return backward ? 2.0 * seconds : seconds;
}

const AttentionMethod attention_toeplitz = {
    .name = "toeplitz",
    .summary = "polynomial of Definition 1.1 for any position kernel, as Toeplitz products by FFT; O(T log T)",
    .create = toeplitz_create,
    .forward = toeplitz_forward,
    .backward = toeplitz_backward,
    .decode_begin = toeplitz_decode_begin,
    .decode = toeplitz_decode,
    .explain = toeplitz_explain,
    .destroy = toeplitz_destroy,
};
