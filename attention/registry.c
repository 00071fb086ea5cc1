// The attention methods, one row each, and what is common to all: validation of settings, defaults, dispatch.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/method.h"
#include "attention/position.h"
#include "core/arena.h"
#include "core/cpu.h"

static const AttentionMethod *const methods[] = {
    &attention_exact,
    &attention_lowrank,
    &attention_auto,
    &attention_toeplitz,
};

size_t attention_method_count(void) { return sizeof methods / sizeof *methods; }

const AttentionMethod *attention_method_at(size_t index) {
    REQUIRE(index < attention_method_count());
    return methods[index];
}

const AttentionMethod *attention_method_find(const char *name) {
    for (size_t i = 0; i < attention_method_count(); i++)
        if (strcmp(methods[i]->name, name) == 0) return methods[i];
    return NULL;
}

const char *attention_method_name(const AttentionMethod *method) { return method->name; }
const char *attention_method_summary(const AttentionMethod *method) { return method->summary; }

AttentionSettings attention_defaults(void) {
    return (AttentionSettings){
        .causal = true,
        .kernel = "rope",
        .rope_theta = 10000.0,
        .kernel_decay = 1.0,
        .kernel_window = 256,
        .logit_scale = 0.0,
        .bound = BOUND_BALL,
        .entry_bound = 1.0,
        .logit_bound = 4.0,
        .near_bound = NEAR_BOUND_NONE,
        .far = FAR_POLYNOMIAL,
        .far_size = 8,
        .near = 64,
        .chunk = 0,
        .degree = 4,
        .polynomial = POLYNOMIAL_MINIMAX,
        .tolerance = 1e-2,
    };
}

// Every array of the problem, in bytes, with room for sums of a few of them.
static bool check_sizes(const AttentionSettings *s, Error *error) {
    const struct {
        const char *name;
        size_t value;
    } sizes[] = {
        {"batch", s->batch},       {"tokens", s->tokens},   {"heads", s->heads},
        {"kv_heads", s->kv_heads}, {"qk_size", s->qk_size}, {"v_size", s->v_size},
    };
    size_t product = 64;
    bool fits = true;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].value == 0)
            return error_set(error, ERROR_USER, "Attention needs %s of at least 1.", sizes[i].name);
        // kv_heads ≤ heads, and the two head sizes multiply different arrays, but their product bounds every tile
        if (i != 3) fits = fits && size_multiply(product, sizes[i].value, &product);
    }
    if (!fits || product > SIZE_MAX / 64)
        return error_set(error, ERROR_USER,
                         "Attention over batch %zu × tokens %zu × heads %zu with head sizes %zu and %zu is more than "
                         "can be addressed.",
                         s->batch, s->tokens, s->heads, s->qk_size, s->v_size);
    if (s->heads % s->kv_heads != 0)
        return error_set(error, ERROR_USER, "heads = %zu is not a multiple of kv_heads = %zu.", s->heads, s->kv_heads);
    return true;
}

// Rotations and q, k, v, o alone, which nothing can do without: what these do not fit into is refused before a plan
// fills its tables, which takes long and may take all memory there is.
static bool check_memory(const AttentionSettings *s, Error *error) {
    const double rows = (double)s->batch * (double)s->tokens, sizes = (double)(s->qk_size + s->v_size);
    const double numbers = (double)s->tokens * (double)s->qk_size + rows * (double)(s->heads + s->kv_heads) * sizes;
    size_t total, available;
    cpu_memory(&total, &available);
    if (available == 0 || numbers * sizeof(real) <= (double)available) return true;
    return error_set(error, ERROR_USER,
                     "Attention over batch %zu × tokens %zu × heads %zu with head sizes %zu and %zu needs %.2f GiB or "
                     "more; %.2f GiB are available.",
                     s->batch, s->tokens, s->heads, s->qk_size, s->v_size, numbers * sizeof(real) / (1 << 30),
                     (double)available / (1 << 30));
}

static bool check_position(const AttentionSettings *s, Error *error) {
    if (!s->kernel || !*s->kernel) return error_set(error, ERROR_USER, "attention.kernel is empty.");
    const bool rotates = position_kind(s->kernel) <= POSITION_ROPE_WINDOW; // a table's path may begin like that too
    if (rotates && s->qk_size % 2 != 0)
        return error_set(error, ERROR_USER, "qk_size = %zu is odd: kernel %s rotates pairs.", s->qk_size, s->kernel);
    if (rotates && !(s->rope_theta > 0.0 && isfinite(s->rope_theta)))
        return error_set(error, ERROR_USER, "rope_theta = %g is not a positive number.", s->rope_theta);
    if (strcmp(s->kernel, "rope-decay") == 0 && !(s->kernel_decay > 0.0 && s->kernel_decay <= 1.0))
        return error_set(error, ERROR_USER, "kernel_decay = %g is not in (0, 1].", s->kernel_decay);
    if (strcmp(s->kernel, "rope-window") == 0 && s->kernel_window == 0)
        return error_set(error, ERROR_USER, "kernel_window is 0: give the number of tokens that the window holds.");
    return true;
}

