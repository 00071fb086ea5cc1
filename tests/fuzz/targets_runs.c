// Run directories: checkpoints of a run, state.json, metrics.jsonl, and what lies beside them.
#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/threads.h"
#include "tests/fuzz/inputs.h"
#include "train/metrics.h"
#include "train/run_directory.h"
#include "train/snapshot.h"
#include "train/state.h"

// ---- state.json -----------------------------------------------------------------------------------------------------

// The seal is put on here: a damaged one is refused before anything is read.
static bool run_state(const uint8_t *data, size_t size) {
    static const char tail[] = ", \"crc32\": \"00000000\"}\n";
    char *text = malloc(size + sizeof tail);
    REQUIRE(text);
    memcpy(text, data, size);
    memcpy(text + size, tail, sizeof tail);
    char digits[16];
    snprintf(digits, sizeof digits, "%08x", checksum(0, text, size + sizeof tail - 1));
    memcpy(text + size + 12, digits, 8);
    memory_put(MEMORY "/state/state.json", text, size + sizeof tail - 1);
    memory_put(MEMORY "/state/a.bin", "abc", 3);
    free(text);
    Error error = {0};
    RunState state;
    uint64_t steps, own_seed;
    uint32_t fingerprint;
    const bool taken = state_read(MEMORY "/state", &state, &own_seed, &steps, &fingerprint, &error);
    require_reason(taken, &error);
    return taken;
}

static void seeds_state(void) {
    memory_put(MEMORY "/state/a.bin", "abc", 3);
    const RunState state = {.step = 7,
                            .updates = 6,
                            .tokens = 1000,
                            .data = {1, 3},
                            .loss_sum = 1.5,
                            .loss_count = 2,
                            .best_loss = 3.5,
                            .best_step = 4,
                            .eval_due = true};
    Error error = {0};
    REQUIRE(state_write(MEMORY "/state", &state, 1, 6, 99, &error));
    size_t size;
    char *text = file_read_all(MEMORY "/state/state.json", 1 << 20, &size, &error);
    REQUIRE(text);
    char *end = strstr(text, ", \"crc32\": \"");
    REQUIRE(end);
    seed(text, (size_t)(end - text));
    free(text);
}

const FuzzTarget fuzz_state = {"state", run_state, seeds_state};

// ---- a whole checkpoint of a run ------------------------------------------------------------------------------------

enum { FILES = 4, FILE_SIZE = 1 << 15 };
static const char *const file_names[FILES] = {"config.json", "model.safetensors", "optimizer.safetensors",
                                              "state.json"};

// A trainer of a few hundred numbers after a step, its checkpoint "snapshot_good", and its files.
static struct Good {
    Config config;
    Trainer trainer;
    RunState state;
    struct {
        uint8_t bytes[FILE_SIZE];
        size_t size;
    } files[FILES];
} good;

static Trainer *good_trainer(void) {
    static const char *const settings[] = {"data.task=induction", "model.layers=1",  "model.width=8",
                                           "model.heads=2",       "model.tokens=16", "model.vocabulary=32",
                                           "train.batch=1"};
    if (good.config.layers) return &good.trainer;
    Error error = {0};
    StepResult result;
    threads_set(1);
    config_defaults(&good.config);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        REQUIRE(config_set(&good.config, settings[i], ORIGIN_COMMAND_LINE, &error));
    REQUIRE(config_resolve(&good.config, &error) && trainer_create(&good.trainer, &good.config, false, &error));
    REQUIRE(trainer_step(&good.trainer, &result, &error));
    REQUIRE(snapshot_save(scratch_path("snapshot/good"), &good.trainer, NULL, &error));
    good.state = good.trainer.state;
    for (size_t i = 0; i < FILES; i++) {
        char path[PATH_SIZE + 128];
        snprintf(path, sizeof path, "%s/%s", scratch_path("snapshot/good"), file_names[i]);
        char *bytes = file_read_all(path, FILE_SIZE, &good.files[i].size, &error);
        REQUIRE(bytes);
        memcpy(good.files[i].bytes, bytes, good.files[i].size);
        free(bytes);
    }
    return &good.trainer;
}

// Each change: a file, an offset of two bytes, and what stands there instead. Returns whether anything is different.
static bool write_changed(const uint8_t *changes, size_t size, bool mended) {
    enum { CHANGE = 4 };
    static uint8_t bytes[FILE_SIZE];
    bool different = false;
    for (size_t f = 0; f < FILES; f++) {
        const size_t file_size = good.files[f].size;
        memcpy(bytes, good.files[f].bytes, file_size);
        for (size_t at = 0; at + CHANGE <= size; at += CHANGE)
            if (changes[at] % FILES == f)
                bytes[(changes[at + 1] | (size_t)changes[at + 2] << 8) % file_size] = changes[at + 3];
        different = different || memcmp(bytes, good.files[f].bytes, file_size);
        if (mended && f != 0 && f != 3) mend_safetensors(bytes, file_size);
        char name[PATH_SIZE];
        snprintf(name, sizeof name, MEMORY "/snapshot/%s", file_names[f]);
        memory_put(name, bytes, file_size);
    }
    return different;
}

