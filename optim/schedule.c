// Learning-rate schedules. With n steps, w of them warm-up, floor f, and x = (step − w)/(n − 1 − w) in [0, 1]:
//
//     warm-up   (step + 1)/(w + 1): above 0 at step 0, and 1 just after the last warm-up step
//     cosine    f + (1 − f)·(1 + cos πx)/2                                  (Loshchilov and Hutter, SGDR, 2017)
//     linear    1 − (1 − f)·x
//     wsd       1, then over the last d = decay_share·n steps linearly to f (warm-up, stable, decay: MiniCPM, 2024)
//     constant  1
//
// All but constant are at f on the last step and stay there beyond it, and at 1 if there is nothing to fall over: no second
// step behind the warm-up for cosine and linear, d = 0 for wsd.

#include <math.h>
#include <string.h>

#include "optim/optim.h"

// 0 at the first step after warm-up, 1 at the last; 0 if those are the same.
static double progress(const Schedule *schedule, size_t step) {
    size_t last = schedule->steps - 1;
    return last == schedule->warmup ? 0 : (double)(step - schedule->warmup) / (double)(last - schedule->warmup);
}

static size_t decay_steps(const Schedule *schedule) {
    return (size_t)llround(schedule->decay_share * (double)schedule->steps);
}

static double factor_cosine(const Schedule *schedule, size_t step) {
    // sin² rather than 1 + cos: exactly 1 and exactly the floor at the ends
    double half = sin(M_PI / 2 * progress(schedule, step));
    return 1 - (1 - schedule->floor) * half * half;
}

static double factor_linear(const Schedule *schedule, size_t step) {
    return 1 - (1 - schedule->floor) * progress(schedule, step);
}

static double factor_wsd(const Schedule *schedule, size_t step) {
    size_t decay = decay_steps(schedule), start = schedule->steps - decay;
    return step < start ? 1 : 1 - (1 - schedule->floor) * (double)(step - start + 1) / (double)decay;
}

static double factor_constant(const Schedule *schedule, size_t step) {
    (void)schedule, (void)step;
    return 1;
}

enum { COSINE, LINEAR, WSD, CONSTANT, SHAPE_COUNT };
static const char *const names[SHAPE_COUNT + 1] = {
    [COSINE] = "cosine", [LINEAR] = "linear", [WSD] = "wsd", [CONSTANT] = "constant"};
// The factor at warmup <= step < steps.
static double (*const factors[SHAPE_COUNT])(const Schedule *, size_t) = {
    [COSINE] = factor_cosine, [LINEAR] = factor_linear, [WSD] = factor_wsd, [CONSTANT] = factor_constant};

const char *const *schedule_names(void) { return names; }

static size_t shape_find(const char *name) {
    size_t i = 0;
    while (i < SHAPE_COUNT && (!name || strcmp(names[i], name) != 0)) i++;
    return i;
}

bool schedule_check(const Schedule *schedule, Error *error) {
    size_t shape = shape_find(schedule->name);
    if (shape == SHAPE_COUNT)
        return error_set(error, ERROR_USER, "Schedule '%s' is unknown; there are cosine, linear, wsd and constant.",
                         schedule->name ? schedule->name : "");
    if (schedule->steps == 0) return error_set(error, ERROR_USER, "train.steps = 0: a run needs at least one step.");
    if (schedule->warmup >= schedule->steps)
        return error_set(error, ERROR_USER,
                         "optim.warmup = %zu leaves none of the %zu steps at full learning rate: lower it, or raise "
                         "train.steps.",
                         schedule->warmup, schedule->steps);
    if (!(schedule->floor >= 0 && schedule->floor <= 1)) // negated: NaN is refused as well
        return error_set(error, ERROR_USER,
                         "optim.min_lr_share = %g: the smallest learning rate must be 0 to 1 times the largest.",
                         schedule->floor);
    if (shape != WSD) return true;
    if (!(schedule->decay_share >= 0 && schedule->decay_share <= 1))
        return error_set(error, ERROR_USER,
                         "optim.wsd_decay_share = %g: the share of the steps must be between 0 and 1.",
                         schedule->decay_share);
    if (decay_steps(schedule) > schedule->steps - schedule->warmup)
        return error_set(error, ERROR_USER,
                         "optim.warmup = %zu and wsd's %zu decaying steps are more than the %zu steps: lower it or "
                         "optim.wsd_decay_share.",
                         schedule->warmup, decay_steps(schedule), schedule->steps);
    return true;
}

double schedule_factor(const Schedule *schedule, size_t step) {
    if (step < schedule->warmup) return (double)(step + 1) / (double)(schedule->warmup + 1);
    size_t shape = shape_find(schedule->name);
    REQUIRE(shape < SHAPE_COUNT && schedule->steps > schedule->warmup);
    return factors[shape](schedule, step < schedule->steps ? step : schedule->steps - 1);
}
