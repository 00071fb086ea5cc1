// Backward of method `toeplitz`: the exact gradient of what forward computed, by the transposed kernels.
//
//     dN_i = do_i/Z_i, dZ_i = -(do_i·o_i)/Z_i;  with C[V,1] and Cᵀ[dN,dZ] per monomial:
//     dμ(q_i) = Σ_e Y_ie dN_ie,  Y_μ = Σ_κ C_μκ * (κ(k)·[V,1])     dv_j  = Σ_κ κ(k_j) G_κj
//     dκ(k_j) = Σ_e G_je V_je,   G_κ = Σ_μ C_μκᵀ * (μ(q)·[dN,dZ])  dq, dk by the product rule from dμ, dκ
//
// This is the papers' γ = (diag(s) - s sᵀ)β with P' in place of exp, without its Kronecker products: monomials are
// closed under differentiation (attention.md, section 2.3). Twice the transforms of forward, which are made again
// rather than kept.
#include <math.h>
#include <string.h>

#include "attention/toeplitz_kernels.h"
#include "attention/toeplitz_plan.h"
#include "core/threads.h"

// unit->sum of one head = dN and dZ of the transformed sums.
static void load_gradient(const ToeplitzPlan *plan, ToeplitzUnit *unit, const AttentionBackward *io,
                          const ToeplitzSaved *saved, size_t member) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t size = settings->v_size, head = unit->kv_head * plan->group + member;
    const size_t at = unit->batch * settings->heads + head;
    real *sum = unit->sum + member * (size + 1) * plan->stride;
    for (size_t t = 0; t < settings->tokens; t++) {
        const size_t row = (unit->batch * settings->tokens + t) * io->o_stride + head * size;
        const double lowered = plan->shift[head] - (double)saved->shift[at * settings->tokens + t];
        const real factor =
            toeplitz_sees_far(plan, t) ? (real)exp(lowered) * saved->inverse[at * settings->tokens + t] : 0;
        real delta = real_zero_if_finite(saved->shift[at * settings->tokens + t]); // +Inf would make the factor 0
        for (size_t e = 0; e < size; e++) {
            sum[e * plan->stride + t] = io->d_o[row + e] * factor;
            delta += io->d_o[row + e] * io->o[row + e];
        }
        sum[size * plan->stride + t] = -delta * factor;
    }
}

// Everything that one column of one rung adds to the gradients of the component's monomials and to d_value.
static void add_column(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                       const Component *component, const Rung *rung, size_t column) {
    const ToeplitzKernels *kernels = toeplitz_kernels();
    const size_t stride = plan->stride, spectrum = plan->most_stride, most = plan->terms.most_queries;
    const size_t columns = plan->base.settings.v_size + 1, outputs = rung->last - rung->first;
    for (size_t i = 0; i < component->keys; i++)
        toeplitz_transform_product(rung, work->key_spectra + i * spectrum, work->signal, work->key_rows + i * stride,
                                   unit->value + column * stride, 0, rung->inputs);
    bool any = false;
    for (size_t m = 0; m < plan->group; m++) {
        if (unit->exact_far[m]) continue;
        const size_t head = unit->kv_head * plan->group + m;
        const real *d = unit->sum + (m * columns + column) * stride;
        toeplitz_mix(plan, rung, head, component, work->query_spectra, work->key_spectra);
        for (size_t i = 0; i < component->queries; i++) {
            transform_inverse(&rung->transform, work->signal, work->query_spectra + i * spectrum);
            kernels->multiply_add(work->d_query_rows + (m * most + i) * stride + rung->first, d + rung->first,
                                  work->signal + rung->first, outputs);
            toeplitz_transform_product(rung, work->query_spectra + i * spectrum, work->signal,
                                       work->query_rows + (m * most + i) * stride, d, rung->first, rung->last);
        }
        toeplitz_mix_transposed(plan, rung, head, component, work->back_spectra, work->query_spectra, any);
        any = true;
    }
    for (size_t i = 0; any && i < component->keys; i++) {
        transform_inverse(&rung->transform, work->signal, work->back_spectra + i * spectrum);
        kernels->multiply_add(work->d_key_rows + i * stride, unit->value + column * stride, work->signal, rung->inputs);
        kernels->multiply_add(unit->d_value + column * stride, work->key_rows + i * stride, work->signal, rung->inputs);
    }
}

