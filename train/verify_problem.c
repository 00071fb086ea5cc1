// Instances of the papers' problems and their solution by any attention method (verify.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/toeplitz.h"
#include "core/blas.h"
#include "core/clock.h"
#include "core/random.h"
#include "train/statistics.h"
#include "train/verify.h"

enum { MOST_ROUNDS = 16 };

static void take_arrays(Instance *instance, Arena *arena) {
    real **const arrays[] = {&instance->a1, &instance->a2,  &instance->e,  &instance->q,  &instance->k, &instance->v,
                             &instance->o,  &instance->d_o, &instance->dq, &instance->dk, &instance->dv};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        *arrays[i] = ARENA_TAKE(arena, real, instance->n * instance->d);
}

// product (n, d) = a (n, d) · x with a random x (d, d), scaled so that its largest entry is B.
static bool make_product(const Instance *instance, real *product, const real *a, Random random, Error *error) {
    const size_t n = instance->n, d = instance->d;
    real *x = malloc(d * d * sizeof *x);
    if (!x) return error_set(error, ERROR_MEMORY, "There is no memory for a %zu × %zu matrix.", d, d);
    random_fill_uniform(x, d * d, -1.0, 1.0, random);
    gemm_parallel(false, false, n, d, d, 1, a, d, x, d, 0, product, d);
    free(x);
    double most = 0.0;
    for (size_t i = 0; i < n * d; i++) most = fmax(most, fabs((double)product[i]));
    const double scale = instance->bound / most * (1.0 - REAL_EPSILON);
    for (size_t i = 0; i < n * d; i++) product[i] = (real)(scale * (double)product[i]);
    return true;
}

static double longest_row(const real *rows, size_t n, size_t d) {
    double most = 0.0;
    for (size_t i = 0; i < n; i++) {
        double square = 0.0;
        for (size_t c = 0; c < d; c++) square += (double)rows[i * d + c] * (double)rows[i * d + c];
        most = fmax(most, square);
    }
    return sqrt(most);
}

bool instance_create(Instance *instance, size_t n, size_t d, double bound, uint64_t seed, Error *error) {
    *instance = (Instance){.n = n, .d = d, .bound = bound};
    Arena measure = arena_measure("instance");
    take_arrays(instance, &measure);
    if (measure.overflowed) return error_set(error, ERROR_USER, "%zu tokens of size %zu cannot be addressed.", n, d);
    if (!arena_create(&instance->arena, "instance", measure.used, error)) return false;
    take_arrays(instance, &instance->arena);
    const Random random = {seed, RANDOM_BENCH, 0};
    real *const inputs[] = {instance->a1, instance->a2, instance->v, instance->e};
    for (size_t i = 0; i < 4; i++)
        random_fill_uniform(inputs[i], n * d, i < 3 ? -1.0 : -bound, i < 3 ? 1.0 : bound,
                            (Random){seed, RANDOM_BENCH, i});
    // o is free: A₃ is needed no longer than for V = A₃Y
    memcpy(instance->o, instance->v, n * d * sizeof(real));
    if (!make_product(instance, instance->q, instance->a1, (Random){seed, random.stream, 4}, error) ||
        !make_product(instance, instance->k, instance->a2, (Random){seed, random.stream, 5}, error) ||
        !make_product(instance, instance->v, instance->o, (Random){seed, random.stream, 6}, error)) {
        instance_destroy(instance);
        return false;
    }
    instance->longest_query = longest_row(instance->q, n, d);
    instance->longest_key = longest_row(instance->k, n, d);
    instance->kernel_norm = 1.0;
    instance->logit_bound = instance->longest_query * instance->longest_key / (double)d;
    for (size_t c = 0; c < d; c++) {
        double low = INFINITY, high = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            low = fmin(low, (double)instance->v[i * d + c]);
            high = fmax(high, (double)instance->v[i * d + c]);
        }
        instance->value_range = fmax(instance->value_range, high - low);
        instance->range_sum += high - low;
    }
    return true;
}

void instance_destroy(Instance *instance) {
    arena_destroy(&instance->arena);
    *instance = (Instance){0};
}

AttentionSettings instance_settings(const Instance *instance, const Config *config, bool causal, size_t degree) {
    AttentionSettings settings = attention_defaults();
    settings.batch = settings.heads = settings.kv_heads = 1;
    settings.tokens = instance->n;
    settings.qk_size = settings.v_size = instance->d;
    settings.causal = causal;
    settings.kernel = config->kernel;
    settings.rope_theta = config->rope_theta;
    settings.kernel_decay = config->kernel_decay;
    settings.kernel_window = config->kernel_window;
    settings.logit_scale = -1.0; // 1/d
    settings.bound = BOUND_CLIP;
    settings.entry_bound = instance->bound;
    settings.logit_bound = instance->logit_bound;
    settings.near = settings.far_size = 0;
    settings.degree = degree;
    return settings;
}

bool instance_set_kernel(Instance *instance, const Config *config, bool causal, Error *error) {
    const AttentionSettings settings = instance_settings(instance, config, causal, 1);
    if (!toeplitz_kernel_norm(&settings, &instance->kernel_norm, error)) return false;
    const double length = instance->longest_query * instance->longest_key / (double)instance->d;
    // all logits are 0, and any Λ holds them: the polynomial needs one
    instance->logit_bound = instance->kernel_norm > 0.0 ? instance->kernel_norm * length : length;
    return true;
}

