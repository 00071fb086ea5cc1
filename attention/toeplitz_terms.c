// Expansion into monomials (Lemma C.2 of fast RoPE attention): list all terms, sort, merge. O(terms · log terms), once
// per plan; everything is deterministic, so that plans of equal settings are equal to the bit.
#include "attention/toeplitz_terms.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/cpu.h"

typedef struct Term {
    Monomial query, key, symbols;
    double coefficient;
} Term;

static const Monomial monomial_one = {{MONOMIAL_NONE, MONOMIAL_NONE, MONOMIAL_NONE, MONOMIAL_NONE, MONOMIAL_NONE,
                                       MONOMIAL_NONE, MONOMIAL_NONE, MONOMIAL_NONE, MONOMIAL_NONE, MONOMIAL_NONE}};

size_t monomial_degree(const Monomial *monomial) {
    size_t degree = 0;
    while (degree < POLYNOMIAL_MAX_DEGREE && monomial->factor[degree] != MONOMIAL_NONE) degree++;
    return degree;
}

static void monomial_times(Monomial *monomial, size_t factor) {
    size_t at = monomial_degree(monomial);
    for (; at > 0 && monomial->factor[at - 1] > factor; at--) monomial->factor[at] = monomial->factor[at - 1];
    monomial->factor[at] = (uint16_t)factor;
}

// Lower degree first, then by factors.
static int monomial_compare(const Monomial *a, const Monomial *b) {
    size_t degree_a = monomial_degree(a), degree_b = monomial_degree(b);
    if (degree_a != degree_b) return degree_a < degree_b ? -1 : 1;
    for (size_t i = 0; i < degree_a; i++)
        if (a->factor[i] != b->factor[i]) return a->factor[i] < b->factor[i] ? -1 : 1;
    return 0;
}

static int term_compare(const void *a, const void *b) {
    const Term *x = a, *y = b;
    int order = monomial_compare(&x->query, &y->query);
    if (!order) order = monomial_compare(&x->key, &y->key);
    return order ? order : monomial_compare(&x->symbols, &y->symbols);
}

// C(entries + degree, degree), or SIZE_MAX if it is above the limit.
static size_t count_terms(size_t entries, size_t degree) {
    double count = 1.0;
    for (size_t i = 1; i <= degree; i++) count = count * (double)(entries + i) / (double)i;
    return count > TERMS_LIMIT ? SIZE_MAX : (size_t)(count + 0.5);
}

// Writes the term of every multiset of entries that extends `term` by entries from `from` on; returns how many.
static size_t expand(Term *out, const Term *term, const TermsEntry *entry, size_t entries, size_t from, size_t run,
                     size_t degree, size_t most, const double *coefficient, double scale) {
    *out = *term;
    out->coefficient *= coefficient[degree] * pow(scale, (double)degree);
    size_t written = 1;
    if (degree == most) return written;
    for (size_t e = from; e < entries; e++) {
        Term next = *term;
        monomial_times(&next.query, entry[e].row);
        monomial_times(&next.key, entry[e].column);
        if (entry[e].symbol != TERMS_ONE) monomial_times(&next.symbols, (size_t)entry[e].symbol);
        // the multinomial coefficient n!/Π multiplicities!, one factor at a time
        size_t repeated = e == from ? run + 1 : 1;
        next.coefficient *= entry[e].scale * (double)(degree + 1) / (double)repeated;
        written += expand(out + written, &next, entry, entries, e, repeated, degree + 1, most, coefficient, scale);
    }
    return written;
}

static uint32_t find_root(uint32_t *parent, uint32_t node) {
    while (parent[node] != node) node = parent[node] = parent[parent[node]];
    return node;
}

// What the expansion becomes before components are known: pairs in the order of (query, key), each with its parts.
typedef struct Draft {
    uint32_t query, key; // indices over all monomials
    uint32_t component;
    size_t first, count; // parts, divided by the first one's coefficient
    double scale;        // that coefficient
    uint32_t kernel;
} Draft;

