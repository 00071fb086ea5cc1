// Which checkpoints there are, which to keep, and the two links.
#include "train/run_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/descriptor.h"
#include "core/files.h"
#include "train/snapshot.h"
#include "train/state.h"
#include "train/words.h"

// The number of step_NNNNNNNN; false for any other name, such as one with more zeros than step_path puts there.
static bool step_number(const char *name, uint64_t *step) {
    if (strncmp(name, "step_", 5)) return false;
    size_t digits = strspn(name + 5, "0123456789");
    if (digits < 8 || digits > 18 || (digits > 8 && name[5] == '0') || name[5 + digits]) return false;
    *step = strtoull(name + 5, NULL, 10);
    return true;
}

static int newest_first(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a < b) - (a > b);
}

// Steps that have a checkpoint, newest first.
typedef struct Steps {
    size_t count;
    uint64_t *numbers; // malloc'd
} Steps;

static bool list_steps(const char *path, Steps *steps, Error *error) {
    *steps = (Steps){0};
    DirectoryList list;
    if (!directory_list(&list, path, error)) return false;
    steps->numbers = malloc((list.count + 1) * sizeof *steps->numbers);
    for (size_t i = 0; steps->numbers && i < list.count; i++)
        steps->count += step_number(list.entries[i]->d_name, &steps->numbers[steps->count]);
    directory_list_free(&list);
    if (!steps->numbers) return error_set(error, ERROR_MEMORY, "Out of memory while listing %s.", path);
    qsort(steps->numbers, steps->count, sizeof *steps->numbers, newest_first);
    return true;
}

// run_open has seen to it that every name in the run fits.
static void path_in(const RunDirectory *run, const char *name, char path[RUN_PATH]) {
    REQUIRE(path_join(path, RUN_PATH, run->path, name, NULL));
}

static void step_path(const RunDirectory *run, uint64_t step, char path[RUN_PATH]) {
    char name[40];
    snprintf(name, sizeof name, "step_%08llu", (unsigned long long)step);
    path_in(run, name, path);
}

static const char *const links[] = {"latest", "best"};

// What a run that was killed may leave, under the names that it is written with. Whatever else ends in .tmp or .old is
// not ours: train.out may be any folder.
static bool is_half_written(const char *name) {
    const char *suffix = strrchr(name, '.');
    char stem[NAME_MAX + 1];
    uint64_t step;
    if (!suffix || (strcmp(suffix, ".tmp") && strcmp(suffix, ".old"))) return false;
    snprintf(stem, sizeof stem, "%.*s", (int)(suffix - name), name);
    if (step_number(stem, &step)) return true;
    bool written = !strcmp(stem, "config.ini") || !strcmp(stem, "metrics.jsonl");
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) written |= !strcmp(stem, links[i]);
    return written && !strcmp(suffix, ".tmp");
}

// Where directories cannot change names, the older of two stands aside while the newer gets its name (directory_commit): a
// program that was killed in between has left neither under it.
static bool take_back(const RunDirectory *run, const char *name, bool *taken, Error *error) {
    char aside[RUN_PATH], step[RUN_PATH];
    struct stat status;
    const size_t length = strlen(name) - strlen(".old");
    *taken = false;
    if (strncmp(name, "step_", 5) || strcmp(name + length, ".old")) return true;
    path_in(run, name, aside);
    snprintf(step, sizeof step, "%.*s", (int)(strlen(aside) - strlen(".old")), aside);
    if (access(step, F_OK) == 0 || lstat(aside, &status) != 0 || !S_ISDIR(status.st_mode)) return true;
    Error why = {0};
    if (!state_read(aside, NULL, NULL, NULL, NULL, &why)) // not whole, or not there, and so of no use
        return why.kind == ERROR_CORRUPT || why.kind == ERROR_USER || error_set(error, why.kind, "%s", why.message);
    if (rename(aside, step) != 0) return error_errno(error, "Cannot rename %s to %s", aside, step);
    *taken = true;
    return file_sync(run->lock, run->path, error);
}

