// What the fault tests share: a directory that they own, children that run commands of the program with a fault armed,
// and scenarios: a command, the files it starts from, and what must hold when it has met its fault.
#ifndef ROPE_TESTS_FAULTS_HARNESS_H
#define ROPE_TESTS_FAULTS_HARNESS_H

#include <limits.h>

#include "tests/faults/interpose.h"

enum { PATHS = 512 };

extern char fault_root[PATHS]; // absolute; children work in it

_Noreturn void die(const char *what); // a failure of the tests themselves, with errno's message if there is one

// ---- files -----------------------------------------------------------------------------------------------------------

void path_of(char out[PATH_MAX], const char *folder, const char *name); // below fault_root; name may be ""
bool exists(const char *folder, const char *name);
char *contents(const char *path, size_t *size); // malloc'd, NUL appended; NULL if it cannot be read
void copy_tree(const char *from, const char *to); // files, links and directories below `from`; `to` is made
void remove_tree(const char *folder);             // below fault_root; fine if it is not there
void reset_tree(const char *folder, const char *original); // both below fault_root; NULL: folder is only removed

// ---- commands --------------------------------------------------------------------------------------------------------

typedef struct Result {
    int status; // of waitpid
    size_t calls; // that the armed fault's kinds saw
    bool returned; // the command came back, so that what it left behind was counted:
    Leaks leaks;
    int descriptors; // open ones that were not before
} Result;

typedef struct Armed {
    Fault fault;
    bool traces;       // of blocks that stay allocated, which is slow
    int signal_number; // sent after so many microseconds, if > 0
    long signal_after;
    int record; // descriptor for Changes, or 0
} Armed;

// Runs a command of the program in a child; its output goes to the log. armed may be NULL.
Result run_rope(const char *const *arguments, const Armed *armed);
// The same in this process, so that children find warm what libraries set up on first use and keep.
void warm_up(const char *const *arguments);
void must_run(const char *const *arguments);

size_t log_size(void);
size_t log_safe_step(void); // N of "Safe is RUN/step_N", or "Safe is DIR up to seed 2, step N", in it, or 0
bool log_says(const char *text);
void show_log(void);

// ---- scenarios -------------------------------------------------------------------------------------------------------

typedef struct Scenario {
    const char *name;
    const char *const *command;
    const char *folder;  // what it changes, below fault_root
    const char *initial; // a copy of what is there before; NULL: nothing
    // Is everything as after a run without faults? Else a sentence of at most PATHS bytes.
    bool (*whole)(char *why);
    // What is there after a failure must be as before or whole, or clearly refused where there was nothing; going on
    // without faults must then lead to `whole`. killed: by the fault, so that commands that only read are tried as well.
    // least: what has been promised to be safe: this step of a run, or (1) all of what the command makes.
    bool (*recovers)(bool killed, size_t least, char *why);
    size_t promised; // `least` once the command has reported success
    bool reads;      // and changes no file
} Scenario;

enum {
    SCENARIO_LATER_SAVE,
    SCENARIO_FIRST_SAVE,
    SCENARIO_PREPARE_AGAIN,
    SCENARIO_PREPARE,
    SCENARIO_PREPARE_INPUT,
    SCENARIO_EXPORT_FILE,
    SCENARIO_EXPORT_FOLDER,
    SCENARIO_COMPARE,
    SCENARIO_JUDGE,
    SCENARIO_WRITE,
    SCENARIOS
};
extern const Scenario scenarios[SCENARIOS];

void scenarios_set_up(void); // makes the files that scenarios start from and end with
void scenario_reset(const Scenario *scenario);

// ---- figures ---------------------------------------------------------------------------------------------------------

extern size_t total_cases, total_failures;
// Counts a case; shows it, with the log, if it is one of the first 8 failures of its row.
void report_case(const char *row, size_t at, bool good, const char *why, size_t *failures);

// ---- power loss (replay.c) -------------------------------------------------------------------------------------------

// Records the scenario's command and tries every stride-th state that the disk may be in after a power loss.
void replay_power_loss(const Scenario *scenario, const char *row, size_t stride, size_t only);

#endif
