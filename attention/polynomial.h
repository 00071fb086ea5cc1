// P ≈ exp on [-Λ, Λ], and what is known for certain about the distance.
//
// Softmax is invariant to a common factor of its weights, so what counts is the relative error P(x)e^{-x} - 1. The
// minimax kind makes its largest value as small as a polynomial of that degree can (attention.md, section 2.5).
// The bounds below are rigorous: they hold for every x of the interval, not only for the points that were looked at.
#ifndef ROPE_ATTENTION_POLYNOMIAL_H
#define ROPE_ATTENTION_POLYNOMIAL_H

#include "attention/attention.h"

enum { POLYNOMIAL_MAX_DEGREE = 10, POLYNOMIAL_CELLS = 4096 };

typedef struct Polynomial {
    PolynomialKind kind;
    size_t degree;
    double interval;                                 // Λ
    double coefficient[POLYNOMIAL_MAX_DEGREE + 1];   // P(x) = Σ_t coefficient[t]·x^t
    size_t alternations;                             // minimax: extrema of alternating sign found (degree + 2)
    double spread;                                   // minimax: 1 - smallest/largest of those extrema
    // Suprema over |x| ≤ (i+1)·interval/POLYNOMIAL_CELLS, each an upper bound:
    double below[POLYNOMIAL_CELLS];                  // of 1 - P(x)e^{-x}; below 1 means P > 0 there
    double error[POLYNOMIAL_CELLS];                  // of |P(x)e^{-x} - 1|
    double slope_error[POLYNOMIAL_CELLS];            // of |P'(x)e^{-x} - 1|
} Polynomial;

// Degree 1 to 10, interval above 0 and at most 64; the coefficients of power do not depend on it, so it is never
// refused: its tables cover [-1, 1] where it is not above 0, [-64, 64] where it is more. ERROR_USER when the degree or
// interval make no sense, when the exchange does not reach equioscillation (verified: degree + 2 extrema of alternating
// sign and equal size), or when P is not positive on the whole interval. Power needs an even degree.
bool polynomial_create(Polynomial *polynomial, PolynomialKind kind, size_t degree, double interval, Error *error);
double polynomial_value(const Polynomial *polynomial, double x);
double polynomial_derivative(const Polynomial *polynomial, double x);
// δ and δ' over [-limit, limit]; +Inf beyond the interval.
double polynomial_error(const Polynomial *polynomial, double limit);
double polynomial_slope_error(const Polynomial *polynomial, double limit);
// sup of 1 - P(x)e^{-x}: P(x) ≥ (1 - below)·e^x over [-limit, limit].
double polynomial_below(const Polynomial *polynomial, double limit);
// Σ |coefficient[t]|·x^t for x ≥ 0: what rounding errors are proportional to.
double polynomial_magnitude(const Polynomial *polynomial, double x);

#endif
