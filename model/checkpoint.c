// Checkpoints as directories (interface: checkpoint.h). config.json is text that people read, so its checksum stands in
// the metadata of model.safetensors, whose header has one of its own: a flipped bit in any byte of either is found.

#include "model/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "model/checkpoint_internal.h"
#include "core/json_text.h"
#include "model/safetensors.h"

static bool write_text(const char *path, const char *text, Error *error) {
    FileWriter *writer = file_writer_open(path, error);
    if (!writer) return false;
    file_writer_write(writer, text, strlen(text)); // close reports it
    return file_writer_close(writer, error);
}

bool checkpoint_write_as(const char *directory, const Dtype *dtype, Model *model, const CheckpointInfo *info,
                         Error *error) {
    char config_path[CHECKPOINT_PATH], weights_path[CHECKPOINT_PATH], sum[9];
    if (!path_join(config_path, sizeof config_path, directory, CHECKPOINT_CONFIG, error) ||
        !path_join(weights_path, sizeof weights_path, directory, CHECKPOINT_WEIGHTS, error))
        return false;
    const TensorTable *table = model_tensors(model);
    const real *parameters = model_parameters(model);
    for (size_t i = 0; i < table->count; i++)
        if (!checkpoint_finite(weights_path, &table->tensors[i], parameters + table->tensors[i].offset, dtype, error))
            return false;
    char *text = checkpoint_config_text(model_settings(model), info, dtype);
    if (!text) return error_set(error, ERROR_MEMORY, "There is no memory for %s.", config_path);
    snprintf(sum, sizeof sum, "%08x", checksum(0, text, strlen(text)));
    const char *metadata[] = {CHECKPOINT_CONFIG_CHECKSUM, sum, NULL};
    bool good = write_text(config_path, text, error) &&
                checkpoint_write_tensors(weights_path, dtype, table, (const char *[]){""}, &parameters, 1, metadata,
                                         error);
    free(text);
    return good;
}

bool checkpoint_write(const char *directory, Model *model, const CheckpointInfo *info, Error *error) {
    return checkpoint_write_as(directory, dtype_find("F32"), model, info, error);
}

// Ours: config.json must be the one that was saved with the weights.
static bool check_config_bytes(const char *directory, const char *config_path, const char *text, size_t size,
                               Error *error) {
    char path[CHECKPOINT_PATH], sum[9];
    if (!path_join(path, sizeof path, directory, CHECKPOINT_WEIGHTS, error)) return false;
    if (access(path, F_OK) != 0) return true; // shards, or nothing: checkpoint_weights tells
    Safetensors *file = safetensors_open(path, error);
    if (!file) return false;
    const char *stored = safetensors_metadata(file, CHECKPOINT_CONFIG_CHECKSUM);
    snprintf(sum, sizeof sum, "%08x", checksum(0, text, size));
    bool good = true;
    if (safetensors_ours(file) && !stored)
        good = error_set(error, ERROR_CORRUPT, "%s: header: these are not the weights of a checkpoint.", path);
    else if (stored && strcmp(stored, sum) != 0)
        good = error_set(error, ERROR_CORRUPT,
                         "%s: contents: its checksum does not hold: it is not the file that was saved with %s.",
                         config_path, CHECKPOINT_WEIGHTS);
    safetensors_close(file);
    return good;
}

// Every tensor of the configuration is there with its shape, and no other.
static bool check_tensors(const char *directory, const char *config_path, const ModelConfig *config, Error *error) {
    TensorTable table;
    if (!tensor_table_create(&table, config, error)) {
        error_context(error, "%s", config_path);
        return false;
    }
    bool good = checkpoint_weights(directory, &table, NULL, error);
    tensor_table_destroy(&table);
    return good;
}

bool checkpoint_read_config(const char *directory, ModelConfig *config, json_t **rope_c, Error *error) {
    char path[CHECKPOINT_PATH];
    size_t size;
    if (rope_c) *rope_c = NULL;
    if (!path_join(path, sizeof path, directory, CHECKPOINT_CONFIG, error)) return false;
    char *text = file_read_all(path, CHECKPOINT_JSON_LIMIT, &size, error);
    json_t *json = NULL;
    bool good = text && check_config_bytes(directory, path, text, size, error) &&
                (json = json_parse(path, "contents", text, size, error)) &&
                checkpoint_config_parse(path, json, config, error) && check_tensors(directory, path, config, error);
    if (good && rope_c) *rope_c = json_incref(json_object_get(json, "rope_c"));
    json_decref(json);
    free(text);
    return good;
}

bool checkpoint_read_weights(const char *directory, Model *model, Error *error) {
    return checkpoint_weights(directory, model_tensors(model), model_parameters(model), error);
}
