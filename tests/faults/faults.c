// Runs the program's own commands with one fault each, and demands that nothing is lost (reliability.md, rows 7 to 9, 14).
//
// A case: a copy of a run that stands at step 4 goes on to step 8 (checkpoints at 6 and 8) in a child process that meets
// one fault. The child may fail, with a message and exit code 1 or 2, but not crash. Then, without help and without
// faults, `rope train --resume` must reach step 8 with every file of the last checkpoint and all metrics the same as in a
// run that nothing happened to.
//
//     faults DIRECTORY [STRIDE [SECONDS [ROW [CASE]]]]
//
// Every STRIDE-th case; random kills and signals go on for SECONDS. ROW: only rows whose names hold it. CASE: that one,
// with the stack of the call that the fault strikes if FAULT_TRACE is set.
//
// Prints "row: N cases, F failures, S s"; exit 1 if any failed. Files go below DIRECTORY, best one in memory.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/cpu.h"
#include "core/files.h"
#include "core/random.h"
#include "tests/faults/interpose.h"
#include "train/command.h"

enum { PATHS = 512, MAX_ARGUMENTS = 16, CASE_SECONDS = 60 };

static char root[PATHS];
static const char *const template_run = "template", *const reference_run = "reference", *const case_run = "case";

static void die(const char *what) {
    fprintf(stderr, "faults: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void path_of(char out[PATH_MAX], const char *run, const char *name) {
    snprintf(out, PATH_MAX, "%s/%s%s%s", root, run, *name ? "/" : "", name);
}

// ---- files -----------------------------------------------------------------------------------------------------------

static char *contents(const char *path, size_t *size) {
    Error error = {0};
    return file_read_all(path, 1 << 26, size, &error);
}

// Files, links and directories below `from`.
static void copy_tree(const char *from, const char *to) {
    DIR *listing = opendir(from);
    if (!listing || mkdir(to, 0777) != 0) die(to);
    for (struct dirent *entry; (entry = readdir(listing));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char source[PATH_MAX], target[PATH_MAX], link[PATH_MAX];
        snprintf(source, sizeof source, "%.1500s/%.255s", from, entry->d_name);
        snprintf(target, sizeof target, "%.1500s/%.255s", to, entry->d_name);
        struct stat status;
        if (lstat(source, &status) != 0) die(source);
        if (S_ISDIR(status.st_mode)) {
            copy_tree(source, target);
        } else if (S_ISLNK(status.st_mode)) {
            ssize_t length = readlink(source, link, sizeof link - 1);
            if (length < 0) die(source);
            link[length] = 0;
            if (symlink(link, target) != 0) die(target);
        } else {
            size_t size;
            char *bytes = contents(source, &size);
            FILE *file = fopen(target, "wb");
            if (!bytes || !file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) die(target);
            free(bytes);
        }
    }
    closedir(listing);
}

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

static bool same_file(const char *run, const char *name, bool metrics, char *why) {
    char paths[2][PATH_MAX];
    path_of(paths[0], reference_run, name);
    path_of(paths[1], run, name);
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

// The whole of the case's run against the reference: last checkpoint, links, metrics; nothing temporary left.
static bool same_run(char *why) {
    static const char *const files[] = {"config.json", "model.safetensors", "optimizer.safetensors", "state.json",
                                        "tokenizer.model"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[PATHS];
        snprintf(name, sizeof name, "step_00000008/%s", files[i]);
        if (!same_file(case_run, name, false, why)) return false;
        snprintf(name, sizeof name, "latest/%s", files[i]);
        if (!same_file(case_run, name, false, why)) return false;
    }
    if (!same_file(case_run, "metrics.jsonl", true, why)) return false;
    char path[PATH_MAX];
    path_of(path, case_run, "");
    DIR *listing = opendir(path);
    if (!listing) die(path);
    bool clean = true;
    for (struct dirent *entry; (entry = readdir(listing));)
        if (strstr(entry->d_name, ".tmp") || strstr(entry->d_name, ".old")) {
            snprintf(why, PATHS, "%.200s is left over", entry->d_name);
            clean = false;
        }
    closedir(listing);
    return clean;
}

// ---- children --------------------------------------------------------------------------------------------------------

// Runs a command of rope in a child with the fault armed; its output goes to root/log. Returns waitpid's status.
// `calls` (may be NULL) receives the number of calls that the fault's kinds saw. signal_after > 0: microseconds until the
// child gets `signal_number`.
static int run_rope(const char *const *arguments, const Fault *armed, size_t *calls, long signal_after, int signal_number) {
    int channel[2];
    if (pipe(channel) != 0) die("pipe");
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        char log[PATH_MAX], *copies[MAX_ARGUMENTS];
        path_of(log, "log", "");
        int descriptor = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        if (descriptor < 0 || dup2(descriptor, 1) < 0 || dup2(descriptor, 2) < 0 || chdir(root) != 0) _exit(99);
        close(channel[0]);
        int count = 0;
        while (arguments[count]) copies[count] = strdup(arguments[count]), count++;
        copies[count] = NULL;
        alarm(CASE_SECONDS);
        if (armed) fault = *armed;
        fault_counting = armed != NULL;
        int code = command_find(copies[0])->run(count, copies);
        fault_counting = false;
        if (write(channel[1], &fault_calls, sizeof fault_calls) != sizeof fault_calls) _exit(98);
        exit(code);
    }
    close(channel[1]);
    if (signal_after > 0) {
        usleep((useconds_t)signal_after);
        kill(child, signal_number);
    }
    size_t seen = 0;
    if (read(channel[0], &seen, sizeof seen) != sizeof seen) seen = 0;
    close(channel[0]);
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    if (calls) *calls = seen;
    return status;
}

static size_t log_size(void) {
    char log[PATH_MAX];
    struct stat status;
    path_of(log, "log", "");
    return stat(log, &status) == 0 ? (size_t)status.st_size : 0;
}

static void show_log(void) {
    char log[PATH_MAX], line[400];
    path_of(log, "log", "");
    FILE *file = fopen(log, "r");
    while (file && fgets(line, sizeof line, file)) printf("      | %s", line);
    if (file) fclose(file);
}

static const char *const continuing[] = {"train", "--resume", "case", "--train.steps=8", NULL};
static const char *const evaluating[] = {"eval", "case", NULL};

static void reset_case(void) {
    char from[PATH_MAX], to[PATH_MAX];
    path_of(from, template_run, "");
    path_of(to, case_run, "");
    directory_remove(to, NULL);
    copy_tree(from, to);
}

// What must hold after the child has met its fault.
static bool recovers(bool must_succeed, bool may_be_killed, int status, char *why) {
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
    if (code == 0) { // it went well all the same: nothing may be missing
        if (same_run(why)) return true;
        strncat(why, ", though the exit code is 0", PATHS - strlen(why) - 1);
        return false;
    }
    const int evaluated = may_be_killed ? run_rope(evaluating, NULL, NULL, 0, 0) : 0;
    if (evaluated != 0) {
        snprintf(why, PATHS, "rope eval afterwards: status %x", (unsigned)evaluated);
        return false;
    }
    const int resumed = run_rope(continuing, NULL, NULL, 0, 0);
    if (resumed != 0) {
        snprintf(why, PATHS, "--resume afterwards: status %x", (unsigned)resumed);
        return false;
    }
    return same_run(why);
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
    {"EIO, once", {FAULT_ERRNO, FILES, 0, false, EIO}, false, false, 1},
    {"EIO, from then on", {FAULT_ERRNO, FILES, 0, true, EIO}, false, false, 1},
    {"disk full, once", {FAULT_ERRNO, CHANGES & ~CALL_CLOSE, 0, false, ENOSPC}, false, false, 1},
    {"disk full, from then on", {FAULT_ERRNO, CALL_OPEN | CALL_WRITE | CALL_SYNC | CALL_NAME, 0, true, ENOSPC}, false, false, 1},
    {"interrupted", {FAULT_ERRNO, CALL_READ | CALL_WRITE | CALL_SYNC, 0, false, EINTR}, true, false, 1},
    {"short, once", {FAULT_SHORT, CALL_READ | CALL_WRITE, 0, false, 0}, true, false, 1},
    {"short, from then on", {FAULT_SHORT, CALL_READ | CALL_WRITE, 0, true, 0}, true, false, 4},
    {"killed before a call", {FAULT_KILL_BEFORE, CHANGES, 0, false, 0}, false, true, 1},
    {"killed after a call", {FAULT_KILL_AFTER, CHANGES, 0, false, 0}, false, true, 1},
    {"killed in a write", {FAULT_KILL_TORN, CALL_WRITE, 0, false, 0}, false, true, 1},
    {"no memory, once", {FAULT_ERRNO, CALL_ALLOCATE, 0, false, ENOMEM}, false, false, 8},
    {"no memory, from then on", {FAULT_ERRNO, CALL_ALLOCATE, 0, true, ENOMEM}, false, false, 8},
};

static size_t total_cases, total_failures;

static void report_case(const char *row, size_t at, bool good, const char *why, size_t *failures) {
    total_cases++;
    if (good) return;
    total_failures++;
    if (++*failures > 8) return;
    printf("  %s, %zu: %s\n", row, at, why);
    show_log();
}

static void run_row(const Row *row, size_t stride, size_t only) {
    const double start = clock_seconds();
    Fault counting = row->fault;
    counting.effect = FAULT_NONE;
    size_t calls, cases = 0, failures = 0, crashes = 0;
    reset_case();
    if (run_rope(continuing, &counting, &calls, 0, 0) != 0 || calls == 0) {
        show_log();
        errno = 0;
        die("a run without faults fails");
    }
    stride *= stride > 1 ? row->stride_factor : 1;
    for (size_t at = only ? only : 1 + (size_t)(row - rows) % stride; at <= (only ? only : calls); at += stride, cases++) {
        char why[PATHS] = "";
        Fault armed = row->fault;
        armed.at = at;
        *fault_foreign = false;
        reset_case();
        const int status = run_rope(continuing, &armed, NULL, 0, 0);
        const bool foreign = *fault_foreign && WIFSIGNALED(status);
        crashes += foreign;
        report_case(row->name, at, recovers(row->must_succeed, row->may_be_killed || foreign, status, why), why, &failures);
    }
    printf("%s: %zu cases of %zu, %zu failures, %.1f s\n", row->name, cases, calls, failures, clock_seconds() - start);
    if (crashes) printf("  (%zu of them ended within SentencePiece, which does not survive it; nothing was lost)\n", crashes);
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
    reset_case();
    if (run_rope(continuing, NULL, NULL, 0, 0) != 0) die("a run without faults fails");
    const double length = clock_seconds() - start;
    size_t cases = 0, failures = 0;
    for (; cases < count || clock_seconds() - start < seconds; cases++) {
        char why[PATHS] = "";
        Random random = {(uint64_t)number, RANDOM_TEST, (uint64_t)getpid()};
        const long moment = 1 + (long)(1.1e6 * length * random_uniform(random, cases));
        reset_case();
        int status = run_rope(continuing, NULL, NULL, moment, number);
        // asked to stop, it ends well before it is done: that is no failure, and the run goes on afterwards
        bool stopped = number != SIGKILL && status == 0 && !same_run(why);
        if (stopped) status = FAULT_KILLED << 8;
        report_case(name, (size_t)moment, recovers(false, true, status, why), why, &failures);
    }
    printf("%s: %zu cases, %zu failures, %.1f s\n", name, cases, failures, clock_seconds() - start);
    fflush(stdout);
}

static const char *const limit_row = "size limit";

// Files may not grow beyond a limit: writes are cut short there and fail then.
static void run_limits(size_t stride) {
    const double start = clock_seconds();
    size_t cases = 0, failures = 0;
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t bytes = 1; bytes < 40000; bytes += 61 * stride, cases++) {
        char why[PATHS] = "";
        reset_case();
        limit = (struct rlimit){bytes, before.rlim_max};
        setrlimit(RLIMIT_FSIZE, &limit); // the soft limit, inherited; the log is short of it too
        const int status = run_rope(continuing, NULL, NULL, 0, 0);
        setrlimit(RLIMIT_FSIZE, &before);
        report_case(limit_row, bytes, recovers(false, false, status, why), why, &failures);
    }
    printf("%s: %zu cases, %zu failures, %.1f s\n", limit_row, cases, failures, clock_seconds() - start);
}

