// Runs the program's own commands with one fault each, and demands that nothing is lost (reliability.md, rows 7 to 9, 14).
//
// A case: a command (scenarios.c) runs in a child process that meets one fault. The child may fail, with a message and
// exit code 1 or 2, but not crash, and may leave no memory allocated and no file open. Then, without help and without
// faults, the next command must find what was there before or what is whole, and lead to the same bytes as if nothing
// had happened.
//
//     faults DIRECTORY [STRIDE [SECONDS [ROW [CASE]]]]
//
// Every STRIDE-th case; random kills and signals go on for SECONDS. ROW: only rows whose names hold it. CASE: that one,
// with the stack of the call that the fault strikes if FAULT_TRACE is set.
//
// Prints "row: N cases, F failures, S s"; exit 1 if any failed. Files go below DIRECTORY, best one in memory.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/cpu.h"
#include "core/files.h"
#include "core/random.h"
#include "tests/faults/harness.h"

static const Scenario *const later_saves = &scenarios[SCENARIO_LATER_SAVE];

// What must hold after the child has met its fault.
static bool recovers(const Scenario *scenario, bool must_succeed, bool may_be_killed, const Result *result, char *why) {
    const int status = result->status;
    if (WIFSIGNALED(status) && !may_be_killed) {
        snprintf(why, PATHS, "crashed with signal %d", WTERMSIG(status));
        return false;
    }
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : FAULT_KILLED;
    if (must_succeed && code != 0) {
        snprintf(why, PATHS, "exit code %d instead of 0", code);
        return false;
    }
    if (code != 0 && code != FAULT_KILLED && (code > 2 || log_size() == 0)) {
        snprintf(why, PATHS, "exit code %d, %zu bytes of messages", code, log_size());
        return false;
    }
    if (code == FAULT_KILLED && !may_be_killed) {
        snprintf(why, PATHS, "exit code %d", code);
        return false;
    }
    if (result->leaks.own || result->descriptors) {
        snprintf(why, PATHS, "%zu blocks are still allocated, %d files open", result->leaks.own, result->descriptors);
        return false;
    }
    if (code == 0) { // it went well all the same: nothing may be missing
        if (scenario->whole(why)) return true;
        strncat(why, ", though the exit code is 0", PATHS - strlen(why) - 1);
        return false;
    }
    return scenario->recovers(may_be_killed, log_safe_step(), why); // what it called safe must be there
}

// ---- rows ------------------------------------------------------------------------------------------------------------

typedef struct Row {
    const char *name;
    Fault fault;
    bool must_succeed, may_be_killed;
    size_t stride_factor; // a case costs as much as any other, and allocations are many
} Row;

enum { FILES = CALL_OPEN | CALL_READ | CALL_WRITE | CALL_SYNC | CALL_CLOSE | CALL_RENAME | CALL_NAME | CALL_TRUNCATE };
enum { CHANGES = CALL_OPEN | CALL_WRITE | CALL_SYNC | CALL_CLOSE | CALL_RENAME | CALL_NAME | CALL_TRUNCATE };

static const Row rows[] = {
    {"EIO, once", {FAULT_ERRNO, FILES, 0, false, EIO, false}, false, false, 1},
    {"EIO, from then on", {FAULT_ERRNO, FILES, 0, true, EIO, false}, false, false, 1},
    {"disk full, once", {FAULT_ERRNO, CHANGES & ~CALL_CLOSE, 0, false, ENOSPC, false}, false, false, 1},
    {"disk full, from then on", {FAULT_ERRNO, CALL_OPEN | CALL_WRITE | CALL_SYNC | CALL_NAME, 0, true, ENOSPC, false}, false, false, 1},
    {"interrupted", {FAULT_ERRNO, CALL_READ | CALL_WRITE | CALL_SYNC, 0, false, EINTR, false}, true, false, 1},
    {"short, once", {FAULT_SHORT, CALL_READ | CALL_WRITE, 0, false, 0, false}, true, false, 1},
    {"short, from then on", {FAULT_SHORT, CALL_READ | CALL_WRITE, 0, true, 0, false}, true, false, 4},
    {"killed before a call", {FAULT_KILL_BEFORE, CHANGES, 0, false, 0, false}, false, true, 1},
    {"killed after a call", {FAULT_KILL_AFTER, CHANGES, 0, false, 0, false}, false, true, 1},
    {"killed in a write", {FAULT_KILL_TORN, CALL_WRITE, 0, false, 0, false}, false, true, 1},
    {"no memory, once", {FAULT_ERRNO, CALL_ALLOCATE, 0, false, ENOMEM, false}, false, false, 8},
    {"no memory, from then on", {FAULT_ERRNO, CALL_ALLOCATE, 0, true, ENOMEM, false}, false, false, 8},
};
enum { ROWS = sizeof rows / sizeof *rows, EARLY = 8 };

