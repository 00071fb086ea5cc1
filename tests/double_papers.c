// The lemmas of "Fast Gradient Computation for RoPE Attention in Almost Linear Time" (arXiv 2412.17316; here: the
// paper) at sizes where everything can be written out: n ≤ 6, d ≤ 4, the n² × d⁴ matrix Ã included.
//
// Conventions. vec stacks rows, so the tensor trick (Fact 3.11) reads vec(A₁XA₂ᵀ) = (A₁⊗A₂)vec(X). With the paper's own
// definition of ⊗, row (i, j) of A = A₁⊗A₂ is (i-1)n + j; the paper writes i + (j-1)n in Sections 3.2 and 6.1, which
// would make Ã_{j₀} a block of one key instead of one query. Block j₀ here is query j₀, as Definitions 3.13 ff. need it.
// The factor 1/d of Definition 3.1, which Definition 3.13 drops, is part of W here: row (i, j) of W is vec(W_{i-j})/d.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/method.h"
#include "attention/polynomial.h"
#include "attention/position.h"
#include "core/random.h"
#include "core/threads.h"
#include "tests/support/check.h"
#include "tests/support/matrix.h"
#include "tests/support/table_file.h"

enum { N = 6, D = 4, D2 = D * D, D4 = D2 * D2 }; // most

// An instance of ARAttLGC (Definition 3.3) and every quantity of Section 3.7. Matrices are packed n×d, n×n, d×d.
typedef struct Instance {
    size_t n, d;
    AttentionSettings settings;
    double a1[N * D], a2[N * D], a3[N * D], e[N * D], x1[D2], x2[D2], y[D2];
    double w[(2 * N - 1) * D2]; // W_t at (t + n - 1)·d²
    double a[N * N * D4];       // Ã = A ⊘ W, (n², d⁴)
    double x[D4];               // vec(X₁⊗X₂)
} Instance;

typedef struct Quantities {
    double u[N * N], alpha[N], s[N * N];    // Definitions 3.13, 3.14, 3.15: rows are blocks j₀
    double v[N * D], l[N * D], loss[N * D]; // 3.16, 3.17, 3.18
    double beta[N * N], gamma[N * N], gamma1[N * N], gamma2[N * N], rho[N]; // 5.2, 5.3, 6.5, 6.6
} Quantities;

static void fill(double *values, size_t count, double size, uint64_t step) {
    const Random random = {2412, RANDOM_TEST, step};
    for (size_t i = 0; i < count; i++) values[i] = size * (2.0 * random_uniform(random, i) - 1.0);
}

static Instance *new_instance(size_t n, size_t d, const char *kernel) {
    Instance *p = calloc(1, sizeof *p);
    assert_non_null(p);
    p->n = n;
    p->d = d;
    p->settings = attention_defaults();
    AttentionSettings *s = &p->settings;
    s->batch = s->heads = s->kv_heads = 1;
    s->tokens = n;
    s->qk_size = s->v_size = d;
    s->causal = false; // the papers have no mask
    char name[32];
    snprintf(name, sizeof name, "papers%zu_%zu", n, d);
    s->kernel = strcmp(kernel, "table") ? kernel : table_file_write(name, d, n, false);
    s->rope_theta = 20.0;
    s->logit_scale = -1.0; // 1/d
    s->bound = BOUND_NONE;
    s->near = s->far_size = 0;
    Position position;
    Error error = {0};
    if (!position_create(&position, s, &error)) fail_msg("%s", error.message);
    for (size_t t = 0; t < 2 * n - 1; t++)
        for (size_t e = 0; e < position_support(&position); e++) {
            const PositionEntry entry = position_entry(&position, e);
            p->w[t * d * d + entry.row * d + entry.column] =
                position_weight(&position, e, (ptrdiff_t)t - (ptrdiff_t)n + 1);
        }
    position_destroy(&position);
    double *const inputs[] = {p->a1, p->a2, p->a3, p->e, p->x1, p->x2, p->y};
    for (size_t i = 0; i < 7; i++) fill(inputs[i], i < 4 ? n * d : d * d, 1.0, i + 10 * n);
    double *full = malloc(n * n * d * d * sizeof *full), kron[D4];
    assert_non_null(full);
    kronecker(full, p->a1, n, d, p->a2, n, d); // A = A₁⊗A₂, (n², d²)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double scaled[D2];
            for (size_t c = 0; c < d * d; c++) scaled[c] = p->w[(i - j + n - 1) * d * d + c] / (double)d;
            row_kronecker(p->a + (i * n + j) * d * d * d * d, full + (i * n + j) * d * d, d * d, scaled, d * d, 1);
        }
    free(full);
    kronecker(kron, p->x1, d, d, p->x2, d, d);
    memcpy(p->x, kron, d * d * d * d * sizeof *kron);
    return p;
}

