// Why the certificates hold (attention.md, section 4, made sharper by what the batch says).
//
// Write w for the true weights (e^x near, e^x̄ far), ŵ for those in use (the same near, P(x̄) far), Â = ŵ/Ẑ, and F for the
// far share Σ_far Â of token i. On [-Λ̂, Λ̂], η = 1 - e^x̄/P has |η| ≤ κ = max(a/(1-a), δ/(1+δ)) with a = sup(1 - Pe^{-x}),
// and w/ŵ ≤ ω = 1/(1-a).
//
// Output. Σ_j w_j (v_j - o) = 0 gives  ô - o = Σ_far Â η (v - o).  With e = |ô - o|_c and |v - o| ≤ |v - ô| + e ≤ M + e:
// e ≤ κF(M + e), so e ≤ tM with t = κF/(1-κF); and e ≤ κF·range directly, o being in the hull of the v.
//
// Gradient. ĝ_j = do·(v_j - ô), |ĝ_j| ≤ G ("spread"); by the same argument |do·(ô - o)| ≤ tG. Z = Ẑ(1-h), |h| ≤ κF.
//     far   γ̂ - γ = Â(1-η)[(1+ε')ĝ - (ĝ + do·(ô-o))/(1-h)],  |ε'| ≤ δ':   |γ̂ - γ| ≤ Â·ω·G(δ' + 2t + t²)
//     near  γ̂ - γ = Â[ĝ - (ĝ + do·(ô-o))/(1-h)]:                         |γ̂ - γ| ≤ Â·G(2t + t²)
//     Â - A: far ≤ Â(κ + κF)(1+t), near ≤ Ât
// dq_i = s Σ_j γ_ij k_j, dk_j = s Σ_i γ_ij q_i, dv_j = Σ_i A_ij do_i. Rotations keep lengths and the Jacobians of clip and
// ball shorten them, so norms of q and k carry over. Sums over i for a fixed j are made by the method itself: the terms
// per unit of Â_ij ride through the reverse sweep as two more columns of dN. Heads that share their keys add into the
// same sums, so a term goes through the additions of all of them.
//
// Rounding. u is the machine epsilon, twice the unit roundoff, as slack for terms of second order. A weight of the near
// field errs by (D+26)u·s‖q‖‖k‖ (rotation, dot product, difference to the maximum) plus a few u; sums over it by u per
// term. A far sum over n keys is a chain of n additions, then one of R; its terms' magnitudes add up to at most
// n·Σ|c_t|Λ̂^t (Cauchy-Schwarz on absolute values), and each carries 26g+16 roundings of its monomials (28g+16 when they
// are faded, and one for each chunk that the state ages by). In the measure of
// Ẑ = e^L that is u(n + depth)·n·e^{-L}·Σ|c_t|Λ̂^t.
//
// Underflow. A result below the smallest normal number errs by up to u/2 of that number, however small it is itself.
// Even 1/u of them in one sum, each times what it is multiplied with afterwards, are less than such a number times
// these factors: s, lengths of q and k (or √s, up to 2, which rows of the far field have been multiplied by), of v where
// do alone was so small, slopes of the polynomial. What may be large beside them is counted: for each token a few such
// numbers, and for monomials √R·(g+4) (a sum over features by Cauchy-Schwarz, each a product of g), meet ‖do‖ where v was
// so small, and in the far field powers of a row, up to the degree, where the other row was. A logit is a sum of products
// s·q·W, or of rotations of q and k, which may underflow before they meet k: that is a relative error of its weight.
#include "attention/certificate.h"

#include <math.h>

static const double slack = 1.001; // for the arithmetic of the certificates themselves
static const double smallest_normal = REAL_NORMAL_MIN;

// Σ_t max(1, ‖√s·q̄‖)^t and the same of k̄.
static double powers_of(const CertificateFacts *facts, size_t degree) {
    const double root = sqrt(facts->plain_scale), q = fmax(1, root * facts->far_query), k = fmax(1, root * facts->far_key);
    double of_q = 0, of_k = 0;
    for (size_t t = 0; t <= degree; t++) {
        of_q = of_q * q + 1;
        of_k = of_k * k + 1;
    }
    return of_q + of_k;
}

