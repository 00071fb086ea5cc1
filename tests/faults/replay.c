// Power loss: a command's changes are recorded call by call, and after each of them every state is built that a disk may
// be in when the power goes, and looked at as the next user would.
//
// What survives is what POSIX promises and no more:
// - a file's data that no fsync of that file has covered may be there, not there, torn anywhere, or there without what
//   was written before; the file may also have its length already and zeros instead of data (delayed allocation);
// - names (of new, renamed, removed files) that no fsync of their directory has covered may be there or not, in their
//   order within a directory, and whatever happens to the names of other directories.
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/files.h"
#include "tests/faults/harness.h"

enum { NODES = 256, NAMES = 64, PENDING = 64, NAME = 64, DESCRIPTORS = 256 };

typedef enum NodeKind { NODE_FILE, NODE_DIRECTORY, NODE_LINK } NodeKind;

typedef struct Bytes {
    unsigned char *data;
    size_t size;
} Bytes;

typedef struct Names { // of a directory
    size_t count;
    char name[NAMES][NAME];
    int node[NAMES];
} Names;

typedef struct DataChange { // of a file, not yet flushed
    bool truncates;         // to offset
    size_t offset, size;
    const unsigned char *data; // in the record
} DataChange;

typedef struct Node {
    NodeKind kind;
    char target[NAME]; // of a link
    Bytes safe;        // contents that fsync has covered
    size_t length;     // of the contents as the program sees them
    DataChange changes[PENDING];
    size_t change_count;
    // Of a directory: before[i] is what it was before the i-th unflushed change, `names` what the program sees.
    Names names, *before[PENDING];
    size_t before_count;
    // The choice of what survives: changes to its names, or one of the ways to lose data.
    size_t choice, choices;
} Node;

static Node *nodes;
static int node_count;

static int new_node(NodeKind kind) {
    if (node_count == NODES) die("too many files");
    memset(&nodes[node_count], 0, sizeof *nodes);
    nodes[node_count].kind = kind;
    return node_count++;
}

// ---- names -----------------------------------------------------------------------------------------------------------

static int find_name(const Names *names, const char *name) {
    for (size_t i = 0; i < names->count; i++)
        if (!strcmp(names->name[i], name)) return (int)i;
    return -1;
}

static void set_name(Names *names, const char *name, int node) {
    int at = find_name(names, name);
    if (at < 0) {
        if (names->count == NAMES || strlen(name) >= NAME) die("too many names, or too long ones");
        at = (int)names->count++;
        snprintf(names->name[at], NAME, "%s", name);
    }
    names->node[at] = node;
}

static void drop_name(Names *names, const char *name) {
    const int at = find_name(names, name);
    if (at < 0) die(name);
    const size_t last = --names->count;
    memmove(names->name[at], names->name[last], NAME);
    names->node[at] = names->node[last];
}

// The directory that holds the last component of a path below the root (node 0), and that component. -1: it is
// somewhere else, where the command only reads.
static int resolve(const char *path, char last[NAME]) {
    const size_t length = strlen(fault_root);
    if (!strncmp(path, fault_root, length) && (path[length] == '/' || !path[length])) path += length;
    else if (*path == '/') return -1;
    int folder = 0;
    snprintf(last, NAME, ".");
    while (*path) {
        path += strspn(path, "/");
        const size_t size = strcspn(path, "/");
        if (!size) break;
        if (strcmp(last, ".")) {
            const int at = find_name(&nodes[folder].names, last);
            if (at < 0) return -1;
            folder = nodes[folder].names.node[at];
        }
        snprintf(last, NAME, "%.*s", (int)size, path);
        path += size;
    }
    return folder;
}

static int node_at(const char *path) {
    char last[NAME];
    const int folder = resolve(path, last);
    if (folder < 0 || !strcmp(last, ".")) return folder;
    const int at = find_name(&nodes[folder].names, last);
    return at < 0 ? -1 : nodes[folder].names.node[at];
}

// Call it before the names of a directory change.
static Names *changing(int folder) {
    Node *node = &nodes[folder];
    if (node->before_count == PENDING) die("too many unflushed names");
    Names *copy = malloc(sizeof *copy);
    if (!copy) die("names");
    *copy = node->names;
    node->before[node->before_count++] = copy;
    return &node->names;
}

// ---- the record ------------------------------------------------------------------------------------------------------

static int descriptors[DESCRIPTORS]; // node of each, or -1