// Nobody else writes while we hold the lock.
static bool sweep(const RunDirectory *run, Error *error) {
    DirectoryList list;
    bool fine = directory_list(&list, run->path, error);
    for (size_t i = 0; fine && i < list.count; i++) {
        char path[RUN_PATH];
        bool taken = false;
        if (!is_half_written(list.entries[i]->d_name)) continue;
        path_in(run, list.entries[i]->d_name, path);
        fine = take_back(run, list.entries[i]->d_name, &taken, error) && (taken || directory_remove(path, error));
    }
    directory_list_free(&list);
    return fine;
}

// Found out before the first step instead of at the first checkpoint, hours later.
static bool check_links(const RunDirectory *run, Error *error) {
    char path[RUN_PATH];
    path_in(run, "latest.tmp", path);
    if (symlink(".", path) != 0) {
        error_errno(error, "Creating the link %s", path);
        error_context(error, "train.out needs a place that can be written to and takes symbolic links");
        return false;
    }
    return unlink(path) == 0 || error_errno(error, "Cannot remove %s", path);
}

// A copy that followed the links has directories in their place, which no link can replace. What is whole goes where
// its link pointed to; the step's own directory may be there too, or not.
static bool take_copies_for_links(const RunDirectory *run, Error *error) {
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        char path[RUN_PATH], step[RUN_PATH];
        struct stat status;
        RunState state;
        Error why = {0};
        path_in(run, links[i], path);
        if (lstat(path, &status) != 0 || S_ISLNK(status.st_mode)) continue;
        if (!S_ISDIR(status.st_mode))
            return error_set(error, ERROR_USER, "%s is a file in the place of a link; move it away.", path);
        if (!state_read(path, &state, NULL, NULL, NULL, &why))
            return error_set(error, why.kind == ERROR_MEMORY ? ERROR_MEMORY : ERROR_USER,
                             "%s is a directory in the place of a link, and no whole checkpoint; move it away: %s",
                             path, why.message);
        step_path(run, state.step, step);
        if (!directory_commit(path, step, error)) return false;
    }
    return true;
}

enum { ROOM = 2 * (NAME_MAX + 1) }; // behind the path, for a checkpoint and a file in it

bool run_open(RunDirectory *run, const char *path, Error *error) {
    *run = (RunDirectory){.lock = -1};
    if (snprintf(run->path, sizeof run->path, "%s", path) >= RUN_PATH - ROOM || !*path)
        return error_set(error, ERROR_USER, "train.out is empty or too long.");
    if (!directory_make(path, error)) return false;
    run->lock = directory_lock(path, "trained", error);
    if (run->lock < 0) return false;
    if (sweep(run, error) && check_links(run, error) && take_copies_for_links(run, error)) return true;
    run_close(run);
    return false;
}

void run_close(RunDirectory *run) {
    if (run->lock >= 0) close(run->lock);
    run->lock = -1;
}

bool run_check_gone(const RunDirectory *run, Error *error) {
    char link[RUN_PATH], metrics[RUN_PATH];
    struct stat status;
    path_in(run, "latest", link);
    path_in(run, "metrics.jsonl", metrics);
    if (lstat(link, &status) != 0 || stat(link, &status) == 0 || stat(metrics, &status) != 0 || !status.st_size) return true;
    return error_set(error, ERROR_USER,
                     "%s is of a run whose checkpoints are gone (%s leads nowhere), and would be written over: move it away, "
                     "or choose another train.out.",
                     metrics, link);
}

bool run_may_use(const char *path, RunUse use, bool resume, Error *error) {
    static const char *const names[RUN_USES] = {"run", "comparison", "sweep"};
    static const char *const records[RUN_USES] = {NULL, "progress.json", "sweep.json"};
    const char *out = use == USE_COMPARISON ? "--out" : "train.out";
    struct stat status;
    Steps steps = {0};
    if (stat(path, &status) != 0) return true; // what else is wrong with it shows when it is made
    if (!S_ISDIR(status.st_mode)) return error_set(error, ERROR_USER, "%s exists and is not a folder.", path);
    if (!list_steps(path, &steps, error)) return false;
    free(steps.numbers);
    bool holds[RUN_USES] = {steps.count > 0};
    for (RunUse kind = USE_COMPARISON; kind < RUN_USES; kind++) {
        char record[RUN_PATH];
        if (!path_join(record, sizeof record, path, records[kind], error)) return false;
        holds[kind] = access(record, F_OK) == 0;
    }
    if (holds[use] && resume) return true; // whatever else is there
    if (holds[use])
        return error_set(error, ERROR_USER,
                         "%s holds a %s already: --resume goes on with it; for a new one choose another %s or remove it.",
                         path, names[use], out);
    for (RunUse kind = 0; kind < RUN_USES; kind++)
        if (holds[kind])
            return error_set(error, ERROR_USER, "%s holds a %s: for a %s choose another %s.", path, names[kind],
                             names[use], out);
    return true;
}