static size_t d4(const Instance *p) { return p->d * p->d * p->d * p->d; }

// All quantities at any x in R^{d⁴}, Kronecker product or not.
static void evaluate(const Instance *p, const double *x, Quantities *q) {
    const size_t n = p->n, d = p->d;
    multiply(q->u, p->a, x, n * n, d4(p), 1);
    multiply(q->v, p->a3, p->y, n, d, d);
    for (size_t j = 0; j < n; j++) {
        q->alpha[j] = 0.0;
        for (size_t i = 0; i < n; i++) q->alpha[j] += q->u[j * n + i] = exp(q->u[j * n + i]);
        for (size_t i = 0; i < n; i++) q->s[j * n + i] = q->u[j * n + i] / q->alpha[j];
    }
    multiply(q->l, q->s, q->v, n, n, d);
    for (size_t i = 0; i < n * d; i++) {
        q->l[i] -= p->e[i];
        q->loss[i] = 0.5 * q->l[i] * q->l[i];
    }
    // β_{j₀} = A₃Y ℓ_{j₀}ᵀ (Lemma 5.2; "A₃β" in its statement applies A₃ twice). As a matrix with rows j₀ this is
    // ℓ vᵀ (Lemma 5.6); Lemma 6.4's vℓᵀ is its transpose.
    double vt[N * D];
    transpose(vt, q->v, n, d);
    multiply(q->beta, q->l, vt, n, d, n);
    for (size_t j = 0; j < n; j++) {
        q->rho[j] = 0.0; // ρ_{j₀} = ⟨s_{j₀}, β_{j₀}⟩ (Lemma 6.6 writes a product)
        for (size_t i = 0; i < n; i++) q->rho[j] += q->s[j * n + i] * q->beta[j * n + i];
        for (size_t i = 0; i < n; i++) {
            q->gamma1[j * n + i] = q->s[j * n + i] * q->beta[j * n + i]; // diag(s_{j₀})β_{j₀}: s ∘ β as a matrix
            q->gamma2[j * n + i] = q->s[j * n + i] * q->rho[j];
            q->gamma[j * n + i] = q->gamma1[j * n + i] - q->gamma2[j * n + i];
        }
    }
}

static double total(const double *values, size_t count) { return sum_pairwise(values, count); }

// Fact 3.11 and 3.12 (tensor trick), Fact 3.9 (row-wise Kronecker), and Ã against Definition 3.1 itself.
static void test_facts(void **state) {
    (void)state;
    Instance *p = new_instance(5, 3, "table");
    const size_t n = 5, d = 3;
    double a[N * N * D2], left[N * N], middle[N * D], a2t[N * D], right[N * N];
    kronecker(a, p->a1, n, d, p->a2, n, d);
    multiply(left, a, p->x1, n * n, d * d, 1);
    multiply(middle, p->a1, p->x1, n, d, d);
    transpose(a2t, p->a2, n, d);
    multiply(right, middle, a2t, n, d, n);
    check_close("Fact 3.11: vec(A1 X A2') = A vec(X)", left, right, n * n, 1e-14, 0);
    double u[N * D2], v[N * D2], vt[D2 * N], uv1[N * N], uv2[N * N];
    row_kronecker(u, p->a1, d, p->a3, d, n);
    row_kronecker(v, p->a2, d, p->e, d, n);
    transpose(vt, v, n, d * d);
    multiply(left, u, vt, n, d * d, n);
    multiply(uv1, p->a1, a2t, n, d, n);
    transpose(a2t, p->e, n, d);
    multiply(uv2, p->a3, a2t, n, d, n);
    for (size_t i = 0; i < n * n; i++) right[i] = uv1[i] * uv2[i];
    check_close("Fact 3.9: (U1V1')o(U2V2') = (U1/U2)(V1/V2)'", left, right, n * n, 1e-14, 0);
    // Definition 3.1: A_ij = exp(A₁ᵢX₁W_{i-j}X₂ᵀA₂ⱼᵀ/d)
    Quantities q;
    evaluate(p, p->x, &q);
    double queries[N * D], keys[N * D];
    multiply(queries, p->a1, p->x1, n, d, d);
    multiply(keys, p->a2, p->x2, n, d, d);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (size_t r = 0; r < d; r++)
                for (size_t c = 0; c < d; c++)
                    sum += queries[i * d + r] * p->w[(i - j + n - 1) * d * d + r * d + c] * keys[j * d + c];
            right[i * n + j] = exp(sum / (double)d);
        }
    check_close("Section 3.2: vec(A(X)) = exp((A/W)vec(X)/d)", q.u, right, n * n, 1e-13, 0);
    free(p);
}

