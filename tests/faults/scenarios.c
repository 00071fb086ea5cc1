// The commands that meet faults, on data of a few kilobytes: a run that goes on and saves over what it has, a run's first
// save, text that is prepared, over other prepared text or into a new folder, from files and from standard input, a
// model that is exported, as one file or as a folder, a comparison that goes on, and what a model is found to be.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "core/files.h"
#include "tests/faults/harness.h"

// ---- comparing -------------------------------------------------------------------------------------------------------

// Metrics without times, which differ from run to run.
static void cut_times(char *text) {
    char *to = text;
    for (char *from = text; *from;) {
        char *end = from + strcspn(from, "\n"), *time = strstr(from, ",\"time\":");
        char *stop = time && time < end ? time : end;
        memmove(to, from, (size_t)(stop - from));
        to += stop - from;
        from = *end ? end + 1 : end;
        *to++ = '\n';
    }
    *to = 0;
}

static bool same_file(const char *folder, const char *reference, const char *name, bool metrics, char *why) {
    char paths[2][PATH_MAX];
    path_of(paths[0], reference, name);
    path_of(paths[1], folder, name);
    size_t sizes[2];
    char *texts[2];
    for (size_t i = 0; i < 2; i++) {
        texts[i] = contents(paths[i], &sizes[i]);
        if (texts[i] && metrics) {
            cut_times(texts[i]);
            sizes[i] = strlen(texts[i]);
        }
    }
    bool same = texts[0] && texts[1] && sizes[0] == sizes[1] && !memcmp(texts[0], texts[1], sizes[0]);
    if (!same) snprintf(why, PATHS, "%.200s is not what it would have been", name);
    free(texts[0]);
    free(texts[1]);
    return same;
}

// Nothing temporary is left.
static bool clean(const char *folder, char *why) {
    char path[PATH_MAX];
    path_of(path, folder, "");
    DIR *listing = opendir(path);
    if (!listing) die(path);
    bool good = true;
    for (struct dirent *entry; (entry = readdir(listing));)
        if (strstr(entry->d_name, ".tmp") || strstr(entry->d_name, ".old") || strstr(entry->d_name, ".new")) {
            snprintf(why, PATHS, "%.200s is left over", entry->d_name);
            good = false;
        }
    closedir(listing);
    return good;
}

// ---- runs ------------------------------------------------------------------------------------------------------------

static const char *const starting[] = {"train", "--config", "run.ini", "--train.out=case", "--train.steps=4", NULL};
static const char *const resuming_first[] = {"train", "--resume", "case", "--train.steps=4", NULL};
static const char *const continuing[] = {"train", "--resume", "case", "--train.steps=8", NULL};
static const char *const evaluating[] = {"eval", "case", NULL};

// The whole of the run against the reference: last checkpoint, links, metrics; nothing temporary left.
static bool same_run(const char *reference, size_t step, char *why) {
    static const char *const files[] = {"config.json", "model.safetensors", "optimizer.safetensors", "state.json",
                                        "tokenizer.model"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[PATHS];
        snprintf(name, sizeof name, "step_%08zu/%s", step, files[i]);
        if (!same_file("case", reference, name, false, why)) return false;
        snprintf(name, sizeof name, "latest/%s", files[i]);
        if (!same_file("case", reference, name, false, why)) return false;
    }
    return same_file("case", reference, "metrics.jsonl", true, why) && clean("case", why);
}

static bool ran_to_8(char *why) { return same_run("reference", 8, why); }
static bool ran_to_4(char *why) { return same_run("template", 4, why); }

static bool succeeds(const char *const *command, char *why) {
    const int status = run_rope(command, NULL).status;
    if (status) snprintf(why, PATHS, "rope %s afterwards: status %x", command[0], (unsigned)status);
    return status == 0;
}

// A command that has nothing to work with: exit code 2, and these words.
static bool refuses(const char *const *command, const char *words, char *why) {
    const int status = run_rope(command, NULL).status;
    if (status == 2 << 8 && log_says(words)) return true;
    snprintf(why, PATHS, "rope %s afterwards: status %x instead of a refusal with \"%s\"", command[0],
             (unsigned)status, words);
    return false;
}

// The run goes on from a checkpoint of step `least` or later.
static bool resumes(const char *const *command, size_t least, char *why) {
    if (!succeeds(command, why)) return false;
    for (size_t step = 0; step <= 8; step++) {
        char words[80];
        snprintf(words, sizeof words, "resuming case at step %zu\n", step);
        if (step >= least && log_says(words)) return true;
    }
    if (least == 0) return true;
    snprintf(why, PATHS, "step %zu was safe, and is not what the run goes on from", least);
    return false;
}