// One call, as it changes what the program sees. False if it changes nothing that could be lost.
static bool apply(const Change *change, const char *path, const char *other, const unsigned char *data) {
    char name[NAME], second[NAME];
    const int descriptor = change->descriptor, folder = path ? resolve(path, name) : -1;
    int node = descriptor >= 0 && descriptor < DESCRIPTORS ? descriptors[descriptor] : -1;
    switch ((ChangeKind)change->kind) {
    case CHANGE_OPEN: {
        if (descriptor >= DESCRIPTORS) die("descriptor");
        const bool writes = (change->flags & O_ACCMODE) != O_RDONLY;
        node = folder < 0 ? -1 : node_at(path);
        descriptors[descriptor] = node;
        if (folder < 0 || !writes) return false;
        if (node < 0) {
            descriptors[descriptor] = node = new_node(NODE_FILE);
            set_name(changing(folder), name, node);
            return true;
        }
        if (!(change->flags & O_TRUNC) || nodes[node].length == 0) return false;
        nodes[node].changes[nodes[node].change_count++] = (DataChange){.truncates = true};
        nodes[node].length = 0;
        return true;
    }
    case CHANGE_CLOSE: descriptors[descriptor] = -1; return false;
    case CHANGE_WRITE:
    case CHANGE_TRUNCATE: {
        if (node < 0) return false;
        Node *file = &nodes[node];
        const bool truncates = change->kind == CHANGE_TRUNCATE;
        const size_t offset = change->offset < 0 ? file->length : (size_t)change->offset;
        if (file->change_count == PENDING) die("too many unflushed writes");
        file->changes[file->change_count++] = (DataChange){truncates, offset, change->data_size, data};
        if (truncates) file->length = offset;
        else if (offset + change->data_size > file->length) file->length = offset + change->data_size;
        return true;
    }
    case CHANGE_SYNC: {
        if (node < 0) return false;
        Node *flushed = &nodes[node];
        for (size_t i = 0; i < flushed->before_count; i++) free(flushed->before[i]);
        flushed->before_count = 0;
        for (size_t i = 0; i < flushed->change_count; i++) {
            const DataChange *done = &flushed->changes[i];
            const size_t end = done->truncates ? done->offset : done->offset + done->size;
            const size_t size = done->truncates || end > flushed->safe.size ? end : flushed->safe.size;
            unsigned char *grown = realloc(flushed->safe.data, size + 1);
            if (!grown) die("contents");
            if (size > flushed->safe.size) memset(grown + flushed->safe.size, 0, size - flushed->safe.size);
            if (!done->truncates) memcpy(grown + done->offset, done->data, done->size);
            flushed->safe = (Bytes){grown, size};
        }
        flushed->change_count = 0;
        return true;
    }
    case CHANGE_RENAME: {
        const int target = resolve(other, second);
        if (folder < 0 || folder != target) die("a rename across directories"); // would be two changes
        node = node_at(path);
        Names *names = changing(folder);
        drop_name(names, name);
        set_name(names, second, node);
        return true;
    }
    case CHANGE_EXCHANGE: {
        if (folder < 0 || folder != resolve(other, second)) die("an exchange across directories");
        const int first = node_at(path), last = node_at(other);
        Names *names = changing(folder);
        set_name(names, name, last);
        set_name(names, second, first);
        return true;
    }
    case CHANGE_MKDIR:
        if (folder < 0) die(path);
        node = new_node(NODE_DIRECTORY);
        set_name(changing(folder), name, node);
        return true;
    case CHANGE_REMOVE:
        if (folder < 0) die(path);
        drop_name(changing(folder), name);
        return true;
    case CHANGE_LINK: {
        const int parent = resolve(other, second);
        if (parent < 0) die(other);
        node = new_node(NODE_LINK);
        snprintf(nodes[node].target, NAME, "%s", path);
        set_name(changing(parent), second, node);
        return true;
    }
    }
    return false;
}

// What is on the disk before the command runs, all of it safe.
static int load_node(const char *path) {
    struct stat status;
    if (lstat(path, &status) != 0) die(path);
    const int node = new_node(S_ISDIR(status.st_mode) ? NODE_DIRECTORY : S_ISLNK(status.st_mode) ? NODE_LINK : NODE_FILE);
    if (S_ISLNK(status.st_mode)) {
        if (readlink(path, nodes[node].target, NAME - 1) < 0) die(path);
    } else if (S_ISREG(status.st_mode)) {
        nodes[node].safe.data = (unsigned char *)contents(path, &nodes[node].safe.size);
        nodes[node].length = nodes[node].safe.size;
    } else {
        DIR *listing = opendir(path);
        if (!listing) die(path);
        for (struct dirent *entry; (entry = readdir(listing));) {
            char below[PATH_MAX];
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
            snprintf(below, sizeof below, "%.1500s/%.255s", path, entry->d_name);
            set_name(&nodes[node].names, entry->d_name, load_node(below));
        }
        closedir(listing);
    }
    return node;
}