// Rounded to 40 bits, so that coefficients which differ by rounding alone compare equal.
static double rounded(double x) {
    int exponent;
    double mantissa = frexp(x, &exponent);
    return ldexp(round(ldexp(mantissa, 40)), exponent - 40);
}

static int kernel_compare(const KernelPart *part, const Draft *x, const Draft *y) {
    if (x->count != y->count) return x->count < y->count ? -1 : 1;
    for (size_t i = 0; i < x->count; i++) {
        const KernelPart *p = &part[x->first + i], *q = &part[y->first + i];
        int order = monomial_compare(&p->symbols, &q->symbols);
        if (order) return order;
        if (p->coefficient != q->coefficient) return p->coefficient < q->coefficient ? -1 : 1;
    }
    return 0;
}

static int draft_by_kernel(const void *a, const void *b, void *parts) {
    const Draft *x = *(Draft *const *)a, *y = *(Draft *const *)b;
    int order = kernel_compare(parts, x, y);
    return order ? order : (x < y ? -1 : x > y);
}

static int monomial_order(const void *a, const void *b) { return monomial_compare(a, b); }

static int pair_by_key(const void *a, const void *b) {
    const Pair *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->query < y->query ? -1 : x->query > y->query;
}

// Index of a monomial in an ascending list that holds it.
static uint32_t find_monomial(const Monomial *list, size_t count, const Monomial *wanted) {
    size_t low = 0, high = count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (monomial_compare(&list[middle], wanted) <= 0)
            low = middle;
        else
            high = middle;
    }
    return (uint32_t)low;
}

static size_t keep_distinct(Monomial *list, size_t count) {
    qsort(list, count, sizeof *list, monomial_order);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (!kept || monomial_compare(&list[kept - 1], &list[i])) list[kept++] = list[i];
    return kept;
}

static bool same_pair(const Term *a, const Term *b) {
    return !monomial_compare(&a->query, &b->query) && !monomial_compare(&a->key, &b->key);
}

// Sorted terms to pairs with parts. Returns the number of pairs; terms->parts is set.
static size_t merge_terms(Terms *terms, Draft *draft, const Term *term) {
    size_t pairs = 0;
    for (size_t t = 0, end; t < terms->terms; t = end) {
        size_t first = terms->parts;
        for (end = t; end < terms->terms && same_pair(&term[end], &term[t]);) {
            KernelPart part = {0.0, term[end].symbols};
            for (size_t same = end; end < terms->terms && !term_compare(&term[end], &term[same]); end++)
                part.coefficient += term[end].coefficient;
            if (part.coefficient != 0.0) terms->part[terms->parts++] = part;
        }
        if (terms->parts == first) continue; // all of it cancelled
        Draft *pair = &draft[pairs++];
        *pair = (Draft){.first = first, .count = terms->parts - first, .scale = terms->part[first].coefficient};
        pair->query = find_monomial(terms->query, terms->queries, &term[t].query);
        pair->key = find_monomial(terms->key, terms->keys, &term[t].key);
        for (size_t i = first; i < terms->parts; i++)
            terms->part[i].coefficient = rounded(terms->part[i].coefficient / pair->scale);
    }
    return pairs;
}

// Gives equal sequences one kernel; `order` is room for terms->pairs pointers.
static void share_kernels(Terms *terms, Draft *draft, Draft **order) {
    for (size_t i = 0; i < terms->pairs; i++) order[i] = &draft[i];
    qsort_r(order, terms->pairs, sizeof *order, draft_by_kernel, terms->part);
    for (size_t i = 0; i < terms->pairs; i++) {
        if (i == 0 || kernel_compare(terms->part, order[i - 1], order[i]))
            terms->kernel[terms->kernels++] = (Kernel){order[i]->first, order[i]->count};
        order[i]->kernel = (uint32_t)terms->kernels - 1;
    }
}

