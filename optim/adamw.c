// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
// algorithm 2; the bias corrections are Kingma and Ba's, "Adam", ICLR 2015, algorithm 1).
//
//     m ← β₁m + (1−β₁)g        v ← β₂v + (1−β₂)g²
//     p ← p − lr·wd·p − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)
//
// Cost: one pass, 16 bytes read and 12 written per parameter in single precision; memory bound.

#include <math.h>

#include "optim/adamw_kernels.h"
#include "optim/method.h"

static bool check_beta(const char *name, double beta, Error *error) {
    // A β that rounds to 1 would never take in a gradient.
    if (beta >= 0 && (real)beta < 1) return true;
    return error_set(error, ERROR_USER, "optim.%s = %.9g must be at least 0 and below 1.", name, beta);
}

static bool check(const OptimSettings *settings, Error *error) {
    // ε must survive rounding: 0/0 is what a parameter without gradient would get.
    if (!((real)settings->epsilon >= REAL_NORMAL_MIN) || isinf((real)settings->epsilon))
        return error_set(error, ERROR_USER,
                         "optim.epsilon = %g must be a positive number that single precision can hold.",
                         settings->epsilon);
    return check_beta("beta1", settings->beta1, error) && check_beta("beta2", settings->beta2, error);
}

// 1 − βᵗ without cancellation; β = 0 gives 1.
static double bias_correction(double beta, uint64_t step) { return -expm1((double)step * log(beta)); }

static void update(const OptimStep *step, const OptimBlock *block) {
    const OptimSettings *settings = step->settings;
    const double lr = step->learning_rate;
    const AdamwCoefficients coefficients = {
        .gradient_scale = (real)step->gradient_scale,
        .beta1 = (real)settings->beta1,
        .rest1 = (real)(1 - settings->beta1),
        .beta2 = (real)settings->beta2,
        .rest2 = (real)(1 - settings->beta2),
        .keep = (real)(block->decay ? 1 - lr * settings->weight_decay : 1),
        .step_size = (real)(lr / bias_correction(settings->beta1, step->number)),
        .root_scale = (real)(1 / sqrt(bias_correction(settings->beta2, step->number))),
        .epsilon = (real)settings->epsilon,
    };
    adamw_kernels()->update(block->parameters, block->states[0], block->states[1], block->gradient, block->count,
                            &coefficients);
}

const OptimMethod optim_adamw = {
    .name = "adamw",
    .state_count = 2,
    .state_names = {"first_moment", "second_moment"},
    .check = check,
    .update = update,
};
