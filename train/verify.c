// rope verify: instances of ARAttC and ARAttLGC over growing n, solved exactly and fast; measured errors beside certified
// ones, times beside times, and a plain word on who wins where.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/polynomial.h"
#include "train/command.h"
#include "train/figures.h"
#include "train/lists.h"
#include "train/statistics.h"
#include "train/verify.h"

enum { MOST_LENGTHS = 24, MOST_METHODS = 4 };

typedef struct Row {
    size_t n, d, degree, rounds; // rounds: that were timed
    bool measured, failed, fell_back;
    double bound, logit_bound;
    double output_error, output_certified, loss_error, loss_certified, gradient_error, gradient_certified;
    double gradient_size; // largest entry of the exact gradient
    double exact_seconds, fast_seconds;
    char left_out[256];
} Row;

typedef struct Verify {
    size_t lengths[MOST_LENGTHS], length_count;
    const char *methods[MOST_METHODS];
    size_t method_count, size, degree, rounds;
    double bound, epsilon, limit;
    uint64_t seed;
    Row rows[MOST_METHODS][MOST_LENGTHS];
} Verify;

// d = ⌈log₂ n⌉, rounded up to even because rotations turn pairs.
static size_t papers_size(size_t n) {
    size_t d = 1;
    while (((size_t)1 << d) < n) d++;
    return d + d % 2;
}

// The lowest degree whose polynomial keeps the output within ε: δ/(1-δ)·range ≤ ε (attention.md, section 4).
static size_t choose_degree(const Instance *instance, double epsilon, Error *error) {
    static Polynomial polynomial;
    for (size_t degree = 1; degree <= POLYNOMIAL_MAX_DEGREE; degree++) {
        Error unsuited = {0};
        if (!polynomial_create(&polynomial, POLYNOMIAL_MINIMAX, degree, instance->logit_bound, &unsuited)) continue;
        const double delta = polynomial_error(&polynomial, instance->logit_bound);
        // a fifth is left to rounding and to Λ being taken a hair larger
        if (delta < 1.0 && delta / (1.0 - delta) * instance->value_range <= 0.8 * epsilon) return degree;
    }
    error_set(
        error, ERROR_USER,
        "No degree up to %d keeps the output of n = %zu within ε = %g at Λ = %.3g. Raise --epsilon or lower --bound.",
        POLYNOMIAL_MAX_DEGREE, instance->n, epsilon, instance->logit_bound);
    return 0;
}

