// Writing and reading one checkpoint.
#include "train/snapshot.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/descriptor.h"
#include "core/files.h"
#include "core/json_text.h"
#include "model/checkpoint.h"
#include "train/state.h"

enum { PATH_SIZE = 4096, STATES = 2 };

// The seed chooses the examples of a task, and held-out data are counted in batches: without them others would be held
// out, or more or less of them.
static bool carried(const char *name) {
    return !strncmp(name, "attention.", 10) || !strncmp(name, "data.", 5) || !strcmp(name, "train.seed") ||
           !strcmp(name, "train.batch");
}

json_t *snapshot_settings(const Config *config) {
    json_watch();
    json_t *settings = json_object();
    for (size_t i = 0; i < config_key_count(); i++) {
        char name[64], value[CONFIG_TEXT];
        config_key_name(i, name);
        if (!carried(name)) continue;
        config_value(config, i, value);
        if (*value) json_object_set_new(settings, name, json_string(value));
    }
    if (json_whole()) return settings;
    json_decref(settings);
    return NULL;
}

bool snapshot_apply_settings(const json_t *rope_c, Config *config, Error *error) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)rope_c, name, value) {
        char assignment[64 + CONFIG_TEXT];
        if (!carried(name) || !json_is_string(value) ||
            snprintf(assignment, sizeof assignment, "%s=%s", name, json_string_value(value)) >= (int)sizeof assignment)
            return error_set(error, ERROR_USER, "rope_c.%s is not a setting that this program knows.", name);
        if (!config_set(config, assignment, ORIGIN_DERIVED, error)) return false;
    }
    return true;
}

// The names of the moments and their arrays, for the flat files.
static size_t moments(Trainer *trainer, char prefixes[STATES][64], const char *names[STATES], real *arrays[STATES]) {
    size_t count = 0;
    const char *name;
    for (real *array; count < STATES && (array = optim_state(trainer->optim, count, &name)); count++) {
        snprintf(prefixes[count], 64, "%s.", name);
        names[count] = prefixes[count];
        arrays[count] = array;
    }
    return count;
}

static bool write_moments(const char *directory, Trainer *trainer, Error *error) {
    char path[PATH_SIZE], prefixes[STATES][64];
    const char *names[STATES];
    real *arrays[STATES];
    size_t count = moments(trainer, prefixes, names, arrays);
    return path_join(path, sizeof path, directory, "optimizer.safetensors", error) &&
           checkpoint_write_flat(path, model_tensors(trainer->model), names, (const real *const *)arrays, count, error);
}

bool snapshot_write_tokenizer(const char *directory, const Tokenizer *tokenizer, Error *error) {
    char path[PATH_SIZE];
    size_t size;
    const char *model = tokenizer_model(tokenizer, &size);
    if (!path_join(path, sizeof path, directory, "tokenizer.model", error)) return false;
    FileWriter *writer = file_writer_open(path, error);
    if (writer) file_writer_write(writer, model, size);
    return writer && file_writer_close(writer, error);
}

bool snapshot_save(const char *directory, Trainer *trainer, const Tokenizer *tokenizer, Error *error) {
    const Config *config = trainer->config;
    if (!trainer_finite(trainer))
        return error_set(error, ERROR_CORRUPT, "A weight or moment is not finite, so %s is not written.", directory);
    char temporary[PATH_SIZE];
    if (!directory_begin(directory, temporary, sizeof temporary, error)) return false;
    json_t *settings = snapshot_settings(config);
    CheckpointInfo info = {.rope_c = settings,
                           .bos = tokenizer ? tokenizer_bos(tokenizer) : -1,
                           .eos = tokenizer ? tokenizer_eos(tokenizer) : -1};
    bool fine = settings && checkpoint_write(temporary, trainer->model, &info, error) &&
                (!tokenizer || snapshot_write_tokenizer(temporary, tokenizer, error)) &&
                write_moments(temporary, trainer, error) &&
                state_write(temporary, &trainer->state, config->seed, optim_step_count(trainer->optim),
                            config_fingerprint(config), error) &&
                directory_commit(temporary, directory, error);
    json_decref(settings);
    if (fine) return true;
    directory_remove(temporary, NULL); // what cannot be removed now is swept away when the run is opened again
    return error_set(error, ERROR_MEMORY, "Out of memory while writing %s.", directory);
}

static bool same_model(const ModelConfig *a, const ModelConfig *b) {
    return a->vocabulary == b->vocabulary && a->layers == b->layers && a->width == b->width && a->heads == b->heads &&
           a->kv_heads == b->kv_heads && a->qk_size == b->qk_size && a->v_size == b->v_size && a->ffn == b->ffn &&
           a->tokens == b->tokens && a->rope_theta == b->rope_theta && a->norm_epsilon == b->norm_epsilon &&
           a->tie == b->tie && a->qk_norm == b->qk_norm && a->token_shift == b->token_shift;
}

bool snapshot_check(const char *directory, uint32_t *data_checksum, Error *error) {
    char path[PATH_SIZE];
    RunState state = {0};
    if (!path_join(path, sizeof path, directory, "state.json", error)) return false;
    const bool ours = access(path, F_OK) == 0 || errno != ENOENT;
    const bool whole = !ours || state_read(directory, &state, NULL, NULL, NULL, error);
    if (data_checksum) *data_checksum = state.data_checksum;
    return whole;
}

