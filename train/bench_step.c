// rope bench step: whole training steps of the configured model on random tokens, whatever data it is configured for,
// against this run's sgemm rate and copy bandwidth. Of the step in the middle each phase has a floor: the longer of its
// operations at the sgemm rate and its bytes at the copy rate. Linear layers are also timed alone: the three products
// (forward, and both gradients) of every weight, with the shapes of one batch, times the batches of a step.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/blas.h"
#include "core/clock.h"
#include "core/files.h"
#include "core/random.h"
#include "train/bench.h"
#include "train/statistics.h"
#include "train/trainer.h"

enum { COPY_BYTES = 1 << 28, WARM_STEPS = 2, PATH_SIZE = 512 };

typedef struct Times {
    double flops;               // of a step
    double step, linear, sgemm; // medians: seconds, seconds, FLOP/s
    double fell_back;           // heads × batch rows, of all layers and rounds
    double share, linear_share; // medians of the rounds' shares of the sgemm rate
    PhaseTimes phases;          // of the step in the middle, so that they add up to it
} Times;

// The base's settings without its data, but with the vocabulary that those give it.
static bool leave_data(const Config *base, Config *config, Error *error) {
    Error why = {0};
    *config = *base;
    config_without_end(config);
    const bool known = config_resolve(config, &why);
    const size_t vocabulary = known ? config->vocabulary : base->vocabulary;
    *config = *base;
    config_without_end(config);
    config->vocabulary = vocabulary;
    config->data_dir[0] = config->task[0] = '\0';
    if (!config_resolve(config, error)) return false;
    if (!known) fprintf(stderr, "rope: %s; a vocabulary of %zu is timed.\n", why.message, config->vocabulary);
    return true;
}

// A shard of random tokens in a fresh directory, and the configuration that trains on it.
static bool make_data(const Config *base, size_t steps, Config *config, char directory[PATH_SIZE], Error *error) {
    char text[PATH_SIZE + 32], path[PATH_SIZE + 32];
    if (!leave_data(base, config, error)) return false;
    const char *parent = getenv("TMPDIR");
    snprintf(directory, PATH_SIZE, "%s/rope-bench-XXXXXX", parent && *parent ? parent : "/tmp");
    if (!mkdtemp(directory)) return error_errno(error, "Creating %s", directory);
    snprintf(path, sizeof path, "%s/train.bin", directory);
    ShardWriter *writer = shard_create(path, config->vocabulary, error);
    if (!writer) return false;
    const size_t count = (steps + 1) * config->accumulate * config->batch * config->tokens + 1;
    for (size_t i = 0; i < count; i++) {
        const int32_t id = (int32_t)random_below((Random){1, RANDOM_BENCH, 4}, i, config->vocabulary);
        if (!shard_append(writer, &id, 1, error)) {
            shard_abandon(writer);
            return false;
        }
    }
    const size_t vocabulary = config->vocabulary;
    snprintf(text, sizeof text, "data.dir=%s", directory);
    if (!shard_finish(writer, NULL, NULL, error) || !config_set(config, text, ORIGIN_COMMAND_LINE, error)) return false;
    snprintf(text, sizeof text, "model.vocabulary=%zu", vocabulary);
    return config_set(config, text, ORIGIN_COMMAND_LINE, error) && config_resolve(config, error);
}

// Seconds of y = x Wᵀ, dx = dy W and dW += dyᵀ x for one weight (out, in) over n tokens.
static double linear_seconds(real *memory, size_t n, size_t out, size_t in) {
    real *x = memory, *w = x + n * in, *y = w + out * in;
    const double start = clock_seconds();
    gemm_parallel(false, true, n, out, in, 1, x, in, w, in, 0, y, out);
    gemm_parallel(false, false, n, in, out, 1, y, out, w, in, 0, x, in);
    gemm_parallel(true, false, out, in, n, (real)1e-6, y, out, x, in, 0, w, in);
    return clock_seconds() - start;
}

// All weights of the model for one batch; adds the operations to *flops.
static double all_linear_seconds(const ModelConfig *c, size_t n, real *memory, double *flops) {
    const size_t q = c->heads * c->qk_size, k = c->kv_heads * c->qk_size, v = c->kv_heads * c->v_size;
    const struct {
        size_t out, in, times;
    } weights[] = {
        {q, c->width, c->layers},          {k, c->width, c->layers},
        {v, c->width, c->layers},          {c->width, c->heads * c->v_size, c->layers},
        {c->ffn, c->width, 2 * c->layers}, {c->width, c->ffn, c->layers},
        {c->vocabulary, c->width, 1},
    };
    double seconds = 0;
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        for (size_t t = 0; t < weights[i].times; t++) {
            seconds += linear_seconds(memory, n, weights[i].out, weights[i].in);
            *flops += 6.0 * (double)n * (double)weights[i].out * (double)weights[i].in;
        }
    return seconds;
}

// Room for the largest weight with its input and output.
static size_t linear_memory(const ModelConfig *c, size_t n) {
    const size_t sides[] = {c->heads * c->qk_size, c->heads * c->v_size, c->ffn, c->vocabulary};
    size_t largest = c->width;
    for (size_t i = 0; i < 4; i++) largest = sides[i] > largest ? sides[i] : largest;
    return n * (c->width + largest) + c->width * largest;
}

