// Certificates: how far method lowrank can be from attention with the true exp over the same bounded far field, in the
// max norm, from quantities that the batch itself gives in O(T). The derivation is in certificate.c.
#ifndef ROPE_ATTENTION_CERTIFICATE_H
#define ROPE_ATTENTION_CERTIFICATE_H

#include "attention/polynomial.h"

// What is known of one head of one batch row.
typedef struct CertificateFacts {
    double logit_scale, measured;         // s, Λ̂
    double far_query, far_key;            // largest ‖q̄‖, ‖k̄‖ of the far field
    double near_query, near_key;          // largest ‖q‖, ‖k‖ of the near field
    double value_largest, value_range;    // largest |v_jc|; largest max_j v_jc - min_j v_jc
    double value_norm, value_radius;      // largest ‖v_j‖; largest ‖v_j - c‖ for the center c that spread is taken from
    double logit_roundings;               // of a near logit, in u·s‖q‖‖k‖, where they are more than qk_size + 32
    double plain_scale;                   // s·max(1, ‖W‖), where logit_scale is s‖W‖: γ may underflow before it meets W
    double products;                      // that a logit is the sum of, each of which may underflow before it meets k
    size_t features, degree, qk_size, v_size, near, chunk, tokens;
    size_t group;                         // query heads that share the keys: dk_j and dv_j are sums over all of them
    size_t exact_group;                   // of these, the ones whose far field is exact
    bool decays;                          // rope-decay: the state is multiplied once per chunk
    bool polynomial;                      // false: the head's far field is exact, only rounding remains
} CertificateFacts;

typedef struct Certificate {
    CertificateFacts facts;
    double kappa;          // |1 - e^x/P| ≤ κ
    double omega;          // e^x/P ≤ ω
    double slope;          // δ'
    double magnitude, slope_magnitude; // Σ|c_t|Λ̂^t, Σ t|c_t|Λ̂^(t-1)
    double near_rounding;  // relative error of a weight of the near field, and of sums over it
    double key_rounding;   // what sums over the near queries of all heads that share a key err by besides
    double far_rounding;   // of a sum over n far keys, per (n + depth)·n·magnitude: one unit
    double depth;          // terms in a chain besides the keys; 0: transforms, far_rounding is set to fit them
    double losses;         // numbers that may underflow in one sum, in units of the smallest normal one
    double powers;         // 1 and what those of the far field are multiplied with afterwards
} Certificate;

// polynomial may be NULL when facts.polynomial is false.
Certificate certificate_make(const CertificateFacts *facts, const Polynomial *polynomial);

// One token: the share of its weight that is far, L, L in the measure that the sums of the far field have (less the shift of
// their biases), the number of its far keys.
typedef struct CertificateToken {
    double far_share, log_sum, log_far, far_keys;
} CertificateToken;

// ‖ô_i - o_i‖∞, where reach bounds |v_jc - ô_ic| over all keys j and columns c.
double certificate_output(const Certificate *certificate, const CertificateToken *token, double reach);

// Bounds of token i's part in the gradients. norm ‖do_i‖, largest ‖do_i‖∞, spread ≥ |do_i·(v_j - ô_i)| for all keys j.
typedef struct CertificateGradient {
    double dq;                     // ‖dq̂_i - dq_i‖∞
    double far_dk, near_dk;        // its share of dk_j, per unit of the computed weight Â_ij
    double far_dv, near_dv;        // its share of dv_j likewise
} CertificateGradient;
CertificateGradient certificate_gradient(const Certificate *certificate, const CertificateToken *token, double norm,
                                         double largest, double spread);

// Rounding in dk_j and dv_j that does not come as a share of weights: from Σ_i e^{-L_i}·x_i (log_far for L) with x the norm,
// the largest entry of do_i, far_dk and far_dv; and from most, the largest ‖do_i‖.
typedef struct CertificateSums {
    double norm, largest, far_dk, far_dv, most;
} CertificateSums;
double certificate_key_rounding(const Certificate *certificate, const CertificateSums *sums);
double certificate_value_rounding(const Certificate *certificate, const CertificateSums *sums);

// Whether an output or gradient of (rows, size) numbers is finite throughout: where it is not, there is no bound of it.
bool certificate_exists(const real *results, size_t stride, size_t rows, size_t size);

#endif
