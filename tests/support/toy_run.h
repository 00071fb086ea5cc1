// Runs on disk of toy models, a few hundred numbers on a synthetic task.
#ifndef ROPE_TESTS_SUPPORT_TOY_RUN_H
#define ROPE_TESTS_SUPPORT_TOY_RUN_H

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/toy_trainer.h"
#include "train/run_directory.h"

enum { PATH = 512 };

// Settings of a toy run; `more` are assignments, NULL at the end.
static inline Config settings(const char *const *more) {
    static const char *const common[] = {"data.task=induction", "model.layers=1",   "model.width=8",
                                         "model.heads=2",       "model.kv_heads=1", "model.tokens=16",
                                         "model.vocabulary=32", "train.batch=1",    "train.accumulate=1",
                                         "train.steps=1000",    "train.keep=2",     NULL};
    return toy_settings(common, more);
}

static inline void save(RunDirectory *run, Trainer *trainer) {
    char saved[RUN_PATH] = "";
    Error error = {0};
    bool anew;
    if (!run_keep_place(run, trainer->config, saved, &anew, &error) || !run_save(run, trainer, NULL, saved, &error))
        fail_msg("%s", error.message);
}

static inline const char *below(const char *directory, const char *name) {
    static char path[2 * PATH];
    snprintf(path, sizeof path, "%.511s/%.511s", directory, name);
    return path;
}

static inline bool there(const char *directory, const char *name) {
    struct stat status;
    return lstat(below(directory, name), &status) == 0;
}

static inline void write_file(const char *directory, const char *name, const char *text) {
    FILE *file = fopen(below(directory, name), "wb");
    assert_true(file && fwrite(text, 1, strlen(text), file) == strlen(text) && fclose(file) == 0);
}

static inline void check_link(const char *directory, const char *link, const char *target) {
    char found[PATH] = "";
    if (readlink(below(directory, link), found, sizeof found - 1) < 0 || strcmp(found, target))
        fail_msg("%s points to '%s' instead of %s", link, found, target);
}

#endif
