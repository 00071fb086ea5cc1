// What a step of method `toeplitz` reports per head: measured Λ, shares of bounded entries, fallbacks.
#include <math.h>

#include "attention/toeplitz_plan.h"

// Sets array[head] = value for the heads that run.
static void fill(const ToeplitzPlan *plan, double *array, double value, const bool *active) {
    for (size_t h = 0; array && h < plan->base.settings.heads; h++)
        if (!active || active[h / plan->group]) array[h] = value;
}

static size_t method_index(void) {
    size_t index = 0;
    while (attention_method_at(index) != &attention_toeplitz) index++;
    return index;
}

void toeplitz_report_clear(const ToeplitzPlan *plan, const AttentionReport *report, const bool *active) {
    double *const arrays[] = {report->logit_bound, report->output_bound, report->dq_bound, report->dk_bound,
                              report->dv_bound,    report->clipped,      report->fell_back};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) fill(plan, arrays[i], 0.0, active);
    fill(plan, report->method_used, (double)method_index(), active);
}

void toeplitz_report_forward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, size_t member, double measured,
                             const AttentionReport *report) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t head = unit->kv_head * plan->group + member;
    if (report->logit_bound) report->logit_bound[head] = fmax(report->logit_bound[head], measured);
    if (report->fell_back) report->fell_back[head] += plan->expands && unit->exact_far[member];
    const double share = (double)bound_units(plan->bound, settings->tokens, plan->far_size);
    if (report->clipped && share > 0.0) // of the entries of q and k together, over all batch rows
        report->clipped[head] +=
            (unit->changed[member] + unit->changed[plan->group]) / (2.0 * share * (double)settings->batch);
}

void toeplitz_report_backward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, const ToeplitzSaved *saved,
                              const AttentionBackward *io) {
    (void)plan, (void)unit, (void)saved, (void)io;
}
