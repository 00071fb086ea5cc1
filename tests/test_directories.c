// Directories that appear whole, replace one another in one step, and disappear without following links.
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "tests/support/check.h"

static void join(char out[PATH_MAX], const char *directory, const char *name) {
    assert_true(path_join(out, PATH_MAX, directory, name, NULL));
}

static void put(const char *directory, const char *name, const char *text) {
    char path[PATH_MAX];
    join(path, directory, name);
    assert_true(file_write_atomic(path, text, strlen(text), NULL));
}

static bool holds(const char *directory, const char *name, const char *text) {
    char path[PATH_MAX];
    join(path, directory, name);
    size_t size;
    char *content = file_read_all(path, 1000, &size, NULL);
    bool same = content && strcmp(content, text) == 0;
    free(content);
    return same;
}

static size_t entries(const char *directory) {
    DIR *folder = opendir(directory);
    assert_non_null(folder);
    size_t count = 0;
    while (readdir(folder)) count++;
    closedir(folder);
    return count - 2;
}

static void test_make(void **state) {
    (void)state;
    const char *root = temporary_directory();
    char path[PATH_MAX];
    Error error = {0};
    join(path, root, "a/b//c/d/");
    assert_true(directory_make(path, &error));
    assert_true(directory_make(path, &error)); // again is fine
    put(root, "a/b/c/d/file", "x");
    assert_true(holds(path, "file", "x"));
    join(path, root, "a/b/c/d/file");
    assert_false(directory_make(path, &error));
    assert_int_equal(error.kind, ERROR_USER);
    assert_non_null(strstr(error.message, "is not a folder"));
    error_clear(&error);
    join(path, root, "a/b/c/d/file/deeper");
    assert_false(directory_make(path, &error));
    assert_int_equal(error.kind, ERROR_SYSTEM);
    error_clear(&error);
    assert_false(directory_make("", &error));
    char cwd[PATH_MAX];
    assert_non_null(getcwd(cwd, sizeof cwd));
    assert_int_equal(chdir(root), 0);
    assert_true(directory_make("relative/path", NULL) && holds("a/b/c/d", "file", "x"));
    assert_int_equal(chdir(cwd), 0);
    check_count("folders made", 6);
}

static void test_commit_new_and_replace(void **state) {
    (void)state;
    const char *root = temporary_directory();
    char final_path[PATH_MAX], temporary[PATH_MAX];
    join(final_path, root, "run/step_1"); // its parent is not there yet
    for (int round = 0; round < 3; round++) {
        const char *text = round == 0 ? "zero" : round == 1 ? "one" : "two";
        char leftover[PATH_MAX];
        snprintf(leftover, sizeof leftover, "%.4000s.tmp/half", final_path);
        assert_true(directory_make(leftover, NULL)); // as a killed program leaves it
        char slashed[PATH_MAX];
        join(slashed, final_path, ""); // ends with a slash: the same directory
        assert_true(directory_begin(round == 2 ? slashed : final_path, temporary, sizeof temporary, NULL));
        assert_int_equal(entries(temporary), 0);
        put(temporary, "model", text);
        if (round == 0) put(temporary, "only_in_the_first", text);
        if (round > 0) assert_true(holds(final_path, "model", round == 1 ? "zero" : "one")); // old until the commit
        Error error = {0};
        if (!directory_commit(temporary, round == 2 ? slashed : final_path, &error)) fail_msg("%s", error.message);
        assert_true(holds(final_path, "model", text));
        assert_int_equal(entries(final_path), round == 0 ? 2 : 1); // replaced, not merged
        assert_int_not_equal(access(temporary, F_OK), 0);
    }
    char parent[PATH_MAX];
    join(parent, root, "run");
    assert_int_equal(entries(parent), 1);
    check_count("directories committed", 3);
}

typedef struct Watch {
    const char *path;
    bool stop;
    size_t looks, absent;
} Watch;

static void *watch(void *argument) {
    Watch *at = argument;
    while (!__atomic_load_n(&at->stop, __ATOMIC_RELAXED)) {
        at->looks++;
        if (access(at->path, F_OK) != 0) at->absent++;
    }
    return NULL;
}

