// The steps of forward and backward on one component and one rung: monomials, transforms of products, and the sum over
// pairs in the frequency domain, which is where terms that share a q-monomial are added up before one inverse transform.
// Monomials cost O(degree) per token, transforms O(N log N), pairs O(N).
#include <string.h>

#include "attention/toeplitz_kernels.h"
#include "attention/toeplitz_plan.h"

void toeplitz_monomial(real *out, const Monomial *monomial, const real *features, size_t stride, size_t count) {
    const size_t degree = monomial_degree(monomial);
    if (degree == 0) {
        for (size_t t = 0; t < count; t++) out[t] = 1;
        return;
    }
    memcpy(out, features + monomial->factor[0] * stride, count * sizeof *out);
    for (size_t f = 1; f < degree; f++)
        toeplitz_kernels()->multiply(out, out, features + monomial->factor[f] * stride, count);
}

void toeplitz_component_rows(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                             const Component *component) {
    const size_t stride = plan->stride, tokens = plan->base.settings.tokens, most = plan->terms.most_queries;
    for (size_t i = 0; i < component->keys; i++)
        toeplitz_monomial(work->key_rows + i * stride, &plan->terms.key[component->key + i], unit->key, stride, tokens);
    for (size_t m = 0; m < plan->group; m++)
        for (size_t i = 0; i < component->queries; i++)
            toeplitz_monomial(work->query_rows + (m * most + i) * stride, &plan->terms.query[component->query + i],
                              unit->query + m * plan->far_size * stride, stride, tokens);
}

void toeplitz_monomial_backward(real *d, const real *d_monomial, const Monomial *monomial, const real *features,
                                size_t stride, size_t count) {
    enum { BLOCK = 512 }; // tokens whose products stay in the first cache level
    real product[BLOCK];
    const size_t degree = monomial_degree(monomial);
    for (size_t t = 0; t < count; t += BLOCK) {
        const size_t tokens = toeplitz_least(BLOCK, count - t);
        for (size_t f = 0; f < degree; f++) { // the product rule: one factor at a time is left out
            memcpy(product, d_monomial + t, tokens * sizeof *product);
            for (size_t other = 0; other + 1 < degree; other++) {
                const size_t factor = monomial->factor[other < f ? other : other + 1];
                toeplitz_kernels()->multiply(product, product, features + factor * stride + t, tokens);
            }
            real *row = d + monomial->factor[f] * stride + t;
            for (size_t i = 0; i < tokens; i++) row[i] += product[i];
        }
    }
}

void toeplitz_transform_product(const Rung *rung, real *spectrum, real *signal, const real *a, const real *b,
                                size_t first, size_t last) {
    memset(signal, 0, first * sizeof *signal);
    toeplitz_kernels()->multiply(signal + first, a + first, b + first, last - first);
    memset(signal + last, 0, (rung->transform.length - last) * sizeof *signal);
    transform_forward(&rung->transform, spectrum, signal);
}

static const real *spectra_of(const ToeplitzPlan *plan, const Rung *rung, size_t head) {
    return rung->spectra + toeplitz_spectrum_head(plan, head) * plan->terms.kernels * rung->stride;
}

void toeplitz_mix(const ToeplitzPlan *plan, const Rung *rung, size_t head, const Component *component,
                  real *query_spectra, const real *key_spectra) {
    const real *spectra = spectra_of(plan, rung, head);
    const Pair *pair = plan->terms.pair + component->pair;
    for (size_t block = 0; block < rung->stride; block += TOEPLITZ_MIX_BLOCK) {
        const size_t count = toeplitz_least(TOEPLITZ_MIX_BLOCK, rung->stride - block);
        for (size_t p = 0; p < component->pairs; p++)
            toeplitz_kernels()->mix(query_spectra + pair[p].query * plan->most_stride + block,
                                    spectra + pair[p].kernel * rung->stride + block,
                                    key_spectra + pair[p].key * plan->most_stride + block, pair[p].scale, count, false,
                                    p > 0 && pair[p].query == pair[p - 1].query);
    }
}

void toeplitz_mix_transposed(const ToeplitzPlan *plan, const Rung *rung, size_t head, const Component *component,
                             real *key_spectra, const real *query_spectra, bool accumulate) {
    const real *spectra = spectra_of(plan, rung, head);
    const Pair *pair = plan->terms.pair_by_key + component->pair;
    for (size_t block = 0; block < rung->stride; block += TOEPLITZ_MIX_BLOCK) {
        const size_t count = toeplitz_least(TOEPLITZ_MIX_BLOCK, rung->stride - block);
        for (size_t p = 0; p < component->pairs; p++)
            toeplitz_kernels()->mix(key_spectra + pair[p].key * plan->most_stride + block,
                                    spectra + pair[p].kernel * rung->stride + block,
                                    query_spectra + pair[p].query * plan->most_stride + block, pair[p].scale, count,
                                    true, accumulate || (p > 0 && pair[p].key == pair[p - 1].key));
    }
}