static double distance(const real *a, const real *b, size_t count) {
    double most = 0.0;
    for (size_t i = 0; i < count; i++) most = larger_or_nan(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

static void compare(const Verify *verify, Row *row, const Answer *exact, const Answer *fast) {
    const size_t entries = 2 * row->d * row->d;
    row->measured = true;
    row->exact_seconds = exact->seconds;
    row->fast_seconds = fast->seconds;
    row->output_error = distance(fast->o, exact->o, row->n * row->d);
    row->loss_error = fabs(fast->loss - exact->loss);
    row->gradient_error = distance(fast->gradient, exact->gradient, entries);
    for (size_t i = 0; i < entries; i++)
        row->gradient_size = fmax(row->gradient_size, fabs((double)exact->gradient[i]));
    row->output_certified = fast->output_certified;
    row->loss_certified = fast->loss_certified;
    row->gradient_certified = fast->gradient_certified;
    // the gradient sums over n tokens: ε is asked of it per token
    row->fell_back = fast->fell_back;
    row->failed = fast->fell_back || !(row->output_error <= verify->epsilon) ||
                  !(row->gradient_error <= verify->epsilon * (double)row->n) ||
                  !(row->output_error <= row->output_certified) || !(row->loss_error <= row->loss_certified) ||
                  !(row->gradient_error <= row->gradient_certified);
}

// How many rounds the limit leaves time for; 0: the row would take longer with one.
static size_t affordable_rounds(const Verify *verify, size_t method, size_t length) {
    size_t rounds = verify->rounds;
    if (length == 0) return rounds;
    const Row *before = &verify->rows[method][length - 1];
    const double growth = (double)verify->lengths[length] / (double)verify->lengths[length - 1];
    // both sides are run; exact grows with n², the fast one with n·log n and with d
    const double expected = before->exact_seconds * growth * growth + 1.5 * before->fast_seconds * growth;
    while (rounds > 0 && (double)(rounds + 1) * expected > verify->limit) rounds--; // one run more than is timed
    return rounds;
}

static bool measure_row(Verify *verify, const Config *config, Instance *instance, size_t method, size_t length,
                        Error *error) {
    Row *row = &verify->rows[method][length];
    const bool causal = !strcmp(verify->methods[method], "lowrank"); // its state runs forward in time
    Error refusal = {0};
    *row = (Row){.n = instance->n, .d = instance->d, .bound = instance->bound};
    const bool fits = instance_set_kernel(instance, config, causal, &refusal);
    row->logit_bound = instance->logit_bound;
    if (!fits) {
        snprintf(row->left_out, sizeof row->left_out, "%.250s", refusal.message);
        return true;
    }
    row->degree = verify->degree ? verify->degree : choose_degree(instance, verify->epsilon, error);
    if (row->degree == 0) return false;
    if (length > 0 && !row[-1].measured) { // for the same reason
        memcpy(row->left_out, row[-1].left_out, sizeof row->left_out);
        return true;
    }
    row->rounds = affordable_rounds(verify, method, length);
    if (row->rounds == 0) {
        snprintf(row->left_out, sizeof row->left_out, "would take longer than --limit=%g s", verify->limit);
        return true;
    }
    const AttentionSettings settings = instance_settings(instance, config, causal, row->degree);
    Answer exact, fast;
    if (!instance_solve(instance, attention_method_find(verify->methods[method]), &settings, row->rounds, &fast,
                        &refusal)) {
        snprintf(row->left_out, sizeof row->left_out, "%.250s", refusal.message);
        return true;
    }
    const bool solved =
        instance_solve(instance, attention_method_find("exact"), &settings, row->rounds, &exact, error);
    if (solved) {
        compare(verify, row, &exact, &fast);
        answer_destroy(&exact);
    }
    answer_destroy(&fast);
    return solved;
}

static void print_row(const char *method, const Row *row) {
    if (!row->measured) {
        fprintf(stderr, "%-9s %6zu %3zu  left out: %s\n", method, row->n, row->d, row->left_out);
        return;
    }
    fprintf(stderr, "%-9s %6zu %3zu %5.3g %6.3f %2zu %9.2g %9.2g %9.2g %9.2g %9.2g %9.2g %10.2f %10.2f %s\n", method,
            row->n, row->d, row->bound, row->logit_bound, row->degree, row->output_error, row->output_certified,
            row->loss_error, row->loss_certified, row->gradient_error, row->gradient_certified,
            1e3 * row->exact_seconds, 1e3 * row->fast_seconds,
            row->fell_back                           ? "FELL BACK"
            : row->failed                            ? "FAILED"
            : row->fast_seconds < row->exact_seconds ? "fast"
                                                     : "exact");
}

static json_t *row_json(const Verify *verify, size_t method, const Row *row) {
    json_t *object =
        json_pack("{s:s, s:b, s:I, s:I, s:f, s:f, s:I}", "method", verify->methods[method], "causal",
                  !strcmp(verify->methods[method], "lowrank"), "n", (json_int_t)row->n, "d", (json_int_t)row->d,
                  "bound", row->bound, "logit_bound", row->logit_bound, "degree", (json_int_t)row->degree);
    if (!row->measured) {
        json_object_set_new(object, "left_out", json_string(row->left_out));
        return object;
    }
    const struct {
        const char *key;
        double value;
    } numbers[] = {
        {"output_error", row->output_error},     {"output_certified", row->output_certified},
        {"loss_error", row->loss_error},         {"loss_certified", row->loss_certified},
        {"gradient_error", row->gradient_error}, {"gradient_certified", row->gradient_certified},
        {"gradient_size", row->gradient_size},   {"exact_ms", 1e3 * row->exact_seconds},
        {"fast_ms", 1e3 * row->fast_seconds},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set_new(object, numbers[i].key, figure_json(numbers[i].value));
    json_object_set_new(object, "rounds", json_integer((json_int_t)row->rounds));
    json_object_set_new(object, "within", json_boolean(!row->failed));
    json_object_set_new(object, "fell_back", json_boolean(row->fell_back));
    return object;
}

// Exponents of time over n and where the curves cross, in words and as JSON.
static json_t *fit(const Verify *verify, size_t method) {
    double x[MOST_LENGTHS], exact[MOST_LENGTHS], fast[MOST_LENGTHS];
    size_t count = 0, wins = 0, last = 0;
    for (size_t l = 0; l < verify->length_count; l++) {
        const Row *row = &verify->rows[method][l];
        if (!row->measured) continue;
        x[count] = (double)row->n;
        exact[count] = row->exact_seconds;
        fast[count++] = row->fast_seconds;
        wins += row->fast_seconds < row->exact_seconds;
        last = row->n;
    }
    const double exact_exponent = growth_exponent(x, exact, count), fast_exponent = growth_exponent(x, fast, count);
    const double crossing = wins ? crossover(x, exact, fast, count) : NAN;
    const char *name = verify->methods[method];
    if (count > 1)
        fprintf(stderr, "%s: time grows as n^%.2f (d and the logarithm included), exact as n^%.2f. ", name,
                fast_exponent, exact_exponent);
    else
        fprintf(stderr, "%s: there are too few n to tell how time grows. ", name);
    if (count == 0)
        fprintf(stderr, "Nothing was measured.\n");
    else if (wins == 0)
        fprintf(stderr, "At these n the fast method never wins: exact attention is %.1f times faster at n = %zu.\n",
                fast[count - 1] / exact[count - 1], last);
    else if (wins == count)
        fprintf(stderr, "The fast method wins at every n: it is %.1f times faster at n = %zu.\n",
                exact[count - 1] / fast[count - 1], last);
    else {
        fprintf(stderr, "The fast method wins at %zu of %zu lengths", wins, count);
        if (crossing > 0.0) fprintf(stderr, ", from about n = %.0f on", crossing);
        fprintf(stderr, "; at n = %zu it is %.1f times %s.\n", last,
                fmax(exact[count - 1] / fast[count - 1], fast[count - 1] / exact[count - 1]),
                fast[count - 1] < exact[count - 1] ? "faster" : "slower");
    }
    return json_pack("{s:s, s:o, s:o, s:o, s:I}", "method", name, "exact_exponent", figure_json(exact_exponent),
                     "fast_exponent", figure_json(fast_exponent), "crossover_tokens", figure_json(crossing), "wins",
                     (json_int_t)wins);
}

static bool measure(Verify *verify, const Config *config, Error *error) {
    fprintf(stderr,
            "ARAttC and ARAttLGC, kernel %s, s = 1/d, ε = %g; toeplitz without the causal mask, as in the papers, "
            "lowrank with it\n",
            config->kernel, verify->epsilon);
    fprintf(stderr, "%-9s %6s %3s %5s %6s %2s %9s %9s %9s %9s %9s %9s %10s %10s %s\n", "method", "n", "d", "B",
            "logits", "g", "output", "certified", "loss", "certified", "gradient", "certified", "exact ms", "fast ms",
            "faster");
    for (size_t l = 0; l < verify->length_count; l++) {
        const size_t n = verify->lengths[l];
        Instance instance;
        if (!instance_create(&instance, n, verify->size ? verify->size : papers_size(n), verify->bound, verify->seed,
                             error))
            return false;
        bool good = true;
        for (size_t m = 0; good && m < verify->method_count; m++) {
            good = measure_row(verify, config, &instance, m, l, error);
            if (good) print_row(verify->methods[m], &verify->rows[m][l]);
        }
        instance_destroy(&instance);
        if (!good) return false;
    }
    for (size_t l = 0; l < verify->length_count; l++)
        for (size_t m = 0; m < verify->method_count; m++)
            if (verify->rows[m][l].measured) return true;
    return error_set(error, ERROR_USER, "No instance could be solved. %s", verify->rows[0][0].left_out);
}

// The problems are the papers': of the settings only the position kernel is theirs, and who gave another one on the
// command line is told.
static void name_unused(const Config *config) {
    static const char *const used[] = {"attention.kernel", "attention.kernel_decay", "attention.kernel_window",
                                       "model.rope_theta", "train.threads"};
    size_t unused = 0;
    for (size_t key = 0; key < config_key_count(); key++) {
        char name[64];
        config_key_name(key, name);
        bool known = config_origin(config, name) != ORIGIN_COMMAND_LINE;
        for (size_t i = 0; i < sizeof used / sizeof *used; i++) known |= !strcmp(name, used[i]);
        if (!known) fprintf(stderr, "%s%s", unused++ ? ", " : "rope verify does not use ", name);
    }
    if (unused) fprintf(stderr, ": its own options (--help) say what is solved.\n");
}

static bool check_methods(const Verify *verify, Error *error) {
    if (!verify->method_count) return error_set(error, ERROR_USER, "--method: at most %d methods.", MOST_METHODS);
    for (size_t m = 0; m < verify->method_count; m++)
        if (strcmp(verify->methods[m], "toeplitz") && strcmp(verify->methods[m], "lowrank"))
            return error_set(error, ERROR_USER, "--method: '%s' is not one of the fast methods, toeplitz and lowrank.",
                             verify->methods[m]);
    return true;
}

int command_verify(int argc, char **argv) {
    enum { TOKENS, SIZE, BOUND, DEGREE, EPSILON, METHOD, ROUNDS, SEED, LIMIT, OPTIONS };
    static const CommandOption table[] = {
        {"tokens", 't', "LIST", "sequence lengths n, ascending (256,512,1K,2K,4K,8K,16K)"},
        {"size", 'd', "D", "d, even; 0: log2 n, rounded up to even (0)"},
        {"bound", 'b', "B", "largest entry of Q, K and V (1)"},
        {"degree", 'g', "N", "degree of the polynomial; 0: the lowest whose truncation is within epsilon (0)"},
        {"epsilon", 'e', "X", "largest allowed error of the output, and per token of the gradient (0.1)"},
        {"method", 'm', "LIST", "fast methods (toeplitz,lowrank)"},
        {"rounds", 'r', "N", "times are medians of N runs (3)"},
        {"seed", 's', "N", "of the instances (1)"},
        {"limit", 'l', "SECONDS", "of all runs of a row: fewer rounds, or left out, if it would take longer (60)"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    static CommandLine line;
    static Verify verify;
    Error error = {0};
    command_parse(command_find("verify"), table, values, argc, argv, &line);
    char *methods = strdup(values[METHOD] ? values[METHOD] : "toeplitz,lowrank");
    if (!methods) {
        error_set(&error, ERROR_MEMORY, "Out of memory for the list of methods.");
        return command_fail(&error);
    }
    verify.length_count =
        list_lengths(values[TOKENS] ? values[TOKENS] : "256,512,1K,2K,4K,8K,16K", verify.lengths, MOST_LENGTHS);
    verify.method_count = list_words(methods, verify.methods, MOST_METHODS);
    verify.size = (size_t)command_integer("size", values[SIZE], 0, 0, 256);
    verify.bound = command_number("bound", values[BOUND], 1.0, 1e-6, 100.0);
    verify.degree = (size_t)command_integer("degree", values[DEGREE], 0, 0, POLYNOMIAL_MAX_DEGREE);
    verify.epsilon = command_number("epsilon", values[EPSILON], 0.1, 1e-6, 10.0);
    verify.rounds = (size_t)command_integer("rounds", values[ROUNDS], 3, 1, 15);
    verify.seed = command_integer("seed", values[SEED], 1, 0, UINT64_MAX);
    verify.limit = command_number("limit", values[LIMIT], 60.0, 0.01, 1e6);
    name_unused(&line.config);
    bool good = true;
    if (line.positional_count)
        good = error_set(&error, ERROR_USER, "verify takes no arguments, only options.");
    else if (!verify.length_count || verify.lengths[0] < 2)
        good = error_set(&error, ERROR_USER, "--tokens: '%s' is not a list of ascending lengths such as 256,512,1K.",
                         values[TOKENS]);
    else if (verify.size % 2)
        good = error_set(&error, ERROR_USER, "--size: %zu is odd, and rotations turn pairs.", verify.size);
    good = good && check_methods(&verify, &error) && measure(&verify, &line.config, &error);
    if (!good) {
        free(methods);
        return command_fail(&error);
    }
    json_t *rows = json_array(), *fits = json_array();
    size_t failures = 0, fallbacks = 0;
    for (size_t m = 0; m < verify.method_count; m++) {
        for (size_t l = 0; l < verify.length_count; l++) {
            failures += verify.rows[m][l].failed;
            fallbacks += verify.rows[m][l].fell_back;
            json_array_append_new(rows, row_json(&verify, m, &verify.rows[m][l]));
        }
        json_array_append_new(fits, fit(&verify, m));
    }
    free(methods);
    if (failures > fallbacks)
        fprintf(stderr, "%zu of the errors above exceed ε = %g or their certificate.\n", failures - fallbacks,
                verify.epsilon);
    if (fallbacks)
        fprintf(stderr, "%zu of the rows above fell back to the true exp: the polynomial was not used.\n", fallbacks);
    json_t *document = json_pack("{s:f, s:b, s:o, s:o}", "epsilon", verify.epsilon, "passed", failures == 0, "rows",
                                 rows, "fits", fits);
    if (!command_give_json(document, line.json, &error)) return command_fail(&error);
    return failures ? 1 : 0;
}
