// Metrics are appended line by line and cut back to the checkpoint when a run is resumed.
#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/descriptor.h"
#include "core/files.h"
#include "core/json_text.h"
#include "train/figures.h"

static const size_t metrics_limit = (size_t)1 << 32;

// What a line of an earlier session says of the run as it is now.
static void take_figures(Metrics *metrics, const json_t *line) {
    const json_t *time = json_object_get(line, "time"), *spent = json_object_get(time, "seconds");
    if (json_is_number(spent)) metrics->before = json_number_value(spent);
    if (!json_object_get(line, "loss")) return; // an evaluation
    metrics->loss = figure_of(line, "loss");
    metrics->step_seconds = figure_of(time, "step_ms") / 1e3;
}

// Bytes up to the end of the last line that is JSON and belongs to a step up to `step`, in front of any later step's, and
// of an evaluation of that step if one is due; metrics has the figures of what is kept. A damaged line between whole ones stays where it is: its followers are not to
// be lost with it. Means nothing if memory ran out since json_watch.
static size_t kept_bytes(const char *text, size_t size, uint64_t step, bool eval_due, Metrics *metrics) {
    const char *kept = text, *end;
    bool later = false;
    json_watch();
    for (const char *at = text; !later && (end = memchr(at, '\n', size - (size_t)(at - text))); at = end + 1) {
        json_t *line = json_read(at, (size_t)(end - at), 0, NULL);
        json_t *number = json_object_get(line, "step");
        const uint64_t of = (uint64_t)json_integer_value(number);
        later = json_is_integer(number) && (of > step || (of == step && eval_due && json_object_get(line, "held_out_loss")));
        const bool keep = json_is_integer(number) && !later;
        if (keep) kept = end + 1;
        if (keep) take_figures(metrics, line);
        json_decref(line);
    }
    return (size_t)(kept - text);
}

static bool append_to(Metrics *metrics, const char *path, Error *error) {
    if (metrics->descriptor >= 0) close(metrics->descriptor);
    metrics->descriptor = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return metrics->descriptor >= 0 || error_errno(error, "Opening %s", path);
}

bool metrics_open(Metrics *metrics, const RunDirectory *run, uint64_t step, bool eval_due, Error *error) {
    *metrics = (Metrics){.descriptor = -1,
                         .start = clock_seconds(),
                         .loss = NAN,
                         .step_seconds = NAN,
                         .first_step = step,
                         .terminal = isatty(2)};
    char path[RUN_PATH];
    if (!path_join(path, sizeof path, run->path, "metrics.jsonl", error)) return false;
    if (!append_to(metrics, path, error)) return false;
    struct stat status;
    if (fstat(metrics->descriptor, &status) != 0) return error_errno(error, "Cannot look at %s", path);
    if (S_ISFIFO(status.st_mode)) // would be read without end
        return error_set(error, ERROR_USER, "%s is not a regular file; move it away.", path);
    size_t size;
    char *text = file_read_all(path, metrics_limit, &size, error);
    if (!text) return false;
    const size_t kept = kept_bytes(text, size, step, eval_due, metrics);
    bool fine = json_whole() || error_set(error, ERROR_MEMORY, "Out of memory while reading %s.", path);
    // A copy of hard links shares the file with the run that it was copied from, whose lines are not to be changed.
    if (fine && status.st_nlink > 1)
        fine = file_write_atomic(path, text, kept, error) && append_to(metrics, path, error);
    else if (fine && kept < size && ftruncate(metrics->descriptor, (off_t)kept) != 0)
        fine = error_errno(error, "Cutting %s back", path);
    free(text);
    return fine;
}