static bool later_save_recovers(bool killed, size_t least, char *why) {
    return (!killed || succeeds(evaluating, why)) && resumes(continuing, least > 4 ? least : 4, why) && ran_to_8(why);
}

static bool first_save_recovers(bool killed, size_t least, char *why) {
    if (!exists("case", "config.ini"))
        return least == 0 && refuses(resuming_first, "has no config.ini", why) && succeeds(starting, why) &&
               ran_to_4(why);
    const bool checkpoint = exists("case", "latest/config.json");
    if (killed && !checkpoint && !refuses(evaluating, exists("case", "") ? "case" : "cannot be read", why)) return false;
    if (killed && checkpoint && !succeeds(evaluating, why)) return false;
    return resumes(resuming_first, least, why) && ran_to_4(why);
}

// ---- prepared text ---------------------------------------------------------------------------------------------------

static const char *const preparing[] = {"prepare", "new.txt", "--out", "prepared", "--type", "char", NULL};
static const char *const preparing_given[] = {"prepare", "new.txt", "--out", "prepared", "--tokenizer",
                                              "old_data/tokenizer.model", NULL};
// new.txt, which is every command's standard input.
static const char *const preparing_input[] = {"prepare", "-", "--out", "prepared", "--tokenizer",
                                              "old_data/tokenizer.model", NULL};
// With the vocabulary set, as in the config.ini of a run: then it is for the loader to see that a folder is not whole.
static const char *const using_it[] = {"train", "--config", "run.ini", "--data.dir=prepared", "--train.out=used",
                                       "--train.steps=1", "--model.vocabulary=512", NULL};

