// Memory is what the arenas will measure; time is the probe's rate applied to the model's own count of operations.
#include "train/estimate.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/cpu.h"
#include "core/threads.h"
#include "train/trainer.h"

enum { PROBE_TOKENS = 512, PROBE_REPEATS = 8 };
static const double probe_seconds = 0.5;                     // no more repeats after this long
static const size_t blas_bytes_per_thread = (size_t)2 << 20; // pages of OpenBLAS's work space that products touch
static const size_t later_bytes = (size_t)3 << 20;           // tokenizer, metrics, buffers of files

size_t resident_bytes(void) {
    unsigned long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%llu %llu", &total, &resident) != 2) resident = 0;
    fclose(file);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

void peak_begin(void) {
    const int file = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (file < 0) return;
    const ssize_t written = write(file, "5", 1);
    (void)written; // where it may not be, the peak is that of all
    close(file);
}

size_t peak_bytes(void) {
    struct rusage usage; // which has the peak of what was there before exec as well
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && !kib && fgets(line, sizeof line, file)) sscanf(line, "VmHWM: %llu", &kib);
    if (file) fclose(file);
    if (kib) return (size_t)kib * 1024;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

static bool add_up(Estimate *estimate, Error *error) {
    const ModelNeeds *model = &estimate->model;
    estimate->total_bytes = 0;
    const size_t parts[] = {arena_bytes(model->parameter_bytes),
                            arena_bytes(model->gradient_bytes),
                            arena_bytes(model->activation_bytes),
                            arena_bytes(model->scratch_bytes),
                            arena_bytes(estimate->moment_bytes),
                            model->plan_bytes,
                            estimate->buffer_bytes,
                            estimate->program_bytes};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!size_add(estimate->total_bytes, parts[i], &estimate->total_bytes))
            return error_set(error, ERROR_USER, "The model's memory does not fit in an address.");
    return true;
}

// Tasks ask at a few positions, and ask as many in every example; one that cannot be had is for others to refuse.
static bool measure_asked(const Config *config, double *asked, Error *error) {
    Error why = {0};
    *asked = 1;
    if (!*config->task) return true;
    Batches *task = batches_open(config, BATCHES_TRAIN, 1, &why);
    int32_t *tokens = task ? calloc(2 * config->tokens, sizeof *tokens) : NULL;
    bool fine = why.kind == ERROR_USER || tokens || error_set(error, ERROR_MEMORY, "Out of memory for an example.");
    if (tokens && (fine = batches_next(task, tokens, tokens + config->tokens, error)))
        *asked = (double)model_count_targets(tokens + config->tokens, config->tokens) / (double)config->tokens;
    free(tokens);
    batches_close(task);
    return fine;
}

// Operations of a batch of so many tokens.
static double batch_flops(const ModelNeeds *needs, double tokens, double asked) {
    return needs->forward_flops + needs->backward_flops - (1 - asked) * tokens * needs->row_output_flops;
}

bool estimate_memory(const Config *config, Estimate *estimate, Error *error) {
    ModelSettings settings;
    *estimate = (Estimate){0};
    size_t tokens;
    config_model(config, config->batch, true, &settings);
    if (!model_needs(&settings, &estimate->model, error)) return false;
    if (!size_multiply(config->accumulate, config->batch, &tokens) || !size_multiply(tokens, config->tokens, &tokens) ||
        tokens > SIZE_MAX / 64)
        return error_set(error, ERROR_USER, "train.accumulate × train.batch × model.tokens does not fit.");
    OptimSettings optim = config_optim(config);
    const ModelNeeds *model = &estimate->model;
    estimate->moment_bytes = optim_state_bytes(&optim, model->parameter_bytes / sizeof(real));
    size_t held_out = config->batch * config->tokens * (2 * sizeof(int32_t) + sizeof(real) + 1);
    estimate->buffer_bytes = trainer_buffer_bytes(config) + held_out;
    // Samples are printed between steps, by a decoder that comes and goes.
    if (config->sample_every) estimate->buffer_bytes += arena_bytes(estimate->model.decoder_bytes);
    estimate->program_bytes = resident_bytes() + threads_count() * blas_bytes_per_thread + later_bytes;
    if (!measure_asked(config, &estimate->asked, error)) return false;
    estimate->step_flops =
        batch_flops(model, (double)(config->batch * config->tokens), estimate->asked) * (double)config->accumulate;
    CpuInfo cpu;
    cpu_info(&cpu);
    estimate->available_bytes = cpu.memory_available;
    return add_up(estimate, error);
}

static double gib(size_t bytes) { return (double)bytes / (1 << 30); }

bool estimate_fits(const Config *config, const Estimate *estimate, Error *error) {
    if (estimate->total_bytes <= estimate->available_bytes) return true;
    return error_set(error, ERROR_USER,
                     "The run needs %.2f GiB and %.2f GiB are available (activations and scratch: %.2f GiB). Lower "
                     "train.batch (%zu; train.accumulate makes up for it), model.tokens (%zu), or the model%s.",
                     gib(estimate->total_bytes), gib(estimate->available_bytes),
                     gib(estimate->model.activation_bytes + estimate->model.scratch_bytes), config->batch,
                     config->tokens, config->recompute ? "" : ", or set train.recompute = true");
}

