// Power loss: a command's changes are recorded call by call, and after each of them every state is built that a disk may
// be in when the power goes (disk.h), and looked at as the next user would.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "tests/faults/disk.h"

typedef struct Replay {
    const Scenario *scenario;
    size_t stride, only;
    uint64_t *seen;
    size_t seen_count, seen_capacity;
    size_t least;  // what must not be lost any more
    bool finished; // the command has reported success
    size_t cases, failures;
    const char *row;
} Replay;

static bool is_new(Replay *replay, uint64_t hash) {
    for (size_t i = 0; i < replay->seen_count; i++)
        if (replay->seen[i] == hash) return false;
    if (replay->seen_count == replay->seen_capacity) {
        replay->seen_capacity = 2 * replay->seen_capacity + 1024;
        replay->seen = realloc(replay->seen, replay->seen_capacity * sizeof *replay->seen);
        if (!replay->seen) die("states");
    }
    replay->seen[replay->seen_count++] = hash;
    return true;
}

static void try_state(Replay *replay) {
    const Scenario *scenario = replay->scenario;
    const int at = disk_find(disk_names(&disk[0]), scenario->folder);
    const int folder = at < 0 ? -1 : disk_names(&disk[0])->node[at];
    const uint64_t hash = folder < 0 ? 0 : disk_hash(folder);
    if (!is_new(replay, disk_mix(hash, &replay->least, sizeof replay->least))) return;
    const size_t number = replay->seen_count;
    // The few states that come after the last word are never left out: a lost flush at the end shows there only.
    if (replay->only ? number != replay->only : !replay->finished && (number - 1) % replay->stride) return;
    char path[PATH_MAX], why[PATHS] = "";
    remove_tree(scenario->folder);
    path_of(path, scenario->folder, "");
    if (folder >= 0) disk_build(folder, path);
    report_case(replay->row, number, scenario->recovers(true, replay->least, why), why, &replay->failures);
    replay->cases++;
}

// Every combination of choices of all nodes of that kind. Which of them a state reaches depends on its choices, so they
// count like the digits of a number, those that are out of reach staying at 0.
static void try_combinations(Replay *replay, NodeKind kind, void (*each)(Replay *replay)) {
    int found[NODES];
    for (int i = 0; i < disk_count; i++)
        if (disk[i].kind == kind) disk[i].choice = 0;
    for (;;) {
        size_t i = disk_reach(0, found, 0);
        each(replay);
        for (; i > 0; i--) {
            Node *node = &disk[found[i - 1]];
            if (node->kind != kind) continue;
            if (++node->choice < disk_choices(node)) break;
            node->choice = 0;
        }
        if (i == 0) return;
    }
}

// With many unflushed files: each in every way, the others with all of their data or with none.
static void try_one_by_one(Replay *replay) {
    int found[NODES];
    const size_t count = disk_reach(0, found, 0);
    for (size_t base = DATA_NONE; base <= DATA_ALL; base++) {
        for (int i = 0; i < disk_count; i++)
            if (disk[i].kind == NODE_FILE && disk[i].change_count) disk[i].choice = base;
        try_state(replay);
        for (size_t i = 0; i < count; i++) {
            Node *node = &disk[found[i]];
            if (node->kind != NODE_FILE || !node->change_count) continue;
            for (node->choice = 0; node->choice < disk_choices(node); node->choice++) try_state(replay);
            node->choice = base;
        }
    }
}

static void try_files(Replay *replay) {
    enum { COMBINATIONS = 200 };
    int found[NODES];
    size_t combinations = 1;
    for (size_t count = disk_reach(0, found, 0), i = 0; i < count && combinations <= COMBINATIONS; i++)
        if (disk[found[i]].kind == NODE_FILE) combinations *= disk_choices(&disk[found[i]]);
    if (combinations <= COMBINATIONS)
        try_combinations(replay, NODE_FILE, try_state);
    else
        try_one_by_one(replay);
}

// All choices of all that is unflushed.
static void try_all(Replay *replay) { try_combinations(replay, NODE_DIRECTORY, try_files); }

// The newest step_N that the run's directory holds for good.
static size_t safe_step(const Scenario *scenario) {
    const Names *root = disk[0].before_count ? disk[0].before[0] : &disk[0].names;
    const int at = disk_find(root, scenario->folder);
    if (at < 0) return 0;
    const Node *folder = &disk[root->node[at]];
    const Names *names = folder->before_count ? folder->before[0] : &folder->names;
    size_t newest = 0;
    for (size_t i = 0; i < names->count; i++) {
        char *end;
        const size_t step = strncmp(names->name[i], "step_", 5) ? 0 : strtoul(names->name[i] + 5, &end, 10);
        if (step > newest && !*end) newest = step;
    }
    return newest;
}

static Bytes record_of(const Scenario *scenario) {
    const int record = memfd_create("record", 0);
    if (record < 0) die("memfd_create");
    scenario_reset(scenario);
    if (run_rope(scenario->command, &(Armed){.record = record}).status != 0) {
        show_log();
        errno = 0;
        die("a run without faults fails");
    }
    struct stat status;
    if (fstat(record, &status) != 0) die("record");
    Bytes bytes = {malloc((size_t)status.st_size + 1), (size_t)status.st_size};
    if (!bytes.data || pread(record, bytes.data, bytes.size, 0) != (ssize_t)bytes.size) die("record");
    close(record);
    return bytes;
}

void replay_power_loss(const Scenario *scenario, const char *row, size_t stride, size_t only) {
    const double start = clock_seconds();
    Bytes record = record_of(scenario);
    Replay replay = {.scenario = scenario, .row = row, .stride = stride, .only = only};
    scenario_reset(scenario);
    disk_begin(scenario->initial ? scenario->folder : NULL);
    const bool saves = scenario->promised > 1;
    size_t changes = 0;
    replay.least = saves ? safe_step(scenario) : 0;
    try_all(&replay);
    for (size_t at = 0; at < record.size;) {
        Change change;
        memcpy(&change, record.data + at, sizeof change);
        at += sizeof change;
        const char *path = change.path_size ? (const char *)record.data + at : NULL;
        const char *other = change.other_size ? (const char *)record.data + at + change.path_size : NULL;
        at += change.path_size + change.other_size;
        const bool changed = disk_apply(&change, path, other, record.data + at);
        at += change.data_size;
        if (!changed) continue;
        changes++;
        const size_t safe = saves ? safe_step(scenario) : 0;
        if (safe > replay.least) replay.least = safe;
        try_all(&replay);
    }
    // The command has said that it is done: now all of it must be there, whatever was not flushed.
    replay.least = scenario->promised;
    replay.finished = true;
    try_all(&replay);
    printf("%s: %zu cases of %zu states after %zu changes, %zu failures, %.1f s\n", row, replay.cases,
           replay.seen_count, changes, replay.failures, clock_seconds() - start);
    fflush(stdout);
    disk_end();
    free(replay.seen);
    free(record.data);
}