bool metrics_move(Metrics *metrics, const RunDirectory *run, Error *error) {
    char path[RUN_PATH], block[1 << 14];
    if (!path_join(path, sizeof path, run->path, "metrics.jsonl", error)) return false;
    const int to = descriptor_open(path, O_RDWR | O_CREAT | O_APPEND | O_TRUNC);
    if (to < 0) return error_errno(error, "Opening %s", path);
    uint64_t done = 0;
    ssize_t got = 1;
    bool fine = true;
    while (fine && (got > 0 || (got < 0 && errno == EINTR))) {
        got = pread(metrics->descriptor, block, sizeof block, (off_t)done);
        if (got > 0) fine = descriptor_write(to, path, block, (size_t)got, done, error);
        if (got > 0) done += (uint64_t)got;
    }
    if (fine && got < 0) fine = error_errno(error, "Cannot read metrics.jsonl");
    close(fine ? metrics->descriptor : to);
    if (fine) metrics->descriptor = to;
    return fine;
}

void metrics_close(Metrics *metrics) {
    if (metrics->live) fputc('\n', stderr);
    if (metrics->descriptor >= 0) close(metrics->descriptor);
    metrics->descriptor = -1;
    metrics->live = false;
}

double metrics_seconds(const Metrics *metrics) { return metrics->before + clock_seconds() - metrics->start; }

static bool append(Metrics *metrics, json_t *object, Error *error) {
    char *text = json_print(object, JSON_REAL_PRECISION(17) | JSON_COMPACT);
    json_decref(object);
    if (!text) return error_set(error, ERROR_MEMORY, "Out of memory for a line of metrics.jsonl.");
    bool written = file_append_line(metrics->descriptor, text, strlen(text), error);
    if (!written) error_context(error, "metrics.jsonl");
    free(text);
    return written;
}

// One array over heads.
static json_t *heads_json(const double *values, size_t heads) {
    json_t *array = json_array();
    for (size_t h = 0; h < heads; h++) json_array_append_new(array, figure_json(values[h]));
    return array;
}

// What attention reported in this step: over layers and heads the largest (of clipped the mean, of fell_back the sum),
// and each of them.
static json_t *attention_json(const Trainer *trainer, const AttentionSummary *summary) {
    const ModelConfig *config = &model_settings(trainer->model)->config;
    json_t *layers = json_array();
    for (size_t l = 0; l < config->layers; l++) {
        const AttentionReport *report = &trainer->reports[l];
        const size_t heads = config->heads;
        json_array_append_new(
            layers,
            json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "logit_bound", heads_json(report->logit_bound, heads),
                      "output_bound", heads_json(report->output_bound, heads), "dq_bound",
                      heads_json(report->dq_bound, heads), "dk_bound", heads_json(report->dk_bound, heads), "dv_bound",
                      heads_json(report->dv_bound, heads), "clipped", heads_json(report->clipped, heads), "fell_back",
                      heads_json(report->fell_back, heads)));
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:o}", "logit_bound", figure_json(summary->logit_bound),
                     "output_bound", figure_json(summary->output_bound), "dq_bound", figure_json(summary->dq_bound),
                     "dk_bound", figure_json(summary->dk_bound), "dv_bound", figure_json(summary->dv_bound), "clipped",
                     figure_json(summary->clipped), "fell_back", (json_int_t)summary->fell_back, "layers", layers);
}

bool metrics_step(Metrics *metrics, Trainer *trainer, const StepResult *result, Error *error) {
    RunState *state = &trainer->state;
    double mean = state->loss_count ? state->loss_sum / (double)state->loss_count : NAN;
    double tokens = (double)(trainer->config->accumulate * trainer->config->batch * trainer->config->tokens);
    double seconds = metrics->interval_seconds / (double)(metrics->interval_steps ? metrics->interval_steps : 1);
    json_watch();
    json_t *line =
        json_pack("{s:I, s:I, s:o, s:o, s:f, s:I}", "step", (json_int_t)state->step, "tokens",
                  (json_int_t)state->tokens, "loss", figure_json(mean), "grad_norm", figure_json(result->gradient_norm),
                  "learning_rate", result->learning_rate, "skipped", (json_int_t)state->skipped);
    AttentionSummary attention = trainer_attention(trainer);
    if (attention.present) {
        json_object_set_new(line, "fell_back_total", json_integer((json_int_t)state->fell_back));
        json_object_set_new(line, "attention", attention_json(trainer, &attention));
    }
    json_object_set_new(line, "time",
                        json_pack("{s:f, s:f, s:f}", "seconds", metrics_seconds(metrics), "step_ms", 1e3 * seconds,
                                  "tokens_per_s", tokens / fmax(seconds, 1e-9)));
    metrics->loss = mean;
    metrics->step_seconds = seconds;
    metrics->interval_seconds = 0;
    metrics->interval_steps = 0;
    state->loss_sum = 0;
    state->loss_count = 0;
    return append(metrics, line, error);
}