// The first layer of each method that occurs is enough to tell the rate.
static ModelSettings probe_settings(const ModelSettings *full) {
    ModelSettings probe = *full;
    probe.method_count = 0;
    for (size_t i = 0; i < full->method_count; i++) {
        bool known = false;
        for (size_t k = 0; k < probe.method_count; k++) known |= probe.methods[k] == full->methods[i];
        if (!known) probe.methods[probe.method_count++] = full->methods[i];
    }
    probe.config.layers = probe.method_count;
    if (probe.config.tokens > PROBE_TOKENS) probe.config.tokens = PROBE_TOKENS;
    size_t rows = PROBE_TOKENS / probe.config.tokens; // about as many tokens, whatever the context
    if (probe.batch > rows) probe.batch = rows;
    return probe;
}

// Tokens, and behind them targets: as large a share of them as in a step, evenly spread, but one at least. Returns the
// share that it is.
static double fill_probe(int32_t *tokens, size_t count, size_t vocabulary, double asked) {
    int32_t *targets = tokens + count;
    size_t targets_set = 0;
    for (size_t i = 0; i < count; i++) {
        const bool set = targets_set == 0 || (double)targets_set < asked * (double)(i + 1);
        tokens[i] = (int32_t)(i * 7919 % vocabulary);
        targets[i] = set ? tokens[i] : -1;
        targets_set += set;
    }
    return (double)targets_set / (double)count;
}

bool estimate_probe(const Config *config, Estimate *estimate, Error *error) {
    ModelSettings full, probe;
    ModelNeeds needs;
    config_model(config, config->batch, true, &full);
    probe = probe_settings(&full);
    if (!model_needs(&probe, &needs, error)) return false;
    Model *model = model_create(&probe, error);
    if (!model) return false;
    size_t count = probe.batch * probe.config.tokens;
    int32_t *tokens = malloc(2 * count * sizeof *tokens);
    bool fine = tokens || error_set(error, ERROR_MEMORY, "Out of memory for the probe.");
    double best = INFINITY;
    if (fine) {
        const double asked = fill_probe(tokens, count, probe.config.vocabulary, estimate->asked);
        model_initialise(model, config->seed);
        double begin = clock_seconds();
        for (size_t i = 0; i <= PROBE_REPEATS && (i < 2 || clock_seconds() - begin < probe_seconds); i++) {
            double start = clock_seconds();
            model_step(model, tokens, tokens + count, 1.0 / (double)count, NULL, NULL);
            if (i > 0) best = fmin(best, clock_seconds() - start); // the first warms caches and pages
        }
        estimate->probe_flops_per_s = batch_flops(&needs, (double)count, asked) / best;
        estimate->step_seconds = estimate->step_flops / estimate->probe_flops_per_s;
    }
    free(tokens);
    model_destroy(model);
    PhaseTimes discarded;
    phase_take(&discarded);
    // Its arenas are given back; what is left is the program with the work space that products of this width touch.
    estimate->program_bytes = resident_bytes() + later_bytes;
    return fine && add_up(estimate, error);
}

void estimate_print(const Config *config, const Estimate *estimate, FILE *out) {
    const double mib = 1 << 20;
    const ModelNeeds *model = &estimate->model;
    fprintf(out, "parameters  %.3f M\n", (double)model->parameters / 1e6);
    fprintf(out,
            "memory      %.0f MiB: weights %.1f, gradients %.1f, moments %.1f, activations %.1f, scratch %.1f, "
            "tables %.1f, batches %.1f, program %.1f; %.0f MiB available\n",
            (double)estimate->total_bytes / mib, (double)model->parameter_bytes / mib,
            (double)model->gradient_bytes / mib, (double)estimate->moment_bytes / mib,
            (double)model->activation_bytes / mib, (double)model->scratch_bytes / mib, (double)model->plan_bytes / mib,
            (double)estimate->buffer_bytes / mib, (double)estimate->program_bytes / mib,
            (double)estimate->available_bytes / mib);
    fprintf(out, "step        %zu sequences of %zu tokens, %.1f GFLOP", config->batch * config->accumulate,
            config->tokens, estimate->step_flops / 1e9);
    if (estimate->step_seconds > 0)
        fprintf(out, ", about %.3g s at the probe's %.0f GFLOP/s; %zu steps in about %.1f min", estimate->step_seconds,
                estimate->probe_flops_per_s / 1e9, config->steps, estimate->step_seconds * (double)config->steps / 60);
    fputc('\n', out);
}

json_t *estimate_json(const Estimate *estimate) {
    const ModelNeeds *model = &estimate->model;
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "parameters",
                     (json_int_t)model->parameters, "parameter_bytes", (json_int_t)model->parameter_bytes,
                     "gradient_bytes", (json_int_t)model->gradient_bytes, "moment_bytes",
                     (json_int_t)estimate->moment_bytes, "activation_bytes", (json_int_t)model->activation_bytes,
                     "scratch_bytes", (json_int_t)model->scratch_bytes, "table_bytes", (json_int_t)model->plan_bytes,
                     "buffer_bytes", (json_int_t)estimate->buffer_bytes, "program_bytes",
                     (json_int_t)estimate->program_bytes, "total_bytes", (json_int_t)estimate->total_bytes,
                     "available_bytes", (json_int_t)estimate->available_bytes, "step_flops", estimate->step_flops,
                     "step_seconds", estimate->step_seconds);
}