// Lemma 4.1, parts 1 to 7, for every i in [d⁴], j₀ and i₀, against central differences in x_i. Lemma 3.19: the loss is
// the sum of its parts.
static void test_lemma_4_1(void **state) {
    (void)state;
    for (size_t d = 2; d <= 3; d++) {
        Instance *p = new_instance(4, d, "table");
        const size_t n = p->n, columns = d4(p);
        Quantities q, high, low;
        evaluate(p, p->x, &q);
        double output[N * D], norm = 0.0;
        multiply(output, q.s, q.v, n, n, d);
        for (size_t i = 0; i < n * d; i++) norm += 0.5 * (output[i] - p->e[i]) * (output[i] - p->e[i]);
        double sum = total(q.loss, n * d);
        check_close("Lemma 3.19", &sum, &norm, 1, 1e-14, 0);
        for (size_t i = 0; i < columns; i++) {
            const double h = 1e-5, kept = p->x[i];
            p->x[i] = kept + h;
            evaluate(p, p->x, &high);
            p->x[i] = kept - h;
            evaluate(p, p->x, &low);
            p->x[i] = kept;
            for (size_t j = 0; j < n; j++) {
                double ds[N], du[N], dlog[N], alpha = 0.0, inner = 0.0, expected[N];
                for (size_t r = 0; r < n; r++) {
                    const double column = p->a[(j * n + r) * columns + i]; // (Ã_{j₀})_{*,i}
                    dlog[r] = column;
                    du[r] = q.u[j * n + r] * column;
                    alpha += column * q.u[j * n + r];
                    inner += column * q.s[j * n + r];
                }
                for (size_t r = 0; r < n; r++) ds[r] = -q.s[j * n + r] * inner + q.s[j * n + r] * dlog[r];
                for (size_t r = 0; r < n; r++) expected[r] = (log(high.u[j * n + r]) - log(low.u[j * n + r])) / (2 * h);
                check_close("Lemma 4.1 part 1: d(Ax)", dlog, expected, n, 1e-8, 0);
                for (size_t r = 0; r < n; r++) expected[r] = (high.u[j * n + r] - low.u[j * n + r]) / (2 * h);
                check_close("part 2: du", du, expected, n, 1e-8, 0);
                expected[0] = (high.alpha[j] - low.alpha[j]) / (2 * h);
                check_close("part 3: dalpha", &alpha, expected, 1, 1e-8, 0);
                for (size_t r = 0; r < n; r++) expected[r] = (high.s[j * n + r] - low.s[j * n + r]) / (2 * h);
                check_close("part 4: ds", ds, expected, n, 1e-8, 0);
                for (size_t c = 0; c < d; c++) {
                    double dl = 0.0, dloss;
                    for (size_t r = 0; r < n; r++) dl += ds[r] * q.v[r * d + c];
                    dloss = q.l[j * d + c] * dl;
                    expected[0] = (high.l[j * d + c] - low.l[j * d + c]) / (2 * h); // E is constant: parts 5 and 6
                    check_close("parts 5, 6: dl", &dl, expected, 1, 1e-8, 0);
                    expected[0] = (high.loss[j * d + c] - low.loss[j * d + c]) / (2 * h);
                    check_close("part 7: dloss", &dloss, expected, 1, 1e-8, 0);
                }
            }
        }
        free(p);
    }
}