bool metrics_evaluation(Metrics *metrics, const Trainer *trainer, const Evaluation *evaluation, Error *error) {
    json_watch();
    json_t *line = json_pack("{s:I, s:o, s:o, s:f}", "step", (json_int_t)trainer->state.step, "held_out_loss",
                             figure_json(evaluation->loss), "perplexity", figure_json(exp(evaluation->loss)),
                             "accuracy", evaluation->accuracy);
    double bits = bits_per_byte(evaluation->loss, &trainer->meta);
    if (bits > 0) json_object_set_new(line, "bits_per_byte", figure_json(bits));
    json_object_set_new(line, "time", json_pack("{s:f}", "seconds", metrics_seconds(metrics)));
    return append(metrics, line, error);
}

bool metrics_flush(Metrics *metrics, Error *error) { return file_sync(metrics->descriptor, "metrics.jsonl", error); }

static void clear_live(Metrics *metrics) {
    if (metrics->live) fputs("\r\033[K", stderr);
    metrics->live = false;
}

void metrics_say(Metrics *metrics, const char *format, ...) {
    va_list arguments;
    clear_live(metrics);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static void format_count(double value, char text[16]) {
    if (value >= 1e6)
        snprintf(text, 16, "%.2fM", value / 1e6);
    else if (value >= 1e4)
        snprintf(text, 16, "%.1fk", value / 1e3);
    else
        snprintf(text, 16, "%.0f", value);
}

static void format_time(double seconds, char text[24]) {
    unsigned long whole = (unsigned long)fmin(fmax(seconds, 0) + 0.5, 3.6e8);
    if (whole >= 3600)
        snprintf(text, 24, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(text, 24, "%lu:%02lu", whole / 60, whole % 60);
}

void metrics_show(Metrics *metrics, const Trainer *trainer, const StepResult *result, double step_seconds,
                  bool logged) {
    const Config *config = trainer->config;
    metrics->interval_seconds += step_seconds;
    metrics->interval_steps++;
    double now = clock_seconds(), tokens = (double)(config->accumulate * config->batch * config->tokens);
    double rate = tokens / fmax(step_seconds, 1e-9);
    // A smoothed rate is easier to read than one that jumps.
    metrics->last_tokens_per_s = metrics->last_tokens_per_s > 0 ? 0.9 * metrics->last_tokens_per_s + 0.1 * rate : rate;
    if (metrics->terminal ? now - metrics->last < 0.1 && !logged : !logged) return;
    metrics->last = now;
    uint64_t done = trainer->state.step - metrics->first_step;
    char speed[16], left[24];
    format_count(metrics->last_tokens_per_s, speed);
    // Evaluations and checkpoints so far are in the time so far, so they are in what is left as well.
    format_time((now - metrics->start) / (double)(done ? done : 1) * (double)(config->steps - trainer->state.step),
                left);
    clear_live(metrics);
    fprintf(stderr, "step %llu/%zu  loss %.4f  lr %.2e  grad %.3g  %s tokens/s  ETA %s%s%s",
            (unsigned long long)trainer->state.step, config->steps, isnan(result->loss) ? (double)NAN : result->loss,
            result->learning_rate, isnan(result->gradient_norm) ? (double)NAN : result->gradient_norm, speed, left,
            result->skipped ? "  SKIPPED" : "", metrics->terminal ? "" : "\n");
    metrics->live = metrics->terminal;
    fflush(stderr);
}
