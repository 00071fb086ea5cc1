// Weights in and out: the tensor table against one model.safetensors or the shards of an index, and flat arrays
// (moments) in the same layout.

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "model/checkpoint_internal.h"
#include "core/json_text.h"
#include "model/safetensors.h"

// A search for all tensors of a table through the files of a directory.
typedef struct Search {
    const char *directory;
    const TensorTable *table;
    real *parameters; // NULL: shapes only
    bool *seen;       // (table->count)
    Error *error;
} Search;

static size_t tensor_shape(const Tensor *tensor, size_t shape[2]) {
    shape[0] = tensor->rank == 1 ? tensor->columns : tensor->rows;
    shape[1] = tensor->columns;
    return (size_t)tensor->rank;
}

bool checkpoint_finite(const char *path, const Tensor *tensor, const real *values, const Dtype *dtype, Error *error) {
    size_t bad = 0, count = tensor->rows * tensor->columns;
    const double limit = dtype ? dtype->limit : INFINITY;
    for (size_t i = 0; i < count; i++) bad += !(fabs((double)values[i]) < limit);
    return bad == 0 || error_set(error, ERROR_CORRUPT, "%s: tensor '%s': %zu of %zu numbers are NaN or infinite%s%s.",
                                 path, tensor->name, bad, count, dtype ? " in " : "", dtype ? dtype->name : "");
}

static bool check_shape(const Safetensors *file, const char *path, const Tensor *tensor, Error *error) {
    size_t found_rank = 0, found[4] = {0}, wanted[2], rank = tensor_shape(tensor, wanted);
    if (safetensors_shape(file, tensor->name, &found_rank, found) && found_rank == rank && found[0] == wanted[0] &&
        (rank == 1 || found[1] == wanted[1]))
        return true;
    return error_set(error, ERROR_CORRUPT,
                     "%s: tensor '%s': its shape (rank %zu) begins %zu × %zu; expected is rank %zu, %zu × %zu.",
                     path, tensor->name, found_rank, found[0], found[1], rank, wanted[0], rank == 1 ? 0 : wanted[1]);
}

// Old Llama conversions store the rotary frequencies; tied models may store the output matrix, which nobody reads.
static bool may_be_ignored(const Safetensors *file, const char *name) {
    static const char frequencies[] = ".rotary_emb.inv_freq";
    size_t length = strlen(name), tail = sizeof frequencies - 1;
    return !safetensors_ours(file) && (strcmp(name, "lm_head.weight") == 0 ||
                                       (length > tail && strcmp(name + length - tail, frequencies) == 0));
}

// map: the index's weight_map if the file is one of several, else NULL.
static bool search_tensors(Search *search, Safetensors *file, const char *path, const char *name, const json_t *map) {
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const char *found = safetensors_name(file, i);
        const char *mapped = json_string_value(json_object_get(map, found));
        if (map && (!mapped || strcmp(mapped, name) != 0))
            return error_set(search->error, ERROR_CORRUPT, "%s: tensor '%.200s': %s says that it is not in this file.",
                             path, found, CHECKPOINT_INDEX);
        const Tensor *tensor = tensor_find(search->table, found);
        if (!tensor && may_be_ignored(file, found)) continue;
        if (!tensor)
            return error_set(search->error, ERROR_CORRUPT,
                             "%s: tensor '%.200s': a model of this configuration has no such tensor.", path, found);
        size_t shape[2], rank = tensor_shape(tensor, shape);
        real *out = search->parameters ? search->parameters + tensor->offset : NULL;
        if (!check_shape(file, path, tensor, search->error)) return false;
        if (out && (!safetensors_read(file, found, rank, shape, out, search->error) ||
                    !checkpoint_finite(path, tensor, out, NULL, search->error)))
            return false;
        search->seen[tensor - search->table->tensors] = true;
    }
    return true;
}

static bool search_file(Search *search, const char *name, const json_t *map) {
    char path[CHECKPOINT_PATH];
    if (!path_join(path, sizeof path, search->directory, name, search->error)) return false;
    Safetensors *file = safetensors_open(path, search->error);
    bool good = file && search_tensors(search, file, path, name, map);
    safetensors_close(file);
    return good;
}

// A shard is a file beside the index, not a path to somewhere else.
static bool plain_name(const char *name) {
    return name && name[0] != '\0' && name[0] != '.' && !strchr(name, '/');
}