// gradient (d⁴) = Ãᵀ vec(γ), Lemma 5.3
static void full_gradient(const Instance *p, const double *gamma, double *gradient) {
    memset(gradient, 0, d4(p) * sizeof *gradient);
    for (size_t r = 0; r < p->n * p->n; r++)
        for (size_t i = 0; i < d4(p); i++) gradient[i] += p->a[r * d4(p) + i] * gamma[r];
}

// Lemmas 5.1 to 5.3 against each other and against central differences of the loss in all d⁴ directions.
static void test_section_5(void **state) {
    (void)state;
    for (size_t d = 2; d <= 4; d++) {
        Instance *p = new_instance(d == 4 ? 4 : 6, d, d == 3 ? "table" : "rope");
        const size_t n = p->n, columns = d4(p);
        Quantities q, high, low;
        evaluate(p, p->x, &q);
        double gradient[D4], by_lemma_1[D4] = {0}, by_lemma_2[D4] = {0}, expected[D4];
        full_gradient(p, q.gamma, gradient);
        for (size_t j = 0; j < n; j++) {
            for (size_t c = 0; c < d; c++) { // 5.1: ℓ Ãᵀ(diag(s) - ssᵀ)A₃Y_{*,i₀}
                double inner = 0.0;
                for (size_t r = 0; r < n; r++) inner += q.s[j * n + r] * q.v[r * d + c];
                for (size_t r = 0; r < n; r++) {
                    const double weight = q.l[j * d + c] * q.s[j * n + r] * (q.v[r * d + c] - inner);
                    for (size_t i = 0; i < columns; i++) by_lemma_1[i] += weight * p->a[(j * n + r) * columns + i];
                }
            }
            double inner = 0.0; // 5.2: Ãᵀ(s∘β) - Ãᵀs⟨s, β⟩
            for (size_t r = 0; r < n; r++) inner += q.s[j * n + r] * q.beta[j * n + r];
            for (size_t r = 0; r < n; r++)
                for (size_t i = 0; i < columns; i++)
                    by_lemma_2[i] += p->a[(j * n + r) * columns + i] * q.s[j * n + r] * (q.beta[j * n + r] - inner);
        }
        check_close("Lemma 5.1 = Lemma 5.3", by_lemma_1, gradient, columns, 1e-13, 0);
        check_close("Lemma 5.2 = Lemma 5.3", by_lemma_2, gradient, columns, 1e-13, 0);
        for (size_t i = 0; i < columns; i++) {
            const double h = 1e-5, kept = p->x[i];
            p->x[i] = kept + h;
            evaluate(p, p->x, &high);
            p->x[i] = kept - h;
            evaluate(p, p->x, &low);
            p->x[i] = kept;
            expected[i] = (total(high.loss, n * d) - total(low.loss, n * d)) / (2 * h);
        }
        check_close("Lemma 5.3: A'vec(gamma) against differences", gradient, expected, columns, 1e-8, 0);
        free(p);
    }
}

// dX₁, dX₂ from the gradient in X = X₁⊗X₂, whose entry ((a,c),(b,e)) is X₁[a,b]X₂[c,e]. (The paper's one-line chain rule
// after Definition 3.2 leaves this sum implicit.)
static void chain_rule(const Instance *p, const double *gradient, double *dx1, double *dx2) {
    const size_t d = p->d;
    memset(dx1, 0, d * d * sizeof *dx1);
    memset(dx2, 0, d * d * sizeof *dx2);
    for (size_t a = 0; a < d; a++)
        for (size_t b = 0; b < d; b++)
            for (size_t c = 0; c < d; c++)
                for (size_t e = 0; e < d; e++) {
                    const double g = gradient[(a * d + c) * d * d + b * d + e];
                    dx1[a * d + b] += g * p->x2[c * d + e];
                    dx2[c * d + e] += g * p->x1[a * d + b];
                }
}