// In the process that trains the tokenizer.
static const Row child_rows[] = {
    {"EIO in the child, once", {FAULT_ERRNO, FILES, 0, false, EIO, true}, false, false, 1},
    {"interrupted in the child", {FAULT_ERRNO, CALL_READ | CALL_WRITE, 0, false, EINTR, true}, true, false, 1},
    {"short in the child, from then on", {FAULT_SHORT, CALL_WRITE, 0, true, 0, true}, true, false, 1},
    {"the child is killed", {FAULT_KILL_BEFORE, FILES, 0, false, 0, true}, false, false, 1},
    {"no memory in the child, once", {FAULT_ERRNO, CALL_ALLOCATE, 0, false, ENOMEM, true}, false, false, 8},
    {"no memory in the child, from then on", {FAULT_ERRNO, CALL_ALLOCATE, 0, true, ENOMEM, true}, false, false, 8},
};

// SentencePiece does not survive every allocation that fails: the protobuf in it leaves half-made lists of pieces behind
// when `new` throws, and their destructors then follow or free pointers that were never set. No handler can undo that, and a
// heap that was broken so may fail anywhere later. A crash there, or elsewhere after the library was refused memory, is no
// failure, and each is counted apart: what is on disk must be whole all the same. Training, which is most of what
// the library does, runs in a child process for such reasons; there a crash is an error like any other.
static void run_row(const Scenario *scenario, const char *name, const Row *row, size_t stride, size_t only) {
    const double start = clock_seconds();
    Armed armed = {.fault = row->fault};
    armed.fault.effect = FAULT_NONE;
    size_t cases = 0, failures = 0, crashes = 0, later_crashes = 0, foreign_leaks = 0;
    scenario_reset(scenario);
    const Result counted = run_rope(scenario->command, &armed);
    if (scenario->reads && counted.status == 0 && counted.calls == 0) return; // there is nothing to fail
    if (counted.status != 0 || counted.calls == 0) {
        show_log();
        errno = 0;
        die("a run without faults fails");
    }
    stride *= stride > 1 ? row->stride_factor : 1;
    armed.fault.effect = row->fault.effect;
    // The options are read with the first few allocations: a command that did not see them would do something else.
    const size_t early = row->fault.calls == CALL_ALLOCATE && !row->fault.in_children ? EARLY : 0;
    const size_t first = only ? only : early ? 1 : 1 + (size_t)row->fault.calls % stride, last = only ? only : counted.calls;
    for (size_t at = first; at <= last; at += at < early ? 1 : stride, cases++) {
        char why[PATHS] = "";
        armed.fault.at = at;
        scenario_reset(scenario);
        Result result = run_rope(scenario->command, &armed);
        if (result.leaks.own) { // whose are they?
            armed.traces = true;
            scenario_reset(scenario);
            result = run_rope(scenario->command, &armed);
            armed.traces = false;
            foreign_leaks += result.leaks.foreign > 0;
        }
        const bool crashed = WIFSIGNALED(result.status), foreign = crashed && (fault_shared->foreign || fault_shared->refused);
        crashes += crashed && fault_shared->foreign;
        later_crashes += foreign && !fault_shared->foreign;
        report_case(name, at, recovers(scenario, row->must_succeed, row->may_be_killed || foreign, &result, why), why,
                    &failures);
    }
    printf("%s: %zu cases of %zu, %zu failures, %.1f s\n", name, cases, counted.calls, failures, clock_seconds() - start);
    if (crashes) printf("  (%zu of them crashed in SentencePiece's own code; nothing was lost)\n", crashes);
    if (later_crashes) printf("  (%zu of them crashed later, after it was refused memory; nothing was lost)\n", later_crashes);
    if (foreign_leaks) printf("  (after %zu of them SentencePiece kept blocks of its own)\n", foreign_leaks);
    fflush(stdout);
}

typedef struct SignalRow {
    const char *name;
    int number;
    size_t count;
} SignalRow;

static const SignalRow signals[] = {
    {"SIGKILL at a random moment", SIGKILL, 1000},
    {"SIGINT at a random moment", SIGINT, 300},
    {"SIGTERM at a random moment", SIGTERM, 300},
};

