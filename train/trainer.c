// One training step: accumulate gradients, check, clip, update.
#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/files.h"

// A gradient beyond this is as good as infinite: its square would not fit into a second moment, nor ever leave it.
static const double largest_gradient = 1e19;

static size_t batch_tokens(const Config *config) { return config->batch * config->tokens; }

size_t trainer_buffer_bytes(const Config *config) {
    return 2 * config->accumulate * batch_tokens(config) * sizeof(int32_t);
}

static Optim *create_optim(const Config *config, const Model *model, Error *error) {
    const TensorTable *table = model_tensors(model);
    OptimSettings settings = config_optim(config);
    OptimGroup *groups = calloc(table->count, sizeof *groups);
    if (!groups) {
        error_set(error, ERROR_MEMORY, "Out of memory for the optimizer's groups.");
        return NULL;
    }
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        groups[i] = (OptimGroup){tensor->offset, tensor->rows * tensor->columns, tensor->decay};
    }
    Optim *optim = optim_create(&settings, groups, table->count, table->elements, error);
    free(groups);
    return optim;
}

enum { REPORT_FIGURES = 7 };

static bool create_reports(Trainer *trainer, Error *error) {
    const ModelConfig *model = &model_settings(trainer->model)->config;
    AttentionReport *reports = calloc(model->layers, sizeof *reports);
    double *next = calloc(model->layers * model->heads * REPORT_FIGURES, sizeof *next);
    if (!reports || !next) {
        free(reports);
        free(next);
        return error_set(error, ERROR_MEMORY, "Out of memory for what attention reports.");
    }
    for (size_t layer = 0; layer < model->layers; layer++) {
        AttentionReport *r = &reports[layer];
        double **figures[REPORT_FIGURES] = {&r->logit_bound, &r->output_bound, &r->dq_bound, &r->dk_bound,
                                            &r->dv_bound,    &r->clipped,      &r->fell_back};
        for (size_t i = 0; i < REPORT_FIGURES; i++, next += model->heads) *figures[i] = next;
    }
    trainer->reports = reports;
    return true;
}

bool trainer_create(Trainer *trainer, const Config *config, bool held_out, Error *error) {
    *trainer = (Trainer){.config = config, .schedule = config_schedule(config)};
    ModelSettings settings;
    config_model(config, config->batch, true, &settings);
    // Data first: what is missing there is found before memory is taken.
    trainer->train = batches_open(config, BATCHES_TRAIN, config->batch, error);
    if (trainer->train && held_out) trainer->held_out = batches_open(config, BATCHES_HELD_OUT, config->batch, error);
    if (trainer->held_out) trainer->meta = batches_meta(trainer->held_out);
    if (trainer->train && (trainer->held_out || !held_out)) trainer->model = model_create(&settings, error);
    if (trainer->model) trainer->optim = create_optim(config, trainer->model, error);
    trainer->inputs = malloc(trainer_buffer_bytes(config) / 2);
    trainer->targets = malloc(trainer_buffer_bytes(config) / 2);
    if (!trainer->optim || !trainer->inputs || !trainer->targets || !create_reports(trainer, error)) {
        error_set(error, ERROR_MEMORY, "Out of memory for %zu batches of tokens.", config->accumulate);
        trainer_destroy(trainer);
        return false;
    }
    trainer->state.data_checksum = batches_checksum(trainer->train);
    model_initialise(trainer->model, config->seed);
    trainer->reporting = strcmp(config->method, "exact") || strcmp(config->bound, "none");
    return true;
}

void trainer_destroy(Trainer *trainer) {
    free(trainer->inputs);
    free(trainer->targets);
    if (trainer->reports) free(trainer->reports[0].logit_bound); // the first of them all
    free(trainer->reports);
    if (trainer->optim) optim_destroy(trainer->optim);
    if (trainer->model) model_destroy(trainer->model);
    batches_close(trainer->held_out);
    batches_close(trainer->train);
    *trainer = (Trainer){0};
}

static bool all_finite(const real *values, size_t count) { return isfinite(optim_gradient_norm(values, count)); }

static bool moments_finite(Trainer *trainer) {
    const char *name;
    size_t elements = model_tensors(trainer->model)->elements;
    for (size_t i = 0; optim_state(trainer->optim, i, &name); i++)
        if (!all_finite(optim_state(trainer->optim, i, &name), elements)) return false;
    return true;
}

bool trainer_finite(Trainer *trainer) {
    return all_finite(model_parameters(trainer->model), model_tensors(trainer->model)->elements) &&
           moments_finite(trainer);
}

double trainer_step_flops(const Config *config, const ModelNeeds *needs, size_t targets) {
    const double rows = (double)(config->accumulate * batch_tokens(config));
    return needs->useful_flops * (double)config->accumulate - (rows - (double)targets) * needs->row_output_flops;
}

bool trainer_logs(const Config *config, uint64_t step) {
    return step == config->steps || step % config->log_every == 0;
}

uint64_t trainer_held_out_sequences(const Trainer *trainer) {
    return evaluation_sequences(trainer->held_out, (uint64_t)trainer->config->eval_batches * trainer->config->batch);
}

uint32_t trainer_judge(const Trainer *trainer) {
    const uint64_t words[] = {batches_checksum(trainer->held_out), trainer_held_out_sequences(trainer),
                              trainer->config->tokens};
    return checksum(0, words, sizeof words);
}

