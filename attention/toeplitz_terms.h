// The sum of rescaled Toeplitz matrices that a polynomial of the logits is (fast RoPE attention, Lemma C.2), as a plan
// that depends on S and the degree alone.
//
//     P(s Σ_{(a,b)∈S} q_ia W_{i-j}[a][b] k_jb) = Σ_terms diag(q-monomial) · C_term · diag(k-monomial)
//
// One term for every multiset of at most g entries of S: C(|S|+g, g) of them. Terms with the same q- and k-monomial are
// one *pair* (its Toeplitz matrix is the sum). A Toeplitz matrix is a polynomial in the sequences W_t[a][b]; those that
// are equal up to a factor share one *kernel*, so that a rotation needs cos²θt once and not sixteen times. Pairs that
// share a monomial are in the same *component*; components are independent, and small for rotations, which keeps the
// working set of the transforms small.
#ifndef ROPE_ATTENTION_TOEPLITZ_TERMS_H
#define ROPE_ATTENTION_TOEPLITZ_TERMS_H

#include "attention/polynomial.h"

enum { TERMS_LIMIT = 1 << 20 }; // terms that are expanded at most

// A product of up to `degree` factors, ascending; unused places hold MONOMIAL_NONE.
enum { MONOMIAL_NONE = 0xffff };
typedef struct Monomial {
    uint16_t factor[POLYNOMIAL_MAX_DEGREE];
} Monomial;

// An entry of S as the expansion sees it: W_t[row][column] = scale · symbol_t. Symbol TERMS_ONE is the constant 1.
enum { TERMS_ONE = -1 };
typedef struct TermsEntry {
    size_t row, column;
    int symbol;
    double scale;
} TermsEntry;

typedef struct KernelPart { // coefficient · Π symbols
    double coefficient;
    Monomial symbols;
} KernelPart;

typedef struct Kernel {  // Σ parts
    size_t first, count; // in Terms.part
} Kernel;

typedef struct Pair {
    uint32_t query, key; // monomials, by their place in the component
    uint32_t kernel;
    real scale; // of the kernel: coefficient of P, scale^n, multinomial
} Pair;

typedef struct Component {
    size_t query, queries; // first and number in Terms.query
    size_t key, keys;      // in Terms.key
    size_t pair, pairs;    // in Terms.pair (by query) and Terms.pair_by_key (by key); 0 if all terms cancelled
} Component;

typedef struct Terms {
    size_t terms; // C(|S|+g, g)
    size_t queries, keys, pairs, kernels, parts, components;
    size_t most_queries, most_keys; // of any component
    Monomial *query, *key;
    Pair *pair, *pair_by_key;
    Kernel *kernel;
    KernelPart *part;
    Component *component;
} Terms;

// Expands Σ_n coefficient[n]·scale^n·x^n, n ≤ degree, for x = Σ entries. ERROR_USER when there are more than TERMS_LIMIT
// terms, or more than fit into memory while they are sorted (with the numbers), ERROR_MEMORY. *terms is empty on
// failure. Free with terms_destroy.
bool terms_create(Terms *terms, const TermsEntry *entry, size_t entries, const double *coefficient, size_t degree,
                  double scale, Error *error);
void terms_destroy(Terms *terms);
size_t terms_bytes(const Terms *terms); // that they hold
size_t monomial_degree(const Monomial *monomial);

#endif