// out (d, d) = aᵀ (d, n) · g (n, d)
static void weight_gradient(real *out, const real *a, const real *g, size_t n, size_t d) {
    gemm_parallel(true, false, d, d, n, 1, a, d, g, d, 0, out, d);
}

// Certificates of loss and gradient from those of ô and dq. β bounds |ô - o|; do = ô - E differs from o - E by as much.
//     |L̂ - L| ≤ β·Σ|do| + ½nd·β²
//     a change e of do, ‖e‖∞ ≤ β, moves dq_i by at most s‖W‖max‖k‖·β·Σ_c range_c, Σ_j ‖dk_j‖ by n times s‖W‖max‖q‖·…
//     dX₁ = A₁ᵀdq.  dX₂ = A₂ᵀdk: Σ_j |error of dk_j| ≤ Σ_i Σ_j s_ij·(…), and Σ_j s_ij = 1, so a query's error counts
//     once, as in dq, with max‖q‖ in the place of max‖k‖.
static void certify(const Instance *instance, const Answer *answer, double beta, double dq, double *loss,
                    double *gradient) {
    const size_t n = instance->n, d = instance->d;
    const double scale = instance->kernel_norm / (double)d, shift = scale * beta * instance->range_sum;
    double sum = 0.0, heaviest = 0.0, largest = 0.0;
    for (size_t i = 0; i < n * d; i++) {
        sum += fabs((double)answer->o[i] - (double)instance->e[i]);
        largest = fmax(largest, fabs((double)instance->a2[i]));
    }
    for (size_t c = 0; c < d; c++) {
        double weight = 0.0;
        for (size_t i = 0; i < n; i++) weight += fabs((double)instance->a1[i * d + c]);
        heaviest = fmax(heaviest, weight);
    }
    const double query = heaviest * (dq + shift * instance->longest_key);
    const double key =
        largest * (double)n * (dq * instance->longest_query / instance->longest_key + shift * instance->longest_query);
    *loss = beta * sum + 0.5 * (double)(n * d) * beta * beta;
    *gradient = fmax(query, key);
}

bool instance_solve(const Instance *instance, const AttentionMethod *method, const AttentionSettings *settings,
                    size_t rounds, Answer *answer, Error *error) {
    const size_t n = instance->n, d = instance->d;
    *answer = (Answer){0};
    AttentionPlan *plan = attention_create(method, settings, error);
    if (!plan) return false;
    const AttentionNeeds needs = attention_needs(plan);
    Arena arena = {0};
    bool good = arena_create(&arena, "attention", needs.saved_bytes + needs.scratch_bytes + 2 * ARENA_ALIGNMENT, error);
    answer->o = malloc(n * d * sizeof(real));
    answer->gradient = malloc(2 * d * d * sizeof(real));
    if (good && (!answer->o || !answer->gradient))
        good = error_set(error, ERROR_MEMORY, "There is no memory for the answer of %zu tokens.", n);
    double beta = 0.0, dq = 0.0, fell_back = 0.0, times[MOST_ROUNDS];
    if (rounds > MOST_ROUNDS) rounds = MOST_ROUNDS;
    if (good) {
        void *saved = arena_take(&arena, needs.saved_bytes, 1), *scratch = arena_take(&arena, needs.scratch_bytes, 1);
        AttentionReport report = {.output_bound = &beta, .dq_bound = &dq, .fell_back = &fell_back};
        AttentionForward forward = {.o = instance->o,
                                    .q = instance->q,
                                    .k = instance->k,
                                    .v = instance->v,
                                    .o_stride = d,
                                    .q_stride = d,
                                    .k_stride = d,
                                    .v_stride = d,
                                    .saved = saved,
                                    .scratch = scratch};
        AttentionBackward backward =
            attention_backward_after(&forward, instance->d_o, instance->dq, instance->dk, instance->dv);
        // one pass more than is timed, which makes the certificates and warms caches
        for (size_t r = 0; r <= rounds; r++) {
            forward.report = backward.report = r == 0 ? &report : NULL;
            const double start = clock_seconds();
            attention_forward(plan, &forward);
            const double middle = clock_seconds();
            for (size_t i = 0; i < n * d; i++) instance->d_o[i] = instance->o[i] - instance->e[i];
            const double resumed = clock_seconds();
            attention_backward(plan, &backward);
            if (r > 0) times[r - 1] = clock_seconds() - resumed + middle - start;
        }
        answer->seconds = median(times, rounds);
        memcpy(answer->o, instance->o, n * d * sizeof(real));
        for (size_t i = 0; i < n * d; i++) answer->loss += 0.5 * (double)instance->d_o[i] * (double)instance->d_o[i];
        weight_gradient(answer->gradient, instance->a1, instance->dq, n, d);
        weight_gradient(answer->gradient + d * d, instance->a2, instance->dk, n, d);
        answer->fell_back = fell_back > 0.0;
        answer->output_certified = beta;
        certify(instance, answer, beta, dq, &answer->loss_certified, &answer->gradient_certified);
    }
    arena_destroy(&arena);
    attention_destroy(plan);
    if (!good) answer_destroy(answer);
    return good;
}

void answer_destroy(Answer *answer) {
    free(answer->o);
    free(answer->gradient);
    *answer = (Answer){0};
}