static void clear_rows(real *rows, size_t count, size_t stride, size_t tokens) {
    for (size_t i = 0; i < count; i++) memset(rows + i * stride, 0, tokens * sizeof *rows);
}

static void gradient_slice(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work, size_t slice) {
    const size_t stride = plan->stride, tokens = plan->base.settings.tokens, far = plan->far_size;
    const size_t most = plan->terms.most_queries;
    real *d_query = unit->d_query + slice * plan->group * far * stride, *d_key = unit->d_key + slice * far * stride;
    size_t first, last;
    toeplitz_slice(plan, slice, &first, &last);
    clear_rows(d_query, plan->group * far, stride, tokens);
    clear_rows(d_key, far, stride, tokens);
    clear_rows(unit->d_value + first * stride, last - first, stride, tokens);
    if (!toeplitz_expands(plan, unit)) return;
    for (size_t n = 0; n < plan->terms.components; n++) {
        const Component *component = &plan->terms.component[n];
        if (component->pairs == 0) continue;
        toeplitz_component_rows(plan, unit, work, component);
        clear_rows(work->d_key_rows, component->keys, stride, tokens);
        for (size_t m = 0; m < plan->group; m++)
            clear_rows(work->d_query_rows + m * most * stride, component->queries, stride, tokens);
        for (size_t r = 0; r < plan->rungs; r++)
            for (size_t c = first; c < last; c++) add_column(plan, unit, work, component, &plan->rung[r], c);
        for (size_t i = 0; i < component->keys; i++)
            toeplitz_monomial_backward(d_key, work->d_key_rows + i * stride, &plan->terms.key[component->key + i],
                                       unit->key, stride, tokens);
        for (size_t m = 0; m < plan->group; m++)
            for (size_t i = 0; i < component->queries; i++)
                toeplitz_monomial_backward(d_query + m * far * stride, work->d_query_rows + (m * most + i) * stride,
                                           &plan->terms.query[component->query + i], unit->query + m * far * stride,
                                           stride, tokens);
    }
}

void toeplitz_backward(const AttentionPlan *base, const AttentionBackward *io) {
    const ToeplitzPlan *plan = (const ToeplitzPlan *)base;
    const AttentionSettings *settings = &base->settings;
    const size_t blocks = (settings->tokens + TOEPLITZ_TILE - 1) / TOEPLITZ_TILE, tiles = (plan->group + 1) * blocks;
    const ToeplitzSaved saved = toeplitz_saved_at(plan, (void *)io->saved, NULL);
    ToeplitzScratch scratch = toeplitz_scratch_at(plan, io->scratch, NULL);
    if (io->report) toeplitz_report_clear_gradients(plan, io->report, io->active);
    for (size_t next = 0, units; (units = toeplitz_wave(plan, &scratch, io->active, &next));) {
        toeplitz_load(plan, &scratch, units, io->q, io->q_stride, io->k, io->k_stride, io->v, io->v_stride);
        for (size_t u = 0; u < units; u++) {
            ToeplitzUnit *unit = &scratch.unit[u];
            const size_t at = unit->batch * settings->heads + unit->kv_head * plan->group;
            memcpy(unit->exact_far, saved.exact_far + at, plan->group);
        }
        if (plan->expands) {
#pragma omp parallel for schedule(dynamic) num_threads((int)plan->workers)
            for (size_t task = 0; task < units * plan->group; task++)
                load_gradient(plan, &scratch.unit[task / plan->group], io, &saved, task % plan->group);
#pragma omp parallel for schedule(dynamic) num_threads((int)plan->workers)
            for (size_t task = 0; task < units * plan->slices; task++)
                gradient_slice(plan, &scratch.unit[task / plan->slices], &scratch.work[threads_here()],
                               task % plan->slices);
        }
#pragma omp parallel for schedule(dynamic) num_threads((int)plan->workers)
        for (size_t task = 0; task < units * tiles; task++) {
            const ToeplitzUnit *unit = &scratch.unit[task / tiles];
            const size_t part = task % tiles / blocks, first = task % blocks * TOEPLITZ_TILE;
            ToeplitzWork *work = &scratch.work[threads_here()];
            if (part < plan->group)
                toeplitz_rows_backward(plan, unit, work, io, &saved, part, first);
            else
                toeplitz_keys_backward(plan, unit, work, io, &saved, first);
        }
        for (size_t u = 0; io->report && u < units; u++) toeplitz_report_backward(plan, &scratch.unit[u], &saved, io);
    }
}
