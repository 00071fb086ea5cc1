// The disk of disk.h: names and data as the program sees them, what survives of them, and the record that changes them.
#include "tests/faults/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

Node *disk;
int disk_count;

static int new_node(NodeKind kind) {
    if (disk_count == NODES) die("too many files");
    memset(&disk[disk_count], 0, sizeof *disk);
    disk[disk_count].kind = kind;
    return disk_count++;
}

// ---- names -----------------------------------------------------------------------------------------------------------

int disk_find(const Names *names, const char *name) {
    for (size_t i = 0; i < names->count; i++)
        if (!strcmp(names->name[i], name)) return (int)i;
    return -1;
}

static void set_name(Names *names, const char *name, int node) {
    int at = disk_find(names, name);
    if (at < 0) {
        if (names->count == NAMES || strlen(name) >= NAME) die("too many names, or too long ones");
        at = (int)names->count++;
        snprintf(names->name[at], NAME, "%s", name);
    }
    names->node[at] = node;
}

static void drop_name(Names *names, const char *name) {
    const int at = disk_find(names, name);
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
            const int at = disk_find(&disk[folder].names, last);
            if (at < 0) return -1;
            folder = disk[folder].names.node[at];
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
    const int at = disk_find(&disk[folder].names, last);
    return at < 0 ? -1 : disk[folder].names.node[at];
}

// Call it before the names of a directory change.
static Names *changing(int folder) {
    Node *node = &disk[folder];
    if (node->before_count == PENDING) die("too many unflushed names");
    Names *copy = malloc(sizeof *copy);
    if (!copy) die("names");
    *copy = node->names;
    node->before[node->before_count++] = copy;
    return &node->names;
}

// ---- states ----------------------------------------------------------------------------------------------------------

enum { TORN = 512 }; // writes are torn at its multiples

static size_t torn_places(const DataChange *last) { return last->truncates ? 0 : 2 + last->size / TORN; }

// Where the last write ends when torn: after 1 byte, at each multiple of TORN, before the last byte.
static size_t torn_size(const DataChange *last, size_t place) {
    const size_t size = place == 0 ? 1 : place * TORN;
    return size < last->size ? size : last->size - 1;
}