static bool check_logits(const AttentionSettings *s, Error *error) {
    if (!isfinite(s->logit_scale))
        return error_set(error, ERROR_USER, "logit_scale = %g is not finite.", s->logit_scale);
    // logits would be 0 without a word; where it is too large for `real` they are infinite, which is found and said
    if (s->logit_scale > 0.0 && (real)s->logit_scale < REAL_NORMAL_MIN)
        return error_set(error, ERROR_USER,
                         "logit_scale = %g is below %g, the smallest number that " REAL_NAME
                         " holds with all its digits.",
                         s->logit_scale, (double)REAL_NORMAL_MIN);
    if (s->bound == BOUND_CLIP && !(s->entry_bound > 0.0 && isfinite(s->entry_bound)))
        return error_set(error, ERROR_USER, "entry_bound = %g is not a positive number.", s->entry_bound);
    if (s->bound == BOUND_BALL && !(s->logit_bound > 0.0 && isfinite(s->logit_bound)))
        return error_set(error, ERROR_USER, "logit_bound = %g is not a positive number.", s->logit_bound);
    return true;
}

AttentionPlan *attention_create(const AttentionMethod *method, const AttentionSettings *settings, Error *error) {
    if (!check_sizes(settings, error) || !check_memory(settings, error) || !check_position(settings, error) ||
        !check_logits(settings, error))
        return NULL;
    AttentionSettings resolved = *settings;
    // words of the configuration: 0 is 1/sqrt(D), negative 1/D
    if (settings->logit_scale == 0.0) resolved.logit_scale = 1.0 / sqrt((double)settings->qk_size);
    if (settings->logit_scale < 0.0) resolved.logit_scale = 1.0 / (double)settings->qk_size;
    char *kernel = strdup(settings->kernel);
    if (!kernel) {
        error_set(error, ERROR_MEMORY, "There is no memory for an attention plan.");
        return NULL;
    }
    resolved.kernel = kernel;
    AttentionPlan *plan = method->create(&resolved, error);
    if (!plan) {
        free(kernel);
        return NULL;
    }
    plan->method = method;
    plan->kernel = kernel;
    return plan;
}

const AttentionMethod *attention_plan_method(const AttentionPlan *plan) { return plan->method; }
const AttentionSettings *attention_plan_settings(const AttentionPlan *plan) { return &plan->settings; }
AttentionNeeds attention_needs(const AttentionPlan *plan) { return plan->needs; }

// Every head's method is the plan's own; `auto` runs other plans through here, and theirs overwrite it.
static void report_method(const AttentionPlan *plan, const AttentionForward *io) {
    size_t index = 0;
    while (methods[index] != plan->method) index++;
    const size_t group = plan->settings.heads / plan->settings.kv_heads;
    for (size_t h = 0; h < plan->settings.heads; h++)
        if (!io->active || io->active[h / group]) io->report->method_used[h] = (double)index;
}

void attention_forward(const AttentionPlan *plan, const AttentionForward *io) {
    if (io->report && io->report->method_used) report_method(plan, io);
    plan->method->forward(plan, io);
}
void attention_backward(const AttentionPlan *plan, const AttentionBackward *io) { plan->method->backward(plan, io); }

void attention_explain(const AttentionPlan *plan, char *text, size_t size) {
    if (size == 0) return;
    text[0] = '\0';
    if (plan->method->explain)
        plan->method->explain(plan, text, size);
    else
        strncat(text, plan->method->summary, size - 1);
}

void attention_destroy(AttentionPlan *plan) {
    if (!plan) return;
    char *kernel = plan->kernel;
    plan->method->destroy(plan);
    free(kernel);
}

void attention_decode_begin(const AttentionPlan *plan, void *state) { plan->method->decode_begin(plan, state); }

void attention_decode(const AttentionPlan *plan, void *state, real *o, const real *q, const real *k, const real *v,
                      size_t position, void *scratch) {
    plan->method->decode(plan, state, o, q, k, v, position, scratch);
}