static bool measure(Trainer *trainer, const BenchOptions *options, Times *times, Error *error) {
    const ModelConfig *model = &model_settings(trainer->model)->config;
    const size_t n = trainer->config->batch * trainer->config->tokens, numbers = linear_memory(model, n);
    PhaseTimes phases[BENCH_MAX_ROUNDS];
    double steps[BENCH_MAX_ROUNDS], linear[BENCH_MAX_ROUNDS], shares[2][BENCH_MAX_ROUNDS], rates[BENCH_MAX_ROUNDS];
    Arena arena;
    if (!arena_create(&arena, "linear layers of the benchmark", numbers * sizeof(real), error)) return false;
    real *memory = ARENA_TAKE(&arena, real, numbers);
    random_fill_normal(memory, numbers, 0.02, (Random){1, RANDOM_BENCH, 5});
    StepResult result;
    ModelNeeds needs;
    bool fine = model_needs(model_settings(trainer->model), &needs, error);
    for (size_t i = 0; fine && i < WARM_STEPS; i++) fine = trainer_step(trainer, &result, error);
    for (size_t r = 0; fine && r < options->rounds; r++) {
        double flops = 0;
        rates[r] = 1e9 * blas_library_rate(BENCH_SGEMM, 1);
        phase_take(&phases[r]); // what ran in between
        const double start = clock_seconds();
        fine = trainer_step(trainer, &result, error);
        steps[r] = clock_seconds() - start;
        phase_take(&phases[r]);
        times->fell_back += trainer_attention(trainer).fell_back;
        const double batch_seconds = all_linear_seconds(model, n, memory, &flops);
        linear[r] = (double)trainer->config->accumulate * batch_seconds;
        times->flops = trainer_step_flops(trainer->config, &needs, result.targets); // every token has a target
        shares[0][r] = times->flops / steps[r] / rates[r];
        shares[1][r] = flops / batch_seconds / rates[r];
    }
    arena_destroy(&arena);
    if (!fine) return false;
    size_t middle[2] = {0};
    middle_places(steps, options->rounds, middle);
    for (size_t i = 0; i < 2; i++) phase_add(&times->phases, &phases[middle[i]], 0.5);
    times->step = median(steps, options->rounds);
    times->linear = median(linear, options->rounds);
    times->sgemm = median(rates, options->rounds);
    times->share = median(shares[0], options->rounds);
    if (times->fell_back > 0) { // the method's operations are not what ran
        times->flops = times->share = NAN;
        times->phases.flops[PHASE_ATTENTION_FORWARD] = times->phases.flops[PHASE_ATTENTION_BACKWARD] = 0;
    }
    times->linear_share = median(shares[1], options->rounds);
    return true;
}

static json_t *phases_json(const Times *times, double copy) {
    json_t *phases = json_object();
    fprintf(stderr, "%-20s %10s %10s %10s %8s\n", "phase", "ms", "GFLOP", "floor ms", "ratio");
    for (size_t p = 0; p < PHASE_COUNT; p++) {
        const double seconds = times->phases.seconds[p], flops = times->phases.flops[p], bytes = times->phases.bytes[p];
        const double flop_seconds = flops / times->sgemm, byte_seconds = bytes / copy,
                     floor = fmax(flop_seconds, byte_seconds);
        if (seconds <= 0) continue;
        fprintf(stderr, "%-20s %10.2f %10.3f %10.2f", phase_name((Phase)p), 1e3 * seconds, 1e-9 * flops, 1e3 * floor);
        if (floor > 0) fprintf(stderr, " %8.2f", seconds / floor); // uncounted phases have no floor
        fputc('\n', stderr);
        json_object_set_new(phases, phase_name((Phase)p),
                            json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "ms", 1e3 * seconds, "flops", flops,
                                      "bytes", bytes, "sgemm_ms", 1e3 * flop_seconds, "copy_ms", 1e3 * byte_seconds,
                                      "floor_ms", 1e3 * floor, "ratio",
                                      bench_number(floor > 0 ? seconds / floor : NAN)));
    }
    return phases;
}

json_t *bench_step(const Config *base, const BenchOptions *options, Error *error) {
    static Config config;
    char directory[PATH_SIZE] = "";
    Trainer trainer = {0};
    Times times = {0};
    json_t *document = NULL;
    if (make_data(base, WARM_STEPS + options->rounds, &config, directory, error) &&
        trainer_create(&trainer, &config, false, error) && measure(&trainer, options, &times, error)) {
        const double tokens = (double)(config.batch * config.tokens * config.accumulate), flops = times.flops;
        const double copy = copy_rate(COPY_BYTES, 3);
        fprintf(stderr, "step on random tokens of %zu: %.1f ms, %.0f tokens/s", config.vocabulary, 1e3 * times.step,
                tokens / times.step);
        if (times.fell_back > 0)
            fprintf(stderr, "; attention fell back to exact in %.0f heads", times.fell_back);
        else
            fprintf(stderr, ", %.1f GFLOP/s: %.0f %% of sgemm", 1e-9 * flops / times.step, 100 * times.share);
        fprintf(stderr, "; sgemm %.1f GFLOP/s, linear layers alone %.0f %%; copy %.1f GB/s\n", 1e-9 * times.sgemm,
                100 * times.linear_share, 1e-9 * copy);
        document = json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:o, s:o, s:f, s:f, s:I, s:o}", "data", "random tokens",
                             "vocabulary", (json_int_t)config.vocabulary, "sgemm_gflops", 1e-9 * times.sgemm,
                             "copy_gb_per_s", 1e-9 * copy, "step_ms", 1e3 * times.step, "tokens_per_s",
                             tokens / times.step, "step_gflops",
                             bench_number(1e-9 * flops / times.step), "sgemm_share", bench_number(times.share),
                             "linear_ms", 1e3 * times.linear, "linear_share", times.linear_share, "fell_back",
                             (json_int_t)times.fell_back, "phases", phases_json(&times, copy));
    }
    trainer_destroy(&trainer);
    if (*directory) directory_remove(directory, NULL);
    return document;
}
