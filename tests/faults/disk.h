// A disk as the fault tests replay it: what a program sees of it, and what may be left of that when the power goes.
//
// What survives is what POSIX promises and no more:
// - a file's data that no fsync of that file has covered may be there, not there, torn anywhere, or there without what
//   was written before; the file may also have its length already and zeros instead of data (delayed allocation);
// - names (of new, renamed, removed files) that no fsync of their directory has covered may be there or not, in their
//   order within a directory, and whatever happens to the names of other directories.
#ifndef ROPE_TESTS_FAULTS_DISK_H
#define ROPE_TESTS_FAULTS_DISK_H

#include "tests/faults/harness.h"

enum { NODES = 256, NAMES = 64, PENDING = 64, NAME = 64 };

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
    size_t choice;
} Node;

extern Node *disk; // node 0 is fault_root
extern int disk_count;

// What is there before the command runs, all of it safe: `folder` below the root, NULL: nothing. disk_end frees it all.
void disk_begin(const char *folder);
void disk_end(void);

// One recorded call, as it changes what the program sees; data must stay where it is. False if it changes nothing that
// could be lost.
bool disk_apply(const Change *change, const char *path, const char *other, const unsigned char *data);
int disk_find(const Names *names, const char *name); // its place among the names, or -1

// ---- the state that the choices of all nodes make ----------------------------------------------------------------------

// Ways in which unflushed data of a file survive; beyond them, torn writes at every so many bytes.
enum { DATA_NONE, DATA_ALL, DATA_LAST_ONLY, DATA_LENGTH_ONLY, DATA_TORN };

size_t disk_choices(const Node *node);
const Names *disk_names(const Node *folder); // that survive
// Everything below `node` that this state reaches, itself included: into `found`, at most NODES. Returns their number.
size_t disk_reach(int node, int *found, size_t count);
uint64_t disk_hash(int node); // of what is below it, in which the order of names does not count
uint64_t disk_mix(uint64_t hash, const void *data, size_t size);
void disk_build(int node, const char *path); // in the real file system

#endif