static bool same_data(const char *reference, char *why) {
    static const char *const files[] = {"tokenizer.model", "train.bin", "val.bin", "meta.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (!same_file("prepared", reference, files[i], false, why)) return false;
    return true;
}

static bool prepared_trained(char *why) { return same_data("new_data", why) && clean("prepared", why); }
static bool prepared_given(char *why) { return same_data("given_data", why) && clean("prepared", why); }
static bool prepared_input(char *why) { return same_data("input_data", why) && clean("prepared", why); }

// What trains must be all old or all new; the rest is refused by name.
static bool prepare_recovers(const char *const *command, const char *before, const char *after, size_t least,
                             char *why) {
    remove_tree("used");
    const int status = run_rope(using_it, NULL).status;
    if (status == 0) {
        if (!same_data(after, why) && (least || !before || !same_data(before, why))) {
            strncat(why, ", though rope train takes it", PATHS - strlen(why) - 1);
            return false;
        }
    } else if (least || !WIFEXITED(status) || WEXITSTATUS(status) > 2 || !log_says("prepared")) {
        snprintf(why, PATHS, "rope train afterwards: status %x", (unsigned)status);
        return false;
    }
    return succeeds(command, why) && same_data(after, why) && clean("prepared", why);
}

static bool prepare_again_recovers(bool killed, size_t least, char *why) {
    (void)killed;
    return prepare_recovers(preparing, "old_data", "new_data", least, why);
}

static bool prepare_given_recovers(bool killed, size_t least, char *why) {
    (void)killed;
    return prepare_recovers(preparing_given, NULL, "given_data", least, why);
}

static bool prepare_input_recovers(bool killed, size_t least, char *why) {
    (void)killed;
    return prepare_recovers(preparing_input, "old_data", "input_data", least, why);
}

// ---- exported models -------------------------------------------------------------------------------------------------

static const char *const exporting_file[] = {"export", "template", "--format", "gguf", "--out", "exported/a.gguf", NULL};
static const char *const exporting_folder[] = {"export", "template", "--format", "bf16", "--out", "exported/a", NULL};

static bool exported_file(char *why) {
    return same_file("exported", "exported_file", "a.gguf", false, why) && clean("exported", why);
}

static bool exported_folder(char *why) {
    static const char *const files[] = {"a/config.json", "a/model.safetensors", "a/tokenizer.model"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (!same_file("exported", "exported_folder", files[i], false, why)) return false;
    return clean("exported", why);
}

// What has the name is whole, and is not written over; without it the command makes it.
static bool export_recovers(const char *const *command, const char *name, size_t least, char *why) {
    if (exists("exported", name)) return refuses(command, "exists already", why);
    if (!least) return succeeds(command, why);
    snprintf(why, PATHS, "%.200s is gone", name);
    return false;
}

static bool export_file_recovers(bool killed, size_t least, char *why) {
    (void)killed;
    return export_recovers(exporting_file, "a.gguf", least, why) && exported_file(why);
}

static bool export_folder_recovers(bool killed, size_t least, char *why) {
    (void)killed;
    return export_recovers(exporting_folder, "a", least, why) && exported_folder(why);
}

// ---- comparisons -----------------------------------------------------------------------------------------------------

// A second seed is added to what is there: the record is read, and written twice.
static const char *const comparing_one[] = {"ab", "--config", "ab.ini", "--out", "one_seed", NULL};
static const char *const comparing[] = {"ab", "--config", "ab.ini", "--out", "case", "--seeds", "2", "--resume", NULL};

// What was measured of fidelity, as the record has it: figures of the weights alone, without times.
static char *fidelity(const char *folder) {
    char path[PATH_MAX];
    size_t size;
    path_of(path, folder, "progress.json");
    char *text = contents(path, &size), *from = text ? strstr(text, "\"fidelity\"") : NULL;
    char *to = from ? strstr(from, "\"sessions\"") : NULL;
    char *part = to ? strndup(from, (size_t)(to - from)) : NULL;
    free(text);
    return part;
}

static bool compared(char *why) {
    static const char *const files[] = {"config.json", "model.safetensors", "optimizer.safetensors", "state.json"};
    for (size_t i = 0; i < 2 * sizeof files / sizeof *files; i++) {
        char name[PATHS];
        snprintf(name, sizeof name, "seed_2/%c/step_00000004/%s", i % 2 ? 'a' : 'b', files[i / 2]);
        if (!same_file("case", "compared", name, false, why)) return false;
    }
    char *reference = fidelity("compared"), *found = fidelity("case");
    const bool same = reference && found && !strcmp(reference, found);
    free(reference);
    free(found);
    if (!same) snprintf(why, PATHS, "its fidelity is not what it would have been");
    return same && exists("case", "report.html") && exists("case", "report.json") && clean("case", why);
}

// It goes on from step `least` or later.
static bool compare_recovers(bool killed, size_t least, char *why) {
    (void)killed;
    if (!succeeds(comparing, why)) return false;
    bool goes_on = least == 0 && log_says("resuming case at seed 1, step 4\n");
    for (size_t step = least; step <= 4; step++) {
        char words[80];
        snprintf(words, sizeof words, "resuming case at seed 2, step %zu\n", step);
        goes_on |= log_says(words);
    }
    if (!goes_on) snprintf(why, PATHS, "step %zu was safe, and is not what the comparison goes on from", least);
    return goes_on && compared(why);
}

// ---- figures on standard output --------------------------------------------------------------------------------------

// One thread: a child of a process that had more would wait for them for ever.
static const char *const judging[] = {"eval", "case", "--json", "--train.threads=1", NULL};
static const char *const writing[] = {"sample", "case", "--json", "--tokens", "4", "--train.threads=1", NULL};

// All that was printed, but for times, as it was without faults.
static bool printed(const char *reference, char *why) {
    char path[PATH_MAX];
    size_t size;
    path_of(path, reference, "");
    char *expected = contents(path, &size), *next = expected;
    if (!expected) die(path);
    bool same = true;
    for (char *line; same && (line = strsep(&next, "\n"));) same = strstr(line, "tokens_per_s") || log_says(line);
    free(expected);
    if (!same) snprintf(why, PATHS, "it printed something else");
    return same;
}

static bool judged(char *why) { return printed("judged", why); }
static bool written(char *why) { return printed("written", why); }

static bool judging_recovers(bool killed, size_t least, char *why) {
    (void)killed, (void)least;
    return succeeds(judging, why) && judged(why);
}

static bool writing_recovers(bool killed, size_t least, char *why) {
    (void)killed, (void)least;
    return succeeds(writing, why) && written(why);
}

// ---- all of them -----------------------------------------------------------------------------------------------------

const Scenario scenarios[SCENARIOS] = {
    [SCENARIO_LATER_SAVE] = {"later saves", continuing, "case", "template", ran_to_8, later_save_recovers, 8, false},
    [SCENARIO_FIRST_SAVE] = {"first save", starting, "case", NULL, ran_to_4, first_save_recovers, 4, false},
    [SCENARIO_PREPARE_AGAIN] = {"prepare over another", preparing, "prepared", "old_data", prepared_trained,
                                prepare_again_recovers, 1, false},
    [SCENARIO_PREPARE] = {"prepare", preparing_given, "prepared", NULL, prepared_given, prepare_given_recovers, 1, false},
    [SCENARIO_PREPARE_INPUT] = {"prepare from standard input", preparing_input, "prepared", "old_data", prepared_input,
                                prepare_input_recovers, 1, false},
    [SCENARIO_EXPORT_FILE] = {"export of a file", exporting_file, "exported", NULL, exported_file,
                              export_file_recovers, 1, false},
    [SCENARIO_EXPORT_FOLDER] = {"export of a folder", exporting_folder, "exported", NULL, exported_folder,
                                export_folder_recovers, 1, false},
    [SCENARIO_COMPARE] = {"comparison", comparing, "case", "one_seed", compared, compare_recovers, 4, false},
    [SCENARIO_JUDGE] = {"figures", judging, "case", "template", judged, judging_recovers, 0, true},
    [SCENARIO_WRITE] = {"sample", writing, "case", "template", written, writing_recovers, 0, true},
};

void scenario_reset(const Scenario *scenario) { reset_tree(scenario->folder, scenario->initial); }

static void write_text(const char *name, const char *text, size_t repeats) {
    char path[PATH_MAX];
    path_of(path, name, "");
    FILE *file = fopen(path, "w");
    if (!file) die(path);
    for (size_t i = 0; i < repeats; i++) fprintf(file, text, i % 7, i * i % 31);
    if (fclose(file) != 0) die(path);
}

// Runs the command and leaves what it makes under another name.
static void keep_result(const Scenario *scenario, const char *name) {
    char from[PATH_MAX], to[PATH_MAX];
    scenario_reset(scenario);
    must_run(scenario->command);
    path_of(from, scenario->folder, "");
    path_of(to, name, "");
    if (rename(from, to) != 0) die(to);
}

// Leaves what the command prints in a file.
static void keep_log(const Scenario *scenario, const char *name) {
    char from[PATH_MAX], to[PATH_MAX];
    scenario_reset(scenario);
    must_run(scenario->command);
    path_of(from, "log", "");
    path_of(to, name, "");
    if (rename(from, to) != 0) die(to);
}

void scenarios_set_up(void) {
    directory_remove(fault_root, NULL);
    Error error = {0};
    if (!directory_make(fault_root, &error)) die(error.message);
    write_text("text.txt", "%zu lines of the king and %zu men went up the hill\n", 300);
    write_text("old.txt", "%zu ships sailed for %zu days\n", 30);
    write_text("new.txt", "the %zu hares ran from %zu foxes, quickly\n", 25);
    write_text("run.ini", "[model]\nlayers = 1\nwidth = 16\nheads = 2\ntokens = 16\n[data]\ndir = data\n[train]\n"
               "batch = 2\naccumulate = 1\nthreads = 1\neval_every = 2\neval_batches = 1\nsave_every = 2\n"
               "log_every = 1\nkeep = 2\n[optim]\nschedule = constant\nwarmup = 0\n", 1);
    write_text("ab.ini", "[model]\nlayers = 1\nwidth = 16\nheads = 2\ntokens = 16\n[attention]\nnear = 4\n[data]\n"
               "task = induction\n[train]\nbatch = 1\nthreads = 1\nsteps = 4\neval_every = 2\neval_batches = 1\n", 1);
    must_run((const char *const[]){"prepare", "text.txt", "--out", "data", "--type", "char", NULL});
    must_run((const char *const[]){"prepare", "old.txt", "--out", "old_data", "--type", "char", NULL});
    keep_result(&scenarios[SCENARIO_FIRST_SAVE], "template");
    keep_result(&scenarios[SCENARIO_LATER_SAVE], "reference");
    keep_log(&scenarios[SCENARIO_JUDGE], "judged");
    keep_log(&scenarios[SCENARIO_WRITE], "written");
    keep_result(&scenarios[SCENARIO_PREPARE_AGAIN], "new_data");
    keep_result(&scenarios[SCENARIO_PREPARE], "given_data");
    keep_result(&scenarios[SCENARIO_PREPARE_INPUT], "input_data");
    keep_result(&scenarios[SCENARIO_EXPORT_FILE], "exported_file");
    keep_result(&scenarios[SCENARIO_EXPORT_FOLDER], "exported_folder");
    must_run(comparing_one);
    keep_result(&scenarios[SCENARIO_COMPARE], "compared");
}