// The checksum of a directory's tokenizer.model; *there is false if it has none.
static bool tokenizer_checksum(const char *directory, uint32_t *crc, bool *there, Error *error) {
    char path[PATH_SIZE];
    if (!path_join(path, sizeof path, directory, "tokenizer.model", error)) return false;
    *there = access(path, F_OK) == 0;
    return !*there || file_checksum(path, crc, error);
}

// Where the tokenizer of the data is: beside a shard, if that is what is named.
static bool folder_of(const char *data_dir, char folder[PATH_MAX], Error *error) {
    struct stat status;
    if (stat(data_dir, &status) == 0 && !S_ISDIR(status.st_mode)) return descriptor_parent(data_dir, folder, error);
    if (strlen(data_dir) >= PATH_SIZE) return error_set(error, ERROR_USER, "The path %s is too long.", data_dir);
    strcpy(folder, data_dir);
    return true;
}

Tokenizer *snapshot_data_tokenizer(const char *data_dir, Error *error) {
    char folder[PATH_MAX], path[PATH_SIZE];
    if (!*data_dir || !folder_of(data_dir, folder, error) ||
        !path_join(path, sizeof path, folder, "tokenizer.model", error) || access(path, F_OK) != 0)
        return NULL;
    return tokenizer_load(path, error);
}

bool snapshot_check_data(const char *directory, const char *data_dir, Error *error) {
    uint32_t known = 0, given = 0;
    bool has_known, has_given;
    char folder[PATH_MAX];
    if (!*data_dir) return true; // a task's tokens are numbers
    if (!folder_of(data_dir, folder, error) || !tokenizer_checksum(directory, &known, &has_known, error) ||
        !tokenizer_checksum(folder, &given, &has_given, error))
        return false;
    if (!has_known || !has_given || known == given) return true;
    return error_set(error, ERROR_USER,
                     "The data in %s were made with another tokenizer than %s was trained with: their tokens mean "
                     "something else. Make them with `rope prepare TEXT --out DIR --tokenizer %s/tokenizer.model`.",
                     data_dir, directory, directory);
}

bool snapshot_load_weights(const char *directory, Trainer *trainer, Error *error) {
    const ModelConfig *wanted = &model_settings(trainer->model)->config;
    ModelConfig shape;
    if (!snapshot_check(directory, NULL, error) || !checkpoint_read_config(directory, &shape, NULL, error)) return false;
    shape.tokens = wanted->tokens;
    shape.rope_theta = wanted->rope_theta;
    shape.norm_epsilon = wanted->norm_epsilon;
    if (!same_model(&shape, wanted))
        return error_set(error, ERROR_USER,
                         "%s holds a model of another shape than the [model] settings say; only tokens, rope_theta and "
                         "norm_epsilon may differ.",
                         directory);
    return checkpoint_read_weights(directory, trainer->model, error);
}

// The lowest held-out loss so far says nothing about others if it was measured on other sequences than they will be:
// the next is the lowest then, whatever it is. That checkpoint stays until there is a next one.
static void warn_of_another_judge(const char *directory, const Trainer *trainer) {
    if (trainer->held_out && trainer_judge_differs(trainer))
        fprintf(stderr,
                "rope: The held-out data differ from those of %s, so losses on them cannot be compared with those "
                "before; from the next evaluation on the best is looked for anew.\n",
                directory);
}

bool snapshot_load(const char *directory, Trainer *trainer, Error *error) {
    RunState state;
    ModelConfig shape;
    uint64_t seed, optimizer_steps;
    uint32_t fingerprint;
    if (!state_read(directory, &state, &seed, &optimizer_steps, &fingerprint, error)) return false;
    if (!checkpoint_read_config(directory, &shape, NULL, error)) return false;
    if (!same_model(&shape, &model_settings(trainer->model)->config))
        return error_set(error, ERROR_USER,
                         "%s holds a model of another shape than the [model] settings say. To go on "
                         "with it, take the run's own config.ini; for another model choose another train.out.",
                         directory);
    if (seed != trainer->config->seed)
        return error_set(error, ERROR_USER,
                         "%s was trained with train.seed = %llu, which decides the order of its data; "
                         "it is %llu now.",
                         directory, (unsigned long long)seed, (unsigned long long)trainer->config->seed);
    if (!snapshot_check_data(directory, trainer->config->data_dir, error)) return false;
    if (!checkpoint_read_weights(directory, trainer->model, error)) return false;

    char path[PATH_SIZE], prefixes[STATES][64];
    const char *names[STATES];
    real *arrays[STATES];
    size_t count = moments(trainer, prefixes, names, arrays);
    if (!path_join(path, sizeof path, directory, "optimizer.safetensors", error) ||
        !checkpoint_read_flat(path, model_tensors(trainer->model), names, arrays, count, error))
        return false;
    optim_set_step_count(trainer->optim, optimizer_steps);
    if (state.data_checksum && state.data_checksum != batches_checksum(trainer->train))
        fprintf(stderr, "rope: The data differ from those of %s; from here on it goes on with the new ones.\n",
                directory);
    trainer->state = state;
    trainer->state.data_checksum = batches_checksum(trainer->train);
    warn_of_another_judge(directory, trainer);
    batches_seek(trainer->train, state.data);
    if (fingerprint != config_fingerprint(trainer->config))
        fprintf(stderr, "rope: The settings differ from those of %s; from here on the new ones hold.\n", directory);
    return true;
}