// The least number of directories of that name at any moment, from 1 at the start, by the kernel's own account of names
// that came and went.
static int fewest(int events, const char *name) {
    char buffer[64 * (sizeof(struct inotify_event) + NAME_MAX + 1)] __attribute__((aligned(8)));
    int present = 1, least = 1;
    ssize_t size;
    while ((size = read(events, buffer, sizeof buffer)) > 0)
        for (const char *at = buffer; at < buffer + size;) {
            const struct inotify_event *event = (const struct inotify_event *)(const void *)at;
            if (event->len && strcmp(event->name, name) == 0)
                present += event->mask & (IN_MOVED_TO | IN_CREATE) ? 1 : -1;
            least = present < least ? present : least;
            at += sizeof *event + event->len;
        }
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(present, 1);
    return least;
}

// Somebody who looks all the time never finds the directory missing; nor does the kernel, to whom no moment is too short.
static void test_no_moment_without_a_directory(void **state) {
    (void)state;
    char final_path[PATH_MAX], temporary[PATH_MAX];
    const char *root = temporary_directory();
    join(final_path, root, "best");
    assert_true(directory_make(final_path, NULL));
    put(final_path, "model", "0");
    const int events = inotify_init1(IN_NONBLOCK);
    assert_true(inotify_add_watch(events, root, IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE) >= 0);
    Watch watcher = {.path = final_path};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, watch, &watcher), 0);
    for (int round = 0; round < 200; round++) {
        assert_true(directory_begin(final_path, temporary, sizeof temporary, NULL));
        put(temporary, "model", "1");
        assert_true(directory_commit(temporary, final_path, NULL));
    }
    __atomic_store_n(&watcher.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    assert_int_equal(watcher.absent, 0);
    assert_int_equal(fewest(events, "best"), 1);
    close(events);
    check_count("looks at a directory being replaced", watcher.looks);
}

static void test_commit_failures(void **state) {
    (void)state;
    const char *root = temporary_directory();
    char final_path[PATH_MAX], temporary[PATH_MAX];
    Error error = {0};
    put(root, "occupied", "a file");
    join(final_path, root, "occupied");
    assert_true(directory_begin(final_path, temporary, sizeof temporary, NULL));
    assert_false(directory_commit(temporary, final_path, &error));
    assert_non_null(strstr(error.message, "occupied"));
    assert_true(holds(root, "occupied", "a file"));
    error_clear(&error);
    join(temporary, root, "absent");
    join(final_path, root, "final");
    assert_false(directory_commit(temporary, final_path, &error));
    assert_int_equal(error.kind, ERROR_SYSTEM);
    error_clear(&error);
    assert_false(directory_begin(final_path, temporary, 10, &error)); // no room for the name
    error_clear(&error);
    assert_false(path_join(temporary, 6, "abc", "d1", &error));
    assert_true(path_join(temporary, 7, "abc", "d1", NULL) && path_join(temporary, 7, "abc/", "d1", NULL));
    assert_string_equal(temporary, "abc/d1");
    check_count("refused paths", 4);
}

static void test_remove_does_not_follow_links(void **state) {
    (void)state;
    const char *root = temporary_directory();
    char doomed[PATH_MAX], kept[PATH_MAX], link[PATH_MAX];
    join(doomed, root, "doomed/a/b");
    join(kept, root, "kept");
    assert_true(directory_make(doomed, NULL) && directory_make(kept, NULL));
    put(kept, "precious", "p");
    put(doomed, "file", "f");
    join(link, doomed, "link");
    assert_int_equal(symlink(kept, link), 0);
    join(link, doomed, "dangling");
    assert_int_equal(symlink("/nowhere", link), 0);
    join(doomed, root, "doomed");
    assert_true(directory_remove(doomed, NULL));
    assert_int_not_equal(access(doomed, F_OK), 0);
    assert_true(holds(kept, "precious", "p"));
    assert_true(directory_remove(doomed, NULL)); // gone already
    join(link, root, "link");
    assert_int_equal(symlink(kept, link), 0);
    assert_true(directory_remove(link, NULL)); // the link, not what it points to
    assert_true(holds(kept, "precious", "p"));
    check_count("removals", 3);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_make),
    cmocka_unit_test(test_commit_new_and_replace),
    cmocka_unit_test(test_no_moment_without_a_directory),
    cmocka_unit_test(test_commit_failures),
    cmocka_unit_test(test_remove_does_not_follow_links),
};

TEST_MAIN(tests)