// The first byte: whether the checksums of headers and of state.json are those of the changed files. Without, a changed
// byte is always found; what is loaded can be saved, and comes back as it was.
static bool run_snapshot(const uint8_t *data, size_t size) {
    Trainer *trainer = good_trainer();
    Error error = {0};
    const bool mended = size > 0 && data[0] & 1;
    const bool different = write_changed(data + (size > 0), size - (size > 0), mended);
    directory_remove(scratch_path("snapshot/good"), NULL);
    if (mended) REQUIRE(state_write(MEMORY "/snapshot", &good.state, good.config.seed, 1, 0, &error));
    quiet_begin();
    const bool taken = snapshot_load(MEMORY "/snapshot", trainer, &error);
    quiet_end();
    require_reason(taken, &error);
    REQUIRE(mended || taken == !different);
    if (!taken) return false;
    REQUIRE(trainer->state.step == good.state.step && trainer_finite(trainer));
    char again[PATH_SIZE + 96];
    snprintf(again, sizeof again, "%s", scratch_path("snapshot/good"));
    const size_t bytes = model_tensors(trainer->model)->elements * sizeof(real);
    real *weights = malloc(bytes);
    REQUIRE(weights);
    memcpy(weights, model_parameters(trainer->model), bytes);
    REQUIRE(snapshot_save(again, trainer, NULL, &error) && snapshot_load(again, trainer, &error));
    REQUIRE(!memcmp(weights, model_parameters(trainer->model), bytes));
    free(weights);
    return true;
}

static void seeds_snapshot(void) {
    seed("\x00", 1);
    seed("\x01", 1);
    seed_refused("\x00\x01\x20\x00Z", 5);
    seed_refused("\x01\x00\x30\x00\x00\x02\x10\x01\xFF\x03\x00\x00[", 13);
}

const FuzzTarget fuzz_snapshot = {"snapshot", run_snapshot, seeds_snapshot};

// ---- what lies in a run's directory: a line for each name, after '/' a directory, after '>' a link to latest --------

static bool ends_in(const char *name, const char *suffix) {
    const size_t length = strlen(name), tail = strlen(suffix);
    return length >= tail && !strcmp(name + length - tail, suffix);
}

// step_ and eight digits or more, none of them for nothing.
static bool names_step(const char *name) {
    const size_t digits = strncmp(name, "step_", 5) ? 0 : strspn(name + 5, "0123456789");
    return digits >= 8 && digits <= 18 && !name[5 + digits] && (digits == 8 || name[5] != '0');
}

// What a run that was killed may leave behind: a checkpoint, a link or its settings under another name than theirs.
static bool left_half_written(const char *name) {
    static const char *const others[] = {"latest.tmp", "best.tmp", "config.ini.tmp", "metrics.jsonl.tmp"};
    char stem[256];
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!strcmp(name, others[i])) return true;
    if (!ends_in(name, ".tmp") && !ends_in(name, ".old")) return false;
    snprintf(stem, sizeof stem, "%.*s", (int)(strlen(name) - strlen(".tmp")), name);
    return names_step(stem);
}

static void put(const char *root, const char *line) {
    char path[PATH_SIZE + 192], inside[PATH_SIZE + 224];
    const bool marked = *line == '/' || *line == '>';
    snprintf(path, sizeof path, "%s/%.60s", root, line + marked);
    if (*line == '>') {
        if (symlink("latest", path) != 0) return; // the name is taken
    } else if (*line == '/') {
        if (mkdir(path, 0777) != 0) return;
        snprintf(inside, sizeof inside, "%s/config.json", path);
        fclose(fopen(inside, "wbe"));
    } else {
        FILE *file = fopen(path, "wbe");
        if (file) fclose(file);
    }
}

// A directory in the place of a link, which is no checkpoint, or a file: nothing is done there.
static bool in_the_way(const char *root, const char *link) {
    char path[PATH_SIZE + 128];
    struct stat status;
    snprintf(path, sizeof path, "%s/%s", root, link);
    return lstat(path, &status) == 0 && !S_ISLNK(status.st_mode);
}