static bool search_shards(Search *search, const char *index_path) {
    size_t size;
    char *text = file_read_all(index_path, CHECKPOINT_JSON_LIMIT, &size, search->error);
    json_t *index = text ? json_parse(index_path, "contents", text, size, search->error) : NULL;
    free(text);
    const json_t *map = json_object_get(index, "weight_map");
    bool good = index && (json_is_object(map) ||
                          error_set(search->error, ERROR_CORRUPT, "%s: weight_map: it is missing.", index_path));
    json_t *done = json_object(), *value; // names of the shards that were searched
    const char *tensor;
    json_object_foreach((json_t *)map, tensor, value) {
        const char *name = json_string_value(value);
        if (good && !plain_name(name))
            good = error_set(search->error, ERROR_CORRUPT,
                             "%s: weight_map: '%.200s' is not in a file beside the index.", index_path, tensor);
        else if (good && !json_object_get(done, name))
            good = search_file(search, name, map) &&
                   (json_object_set_new(done, name, json_true()) == 0 ||
                    error_set(search->error, ERROR_MEMORY, "There is no memory to read %s.", index_path));
    }
    json_decref(done);
    json_decref(index);
    return good;
}

bool checkpoint_weights(const char *directory, const TensorTable *table, real *parameters, Error *error) {
    char single[CHECKPOINT_PATH], index[CHECKPOINT_PATH];
    if (!path_join(single, sizeof single, directory, CHECKPOINT_WEIGHTS, error) ||
        !path_join(index, sizeof index, directory, CHECKPOINT_INDEX, error))
        return false;
    Search search = {directory, table, parameters, calloc(table->count, sizeof(bool)), error};
    if (!search.seen) return error_set(error, ERROR_MEMORY, "There is no memory to read %s.", directory);
    bool sharded = access(single, F_OK) != 0 && access(index, F_OK) == 0;
    bool good = sharded ? search_shards(&search, index) : search_file(&search, CHECKPOINT_WEIGHTS, NULL);
    for (size_t i = 0; good && i < table->count; i++)
        if (!search.seen[i])
            good = error_set(error, ERROR_CORRUPT, "%s: tensor '%s': it is missing.", sharded ? index : single,
                             table->tensors[i].name);
    free(search.seen);
    return good;
}

// prefix + tensor name for every array and tensor, in that order; freed by free_items.
static SafetensorsItem *make_items(const TensorTable *table, const char *const *prefixes, const real *const *arrays,
                                   size_t count) {
    SafetensorsItem *items = calloc(table->count * count + 1, sizeof *items);
    for (size_t i = 0; items && i < table->count * count; i++) {
        const Tensor *tensor = &table->tensors[i % table->count];
        size_t size = strlen(prefixes[i / table->count]) + strlen(tensor->name) + 1;
        char *name = malloc(size);
        if (name) strcat(strcpy(name, prefixes[i / table->count]), tensor->name);
        items[i].name = name;
        items[i].rank = tensor_shape(tensor, items[i].shape);
        items[i].data = arrays[i / table->count] + tensor->offset;
    }
    return items;
}

static void free_items(SafetensorsItem *items, size_t count) {
    for (size_t i = 0; items && i < count; i++) free((char *)items[i].name);
    free(items);
}

static bool complete(const SafetensorsItem *items, size_t count, const char *path, Error *error) {
    bool good = items != NULL;
    for (size_t i = 0; good && i < count; i++) good = items[i].name != NULL;
    return good || error_set(error, ERROR_MEMORY, "There is no memory for the names in %s.", path);
}

bool checkpoint_write_tensors(const char *path, const Dtype *dtype, const TensorTable *table,
                              const char *const *prefixes, const real *const *arrays, size_t count,
                              const char *const *metadata, Error *error) {
    SafetensorsItem *items = make_items(table, prefixes, arrays, count);
    bool good = complete(items, table->count * count, path, error) &&
                safetensors_write_as(path, dtype, items, table->count * count, metadata, error);
    free_items(items, table->count * count);
    return good;
}

bool checkpoint_write_flat(const char *path, const TensorTable *table, const char *const *prefixes,
                           const real *const *arrays, size_t count, Error *error) {
    return checkpoint_write_tensors(path, dtype_find("F32"), table, prefixes, arrays, count, NULL, error);
}

bool checkpoint_read_flat(const char *path, const TensorTable *table, const char *const *prefixes, real *const *arrays,
                          size_t count, Error *error) {
    Safetensors *file = safetensors_open(path, error);
    if (!file) return false;
    SafetensorsItem *items = make_items(table, prefixes, (const real *const *)arrays, count);
    bool good = complete(items, table->count * count, path, error);
    for (size_t i = 0; good && i < table->count * count; i++)
        good = safetensors_read(file, items[i].name, items[i].rank, items[i].shape,
                                arrays[i / table->count] + table->tensors[i % table->count].offset, error);
    if (good && safetensors_count(file) != table->count * count)
        good = error_set(error, ERROR_CORRUPT, "%s: header: it has %zu tensors instead of %zu.", path,
                         safetensors_count(file), table->count * count);
    free_items(items, table->count * count);
    safetensors_close(file);
    return good;
}
