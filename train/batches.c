// Where batches come from. A third source is one more member of Batches and one more branch in each verb.
#include "train/batches.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/files.h"
#include "data/tasks.h"

enum { TASK_HELD_OUT_EXAMPLES = 3000 }; // Zoology's number

struct Batches {
    Loader *loader; // shards; NULL: a task
    TaskSettings task;
    uint64_t example;   // the next one
    int32_t *distances; // (batch, tokens)
};

static TaskFiller filler_of(const char *word) {
    size_t filler = 0;
    while (filler < TASK_FILLER_COUNT && strcmp(task_filler_names[filler], word)) filler++;
    REQUIRE(filler < TASK_FILLER_COUNT);
    return (TaskFiller)filler;
}

static bool open_task(Batches *batches, const Config *config, BatchesPart part, size_t batch, Error *error) {
    batches->task = (TaskSettings){.name = config->task,
                                   .batch = batch,
                                   .tokens = config->tokens,
                                   .vocabulary = config->vocabulary,
                                   .pairs = config->pairs,
                                   .gap_power = config->gap_power,
                                   .filler = filler_of(config->filler),
                                   .least_distance = config->least_distance,
                                   .seed = config->seed,
                                   .held_out = part == BATCHES_HELD_OUT};
    if (!task_check(&batches->task, error)) return false;
    batches->distances = calloc(batch * config->tokens, sizeof(int32_t));
    return batches->distances || error_set(error, ERROR_MEMORY, "Out of memory for a batch of the task.");
}

static bool open_shards(Batches *batches, const Config *config, BatchesPart part, size_t batch, Error *error) {
    if (!*config->data_dir)
        return error_set(error, ERROR_USER,
                         "There are no data: set data.dir to a directory made by rope prepare, or "
                         "data.task.");
    DataSettings settings = {.path = config->data_dir,
                             .split = part == BATCHES_TRAIN ? "train" : "val",
                             .batch = batch,
                             .tokens = config->tokens,
                             .seed = config->seed,
                             .shuffle = part == BATCHES_TRAIN,
                             .vocabulary = config->vocabulary};
    struct stat status;
    if (stat(config->data_dir, &status) != 0)
        return error_set(error, ERROR_USER,
                         "data.dir is %s: %s. A relative path is meant from where rope is started; --data.dir=PATH names "
                         "another.",
                         config->data_dir, strerror(errno));
    if (part == BATCHES_TRAIN && !S_ISDIR(status.st_mode))
        return error_set(error, ERROR_USER,
                         "data.dir: %s is a file, which would be trained on and held out as well; name the directory that "
                         "rope prepare made.",
                         config->data_dir);
    batches->loader = loader_open(&settings, error);
    return batches->loader != NULL;
}

Batches *batches_open(const Config *config, BatchesPart part, size_t batch, Error *error) {
    Batches *batches = calloc(1, sizeof *batches);
    if (!batches) {
        error_set(error, ERROR_MEMORY, "Out of memory while opening the data.");
        return NULL;
    }
    bool opened = *config->task ? open_task(batches, config, part, batch, error)
                                : open_shards(batches, config, part, batch, error);
    if (opened) return batches;
    batches_close(batches);
    return NULL;
}

bool batches_check(const Config *config, Error *error) {
    if (!*config->data_dir && !*config->task) return true;
    Batches *train = batches_open(config, BATCHES_TRAIN, config->batch, error);
    Batches *held_out = train ? batches_open(config, BATCHES_HELD_OUT, config->batch, error) : NULL;
    batches_close(train);
    batches_close(held_out);
    return held_out != NULL;
}

bool batches_next(Batches *batches, int32_t *inputs, int32_t *targets, Error *error) {
    if (batches->loader) return loader_next(batches->loader, inputs, targets, error);
    task_batch(&batches->task, batches->example, inputs, targets, batches->distances);
    batches->example += batches->task.batch;
    return true;
}

const int32_t *batches_distances(const Batches *batches) { return batches->distances; }

uint64_t batches_windows(const Batches *batches) {
    return batches->loader ? loader_windows(batches->loader) : TASK_HELD_OUT_EXAMPLES;
}

static uint32_t task_checksum(const TaskSettings *task) {
    const uint64_t words[] = {task->tokens, task->vocabulary, task->pairs, task->filler, task->least_distance,
                              task->seed,   task->held_out};
    uint32_t crc = checksum(0, task->name, strlen(task->name));
    crc = checksum(crc, &task->gap_power, sizeof task->gap_power);
    return checksum(crc, words, sizeof words);
}

uint32_t batches_checksum(const Batches *batches) {
    return batches->loader ? loader_checksum(batches->loader) : task_checksum(&batches->task);
}

PrepareResult batches_meta(const Batches *batches) {
    return batches->loader ? *loader_meta(batches->loader) : (PrepareResult){0};
}

DataPosition batches_position(const Batches *batches) {
    return batches->loader ? loader_position(batches->loader) : (DataPosition){.window = batches->example};
}

void batches_seek(Batches *batches, DataPosition position) {
    if (batches->loader)
        loader_seek(batches->loader, position);
    else
        batches->example = position.window;
}

void batches_close(Batches *batches) {
    if (!batches) return;
    if (batches->loader) loader_close(batches->loader);
    free(batches->distances);
    free(batches);
}

DataIdentity batches_judge(const Config *config) {
    DataIdentity identity = {0};
    Batches *held_out = batches_open(config, BATCHES_HELD_OUT, config->batch, NULL);
    const uint64_t wanted = (uint64_t)config->eval_batches * config->batch;
    if (held_out) identity.held_out = batches_checksum(held_out);
    if (held_out && wanted < batches_windows(held_out)) identity.judging = wanted * config->tokens;
    batches_close(held_out);
    return identity;
}

DataIdentity batches_identity(const Config *config) {
    DataIdentity identity = batches_judge(config);
    Batches *train = batches_open(config, BATCHES_TRAIN, config->batch, NULL);
    if (train) identity.train = batches_checksum(train);
    batches_close(train);
    return identity;
}

bool batches_same_data(const json_t *recorded, const DataIdentity *data) {
    const uint32_t now[] = {data->train, data->held_out};
    bool same = true;
    for (size_t i = 0; i < 2; i++) {
        const json_int_t then = json_integer_value(json_array_get(recorded, i));
        same = same && (!then || !now[i] || then == (json_int_t)now[i]);
    }
    return same;
}