// A link is replaced by renaming a new one over it: there is always one that points to something whole.
static bool point(const RunDirectory *run, const char *link, uint64_t step, Error *error) {
    char path[RUN_PATH], temporary[RUN_PATH], name[40];
    snprintf(name, sizeof name, "%s.tmp", link);
    path_in(run, link, path);
    path_in(run, name, temporary);
    snprintf(name, sizeof name, "step_%08llu", (unsigned long long)step);
    unlink(temporary);
    if (symlink(name, temporary) != 0) return error_errno(error, "Creating the link %s", temporary);
    if (rename(temporary, path) != 0) return error_errno(error, "Renaming %s to %s", temporary, path);
    return file_sync(run->lock, run->path, error);
}

// `latest`, and `best` if that checkpoint is still there; where none is the best, no `best`.
static bool point_links(const RunDirectory *run, const RunState *state, Error *error) {
    char best[RUN_PATH];
    step_path(run, state->best_step, best);
    if (!point(run, "latest", state->step, error)) return false;
    if (state->best_step) return access(best, F_OK) != 0 || point(run, "best", state->best_step, error);
    path_in(run, "best", best);
    return unlink(best) == 0 || errno == ENOENT || error_errno(error, "Cannot remove %s", best);
}

// Older checkpoints than the newest `keep`, but for the best.
static bool is_old(const RunState *state, size_t keep, uint64_t step, size_t place) {
    return place >= keep && (!state->best_step || step != state->best_step);
}

