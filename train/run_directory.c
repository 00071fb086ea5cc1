// Which checkpoints there are, which to keep, and the two links.
#include "train/run_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "train/snapshot.h"

// The number of step_NNNNNNNN; false for any other name.
static bool step_number(const char *name, uint64_t *step) {
    if (strncmp(name, "step_", 5)) return false;
    size_t digits = strspn(name + 5, "0123456789");
    if (digits < 8 || digits > 18 || name[5 + digits]) return false;
    *step = strtoull(name + 5, NULL, 10);
    return true;
}

static int newest_first(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a > b ? -1 : a < b;
}

// Steps that have a checkpoint, newest first; malloc'd. NULL with an error, or with count 0.
static uint64_t *list_steps(const char *path, size_t *count, Error *error) {
    *count = 0;
    DIR *listing = opendir(path);
    if (!listing) {
        error_errno(error, "Listing %s", path);
        return NULL;
    }
    uint64_t *steps = NULL, step;
    for (struct dirent *entry; (entry = readdir(listing));) {
        if (!step_number(entry->d_name, &step)) continue;
        uint64_t *longer = realloc(steps, (*count + 1) * sizeof *steps);
        if (!longer) {
            error_set(error, ERROR_MEMORY, "Out of memory while listing %s.", path);
            break;
        }
        steps = longer;
        steps[(*count)++] = step;
    }
    closedir(listing);
    if (*count) qsort(steps, *count, sizeof *steps, newest_first);
    return steps;
}

static bool step_path(const RunDirectory *run, uint64_t step, char *path, Error *error) {
    char name[40];
    snprintf(name, sizeof name, "step_%08llu", (unsigned long long)step);
    return path_join(path, RUN_PATH, run->path, name, error);
}

// Half-written checkpoints and links of a run that was killed carry .tmp or .old; nobody else writes while we hold the
// lock.
static bool sweep(const RunDirectory *run, Error *error) {
    DIR *listing = opendir(run->path);
    if (!listing) return error_errno(error, "Listing %s", run->path);
    bool fine = true;
    for (struct dirent *entry; fine && (entry = readdir(listing));) {
        const char *suffix = strrchr(entry->d_name, '.');
        char path[RUN_PATH];
        if (!suffix || (strcmp(suffix, ".tmp") && strcmp(suffix, ".old"))) continue;
        fine = path_join(path, sizeof path, run->path, entry->d_name, error) && directory_remove(path, error);
    }
    closedir(listing);
    return fine;
}

bool run_open(RunDirectory *run, const char *path, Error *error) {
    *run = (RunDirectory){.lock = -1};
    if (snprintf(run->path, sizeof run->path, "%s", path) >= (int)sizeof run->path || !*path)
        return error_set(error, ERROR_USER, "train.out is empty or too long.");
    if (!directory_make(path, error)) return false;
    run->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run->lock < 0) return error_errno(error, "Opening %s", path);
    if (flock(run->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        run_close(run);
        return error_set(error, ERROR_USER, "%s is being trained by another process.", path);
    }
    if (sweep(run, error)) return true;
    run_close(run);
    return false;
}

void run_close(RunDirectory *run) {
    if (run->lock >= 0) close(run->lock);
    run->lock = -1;
}

bool run_has_checkpoints(const RunDirectory *run) {
    size_t count;
    free(list_steps(run->path, &count, NULL));
    return count > 0;
}

// A link is replaced by renaming a new one over it: there is always one that points to something whole.
static bool point(const RunDirectory *run, const char *link, uint64_t step, Error *error) {
    char path[RUN_PATH], temporary[RUN_PATH], name[40];
    snprintf(name, sizeof name, "%s.tmp", link);
    if (!path_join(path, sizeof path, run->path, link, error) ||
        !path_join(temporary, sizeof temporary, run->path, name, error))
        return false;
    snprintf(name, sizeof name, "step_%08llu", (unsigned long long)step);
    unlink(temporary);
    if (symlink(name, temporary) != 0) return error_errno(error, "Creating the link %s", temporary);
    if (rename(temporary, path) != 0) return error_errno(error, "Renaming %s to %s", temporary, path);
    return file_sync(run->lock, run->path, error);
}