bool trainer_judge_differs(const Trainer *trainer) {
    const RunState *state = &trainer->state;
    return state->best_step && state->judged_by && state->judged_by != trainer_judge(trainer);
}

// Adds the report of one of the step's batches, counted from 0: bounds hold for all of them, so the largest do; the
// clipped share is a mean; fallbacks add up.
static void merge_reports(Trainer *trainer, size_t batch) {
    const ModelConfig *model = &model_settings(trainer->model)->config;
    const double share = 1.0 / (double)trainer->config->accumulate;
    for (size_t layer = 0; trainer->reporting && layer < model->layers; layer++) {
        const AttentionReport *of = model_report(trainer->model, layer);
        AttentionReport *all = &trainer->reports[layer];
        const double *const bounds[] = {of->logit_bound, of->output_bound, of->dq_bound, of->dk_bound, of->dv_bound};
        double *const kept[] = {all->logit_bound, all->output_bound, all->dq_bound, all->dk_bound, all->dv_bound};
        for (size_t h = 0; h < model->heads; h++) {
            for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
                kept[i][h] = batch ? larger_or_nan(kept[i][h], bounds[i][h]) : bounds[i][h];
            all->clipped[h] = (batch ? all->clipped[h] : 0) + share * of->clipped[h];
            all->fell_back[h] = (batch ? all->fell_back[h] : 0) + of->fell_back[h];
        }
    }
}

AttentionSummary trainer_attention(const Trainer *trainer) {
    const ModelConfig *config = &model_settings(trainer->model)->config;
    AttentionSummary summary = {.present = trainer->reporting};
    for (size_t layer = 0; trainer->reporting && layer < config->layers; layer++) {
        const AttentionReport *report = &trainer->reports[layer];
        for (size_t head = 0; head < config->heads; head++) {
            summary.logit_bound = larger_or_nan(summary.logit_bound, report->logit_bound[head]);
            summary.output_bound = larger_or_nan(summary.output_bound, report->output_bound[head]);
            summary.dq_bound = larger_or_nan(summary.dq_bound, report->dq_bound[head]);
            summary.dk_bound = larger_or_nan(summary.dk_bound, report->dk_bound[head]);
            summary.dv_bound = larger_or_nan(summary.dv_bound, report->dv_bound[head]);
            summary.clipped += report->clipped[head] / (double)(config->layers * config->heads);
            summary.fell_back += report->fell_back[head];
        }
    }
    return summary;
}

// Reads all batches of the step first: the weight of each target is one over the count of them all.
static bool read_batches(Trainer *trainer, size_t *targets, Error *error) {
    const Config *config = trainer->config;
    size_t stride = batch_tokens(config);
    phase_enter(PHASE_LOADER);
    for (size_t i = 0; i < config->accumulate; i++)
        if (!batches_next(trainer->train, trainer->inputs + i * stride, trainer->targets + i * stride, error))
            return false;
    *targets = model_count_targets(trainer->targets, config->accumulate * stride);
    return true;
}

bool trainer_step(Trainer *trainer, StepResult *result, Error *error) {
    const Config *config = trainer->config;
    RunState *state = &trainer->state;
    size_t stride = batch_tokens(config), targets;
    double factor = schedule_factor(&trainer->schedule, (size_t)state->step);
    *result = (StepResult){.learning_rate = config->learning_rate * factor};
    if (!read_batches(trainer, &targets, error)) return false;
    result->targets = targets;

    phase_enter(PHASE_OTHER);
    model_enable_report(trainer->model, !trainer->reporting                     ? MODEL_REPORT_NONE
                                        : trainer_logs(config, state->step + 1) ? MODEL_REPORT_CERTIFICATES
                                                                                : MODEL_REPORT_COUNTS);
    model_zero_gradients(trainer->model);
    for (size_t i = 0; i < config->accumulate; i++) {
        const int32_t *batch = trainer->targets + i * stride;
        double share = (double)model_count_targets(batch, stride) / (double)(targets ? targets : 1);
        double loss = model_step(trainer->model, trainer->inputs + i * stride, batch,
                                 targets ? 1.0 / (double)targets : 0, NULL, NULL);
        if (share > 0) result->loss += share * loss;
        merge_reports(trainer, i);
    }
    state->fell_back += (uint64_t)trainer_attention(trainer).fell_back;

    phase_enter(PHASE_OPTIMIZER);
    real *parameters = model_parameters(trainer->model), *gradients = model_gradients(trainer->model);
    result->gradient_norm = optim_gradient_norm(gradients, model_tensors(trainer->model)->elements);
    bool clipped = config->clip > 0 && result->gradient_norm > config->clip;
    double scale = clipped ? config->clip / result->gradient_norm : 1;
    result->skipped = !isfinite(result->loss) || !isfinite(result->gradient_norm) ||
                      result->gradient_norm * scale > largest_gradient || !moments_finite(trainer);
    if (result->skipped) {
        state->skipped++;
        state->skipped_in_row++;
    } else {
        optim_update(trainer->optim, parameters, gradients, result->learning_rate, scale);
        state->updates++;
        state->skipped_in_row = 0;
        state->loss_sum += result->loss;
        state->loss_count++;
    }
    phase_enter(PHASE_OTHER);
    state->step++;
    state->tokens += config->accumulate * stride;
    state->data = batches_position(trainer->train);
    return true;
}