// dX₁ = A₁ᵀdq and dX₂ = A₂ᵀdk as a method computes them, for do = ℓ of its own output.
static void method_gradient(const Instance *p, const AttentionMethod *method, double *dx1, double *dx2) {
    const size_t n = p->n, d = p->d;
    Error error = {0};
    AttentionPlan *plan = attention_create(method, &p->settings, &error);
    if (!plan) fail_msg("%s", error.message);
    const AttentionNeeds needs = attention_needs(plan);
    void *saved = aligned_alloc(64, (needs.saved_bytes + 63) / 64 * 64);
    void *scratch = aligned_alloc(64, (needs.scratch_bytes + 63) / 64 * 64);
    assert_true(saved && scratch);
    real q[N * D], k[N * D], v[N * D], o[N * D], d_o[N * D], dq[N * D], dk[N * D], dv[N * D], transposed[N * D];
    multiply(q, p->a1, p->x1, n, d, d);
    multiply(k, p->a2, p->x2, n, d, d);
    multiply(v, p->a3, p->y, n, d, d);
    const AttentionForward forward = {.o = o,
                                      .q = q,
                                      .k = k,
                                      .v = v,
                                      .o_stride = d,
                                      .q_stride = d,
                                      .k_stride = d,
                                      .v_stride = d,
                                      .saved = saved,
                                      .scratch = scratch};
    const AttentionBackward backward = attention_backward_after(&forward, d_o, dq, dk, dv);
    attention_forward(plan, &forward);
    for (size_t i = 0; i < n * d; i++) d_o[i] = o[i] - p->e[i];
    attention_backward(plan, &backward);
    transpose(transposed, p->a1, n, d);
    multiply(dx1, transposed, dq, d, n, d);
    transpose(transposed, p->a2, n, d);
    multiply(dx2, transposed, dk, d, n, d);
    free(saved);
    free(scratch);
    attention_destroy(plan);
}

// The full gradient in R^{d⁴} by the paper against what the program trains with, by the chain rule (Definition 3.3).
static void test_our_gradient(void **state) {
    (void)state;
    const char *kernels[] = {"rope", "table"};
    for (size_t d = 2; d <= 4; d += 2)
        for (size_t k = 0; k < 2; k++) {
            Instance *p = new_instance(6, d, kernels[k]);
            Quantities q;
            evaluate(p, p->x, &q);
            double gradient[D4], dx1[D2], dx2[D2], ours1[D2], ours2[D2];
            full_gradient(p, q.gamma, gradient);
            chain_rule(p, gradient, dx1, dx2);
            method_gradient(p, &attention_exact, ours1, ours2);
            check_close("exact: dX1 by the chain rule", ours1, dx1, d * d, 1e-13, 0);
            check_close("exact: dX2 by the chain rule", ours2, dx2, d * d, 1e-13, 0);
            p->settings.degree = d == 2 ? 8 : 4; // |S|⁸/8! terms are too many for d = 4
            p->settings.logit_bound = 2.5;
            method_gradient(p, &attention_toeplitz, ours1, ours2);
            const double allowed = d == 2 ? 2e-5 : 5e-2;
            check_close("toeplitz: dX1 by the chain rule", ours1, dx1, d * d, allowed, 0);
            check_close("toeplitz: dX2 by the chain rule", ours2, dx2, d * d, allowed, 0);
            free(p);
        }
}

enum { RANK = 70 }; // C(4 + 4, 4)

// Φ (n, rank) = the monomials of degree ≤ g of each row, times the weights that make Φ_qΦ_kᵀ = P(rows·rowsᵀ) when
// `weighted`: coefficient·degree!/Π exponents!. Returns the rank C(d+g, g).
static size_t features(double *phi, const double *rows, size_t n, size_t d, size_t degree, const double *coefficient) {
    size_t rank = 0, exponent[D] = {0};
    for (;;) {
        size_t sum = 0;
        for (size_t c = 0; c < d; c++) sum += exponent[c];
        if (sum <= degree) {
            double weight = coefficient ? coefficient[sum] * tgamma((double)sum + 1.0) : 1.0;
            for (size_t c = 0; coefficient && c < d; c++) weight /= tgamma((double)exponent[c] + 1.0);
            for (size_t i = 0; i < n; i++) {
                double product = weight;
                for (size_t c = 0; c < d; c++) product *= pow(rows[i * d + c], (double)exponent[c]);
                phi[i * RANK + rank] = product;
            }
            rank++;
        }
        size_t c = 0;
        while (c < d && ++exponent[c] > degree) exponent[c++] = 0;
        if (c == d) return rank;
    }
}

