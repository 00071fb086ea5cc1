// Layers of settings: the program's defaults, the checkpoint's shape, its rope_c, then files and the command line.
#include "train/loaded.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "core/cpu.h"
#include "core/files.h"
#include "model/checkpoint.h"
#include "train/snapshot.h"

// Sizes given as 0 are what they are for a new run: a function of the others. The vocabulary is the checkpoint's, whatever
// the data at hand have.
static bool overlay(Config *config, const Config *overrides, Error *error) {
    static const char *const free_keys[] = {"model.tokens", "model.rope_theta", "model.norm_epsilon"};
    static Config asked;
    asked = *config;
    config_overlay(&asked, overrides);
    if (!asked.vocabulary) asked.vocabulary = config->vocabulary;
    config_derive_sizes(&asked);
    for (size_t i = 0; i < config_key_count(); i++) {
        char name[64], stored[CONFIG_TEXT], wanted[CONFIG_TEXT];
        config_key_name(i, name);
        if (strncmp(name, "model.", 6) || !config_is_given(overrides, name)) continue;
        bool is_free = false;
        for (size_t k = 0; k < sizeof free_keys / sizeof free_keys[0]; k++) is_free |= !strcmp(name, free_keys[k]);
        config_value(config, i, stored);
        config_value(&asked, i, wanted);
        if (!is_free && strcmp(stored, wanted))
            return error_set(error, ERROR_USER, "%s is %s in the checkpoint and cannot be %s.", name, stored, wanted);
    }
    *config = asked;
    return true;
}

static bool fits(const ModelSettings *settings, Error *error) {
    ModelNeeds needs;
    CpuInfo cpu;
    if (!model_needs(settings, &needs, error)) return false;
    cpu_info(&cpu);
    size_t total = needs.parameter_bytes + needs.activation_bytes + needs.scratch_bytes + needs.plan_bytes;
    if (total <= cpu.memory_available) return true;
    return error_set(error, ERROR_USER,
                     "The model needs %.2f GiB at %zu tokens and batch %zu, and %.2f GiB are available: "
                     "lower train.batch or model.tokens.",
                     (double)total / (1 << 30), settings->config.tokens, settings->batch,
                     (double)cpu.memory_available / (1 << 30));
}

// The batch of the run, which may be one for another machine or a shorter context: if it was not asked for and does not
// fit, a modest one does the same in more steps.
static bool fits_somehow(ModelSettings *settings, const Config *overrides, Error *error) {
    enum { MODEST_BATCH = 8 };
    if (fits(settings, error)) return true;
    if (config_is_given(overrides, "train.batch") || settings->batch <= MODEST_BATCH) return false;
    error_clear(error);
    settings->batch = MODEST_BATCH;
    return fits(settings, error);
}

bool loaded_open(Loaded *loaded, const char *argument, const Config *overrides, size_t batch, Error *error) {
    ModelConfig shape;
    ModelSettings settings;
    json_t *rope_c = NULL;
    *loaded = (Loaded){0};
    if (!run_hold_checkpoint(argument, loaded->path, &loaded->held, error) ||
        !snapshot_check(loaded->path, &loaded->trained_on, error) ||
        !checkpoint_read_config(loaded->path, &shape, &rope_c, error))
        return false;
    Config *config = &loaded->config;
    loaded->own = rope_c != NULL;
    config_defaults(config);
    config_take_model(config, &shape, ORIGIN_DERIVED);
    bool fine = !rope_c || snapshot_apply_settings(rope_c, config, error);
    memcpy(loaded->data_dir, config->data_dir, sizeof loaded->data_dir);
    fine = fine && overlay(config, overrides, error) && config_resolve(config, error);
    if (fine) config_model(config, batch ? batch : config->batch, false, &settings);
    fine = fine && fits_somehow(&settings, overrides, error);
    json_decref(rope_c);
    if (fine) loaded->model = model_create(&settings, error);
    return loaded->model && checkpoint_read_weights(loaded->path, loaded->model, error);
}

bool loaded_tokenizer_path(const Loaded *loaded, char *path) {
    const char *const directories[] = {loaded->path, loaded->config.data_dir};
    for (size_t i = 0; i < 2; i++) {
        if (!*directories[i] || !path_join(path, RUN_PATH, directories[i], "tokenizer.model", NULL)) continue;
        if (access(path, F_OK) != 0) continue;
        if (i > 0) fprintf(stderr, "rope: %s has no tokenizer.model; that of %s is taken.\n", loaded->path, directories[i]);
        return true;
    }
    return false;
}

Tokenizer *loaded_tokenizer(const Loaded *loaded, Error *error) {
    char path[RUN_PATH];
    if (loaded_tokenizer_path(loaded, path)) return tokenizer_load(path, error);
    error_set(error, ERROR_USER, "%s has no tokenizer.model.", loaded->path);
    return NULL;
}

void loaded_close(Loaded *loaded) {
    if (loaded->model) model_destroy(loaded->model);
    loaded->model = NULL;
    if (loaded->held > 0) close(loaded->held);
    loaded->held = 0;
}