Certificate certificate_make(const CertificateFacts *facts, const Polynomial *polynomial) {
    const double u = REAL_EPSILON, near_logit = facts->logit_scale * facts->near_query * facts->near_key;
    Certificate c = {.facts = *facts, .omega = 1};
    const double roundings = fmax((double)(facts->qk_size + 32), facts->logit_roundings);
    c.near_rounding = u * (roundings * (near_logit + (facts->polynomial ? 0 : facts->measured)) +
                           (double)(facts->near + 3 * facts->chunk + facts->v_size + 96));
    const double far_length = facts->far_key * fmax(1, sqrt(facts->plain_scale));
    c.near_rounding += 4 * u * smallest_normal * facts->products * larger_or_nan(facts->near_key, far_length);
    c.losses = 8 * u * (double)facts->tokens;
    c.powers = 1;
    c.key_rounding = u * ((double)(facts->group - 1) * (double)(facts->near + 3 * facts->chunk) +
                          (double)facts->exact_group * (double)facts->tokens);
    if (!facts->polynomial) {
        c.near_rounding += u * (double)facts->tokens; // far sums are chains of relative errors too
        return c;
    }
    const double limit = facts->measured * (1 + 64 * u);
    const double below = polynomial_below(polynomial, limit), error = polynomial_error(polynomial, limit);
    const bool known = polynomial->kind != POLYNOMIAL_POWER && below < 1 && isfinite(error);
    c.kappa = known ? fmax(below / (1 - below), error / (1 + error)) : INFINITY;
    c.omega = known ? 1 / (1 - below) : INFINITY;
    c.slope = known ? polynomial_slope_error(polynomial, limit) : INFINITY;
    c.magnitude = polynomial_magnitude(polynomial, limit);
    for (size_t t = polynomial->degree; t > 0; t--)
        c.slope_magnitude = c.slope_magnitude * limit + (double)t * fabs(polynomial->coefficient[t]);
    c.losses += u * (double)(facts->degree + 4) * (double)facts->tokens * sqrt((double)facts->features);
    c.powers += c.losses * powers_of(facts, polynomial->degree);
    c.far_rounding = u;
    c.depth = (double)(facts->features + facts->v_size + 40 * facts->degree + 64);
    if (facts->decays) c.depth += (double)(facts->tokens / facts->chunk + 1);
    return c;
}

// Numbers that are not finite, in the batch or in what the polynomial promises, make a bound that is not a number, or
// is infinite: then nothing is known.
static double known_or_infinite(double bound) { return bound < INFINITY ? bound : INFINITY; }

// What numbers of the polynomial's sums are multiplied with when they are divided by Ẑ, at least 1. Where the far keys are
// exact, L may be so low that e^{-L} is infinite, and says nothing.
static double far_weight(const Certificate *c, const CertificateToken *token) {
    return c->facts.polynomial && token->far_keys > 0 ? fmax(1, exp(-token->log_far)) : 1;
}

// Relative error of Ẑ, and of the numerator in the measure of ‖v‖.
static double rounding(const Certificate *c, const CertificateToken *token) {
    const double n = c->far_rounding > 0 ? token->far_keys : 0;
    const double far = n > 0 ? (n + c->depth) * n * c->magnitude * exp(-token->log_far) : 0;
    return c->near_rounding + REAL_EPSILON * fabs(token->log_sum) + c->far_rounding * far +
           smallest_normal * c->powers * far_weight(c, token);
}

// What underflow does to a sum over pairs, where `length` bounds the other rows of these, and `norm` ‖do‖.
static double underflow(const Certificate *c, double length, double norm) {
    const double scale = c->facts.plain_scale, factor = 1 + 2 * sqrt(scale) + scale + scale * length;
    return smallest_normal * factor * (1 + c->facts.value_norm + c->losses * norm) * (1 + c->slope_magnitude) * c->powers;
}

typedef struct Share {
    double far, near, t; // F and 1-F with their rounding, t = κF/(1-κF)
} Share;

static Share share(const Certificate *c, const CertificateToken *token, double error) {
    if (token->far_keys == 0 || !c->facts.polynomial) return (Share){0, 1, 0};
    const double far = fmin(1, token->far_share + 2 * error), x = c->kappa * far;
    return (Share){far, fmin(1, 1 - token->far_share + 2 * error), x < 1 ? x / (1 - x) : INFINITY};
}

