// Files, children and figures of the fault tests (see harness.h).
#include "tests/faults/harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/files.h"
#include "train/command.h"

enum { MAX_ARGUMENTS = 16, CASE_SECONDS = 60, SHOWN_FAILURES = 8, DESCRIPTORS = 256 };

char fault_root[PATHS];
static bool warm;

void die(const char *what) {
    fprintf(stderr, "faults: %s: %s\n", what, strerror(errno));
    exit(2);
}

// ---- files -----------------------------------------------------------------------------------------------------------

void path_of(char out[PATH_MAX], const char *folder, const char *name) {
    snprintf(out, PATH_MAX, "%s/%s%s%s", fault_root, folder, *name ? "/" : "", name);
}

bool exists(const char *folder, const char *name) {
    char path[PATH_MAX];
    struct stat status;
    path_of(path, folder, name);
    return lstat(path, &status) == 0;
}

char *contents(const char *path, size_t *size) {
    Error error = {0};
    return file_read_all(path, 1 << 26, size, &error);
}

void copy_tree(const char *from, const char *to) {
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

void remove_tree(const char *folder) {
    char path[PATH_MAX];
    path_of(path, folder, "");
    if (!directory_remove(path, NULL)) die(path);
}

void reset_tree(const char *folder, const char *original) {
    char from[PATH_MAX], to[PATH_MAX];
    remove_tree(folder);
    if (!original) return;
    path_of(from, original, "");
    path_of(to, folder, "");
    copy_tree(from, to);
}

// ---- commands --------------------------------------------------------------------------------------------------------

// What a command reads and writes: new.txt, which is there once scenarios are set up, and the log.
static void open_streams(void) {
    char path[PATH_MAX];
    path_of(path, "log", "");
    const int log = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    path_of(path, "new.txt", "");
    const int input = open(path, O_RDONLY);
    if (log < 0 || input < 0 || dup2(input, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0 || chdir(fault_root) != 0)
        _exit(99);
    close(log);
    close(input);
}

static int open_descriptors(void) {
    int count = 0;
    for (int i = 0; i < DESCRIPTORS; i++) count += fcntl(i, F_GETFD) >= 0;
    return count;
}

// Commands may change the array and what it points to.
static int copy_arguments(const char *const *arguments, char *copies[MAX_ARGUMENTS]) {
    int count = 0;
    for (; arguments[count]; count++) copies[count] = strdup(arguments[count]);
    copies[count] = NULL;
    return count;
}

static _Noreturn void be_child(const char *const *arguments, const Armed *armed, int channel) {
    Result result = {0};
    open_streams();
    fault_begin();
    *fault_shared = (FaultShared){0};
    alarm(CASE_SECONDS);
    const int before = open_descriptors();
    char *copies[MAX_ARGUMENTS];
    const int count = copy_arguments(arguments, copies);
    const Command *command = command_find(copies[0]);
    if (armed) fault = armed->fault;
    if (armed && armed->record) fault_record = armed->record;
    if (warm) fault_track(armed && armed->traces);
    fault_counting = armed != NULL;
    const int code = command->run(count, copies);
    fault_counting = false;
    fault_record = -1;
    result.calls = fault_shared->calls;
    result.returned = warm;
    if (warm) result.leaks = fault_leaks();
    result.descriptors = open_descriptors() - before;
    if (write(channel, &result, sizeof result) != sizeof result) _exit(98);
    exit(code);
}

Result run_rope(const char *const *arguments, const Armed *armed) {
    int channel[2];
    if (pipe(channel) != 0) die("pipe");
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        close(channel[0]);
        be_child(arguments, armed, channel[1]);
    }
    close(channel[1]);
    if (armed && armed->signal_after > 0) {
        usleep((useconds_t)armed->signal_after);
        kill(child, armed->signal_number);
    }
    Result result = {0};
    if (read(channel[0], &result, sizeof result) != sizeof result) result = (Result){0};
    close(channel[0]);
    while (waitpid(child, &result.status, 0) < 0 && errno == EINTR) continue;
    return result;
}

void warm_up(const char *const *arguments) {
    fflush(stdout);
    const int out = dup(1), err = dup(2);
    if (out < 0 || err < 0) die("dup");
    open_streams();
    char *copies[MAX_ARGUMENTS];
    const int count = copy_arguments(arguments, copies);
    const int code = command_find(copies[0])->run(count, copies);
    fflush(stdout);
    dup2(out, 1);
    dup2(err, 2);
    signal(SIGINT, SIG_DFL); // rope train catches them to finish its step
    signal(SIGTERM, SIG_DFL);
    close(out);
    close(err);
    warm = true;
    if (code == 0) return;
    show_log();
    errno = 0;
    die(arguments[0]);
}

void must_run(const char *const *arguments) {
    if (run_rope(arguments, NULL).status == 0) return;
    show_log();
    errno = 0;
    die(arguments[0]);
}

size_t log_size(void) {
    char log[PATH_MAX];
    struct stat status;
    path_of(log, "log", "");
    return stat(log, &status) == 0 ? (size_t)status.st_size : 0;
}

bool log_says(const char *text) {
    char log[PATH_MAX];
    size_t size;
    path_of(log, "log", "");
    char *said = contents(log, &size);
    const bool found = said && strstr(said, text);
    free(said);
    return found;
}

size_t log_safe_step(void) {
    static const char *const words[] = {"Safe is case/step_", "Safe is case up to seed 2, step "};
    char log[PATH_MAX];
    size_t size, step = 0;
    path_of(log, "log", "");
    char *said = contents(log, &size);
    for (size_t i = 0; said && i < sizeof words / sizeof *words; i++) {
        const char *at = strstr(said, words[i]);
        if (at) step = strtoul(at + strlen(words[i]), NULL, 10);
    }
    free(said);
    return step;
}

void show_log(void) {
    char log[PATH_MAX], line[400];
    path_of(log, "log", "");
    FILE *file = fopen(log, "r");
    while (file && fgets(line, sizeof line, file)) printf("      | %s", line);
    if (file) fclose(file);
}

// ---- figures ---------------------------------------------------------------------------------------------------------

size_t total_cases, total_failures;

void report_case(const char *row, size_t at, bool good, const char *why, size_t *failures) {
    total_cases++;
    if (good) return;
    total_failures++;
    if (++*failures > SHOWN_FAILURES) return;
    printf("  %s, %zu: %s\n", row, at, why);
    show_log();
}