// ---- set-up ----------------------------------------------------------------------------------------------------------

static void must_run(const char *const *arguments) {
    if (run_rope(arguments, NULL, NULL, 0, 0) == 0) return;
    show_log();
    errno = 0;
    die(arguments[0]);
}

static void write_text(const char *name, const char *text, size_t repeats) {
    char path[PATH_MAX];
    path_of(path, name, "");
    FILE *file = fopen(path, "w");
    if (!file) die(path);
    for (size_t i = 0; i < repeats; i++) fprintf(file, text, i % 7, i * i % 31);
    if (fclose(file) != 0) die(path);
}

static void set_up(void) {
    directory_remove(root, NULL);
    Error error = {0};
    if (!directory_make(root, &error)) die(error.message);
    write_text("text.txt", "%zu lines of the king and %zu men went up the hill\n", 300);
    write_text("run.ini", "[model]\nlayers = 1\nwidth = 16\nheads = 2\ntokens = 16\n[data]\ndir = data\n[train]\n"
               "batch = 2\naccumulate = 1\nthreads = 1\neval_every = 2\neval_batches = 1\nsave_every = 2\n"
               "log_every = 1\nkeep = 2\n[optim]\nschedule = constant\nwarmup = 0\n", 1);
    must_run((const char *const[]){"prepare", "text.txt", "--out", "data", "--type", "char", NULL});
    must_run((const char *const[]){"train", "--config", "run.ini", "--train.out=template", "--train.steps=4", NULL});
    reset_case();
    must_run(continuing);
    char from[PATH_MAX], to[PATH_MAX];
    path_of(from, case_run, "");
    path_of(to, reference_run, "");
    if (rename(from, to) != 0) die(to);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: faults DIRECTORY [STRIDE [SECONDS]]\n");
        return 2;
    }
    cpu_mend_blas(argv);
    const size_t stride = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    const double seconds = argc > 3 ? strtod(argv[3], NULL) : 0;
    if (!realpath(".", root) || !*argv[1] || stride == 0) return 2;
    if (*argv[1] == '/') *root = 0;
    snprintf(root + strlen(root), sizeof root - strlen(root), "%s%s", *root ? "/" : "", argv[1]);
    fault_foreign = mmap(NULL, sizeof *fault_foreign, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fault_foreign == MAP_FAILED) die("mmap");
    set_up();
    const char *wanted = argc > 4 ? argv[4] : "";
    const size_t only = argc > 5 ? strtoul(argv[5], NULL, 10) : 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strstr(rows[i].name, wanted)) run_row(&rows[i], stride, only);
    if (strstr(limit_row, wanted)) run_limits(stride);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (strstr(signals[i].name, wanted)) run_signals(&signals[i], stride, seconds / 3);
    directory_remove(root, NULL);
    printf("%zu cases, %zu failures\n", total_cases, total_failures);
    return total_failures != 0;
}