// ---- states ----------------------------------------------------------------------------------------------------------

// Ways in which unflushed data of a file survive; beyond them, torn writes at every TORN bytes.
enum { DATA_NONE, DATA_ALL, DATA_LAST_ONLY, DATA_LENGTH_ONLY, DATA_TORN, TORN = 512 };

static size_t torn_places(const DataChange *last) { return last->truncates ? 0 : 2 + last->size / TORN; }

// Where the last write ends when torn: after 1 byte, at each multiple of TORN, before the last byte.
static size_t torn_size(const DataChange *last, size_t place) {
    const size_t size = place == 0 ? 1 : place * TORN;
    return size < last->size ? size : last->size - 1;
}

static size_t count_choices(const Node *node) {
    if (node->kind == NODE_DIRECTORY) return node->before_count + 1;
    if (!node->change_count) return 1;
    return DATA_TORN + torn_places(&node->changes[node->change_count - 1]);
}

static void put(Bytes *bytes, size_t offset, const unsigned char *data, size_t size) {
    if (offset + size > bytes->size) {
        bytes->data = realloc(bytes->data, offset + size + 1);
        if (!bytes->data) die("contents");
        memset(bytes->data + bytes->size, 0, offset + size - bytes->size);
        bytes->size = offset + size;
    }
    if (data && size) memcpy(bytes->data + offset, data, size);
}

// The contents of a file in the state that its choice says; to be freed.
static Bytes surviving(const Node *file) {
    Bytes bytes = {malloc(file->safe.size + 1), file->safe.size};
    if (!bytes.data) die("contents");
    if (file->safe.size) memcpy(bytes.data, file->safe.data, file->safe.size);
    for (size_t i = 0; i < file->change_count && file->choice != DATA_NONE; i++) {
        const DataChange *change = &file->changes[i];
        const bool last = i + 1 == file->change_count;
        if (file->choice == DATA_LAST_ONLY && !last) continue;
        size_t size = change->size;
        if (file->choice >= DATA_TORN && last) size = torn_size(change, file->choice - DATA_TORN);
        if (change->truncates && change->offset < bytes.size) bytes.size = change->offset;
        else put(&bytes, change->offset, file->choice == DATA_LENGTH_ONLY ? NULL : change->data, size);
    }
    return bytes;
}

static const Names *surviving_names(const Node *folder) {
    return folder->choice < folder->before_count ? folder->before[folder->choice] : &folder->names;
}

// Everything below `node` that this state reaches: into `found`, at most NODES.
static size_t reach(int node, int *found, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (found[i] == node) return count;
    found[count++] = node;
    if (nodes[node].kind != NODE_DIRECTORY) return count;
    const Names *names = surviving_names(&nodes[node]);
    for (size_t i = 0; i < names->count; i++) count = reach(names->node[i], found, count);
    return count;
}

static uint64_t mix(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

// Of the whole state, in which the order of names does not count.
static uint64_t hash_of(int node) {
    const Node *at = &nodes[node];
    uint64_t hash = 14695981039346656037u + at->kind;
    if (at->kind == NODE_LINK) return mix(hash, at->target, strlen(at->target));
    if (at->kind == NODE_FILE) {
        Bytes bytes = surviving(at);
        hash = mix(hash, bytes.data, bytes.size);
        free(bytes.data);
        return hash;
    }
    const Names *names = surviving_names(at);
    for (size_t i = 0; i < names->count; i++) {
        const uint64_t below = hash_of(names->node[i]);
        hash += mix(mix(14695981039346656037u, names->name[i], strlen(names->name[i])), &below, sizeof below);
    }
    return mix(hash, &names->count, sizeof names->count);
}

static void build(int node, const char *path) {
    const Node *at = &nodes[node];
    if (at->kind == NODE_LINK) {
        if (symlink(at->target, path) != 0) die(path);
    } else if (at->kind == NODE_FILE) {
        Bytes bytes = surviving(at);
        int descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
        if (descriptor < 0 || write(descriptor, bytes.data, bytes.size) != (ssize_t)bytes.size) die(path);
        close(descriptor);
        free(bytes.data);
    } else {
        const Names *names = surviving_names(at);
        if (mkdir(path, 0777) != 0) die(path);
        for (size_t i = 0; i < names->count; i++) {
            char below[PATH_MAX];
            snprintf(below, sizeof below, "%.1500s/%.255s", path, names->name[i]);
            build(names->node[i], below);
        }
    }
}

// ---- trying them -----------------------------------------------------------------------------------------------------

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
    const int at = find_name(surviving_names(&nodes[0]), scenario->folder);
    const int folder = at < 0 ? -1 : surviving_names(&nodes[0])->node[at];
    const uint64_t hash = folder < 0 ? 0 : hash_of(folder);
    if (!is_new(replay, mix(hash, &replay->least, sizeof replay->least))) return;
    const size_t number = replay->seen_count;
    // The few states that come after the last word are never left out: a lost flush at the end shows there only.
    if (replay->only ? number != replay->only : !replay->finished && (number - 1) % replay->stride) return;
    char path[PATH_MAX], why[PATHS] = "";
    remove_tree(scenario->folder);
    path_of(path, scenario->folder, "");
    if (folder >= 0) build(folder, path);
    report_case(replay->row, number, scenario->recovers(true, replay->least, why), why, &replay->failures);
    replay->cases++;
}