// Whether somebody reads it (run_hold_checkpoint); if not, nobody begins to while *lock is open.
static bool is_held(const char *checkpoint, int *lock) {
    *lock = descriptor_open(checkpoint, O_RDONLY | O_DIRECTORY);
    return *lock >= 0 && flock(*lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

// Removes what is old, but at a later time where it is being read, and checkpoints of a future that this run has gone
// back from (a damaged one that was passed over), which must not outlive the one that was written now: they would be
// taken for the newest.
static bool prune(const RunDirectory *run, const Trainer *trainer, Error *error) {
    const RunState *state = &trainer->state;
    Steps steps;
    bool fine = list_steps(run->path, &steps, error);
    for (size_t i = 0, place = 0; fine && i < steps.count; i++) {
        const bool future = steps.numbers[i] > state->step;
        char path[RUN_PATH];
        if (!future && !is_old(state, trainer->config->keep, steps.numbers[i], place++)) continue;
        step_path(run, steps.numbers[i], path);
        int lock;
        if (!is_held(path, &lock) || future) fine = directory_remove(path, error);
        if (lock >= 0) close(lock);
    }
    free(steps.numbers);
    return fine;
}

// Is the directory of that name the one that is locked?
static bool find_place(const RunDirectory *run, const char *path, bool *same, Error *error) {
    struct stat locked, named = {0};
    if (fstat(run->lock, &locked) != 0 || (stat(path, &named) != 0 && errno != ENOENT && errno != ENOTDIR))
        return error_errno(error, "Cannot look for %s", path);
    *same = locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
    return true;
}

// Where the directory was moved to; false if it is gone, or cannot be found.
static bool find_moved(const RunDirectory *run, char path[RUN_PATH]) {
    char link[40];
    bool same = false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", run->lock);
    const ssize_t size = readlink(link, path, RUN_PATH - ROOM);
    if (size <= 0 || size >= RUN_PATH - ROOM) return false;
    path[size] = '\0';
    return text_valid(path, (size_t)size) && find_place(run, path, &same, NULL) && same;
}

bool run_check_place(const RunDirectory *run, Error *error) {
    bool same = false;
    if (!find_place(run, run->path, &same, error)) return false;
    return same ||
           error_set(error, ERROR_USER, "%s was removed or moved, and what is there now is not written to.", run->path);
}

// Nothing that could be somebody else's is in the place of what was removed.
static bool is_free(const char *path, Error *error) {
    DirectoryList list = {0};
    struct stat status;
    if (stat(path, &status) != 0 && errno == ENOENT) return true;
    const bool fine = directory_list(&list, path, error);
    const size_t count = list.count;
    directory_list_free(&list);
    return fine && (!count || error_set(error, ERROR_USER, "%s was removed, and something else is there now.", path));
}

// Makes and locks the directory again that was removed while the run went on.
static bool begin_again(RunDirectory *run, const Config *config, Error *error) {
    RunDirectory again;
    char path[RUN_PATH];
    path_in(run, "config.ini", path);
    if (!is_free(run->path, error) || !run_open(&again, run->path, error)) return false;
    if (!config_write(config, path, error)) {
        run_close(&again);
        return false;
    }
    fprintf(stderr, "rope: %s was removed; it is made again, for this checkpoint and those that follow.\n", run->path);
    run_close(run);
    run->lock = again.lock;
    return true;
}

bool run_keep_place(RunDirectory *run, const Config *config, char *saved, bool *anew, Error *error) {
    char moved[RUN_PATH];
    bool same = false;
    *anew = false;
    if (!find_place(run, run->path, &same, error)) return false;
    if (same) return true;
    if (find_moved(run, moved)) {
        const char *name = strrchr(saved, '/');
        fprintf(stderr, "rope: %s was moved to %s; the run goes on there.\n", run->path, moved);
        memcpy(run->path, moved, sizeof moved);
        if (*saved) path_in(run, name ? name + 1 : saved, moved);
        if (*saved) memcpy(saved, moved, sizeof moved);
        return true;
    }
    *saved = '\0'; // what was saved is no longer there
    *anew = true;
    return begin_again(run, config, error);
}

bool run_save(RunDirectory *run, Trainer *trainer, const Tokenizer *tokenizer, char *saved, Error *error) {
    const RunState *state = &trainer->state;
    char path[RUN_PATH];
    step_path(run, state->step, path);
    if (!snapshot_save(path, trainer, tokenizer, error)) return false;
    strcpy(saved, path);
    return point_links(run, state, error) && prune(run, trainer, error);
}

// What may not be read is not damaged: it would be passed over, and removed by the next checkpoint.
static bool may_be_read(const char *checkpoint, Error *error) {
    static const char *const files[] = {"state.json", "config.json", "model.safetensors", "optimizer.safetensors"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[RUN_PATH];
        if (!path_join(path, sizeof path, checkpoint, files[i], error)) return false;
        if (access(path, R_OK) == 0 || errno != EACCES) continue;
        return error_set(error, ERROR_USER, "%s may not be read; give yourself the right to, or move %s away.", path,
                         checkpoint);
    }
    return true;
}

// With later checkpoints, which were damaged and passed over, the best so far may have gone: the next one is the best then.
static void forget_best_that_is_gone(const RunDirectory *run, RunState *state) {
    char best[RUN_PATH];
    step_path(run, state->best_step, best);
    if (!state->best_step || access(best, F_OK) == 0 || errno != ENOENT) return;
    fprintf(stderr, "rope: %s, the best so far, is gone; from the next evaluation on the best is looked for anew.\n", best);
    state->best_step = 0;
}

bool run_load_latest(const RunDirectory *run, Trainer *trainer, bool *found, Error *error) {
    Steps steps;
    *found = false;
    if (!list_steps(run->path, &steps, error)) return false;
    bool refused = false; // by the user's settings, not by damage: another checkpoint would not help
    for (size_t i = 0; i < steps.count && !*found && !refused; i++) {
        char path[RUN_PATH];
        Error why = {0};
        step_path(run, steps.numbers[i], path);
        *found = may_be_read(path, &why) && snapshot_load(path, trainer, &why);
        if (*found && trainer->state.step != steps.numbers[i])
            *found = error_set(&why, ERROR_USER, "%s is the checkpoint of step %llu: give it its name back, or move it away.",
                               path, (unsigned long long)trainer->state.step);
        if (*found) break;
        refused = why.kind == ERROR_USER || why.kind == ERROR_MEMORY;
        if (refused)
            error_set(error, why.kind, "%s", why.message);
        else
            fprintf(stderr, "rope: Passing over %s: %s\n", path, why.message);
    }
    free(steps.numbers);
    if (refused) return false;
    if (steps.count && !*found)
        return error_set(error, ERROR_CORRUPT, "None of the %zu checkpoints in %s is whole.", steps.count, run->path);
    if (*found) forget_best_that_is_gone(run, &trainer->state);
    // A run that ended between saving and pointing, or whose newest checkpoint is damaged, has links to another one.
    return !*found || point_links(run, &trainer->state, error);
}

static bool is_checkpoint(const char *path) {
    char config[RUN_PATH];
    return path_join(config, sizeof config, path, "config.json", NULL) && access(config, F_OK) == 0;
}

// Where a link points to now: a run that goes on meanwhile may turn it to another checkpoint between two reads.
static void follow(char path[RUN_PATH]) {
    char target[RUN_PATH];
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') path[--length] = '\0';
    const ssize_t size = readlink(path, target, sizeof target - 1);
    if (size <= 0) return;
    target[size] = '\0';
    if (!text_valid(target, (size_t)size)) return; // a name that no report could give; not a link of a run's
    const char *slash = strrchr(path, '/');
    const size_t kept = *target == '/' || !slash ? 0 : (size_t)(slash + 1 - path);
    if (kept + (size_t)size < RUN_PATH) memcpy(path + kept, target, (size_t)size + 1);
}

bool run_find_checkpoint(const char *argument, char *path, Error *error) {
    struct stat status;
    if (!*argument) return error_set(error, ERROR_USER, "The name of the checkpoint is empty.");
    if (stat(argument, &status) != 0)
        return error_set(error, ERROR_USER, "The checkpoint %s cannot be read: %s.", argument, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return error_set(error, ERROR_USER, "%s is a file; a checkpoint is a directory with a config.json.", argument);
    if (is_checkpoint(argument)) {
        snprintf(path, RUN_PATH, "%s", argument);
        follow(path);
        return true;
    }
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        if (!path_join(path, RUN_PATH, argument, links[i], NULL) || !is_checkpoint(path)) continue;
        follow(path);
        return true;
    }
    return error_set(error, ERROR_USER, "%s is neither a checkpoint (there is no config.json) nor a run with one.",
                     argument);
}

bool run_hold_checkpoint(const char *argument, char *path, int *held, Error *error) {
    enum { TRIES = 100 };
    for (int tries = 1;; tries++) {
        Error why = {0};
        const bool found = run_find_checkpoint(argument, path, &why);
        *held = found ? descriptor_open(path, O_RDONLY | O_DIRECTORY) : -1;
        // Where there are no locks, or no right to list it, it is read as it is.
        const bool going = *held >= 0 && flock(*held, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        if (found && !going && is_checkpoint(path)) return true;
        if (*held >= 0) close(*held);
        *held = -1;
        if (tries < TRIES) continue; // its run has a newer one by now, and the link points there
        return error_set(error, found ? ERROR_USER : why.kind, found ? "%s is being removed by its run." : "%s",
                         found ? path : why.message);
    }
}

bool run_initialise(Trainer *trainer, char *from, Error *error) {
    const Config *config = trainer->config;
    int held = -1;
    *from = '\0';
    if (!*config->init) return true;
    const bool fine = run_hold_checkpoint(config->init_at ? config->init_at : config->init, from, &held, error) &&
                      snapshot_load_weights(from, trainer, error) && snapshot_check_data(from, config->data_dir, error);
    if (held >= 0) close(held);
    if (fine)
        fprintf(stderr, "starting from the weights of %s\n", from);
    else
        error_context(error, "train.init");
    return fine;
}