// Numbers the components in the order of their first query monomial. parent: room for queries + keys; label likewise.
static void find_components(Terms *terms, Draft *draft, uint32_t *parent, uint32_t *label) {
    size_t nodes = terms->queries + terms->keys;
    for (size_t i = 0; i < nodes; i++) parent[i] = (uint32_t)i;
    for (size_t i = 0; i < terms->pairs; i++) {
        uint32_t a = find_root(parent, draft[i].query);
        uint32_t b = find_root(parent, (uint32_t)terms->queries + draft[i].key);
        parent[a > b ? a : b] = a > b ? b : a;
    }
    for (size_t i = 0; i < nodes; i++) { // a root is the smallest node of its tree: it comes first
        uint32_t root = find_root(parent, (uint32_t)i);
        label[i] = root == i ? (uint32_t)terms->components++ : label[root];
    }
    for (size_t i = 0; i < terms->pairs; i++) draft[i].component = label[draft[i].query];
}

// Monomials in the order of their components. place[i] becomes the position of monomial i within its component.
static bool group_monomials(Monomial **list, size_t count, const uint32_t *label, uint32_t *place, size_t components,
                            size_t *start) {
    Monomial *grouped = malloc((count ? count : 1) * sizeof *grouped);
    if (!grouped) return false;
    memset(start, 0, (components + 1) * sizeof *start);
    for (size_t i = 0; i < count; i++) place[i] = (uint32_t)start[label[i] + 1]++;
    for (size_t c = 0; c < components; c++) start[c + 1] += start[c];
    for (size_t i = 0; i < count; i++) grouped[start[label[i]] + place[i]] = (*list)[i];
    free(*list);
    *list = grouped;
    return true;
}

static void group_pairs(Terms *terms, const Draft *draft, const uint32_t *query_place, const uint32_t *key_place,
                        const size_t *query_start, const size_t *key_start) {
    size_t written = 0;
    for (size_t i = 0; i < terms->pairs; i++) terms->component[draft[i].component].pairs++;
    for (size_t c = 0; c < terms->components; c++) {
        Component *component = &terms->component[c];
        component->query = query_start[c];
        component->queries = query_start[c + 1] - query_start[c];
        component->key = key_start[c];
        component->keys = key_start[c + 1] - key_start[c];
        component->pair = written;
        written += component->pairs;
        component->pairs = 0;
        if (component->queries > terms->most_queries) terms->most_queries = component->queries;
        if (component->keys > terms->most_keys) terms->most_keys = component->keys;
    }
    for (size_t i = 0; i < terms->pairs; i++) {
        Component *component = &terms->component[draft[i].component];
        terms->pair[component->pair + component->pairs++] =
            (Pair){query_place[draft[i].query], key_place[draft[i].key], draft[i].kernel, (real)draft[i].scale};
    }
    memcpy(terms->pair_by_key, terms->pair, terms->pairs * sizeof *terms->pair);
    for (size_t c = 0; c < terms->components; c++)
        qsort(terms->pair_by_key + terms->component[c].pair, terms->component[c].pairs, sizeof(Pair), pair_by_key);
}

// What is not needed of a list that was allocated for the most it could hold goes back.
static void *trimmed(void *list, size_t count, size_t size) {
    void *smaller = realloc(list, (count ? count : 1) * size);
    if (!smaller) return list;
    return smaller;
}