// Every combination of choices of all nodes of that kind. Which of them a state reaches depends on its choices, so they
// count like the digits of a number, those that are out of reach staying at 0.
static void try_combinations(Replay *replay, NodeKind kind, void (*each)(Replay *replay)) {
    int found[NODES];
    for (int i = 0; i < node_count; i++)
        if (nodes[i].kind == kind) nodes[i].choice = 0;
    for (;;) {
        size_t i = reach(0, found, 0);
        each(replay);
        for (; i > 0; i--) {
            Node *node = &nodes[found[i - 1]];
            if (node->kind != kind) continue;
            if (++node->choice < count_choices(node)) break;
            node->choice = 0;
        }
        if (i == 0) return;
    }
}

// With many unflushed files: each in every way, the others with all of their data or with none.
static void try_one_by_one(Replay *replay) {
    int found[NODES];
    const size_t count = reach(0, found, 0);
    for (size_t base = DATA_NONE; base <= DATA_ALL; base++) {
        for (int i = 0; i < node_count; i++)
            if (nodes[i].kind == NODE_FILE && nodes[i].change_count) nodes[i].choice = base;
        try_state(replay);
        for (size_t i = 0; i < count; i++) {
            Node *node = &nodes[found[i]];
            if (node->kind != NODE_FILE || !node->change_count) continue;
            for (node->choice = 0; node->choice < count_choices(node); node->choice++) try_state(replay);
            node->choice = base;
        }
    }
}

static void try_files(Replay *replay) {
    enum { COMBINATIONS = 200 };
    int found[NODES];
    size_t combinations = 1;
    for (size_t count = reach(0, found, 0), i = 0; i < count && combinations <= COMBINATIONS; i++)
        if (nodes[found[i]].kind == NODE_FILE) combinations *= count_choices(&nodes[found[i]]);
    if (combinations <= COMBINATIONS)
        try_combinations(replay, NODE_FILE, try_state);
    else
        try_one_by_one(replay);
}

// All choices of all that is unflushed.
static void try_all(Replay *replay) { try_combinations(replay, NODE_DIRECTORY, try_files); }

// The newest step_N that the run's directory holds for good.
static size_t safe_step(const Scenario *scenario) {
    const Names *root = nodes[0].before_count ? nodes[0].before[0] : &nodes[0].names;
    const int at = find_name(root, scenario->folder);
    if (at < 0) return 0;
    const Node *folder = &nodes[root->node[at]];
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
    nodes = calloc(NODES, sizeof *nodes);
    if (!nodes) die("nodes");
    node_count = 0;
    new_node(NODE_DIRECTORY);
    scenario_reset(scenario);
    if (scenario->initial) {
        char path[PATH_MAX];
        path_of(path, scenario->folder, "");
        set_name(&nodes[0].names, scenario->folder, load_node(path));
    }
    for (size_t i = 0; i < DESCRIPTORS; i++) descriptors[i] = -1;
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
        const bool changed = apply(&change, path, other, record.data + at);
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
    for (int i = 0; i < node_count; i++) {
        for (size_t k = 0; k < nodes[i].before_count; k++) free(nodes[i].before[k]);
        free(nodes[i].safe.data);
    }
    free(nodes);
    free(replay.seen);
    free(record.data);
}