// SIGKILL, SIGINT or SIGTERM at random moments of a run of known length, until its share of cases and `seconds` are over.
static void run_signals(const SignalRow *row, size_t stride, double seconds) {
    const char *name = row->name;
    const int number = row->number;
    const size_t count = row->count / stride;
    const double start = clock_seconds();
    scenario_reset(later_saves);
    if (run_rope(later_saves->command, NULL).status != 0) die("a run without faults fails");
    const double length = clock_seconds() - start;
    size_t cases = 0, failures = 0;
    for (; cases < count || clock_seconds() - start < seconds; cases++) {
        char why[PATHS] = "";
        Random random = {(uint64_t)number, RANDOM_TEST, (uint64_t)getpid()};
        const long moment = 1 + (long)(1.1e6 * length * random_uniform(random, cases));
        scenario_reset(later_saves);
        Result result = run_rope(later_saves->command, &(Armed){.signal_number = number, .signal_after = moment});
        // asked to stop, it ends well before it is done: that is no failure, and the run goes on afterwards
        bool stopped = number != SIGKILL && result.status == 0 && !later_saves->whole(why);
        if (stopped) result.status = FAULT_KILLED << 8;
        report_case(name, (size_t)moment, recovers(later_saves, false, true, &result, why), why, &failures);
    }
    printf("%s: %zu cases, %zu failures, %.1f s\n", name, cases, failures, clock_seconds() - start);
    fflush(stdout);
}

// Files may not grow beyond a limit: writes are cut short there and fail then.
static void run_limits(const Scenario *scenario, const char *name, size_t stride) {
    const double start = clock_seconds();
    size_t cases = 0, failures = 0;
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t bytes = 1; bytes < 40000; bytes += 61 * stride, cases++) {
        char why[PATHS] = "";
        scenario_reset(scenario);
        limit = (struct rlimit){bytes, before.rlim_max};
        setrlimit(RLIMIT_FSIZE, &limit); // the soft limit, inherited; the log is short of it too
        const Result result = run_rope(scenario->command, NULL);
        setrlimit(RLIMIT_FSIZE, &before);
        report_case(name, bytes, recovers(scenario, false, false, &result, why), why, &failures);
    }
    printf("%s: %zu cases, %zu failures, %.1f s\n", name, cases, failures, clock_seconds() - start);
    fflush(stdout);
}

// ---- all of it -------------------------------------------------------------------------------------------------------

// "later saves, warm: EIO, once"
static bool named(char name[PATHS], const Scenario *scenario, const char *how, const char *row, const char *wanted) {
    snprintf(name, PATHS, "%s%s: %s", scenario->name, how, row);
    return strstr(name, wanted) != NULL;
}

// The first command of a process meets faults in what libraries set up once and keep; so blocks are counted in another
// pass, in children of a process that has run everything before.
static void run_rows(const char *wanted, size_t stride, size_t only) {
    char name[PATHS];
    for (size_t i = 0; i < ROWS; i++)
        if (named(name, later_saves, ", cold", rows[i].name, wanted)) run_row(later_saves, name, &rows[i], stride, only);
    for (size_t s = 0; s < SCENARIOS; s++) {
        scenario_reset(&scenarios[s]);
        warm_up(scenarios[s].command);
    }
    for (size_t s = 0; s < SCENARIOS; s++)
        for (size_t i = 0; i < ROWS; i++)
            if (named(name, &scenarios[s], "", rows[i].name, wanted))
                run_row(&scenarios[s], name, &rows[i], stride, only);
    const Scenario *training = &scenarios[SCENARIO_PREPARE_AGAIN];
    for (size_t i = 0; i < sizeof child_rows / sizeof *child_rows; i++)
        if (named(name, training, "", child_rows[i].name, wanted)) run_row(training, name, &child_rows[i], stride, only);
}

int main(int argc, char **argv) {
    if (argc < 2 || *argv[1] == '-') {
        fprintf(stderr, "usage: faults DIRECTORY [STRIDE [SECONDS [ROW [CASE]]]]\n");
        return 2;
    }
    cpu_mend_blas(argv);
    const size_t stride = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    const double seconds = argc > 3 ? strtod(argv[3], NULL) : 0;
    if (!realpath(".", fault_root) || !*argv[1] || stride == 0) return 2;
    if (*argv[1] == '/') *fault_root = 0;
    const size_t used = strlen(fault_root);
    snprintf(fault_root + used, sizeof fault_root - used, "%s%s", *fault_root ? "/" : "", argv[1]);
    fault_shared = mmap(NULL, sizeof *fault_shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fault_shared == MAP_FAILED) die("mmap");
    scenarios_set_up();
    const char *wanted = argc > 4 ? argv[4] : "";
    const size_t only = argc > 5 ? strtoul(argv[5], NULL, 10) : 0;
    char name[PATHS];
    for (size_t s = 0; s < SCENARIOS; s++)
        if (!scenarios[s].reads && named(name, &scenarios[s], "", "power lost", wanted)) replay_power_loss(&scenarios[s], name, stride, only);
    for (size_t s = 0; s < SCENARIOS; s++)
        if (!scenarios[s].reads && named(name, &scenarios[s], "", "size limit", wanted)) run_limits(&scenarios[s], name, stride);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (strstr(signals[i].name, wanted)) run_signals(&signals[i], stride, seconds / 3);
    run_rows(wanted, stride, only);
    directory_remove(fault_root, NULL);
    printf("%zu cases, %zu failures\n", total_cases, total_failures);
    return total_failures != 0;
}