double certificate_output(const Certificate *c, const CertificateToken *token, double reach) {
    const double error = rounding(c, token);
    if (!(error < 0.25 && reach < INFINITY)) return INFINITY;
    const Share s = share(c, token, error);
    double bound = 0;
    if (s.far > 0) {
        bound = c->kappa * s.far * c->facts.value_range;
        const double other = s.t * (reach + 3 * error * c->facts.value_largest);
        if (other < bound) bound = other;
    }
    return known_or_infinite(slack * (bound + (3 * error + 4 * REAL_EPSILON) * c->facts.value_largest) +
                             smallest_normal * c->powers * far_weight(c, token));
}

CertificateGradient certificate_gradient(const Certificate *c, const CertificateToken *token, double norm,
                                         double largest, double spread) {
    static const CertificateGradient nothing = {INFINITY, INFINITY, INFINITY, INFINITY, INFINITY};
    if (largest == 0 && norm == 0 && spread == 0) return (CertificateGradient){0}; // no target
    const double error = rounding(c, token), key_error = error + c->key_rounding;
    if (!(key_error < 0.25 && spread < INFINITY)) return nothing;
    const CertificateFacts *facts = &c->facts;
    const Share s = share(c, token, error);
    if (s.far > 0 && !(s.t < INFINITY && c->omega < INFINITY && c->slope < INFINITY)) return nothing; // not 0·Inf
    const double pair = norm * facts->value_norm, n = token->far_keys;
    const double g = spread + 4 * error * pair, twice = 2 * s.t + s.t * s.t, fuzz = 6 * error * pair;
    const double key_fuzz = 6 * key_error * pair;
    const double near = s.far > 0 ? g * twice : 0, far = s.far > 0 ? c->omega * g * (c->slope + twice) : 0;
    // without far keys, or where they are exact, L may be so low that e^{-L} is infinite
    const double weight = n > 0 && c->far_rounding > 0 ? exp(-token->log_far) : 0;
    const double chain = c->far_rounding * (n + c->depth) * n * weight * c->slope_magnitude * 2 * pair;
    const double scale = slack * facts->logit_scale;
    return (CertificateGradient){
        .dq = known_or_infinite(scale * (s.near * (near + fuzz) * facts->near_key +
                                         (s.far * (far + fuzz) + chain) * facts->far_key) +
                                underflow(c, facts->near_key + facts->far_key, norm) * far_weight(c, token)),
        .far_dk = known_or_infinite(scale * (far + key_fuzz) * facts->far_query),
        .near_dk = known_or_infinite(scale * (near + key_fuzz) * facts->near_query),
        .far_dv = known_or_infinite(slack * largest * ((s.far > 0 ? c->kappa * (1 + s.far) * (1 + s.t) : 0) +
                                                       4 * key_error)),
        .near_dv = known_or_infinite(slack * largest * (s.t + 4 * key_error)),
    };
}

// What a chain over at most `tokens` queries of each head of the group makes of terms that add up to `total`.
// Transforms have no chain to go through.
static double key_chain(const Certificate *c, double magnitude, double total) {
    const double heads = c->depth > 0 ? (double)c->facts.group : 1;
    const double links = heads * (double)c->facts.tokens + c->depth;
    if (c->far_rounding == 0 || total == 0) return 0;
    return known_or_infinite(slack * expm1(c->far_rounding * links) * magnitude * total);
}

double certificate_key_rounding(const Certificate *c, const CertificateSums *sums) {
    const CertificateFacts *facts = &c->facts;
    const double total = 2 * facts->logit_scale * facts->far_query * facts->value_norm * sums->norm;
    return known_or_infinite(key_chain(c, c->magnitude, sums->far_dk) + key_chain(c, c->slope_magnitude, total) +
                             underflow(c, facts->near_query + facts->far_query, sums->most));
}

double certificate_value_rounding(const Certificate *c, const CertificateSums *sums) {
    return known_or_infinite(key_chain(c, c->magnitude, sums->far_dv + sums->largest) +
                             smallest_normal * (1 + c->magnitude) * (1 + c->losses * sums->most) * c->powers);
}

bool certificate_exists(const real *results, size_t stride, size_t rows, size_t size) {
    real sum = 0; // stays 0 as long as everything is finite
    for (size_t row = 0; row < rows; row++)
        for (size_t c = 0; c < size; c++) sum += real_zero_if_finite(results[row * stride + c]);
    return sum == 0;
}