// `latest`, and `best` if that checkpoint is still there.
static bool point_links(const RunDirectory *run, const RunState *state, Error *error) {
    char best[RUN_PATH];
    if (!point(run, "latest", state->step, error)) return false;
    return state->best_step == 0 || !step_path(run, state->best_step, best, NULL) || access(best, F_OK) != 0 ||
           point(run, "best", state->best_step, error);
}

static bool prune(const RunDirectory *run, const Trainer *trainer, Error *error) {
    size_t count;
    uint64_t *steps = list_steps(run->path, &count, error);
    bool fine = steps != NULL;
    for (size_t i = trainer->config->keep; i < count && fine; i++) {
        char path[RUN_PATH];
        if (trainer->state.best_step && steps[i] == trainer->state.best_step) continue;
        fine = step_path(run, steps[i], path, error) && directory_remove(path, error);
    }
    free(steps);
    return fine;
}

// Checkpoints of a future that this run has gone back from (a damaged one that was passed over) must not outlive the
// one that is written now: they would be taken for the newest.
static bool forget_future(const RunDirectory *run, uint64_t now, Error *error) {
    size_t count;
    uint64_t *steps = list_steps(run->path, &count, error);
    bool fine = steps || !count;
    for (size_t i = 0; i < count && fine && steps[i] > now; i++) {
        char path[RUN_PATH];
        fine = step_path(run, steps[i], path, error) && directory_remove(path, error);
    }
    free(steps);
    return fine;
}

bool run_save(const RunDirectory *run, Trainer *trainer, const Tokenizer *tokenizer, char *saved, Error *error) {
    const RunState *state = &trainer->state;
    return step_path(run, state->step, saved, error) && snapshot_save(saved, trainer, tokenizer, error) &&
           point_links(run, state, error) &&
           forget_future(run, state->step, error) && prune(run, trainer, error);
}

bool run_load_latest(const RunDirectory *run, Trainer *trainer, bool *found, Error *error) {
    size_t count;
    Error listing = {0};
    uint64_t *steps = list_steps(run->path, &count, &listing);
    *found = false;
    if (listing.kind != ERROR_NONE) {
        free(steps);
        return error_set(error, listing.kind, "%s", listing.message);
    }
    bool refused = false; // by the user's settings, not by damage: another checkpoint would not help
    for (size_t i = 0; i < count && !*found && !refused; i++) {
        char path[RUN_PATH];
        Error why = {0};
        *found = step_path(run, steps[i], path, &why) && snapshot_load(path, trainer, &why);
        if (*found) break;
        refused = why.kind == ERROR_USER || why.kind == ERROR_MEMORY;
        if (refused)
            error_set(error, why.kind, "%s", why.message);
        else
            fprintf(stderr, "rope: Passing over %s: %s\n", path, why.message);
    }
    free(steps);
    if (refused) return false;
    if (count && !*found)
        return error_set(error, ERROR_CORRUPT, "None of the %zu checkpoints in %s is whole.", count, run->path);
    // A run that ended between saving and pointing, or whose newest checkpoint is damaged, has links to another one.
    return !*found || point_links(run, &trainer->state, error);
}

static bool is_checkpoint(const char *path) {
    char config[RUN_PATH];
    return path_join(config, sizeof config, path, "config.json", NULL) && access(config, F_OK) == 0;
}

bool run_find_checkpoint(const char *argument, char *path, Error *error) {
    struct stat status;
    if (stat(argument, &status) != 0)
        return error_set(error, ERROR_USER, "The checkpoint %s cannot be read: %s.", argument, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return error_set(error, ERROR_USER, "%s is a file; a checkpoint is a directory with a config.json.", argument);
    if (is_checkpoint(argument)) {
        snprintf(path, RUN_PATH, "%s", argument);
        return true;
    }
    static const char *const links[] = {"latest", "best"};
    for (size_t i = 0; i < 2; i++)
        if (path_join(path, RUN_PATH, argument, links[i], NULL) && is_checkpoint(path)) return true;
    return error_set(error, ERROR_USER, "%s is neither a checkpoint (there is no config.json) nor a run with one.",
                     argument);
}