size_t disk_choices(const Node *node) {
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

const Names *disk_names(const Node *folder) {
    return folder->choice < folder->before_count ? folder->before[folder->choice] : &folder->names;
}

size_t disk_reach(int node, int *found, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (found[i] == node) return count;
    found[count++] = node;
    if (disk[node].kind != NODE_DIRECTORY) return count;
    const Names *names = disk_names(&disk[node]);
    for (size_t i = 0; i < names->count; i++) count = disk_reach(names->node[i], found, count);
    return count;
}

uint64_t disk_mix(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

uint64_t disk_hash(int node) {
    const Node *at = &disk[node];
    uint64_t hash = 14695981039346656037u + at->kind;
    if (at->kind == NODE_LINK) return disk_mix(hash, at->target, strlen(at->target));
    if (at->kind == NODE_FILE) {
        Bytes bytes = surviving(at);
        hash = disk_mix(hash, bytes.data, bytes.size);
        free(bytes.data);
        return hash;
    }
    const Names *names = disk_names(at);
    for (size_t i = 0; i < names->count; i++) {
        const uint64_t below = disk_hash(names->node[i]);
        hash += disk_mix(disk_mix(14695981039346656037u, names->name[i], strlen(names->name[i])), &below, sizeof below);
    }
    return disk_mix(hash, &names->count, sizeof names->count);
}

void disk_build(int node, const char *path) {
    const Node *at = &disk[node];
    if (at->kind == NODE_LINK) {
        if (symlink(at->target, path) != 0) die(path);
    } else if (at->kind == NODE_FILE) {
        Bytes bytes = surviving(at);
        int descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
        if (descriptor < 0 || write(descriptor, bytes.data, bytes.size) != (ssize_t)bytes.size) die(path);
        close(descriptor);
        free(bytes.data);
    } else {
        const Names *names = disk_names(at);
        if (mkdir(path, 0777) != 0) die(path);
        for (size_t i = 0; i < names->count; i++) {
            char below[PATH_MAX];
            snprintf(below, sizeof below, "%.1500s/%.255s", path, names->name[i]);
            disk_build(names->node[i], below);
        }
    }
}

// ---- the record ------------------------------------------------------------------------------------------------------

enum { DESCRIPTORS = 256 };

static int descriptors[DESCRIPTORS]; // node of each, or -1

bool disk_apply(const Change *change, const char *path, const char *other, const unsigned char *data) {
    char name[NAME], second[NAME];
    const int descriptor = change->descriptor, folder = path ? resolve(path, name) : -1;
    int node = descriptor >= 0 && descriptor < DESCRIPTORS ? descriptors[descriptor] : -1;
    switch ((ChangeKind)change->kind) {
    case CHANGE_OPEN: {
        if (descriptor >= DESCRIPTORS) die("descriptor");
        const bool writes = (change->flags & O_ACCMODE) != O_RDONLY;
        const bool nameless = (change->flags & O_TMPFILE) == O_TMPFILE; // the path is the directory's
        node = nameless ? new_node(NODE_FILE) : folder < 0 ? -1 : node_at(path);
        descriptors[descriptor] = node;
        if (nameless || folder < 0 || !writes) return false;
        if (node < 0) {
            descriptors[descriptor] = node = new_node(NODE_FILE);
            set_name(changing(folder), name, node);
            return true;
        }
        if (!(change->flags & O_TRUNC) || disk[node].length == 0) return false;
        disk[node].changes[disk[node].change_count++] = (DataChange){.truncates = true};
        disk[node].length = 0;
        return true;
    }
    case CHANGE_CLOSE: descriptors[descriptor] = -1; return false;
    case CHANGE_WRITE:
    case CHANGE_TRUNCATE: {
        if (node < 0) return false;
        Node *file = &disk[node];
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
        Node *flushed = &disk[node];
        for (size_t i = 0; i < flushed->before_count; i++) free(flushed->before[i]);
        flushed->before_count = 0;
        flushed->choice = DATA_ALL;
        const Bytes all = surviving(flushed);
        free(flushed->safe.data);
        flushed->safe = all;
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
        snprintf(disk[node].target, NAME, "%s", path);
        set_name(changing(parent), second, node);
        return true;
    }
    }
    return false;
}

static int load_node(const char *path) {
    struct stat status;
    if (lstat(path, &status) != 0) die(path);
    const int node = new_node(S_ISDIR(status.st_mode) ? NODE_DIRECTORY : S_ISLNK(status.st_mode) ? NODE_LINK : NODE_FILE);
    if (S_ISLNK(status.st_mode)) {
        if (readlink(path, disk[node].target, NAME - 1) < 0) die(path);
    } else if (S_ISREG(status.st_mode)) {
        disk[node].safe.data = (unsigned char *)contents(path, &disk[node].safe.size);
        disk[node].length = disk[node].safe.size;
    } else {
        DIR *listing = opendir(path);
        if (!listing) die(path);
        for (struct dirent *entry; (entry = readdir(listing));) {
            char below[PATH_MAX];
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
            snprintf(below, sizeof below, "%.1500s/%.255s", path, entry->d_name);
            set_name(&disk[node].names, entry->d_name, load_node(below));
        }
        closedir(listing);
    }
    return node;
}

void disk_begin(const char *folder) {
    disk = calloc(NODES, sizeof *disk);
    if (!disk) die("nodes");
    disk_count = 0;
    new_node(NODE_DIRECTORY);
    if (folder) {
        char path[PATH_MAX];
        path_of(path, folder, "");
        set_name(&disk[0].names, folder, load_node(path));
    }
    for (size_t i = 0; i < DESCRIPTORS; i++) descriptors[i] = -1;
}

void disk_end(void) {
    for (int i = 0; i < disk_count; i++) {
        for (size_t k = 0; k < disk[i].before_count; k++) free(disk[i].before[k]);
        free(disk[i].safe.data);
    }
    free(disk);
}