// out (n, n) = U Vᵀ, both of `rank` columns in rows of `stride`
static void outer(double *out, const double *u, const double *v, size_t n, size_t rank, size_t stride) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (size_t r = 0; r < rank; r++) sum += u[i * stride + r] * v[j * stride + r];
            out[i * n + j] = sum;
        }
}

// Lemmas 6.2 to 6.6 for rotations, where low rank is literal: s ≈ U₁V₁ᵀ with k₁ = C(d+g, g) from the polynomial, then
// ℓ, β ≈ U₂V₂ᵀ, γ₁ ≈ U₃V₃ᵀ by Fact 3.9, ρ, γ₂ ≈ U₄V₄ᵀ, and the gradient of Theorem 6.7. Each error is measured, and
// checked against the bound that its proof gives with δ in place of ε/poly(n).
static void test_section_6(void **state) {
    (void)state;
    const size_t n = 6, d = 4;
    Instance *p = new_instance(n, d, "rope");
    Quantities q;
    evaluate(p, p->x, &q);
    double queries[N * D], keys[N * D], gradient[D4];
    multiply(queries, p->a1, p->x1, n, d, d);
    multiply(keys, p->a2, p->x2, n, d, d);
    double longest[2] = {0.0, 0.0};
    for (size_t i = 0; i < n; i++) { // W_{i-j} = R_iᵀR_j: rotate, and fold in 1/d
        double *const row[] = {queries + i * d, keys + i * d};
        for (size_t side = 0; side < 2; side++)
            for (size_t c = 0; c < d / 2; c++) {
                const double angle = (double)i * pow(20.0, -2.0 * (double)c / (double)d);
                const double x = row[side][c], z = row[side][c + d / 2], scale = side == 0 ? 1.0 / (double)d : 1.0;
                row[side][c] = scale * (x * cos(angle) - z * sin(angle));
                row[side][c + d / 2] = scale * (z * cos(angle) + x * sin(angle));
            }
        for (size_t side = 0; side < 2; side++) {
            double square = 0.0;
            for (size_t c = 0; c < d; c++) square += row[side][c] * row[side][c];
            longest[side] = fmax(longest[side], sqrt(square));
        }
    }
    full_gradient(p, q.gamma, gradient);
    const double v_size = largest(q.v, n * d), bound = longest[0] * longest[1];
    printf(
        "ARAttLGC n=%zu d=%zu logits within %.3f: degree, ranks k1 k2 k3 k4, errors of s l beta gamma1 rho gamma2 g\n",
        n, d, bound);
    double last = INFINITY;
    for (size_t degree = 1; degree <= 4; degree++) {
        Polynomial polynomial;
        Error error = {0};
        assert_true(polynomial_create(&polynomial, POLYNOMIAL_MINIMAX, degree, bound, &error));
        const double delta = polynomial_error(&polynomial, bound);
        double u1[N * RANK], v1[N * RANK], s[N * N], u2[N * D], v2[N * D], beta[N * N], l[N * D];
        const size_t k1 = features(u1, queries, n, d, degree, polynomial.coefficient);
        assert_int_equal(features(v1, keys, n, d, degree, NULL), k1);
        assert_int_equal(k1, degree == 1 ? 5 : degree == 2 ? 15 : degree == 3 ? 35 : 70);
        outer(s, u1, v1, n, k1, RANK);
        for (size_t i = 0; i < n; i++) { // D = diag(A1) (Lemma 6.2 divides by d once more)
            const double alpha = total(s + i * n, n);
            for (size_t r = 0; r < k1; r++) u1[i * RANK + r] /= alpha;
        }
        outer(s, u1, v1, n, k1, RANK);
        const double s_error = distance(s, q.s, n * n), s_bound = 2.0 * delta / (1.0 - delta) * largest(q.s, n * n);
        // 6.3: U₁V₁ᵀv - E, never forming U₁V₁ᵀ in the program. Its error: the norm of a difference of rows times ‖v‖
        multiply(l, s, q.v, n, n, d);
        for (size_t i = 0; i < n * d; i++) l[i] -= p->e[i];
        const double l_error = distance(l, q.l, n * d), l_bound = 2.0 * delta / (1.0 - delta) * v_size;
        // 6.4: β = ℓvᵀ has rank d as it stands, less than the paper's max{d, k₁} + d
        memcpy(u2, l, sizeof u2);
        memcpy(v2, q.v, sizeof v2);
        outer(beta, u2, v2, n, d, d);
        const double beta_error = distance(beta, q.beta, n * n), beta_bound = l_bound * v_size * (double)d;
        // 6.5: γ₁ = s ∘ β ("diag(s)β") by the row-wise Kronecker product, rank k₁·k₂
        double u3[N * RANK * D], v3[N * RANK * D], gamma1[N * N];
        for (size_t i = 0; i < n; i++) {
            row_kronecker(u3 + i * RANK * D, u1 + i * RANK, k1, u2 + i * d, d, 1);
            row_kronecker(v3 + i * RANK * D, v1 + i * RANK, k1, v2 + i * d, d, 1);
        }
        outer(gamma1, u3, v3, n, k1 * d, RANK * D);
        const double b_size = largest(q.beta, n * n);
        const double gamma1_error = distance(gamma1, q.gamma1, n * n);
        const double gamma1_bound = (1.0 + s_bound) * beta_bound + s_bound * b_size;
        // 6.6: ρ = U₁(V₁ᵀV₂)U₂ᵀ row by row; γ₂ = diag(ρ)s, so it is U₄ = diag(ρ)U₁ and V₄ = V₁ (the paper scales V₁,
        // which belongs to the transposed arrangement)
        double rho[N], gamma2[N * N], gamma[N * N], approximate[D4];
        for (size_t i = 0; i < n; i++) {
            rho[i] = 0.0;
            for (size_t r = 0; r < k1; r++)
                for (size_t c = 0; c < d; c++) {
                    double cross = 0.0;
                    for (size_t j = 0; j < n; j++) cross += v1[j * RANK + r] * v2[j * d + c];
                    rho[i] += u1[i * RANK + r] * cross * u2[i * d + c];
                }
            for (size_t r = 0; r < k1; r++) u1[i * RANK + r] *= rho[i];
        }
        outer(gamma2, u1, v1, n, k1, RANK);
        const double rho_error = distance(rho, q.rho, n), rho_bound = beta_bound + 2.0 * delta / (1.0 - delta) * b_size;
        const double gamma2_error = distance(gamma2, q.gamma2, n * n);
        const double gamma2_bound = (1.0 + s_bound) * rho_bound + s_bound * largest(q.rho, n);
        for (size_t i = 0; i < n * n; i++) gamma[i] = gamma1[i] - gamma2[i];
        full_gradient(p, gamma, approximate);
        // Theorem 6.7 multiplies by ‖Ãᵀ‖∞, which must be the induced norm: a sum over n² entries, not the largest one
        const double g_error = distance(approximate, gradient, d4(p));
        const double g_bound = (double)(n * n) * largest(p->a, n * n * d4(p)) * (gamma1_bound + gamma2_bound);
        printf("  %zu: %zu %zu %zu %zu: %.1e %.1e %.1e %.1e %.1e %.1e %.1e\n", degree, k1, d, k1 * d, k1, s_error,
               l_error, beta_error, gamma1_error, rho_error, gamma2_error, g_error);
        const double errors[] = {s_error, l_error, beta_error, gamma1_error, rho_error, gamma2_error, g_error};
        const double bounds[] = {s_bound, l_bound, beta_bound, gamma1_bound, rho_bound, gamma2_bound, g_bound};
        for (size_t i = 0; i < 7; i++)
            if (!(errors[i] <= bounds[i]))
                fail_msg("degree %zu, quantity %zu: %g > %g", degree, i, errors[i], bounds[i]);
        check_count("errors of Lemmas 6.2 to 6.7 within their bounds", 7);
        assert_true(g_error < 0.5 * last); // each degree helps
        last = g_error;
    }
    free(p);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_facts),        cmocka_unit_test(test_lemma_4_1), cmocka_unit_test(test_section_5),
    cmocka_unit_test(test_our_gradient), cmocka_unit_test(test_section_6),
};
TEST_MAIN(tests)