// Opening removes what was left half-written and nothing else; no step is listed that has no directory of its name.
static bool run_run_directory(const uint8_t *data, size_t size) {
    static char text[2048];
    char root[PATH_SIZE + 96], found[RUN_PATH];
    Trainer *trainer = good_trainer();
    size_t left = 0, steps = 0;
    size = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, size);
    text[size] = 0;
    snprintf(root, sizeof root, "%s", scratch_path("runs/run"));
    directory_remove(root, NULL);
    REQUIRE(mkdir(root, 0777) == 0);
    for (char *line = text, *end; *line && size; line = end) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = 0;
        const char *name = line + (*line == '/' || *line == '>');
        if (*name && *name != '.' && !strchr(name, '/')) put(root, line);
    }
    RunDirectory run;
    Error error = {0};
    bool loaded;
    DirectoryList before, after;
    REQUIRE(directory_list(&before, root, &error));
    const bool open = run_open(&run, root, &error);
    require_reason(open, &error);
    REQUIRE(open == !(in_the_way(root, "latest") || in_the_way(root, "best")) && directory_list(&after, root, NULL));
    for (size_t i = 0; i < before.count; i++) {
        const char *name = before.entries[i]->d_name;
        const bool swept = left_half_written(name);
        if (!swept) REQUIRE(left < after.count && !strcmp(name, after.entries[left]->d_name));
        left += !swept;
        steps += !swept && names_step(name);
    }
    REQUIRE(left == after.count);
    directory_list_free(&before);
    directory_list_free(&after);
    if (!open) return false;
    REQUIRE(steps == 0 || !run_may_use(run.path, USE_RUN, false, NULL));
    quiet_begin();
    const bool fine = run_load_latest(&run, trainer, &loaded, &error);
    quiet_end();
    require_reason(fine, &error);
    REQUIRE(!loaded && fine == (steps == 0));
    error = (Error){0};
    require_reason(run_find_checkpoint(root, found, &error), &error);
    run_close(&run);
    return steps > 0;
}

static void seeds_run_directory(void) {
    seed_text("/step_00000004\n/step_00000008.tmp\n/step_123456789\nmetrics.jsonl\n>latest\n>best\nconfig.ini.tmp\nmetrics.jsonl.tmp\n");
    seed_refused("/step_00000004\n/step_00000008.tmp\n/latest\n>best\n", 47);
    seed_refused("/step_00000004\nlatest\n", 22);
    seed_text("/step_00000004.old\nstep_00000001\n/step_1\n>latest\n>step_00000009\n/a.tmp\nb.tmp.x\n");
    seed_refused("/step_0000000x\n/step_000000004\n", 31);
}

const FuzzTarget fuzz_run_directory = {"run_directory", run_run_directory, seeds_run_directory};

// ---- metrics.jsonl: the first byte is the step to go on from --------------------------------------------------------

static size_t open_metrics(const char *path, uint64_t step, bool eval_due, double *seconds) {
    RunDirectory run = {.lock = -1};
    Metrics metrics;
    Error error = {0};
    struct stat status;
    snprintf(run.path, sizeof run.path, MEMORY "/metrics");
    REQUIRE(metrics_open(&metrics, &run, step, eval_due, &error));
    *seconds = metrics.before;
    metrics_close(&metrics);
    REQUIRE(stat(path, &status) == 0);
    return (size_t)status.st_size;
}

// Whole lines from the start stay, each of a step up to this one; the next line is of none, or an evaluation that is due; a
// second time changes
// nothing.
static bool run_metrics(const uint8_t *data, size_t size) {
    const uint64_t step = size ? data[0] : 0;
    const char *text = (const char *)data + (size > 0);
    const size_t length = size - (size > 0);
    static const char path[] = MEMORY "/metrics/metrics.jsonl";
    double seconds, again;
    memory_put(path, text, length);
    const bool due = size % 2; // an evaluation of that step
    const size_t kept = open_metrics(path, step, due, &seconds);
    REQUIRE(kept <= length && (kept == 0 || text[kept - 1] == '\n'));
    REQUIRE(open_metrics(path, step, due, &again) == kept && memcmp(&seconds, &again, sizeof again) == 0);
    size_t size_now;
    Error error = {0};
    char *now = file_read_all(path, 1 << 20, &size_now, &error);
    REQUIRE(now && size_now == kept && (kept == 0 || !memcmp(now, text, kept)));
    free(now);
    const char *end = length > kept ? memchr(text + kept, '\n', length - kept) : NULL;
    if (end && memchr(text + kept, 0, (size_t)(end - text) - kept)) end = NULL; // no text: jansson passes over zeros
    json_t *next = end ? json_loadb(text + kept, (size_t)(end - text) - kept, 0, NULL) : NULL;
    const json_t *number = json_object_get(next, "step");
    const uint64_t of = (uint64_t)json_integer_value(number);
    REQUIRE(!json_is_integer(number) || json_integer_value(number) < 0 || of > step ||
            (due && of == step && json_object_get(next, "held_out_loss")));
    json_decref(next);
    return kept > 0;
}

static void seeds_metrics(void) {
    seed_text("\x08{\"step\":4,\"tokens\":64,\"loss\":3.5,\"time\":{\"seconds\":1.5,\"step_ms\":2.0}}\n"
              "{\"step\":8,\"held_out_loss\":null,\"time\":{\"seconds\":2.25}}\n{\"step\":12,\"loss\":3.25}\n");
    seed("\x08{\"step\":4}\n{\"step\":5\0}\n", 24);
    seed_refused("\x05{\"step\":5,\"loss\":NaN}\n", 23);
}

const FuzzTarget fuzz_metrics = {"metrics", run_metrics, seeds_metrics};
