// rope eval: held-out loss of a checkpoint, also under another attention method or a longer context than it was trained
// with, next to what a model without context (unigram frequencies) reaches.
#include <math.h>
#include <string.h>

#include "core/files.h"
#include "train/command.h"
#include "train/evaluate.h"
#include "train/figures.h"
#include "train/loaded.h"
#include "train/snapshot.h"

// Rows of one table: buckets of positions, or of distances.
static json_t *rows_json(const double *loss, const double *accuracy, const uint64_t *targets, size_t buckets) {
    json_t *rows = json_array();
    for (size_t b = 0; b < buckets; b++) {
        if (!targets[b]) continue;
        json_array_append_new(
            rows, json_pack("{s:I, s:I, s:o, s:f, s:I}", "from", (json_int_t)evaluation_bucket_start(b), "to",
                            (json_int_t)evaluation_bucket_start(b + 1) - 1, "loss", figure_json(loss[b]), "accuracy",
                            accuracy[b], "targets", (json_int_t)targets[b]));
    }
    return rows;
}

static void print_rows(const char *title, const double *loss, const double *accuracy, const uint64_t *targets,
                       size_t buckets, FILE *out) {
    fprintf(out, "\n%s:\n", title);
    for (size_t b = 0; b < buckets; b++)
        if (targets[b])
            fprintf(out, "%8zu to %-8zu loss %8.4f  accuracy %6.2f %%\n", evaluation_bucket_start(b),
                    evaluation_bucket_start(b + 1) - 1, loss[b], 100 * accuracy[b]);
}

static const char *data_name(const Config *config) { return *config->task ? config->task : config->data_dir; }

static json_t *report(const Loaded *loaded, const Evaluation *evaluation, const PrepareResult *meta) {
    json_t *settings = snapshot_settings(&loaded->config); // first: it watches for itself
    if (!settings) return NULL;
    json_t *document = json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:f}", "checkpoint", loaded->path, "data",
                                 data_name(&loaded->config), "context", (json_int_t)loaded->config.tokens, "targets",
                                 (json_int_t)evaluation->targets, "held_out_loss", figure_json(evaluation->loss),
                                 "perplexity", figure_json(exp(evaluation->loss)), "accuracy", evaluation->accuracy);
    const bool bits = bits_per_byte(1, meta) > 0;
    if (bits) json_object_set_new(document, "bits_per_byte", figure_json(bits_per_byte(evaluation->loss, meta)));
    if (meta->val_tokens) json_object_set_new(document, "unigram_loss", figure_json(meta->unigram_loss));
    if (bits)
        json_object_set_new(document, "unigram_bits_per_byte", figure_json(bits_per_byte(meta->unigram_loss, meta)));
    json_object_set_new(document, "positions",
                        rows_json(evaluation->bucket_loss, evaluation->bucket_accuracy, evaluation->bucket_targets,
                                  evaluation->buckets));
    json_object_set_new(document, "distances",
                        rows_json(evaluation->distance_loss, evaluation->distance_accuracy,
                                  evaluation->distance_targets, evaluation->distances));
    json_object_set_new(document, "settings", settings);
    return document;
}

static void print_losses(const char *name, double loss, const PrepareResult *meta, FILE *out) {
    fprintf(out, "%-12s %8.4f  %10.2f", name, unsigned_nan(loss), unsigned_nan(exp(loss)));
    if (bits_per_byte(1, meta) > 0) fprintf(out, "  %13.4f", unsigned_nan(bits_per_byte(loss, meta)));
    fputc('\n', out);
}

static void print_report(const Loaded *loaded, const Evaluation *evaluation, const PrepareResult *meta, FILE *out) {
    fprintf(out, "%s on %s, %llu targets in contexts of %zu, attention %s\n\n", loaded->path,
            data_name(&loaded->config), (unsigned long long)evaluation->targets, loaded->config.tokens,
            loaded->config.method);
    fprintf(out, "                 loss  perplexity%s\n", bits_per_byte(1, meta) > 0 ? "  bits per byte" : "");
    print_losses("this model", evaluation->loss, meta, out);
    if (meta->val_tokens) print_losses("unigram", meta->unigram_loss, meta, out);
    fprintf(out, "accuracy of the likeliest token: %.2f %%\n", 100 * evaluation->accuracy);
    print_rows("by position in the context", evaluation->bucket_loss, evaluation->bucket_accuracy,
               evaluation->bucket_targets, evaluation->buckets, out);
    if (evaluation->distances)
        print_rows("by distance to the answer", evaluation->distance_loss, evaluation->distance_accuracy,
                   evaluation->distance_targets, evaluation->distances, out);
}

// Prepared again with another share or another tokenizer, the held-out part holds what the model was trained on.
static void warn_of_other_data(const Loaded *loaded) {
    if (!loaded->trained_on || *loaded->config.task || !file_same(loaded->config.data_dir, loaded->data_dir)) return;
    Batches *train = batches_open(&loaded->config, BATCHES_TRAIN, 1, NULL); // it may be gone, and is not evaluated
    if (train && batches_checksum(train) != loaded->trained_on)
        fprintf(stderr,
                "rope: The data in %s are not those that %s was trained on: it may have seen what is held out there.\n",
                loaded->config.data_dir, loaded->path);
    batches_close(train);
}

static bool run(Loaded *loaded, const CommandLine *line, uint64_t limit, Error *error) {
    Evaluation evaluation;
    if (!loaded_open(loaded, line->positional[0], &line->config, 0, error) ||
        !snapshot_check_data(loaded->path, loaded->config.data_dir, error))
        return false;
    config_warn_of_no_window(&loaded->config);
    warn_of_other_data(loaded);
    // A batch is what the run calls one, however many sequences fit into the model at a time.
    Batches *held_out = batches_open(&loaded->config, BATCHES_HELD_OUT, model_settings(loaded->model)->batch, error);
    const PrepareResult meta = held_out ? batches_meta(held_out) : (PrepareResult){0};
    bool fine = held_out && evaluate(loaded->model, held_out, limit * loaded->config.batch, NULL, &evaluation, error);
    batches_close(held_out);
    if (fine && line->json) return command_print_json(report(loaded, &evaluation, &meta), error);
    if (fine) print_report(loaded, &evaluation, &meta, stderr);
    return fine;
}

int command_eval(int argc, char **argv) {
    enum { DATA, BATCHES, OPTIONS };
    static const CommandOption options[] = {
        {"data", 'd', "DIR", "held-out data; default: those it was trained with (data.dir)"},
        {"batches", 'b', "N", "evaluate this many batches, of train.batch sequences as in training; default: all"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    static CommandLine line;
    static Loaded loaded;
    Error error = {0};
    command_parse(command_find("eval"), options, values, argc, argv, &line);
    if (line.positional_count != 1) {
        error_set(&error, ERROR_USER, "eval takes one checkpoint or run directory.");
        return command_fail(&error);
    }
    char assignment[CONFIG_TEXT + 16];
    if (values[DATA]) {
        config_set(&line.config, "data.task=", ORIGIN_COMMAND_LINE, NULL); // a directory takes a task's place
        snprintf(assignment, sizeof assignment, "data.dir=%s", values[DATA]);
        if (!config_set(&line.config, assignment, ORIGIN_COMMAND_LINE, &error)) return command_fail(&error);
    }
    uint64_t limit = command_integer("batches", values[BATCHES], 0, 0, (uint64_t)1 << 40);
    bool fine = run(&loaded, &line, limit, &error);
    loaded_close(&loaded);
    return fine ? 0 : command_fail(&error);
}