// Everything after the expansion; false when memory is missing.
static bool arrange(Terms *terms, const Term *term) {
    size_t count = terms->terms;
    terms->query = malloc(count * sizeof *terms->query);
    terms->key = malloc(count * sizeof *terms->key);
    terms->part = malloc(count * sizeof *terms->part);
    Draft *draft = malloc(count * sizeof *draft);
    bool good = terms->query && terms->key && terms->part && draft;
    if (good) {
        for (size_t t = 0; t < count; t++) {
            terms->query[t] = term[t].query;
            terms->key[t] = term[t].key;
        }
        terms->queries = keep_distinct(terms->query, count);
        terms->keys = keep_distinct(terms->key, count);
        terms->pairs = merge_terms(terms, draft, term);
        terms->kernel = malloc(terms->pairs * sizeof *terms->kernel);
        terms->pair = malloc(terms->pairs * sizeof *terms->pair);
        terms->pair_by_key = malloc(terms->pairs * sizeof *terms->pair_by_key);
    }
    size_t nodes = terms->queries + terms->keys;
    Draft **order = malloc((terms->pairs + 1) * sizeof *order);
    uint32_t *label = malloc(3 * (nodes + 1) * sizeof *label);
    size_t *query_start = malloc(2 * (nodes + 2) * sizeof *query_start);
    good = good && terms->kernel && terms->pair && terms->pair_by_key && order && label && query_start;
    uint32_t *place = good ? label + 2 * nodes : NULL;
    size_t *key_start = good ? query_start + nodes + 2 : NULL;
    if (good) {
        share_kernels(terms, draft, order);
        find_components(terms, draft, label + nodes, label);
        terms->component = calloc(terms->components, sizeof *terms->component);
        good = terms->component &&
               group_monomials(&terms->query, terms->queries, label, place, terms->components, query_start) &&
               group_monomials(&terms->key, terms->keys, label + terms->queries, place + terms->queries,
                               terms->components, key_start);
    }
    if (good) {
        group_pairs(terms, draft, place, place + terms->queries, query_start, key_start);
        terms->part = trimmed(terms->part, terms->parts, sizeof *terms->part);
        terms->kernel = trimmed(terms->kernel, terms->kernels, sizeof *terms->kernel);
    }
    free(draft);
    free(order);
    free(label);
    free(query_start);
    return good;
}

// At most, while they are made: terms, what sorting them takes, and lists that hold one thing for each of them.
static double peak_bytes(size_t terms) {
    const size_t lists = 2 * sizeof(Monomial) + sizeof(KernelPart) + sizeof(Draft) + sizeof(Kernel) + 2 * sizeof(Pair);
    const size_t graph = sizeof(Draft *) + 6 * sizeof(uint32_t) + 4 * sizeof(size_t);
    return (double)terms * (double)(2 * sizeof(Term) + lists + graph);
}

bool terms_create(Terms *terms, const TermsEntry *entry, size_t entries, const double *coefficient, size_t degree,
                  double scale, Error *error) {
    *terms = (Terms){0};
    REQUIRE(degree <= POLYNOMIAL_MAX_DEGREE);
    size_t count = count_terms(entries, degree);
    if (count == SIZE_MAX)
        return error_set(error, ERROR_USER,
                         "A polynomial of degree %zu over %zu entries of the position kernel has more than %d terms. "
                         "Lower attention.degree or attention.far_size, or use attention.method = lowrank.",
                         degree, entries, TERMS_LIMIT);
    size_t total, available;
    cpu_memory(&total, &available);
    if (available > 0 && peak_bytes(count) > (double)available)
        return error_set(
            error, ERROR_USER,
            "A polynomial of degree %zu over %zu entries of the position kernel has %zu terms, which need "
            "%.0f MiB, but %.0f MiB of memory are available. Lower attention.degree or attention.far_size, "
            "or use attention.method = lowrank.",
            degree, entries, count, peak_bytes(count) / 1048576.0, (double)available / 1048576.0);
    Term *term = malloc(count * sizeof *term);
    Term first = {monomial_one, monomial_one, monomial_one, 1.0};
    if (term) {
        terms->terms = expand(term, &first, entry, entries, 0, 0, 0, degree, coefficient, scale);
        qsort(term, terms->terms, sizeof *term, term_compare);
    }
    bool good = term && arrange(terms, term);
    free(term);
    if (good) return true;
    terms_destroy(terms);
    return error_set(error, ERROR_MEMORY, "There is no memory for the %zu terms of the toeplitz method.", count);
}

void terms_destroy(Terms *terms) {
    free(terms->query);
    free(terms->key);
    free(terms->pair);
    free(terms->pair_by_key);
    free(terms->kernel);
    free(terms->part);
    free(terms->component);
    *terms = (Terms){0};
}

size_t terms_bytes(const Terms *terms) {
    return (terms->queries + terms->keys) * sizeof(Monomial) + 2 * terms->pairs * sizeof(Pair) +
           terms->kernels * sizeof(Kernel) + terms->parts * sizeof(KernelPart) + terms->components * sizeof(Component);
}
