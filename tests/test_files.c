// Files: what is written is read back, failures name their cause and leave the old file, directories change whole.
// Disks that are full or slow are played by /dev/full, RLIMIT_FSIZE, a pipe, and a timer that interrupts system calls.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/files.h"
#include "core/random.h"
#include "tests/support/check.h"

static const char *path_in(const char *directory, const char *name) {
    static char paths[8][PATH_MAX];
    static size_t turn;
    char *path = paths[turn++ % 8];
    assert_true(path_join(path, PATH_MAX, directory, name, NULL));
    return path;
}

static bool exists(const char *path) { return access(path, F_OK) == 0; }

static void expect_content(const char *path, const void *data, size_t size) {
    Error error = {0};
    size_t read = 0;
    char *content = file_read_all(path, 1 << 28, &read, &error);
    if (!content) fail_msg("%s", error.message);
    assert_int_equal(read, size);
    assert_int_equal(content[read], '\0');
    if (size > 0) check_same_bits("bytes read back", content, data, size);
    free(content);
}

static unsigned char *noise(size_t size) {
    unsigned char *data = malloc(size + 1);
    assert_non_null(data);
    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char)random_bits((Random){.seed = 8, .stream = RANDOM_TEST}, i);
    return data;
}

// Pieces around the buffer's size (256 KiB), and a header that is patched at the end.
static void test_writer_pieces(void **state) {
    (void)state;
    const size_t pieces[] = {16, 0, 1, 262127, 1, 262144, 262143, 2, 262145, 600000, 7, 262144, 262144};
    enum { COUNT = sizeof pieces / sizeof *pieces };
    size_t total = 0;
    for (size_t i = 0; i < COUNT; i++) total += pieces[i];
    unsigned char *data = noise(total);
    const char *path = path_in(temporary_directory(), "pieces");
    FileWriter *writer = file_writer_open(path, NULL);
    assert_non_null(writer);
    size_t at = 0;
    for (size_t i = 0; i < COUNT; at += pieces[i++]) {
        assert_true(file_writer_write(writer, data + at, pieces[i]));
        if (i == 0) assert_true(file_writer_write_at(writer, 4, "EARL", 4)); // still in the buffer
    }
    assert_true(file_writer_write_at(writer, 8, "LATE", 4));
    assert_true(file_writer_write_at(writer, total - 3, "end", 3));
    assert_true(file_writer_close(writer, NULL));
    memcpy(data + 4, "EARLLATE", 8);
    memcpy(data + total - 3, "end", 3);
    expect_content(path, data, total);
    free(data);
}

static void test_atomic_replaces(void **state) {
    (void)state;
    const char *folder = temporary_directory(), *path = path_in(folder, "state.json");
    Error error = {0};
    assert_true(file_write_atomic(path, "first", 5, &error));
    expect_content(path, "first", 5);
    assert_true(file_write_atomic(path, "2nd", 3, &error));
    expect_content(path, "2nd", 3);
    assert_true(file_write_atomic(path, NULL, 0, &error));
    expect_content(path, "", 0);
    assert_false(exists(path_in(folder, "state.json.tmp")));
    assert_int_equal(error.kind, ERROR_NONE);
}

static void test_full_disk_keeps_the_old_file(void **state) {
    (void)state;
    const char *folder = temporary_directory(), *path = path_in(folder, "model");
    unsigned char *data = noise(900000);
    assert_true(file_write_atomic(path, "old and good", 12, NULL));
    // Every limit is another place for the write to fall short: in the buffer, at its edge, in a large piece.
    const rlim_t limits[] = {0, 1, 4096, 262143, 262144, 500000, 899999};
    struct rlimit unlimited, limited;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &unlimited), 0);
    signal(SIGXFSZ, SIG_IGN); // write(2) then fails with EFBIG
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        Error error = {0};
        limited = (struct rlimit){.rlim_cur = limits[i], .rlim_max = unlimited.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limited), 0);
        bool good = file_write_atomic(path, data, 900000, &error);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
        assert_false(good);
        assert_int_equal(error.kind, ERROR_SYSTEM);
        assert_non_null(strstr(error.message, "model.tmp: File too large"));
        assert_false(exists(path_in(folder, "model.tmp")));
        expect_content(path, "old and good", 12);
    }
    free(data);
    check_count("full disks", sizeof limits / sizeof *limits);
}

static void test_writer_remembers_the_first_failure(void **state) {
    (void)state;
    static unsigned char data[300000];
    Error error = {0};
    FileWriter *writer = file_writer_open("/dev/full", &error);
    assert_non_null(writer);
    assert_true(file_writer_write(writer, data, 10)); // only buffered
    assert_false(file_writer_write(writer, data, sizeof data));
    assert_false(file_writer_write(writer, data, 1));
    assert_false(file_writer_write_at(writer, 0, data, 1));
    assert_false(file_writer_close(writer, &error));
    assert_string_equal(error.message, "Cannot write /dev/full: No space left on device");
    error_clear(&error);
    writer = file_writer_open("/dev/full", &error); // noticed by close alone
    assert_true(file_writer_write(writer, data, 10));
    assert_false(file_writer_close(writer, &error));
    assert_string_equal(error.message, "Cannot write /dev/full: No space left on device");
    error_clear(&error);
    assert_null(file_writer_open("/nowhere/at/all", &error));
    assert_string_equal(error.message, "Cannot create /nowhere/at/all: No such file or directory");
    writer = file_writer_open(path_in(temporary_directory(), "abandoned"), NULL);
    assert_true(file_writer_write(writer, data, 10));
    file_writer_abandon(writer);
    check_count("failing writers", 4);
}

static int alarms;
static void count_alarm(int signal_number) {
    (void)signal_number;
    __atomic_add_fetch(&alarms, 1, __ATOMIC_RELAXED);
}

typedef struct Drain {
    int descriptor;
    size_t read;
    uint32_t sum;
} Drain;

// Reads slowly in small pieces, so that the writer blocks and its writes are cut short. Before it begins, the writer has
// long been at a full pipe, where alarms find it with nothing written; 5 s, if it has given up.
static void *drain(void *argument) {
    Drain *pipe_end = argument;
    unsigned char piece[3001];
    ssize_t got;
    for (int i = 0; i < 50000 && __atomic_load_n(&alarms, __ATOMIC_RELAXED) < 50; i++) usleep(100);
    while ((got = read(pipe_end->descriptor, piece, sizeof piece)) != 0) {
        if (got < 0) continue; // EINTR
        pipe_end->sum = checksum(pipe_end->sum, piece, (size_t)got);
        pipe_end->read += (size_t)got;
        usleep(50);
    }
    return NULL;
}

// A timer without SA_RESTART interrupts blocked writes to a pipe: EINTR with nothing written, or a short count.
static void test_interrupted_and_short_writes(void **state) {
    (void)state;
    enum { SIZE = 1500000, LINES = 2000 };
    const char *path = path_in(temporary_directory(), "pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    struct sigaction action = {.sa_handler = count_alarm}, before;
    sigaction(SIGALRM, &action, &before);
    Drain reader = {.descriptor = open(path, O_RDONLY | O_NONBLOCK)};
    FileWriter *writer = file_writer_open(path, NULL);
    int line_descriptor = open(path, O_WRONLY);
    assert_true(reader.descriptor >= 0 && writer && line_descriptor >= 0);
    fcntl(reader.descriptor, F_SETFL, 0);
    sigset_t alarm_set;
    sigemptyset(&alarm_set);
    sigaddset(&alarm_set, SIGALRM);
    pthread_t thread;
    pthread_sigmask(SIG_BLOCK, &alarm_set, NULL); // the reader inherits this: only the writer is interrupted
    assert_int_equal(pthread_create(&thread, NULL, drain, &reader), 0);
    pthread_sigmask(SIG_UNBLOCK, &alarm_set, NULL);
    struct itimerval timer = {{0, 300}, {0, 300}}, off = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &timer, NULL);
    unsigned char *data = noise(SIZE);
    bool written = file_writer_write(writer, data, SIZE / 2) && file_writer_write(writer, data + SIZE / 2, SIZE / 2);
    written = file_writer_close(writer, NULL) && written;
    uint32_t expected = checksum(0, data, SIZE);
    for (size_t i = 0; i < LINES; i++) {
        written = file_append_line(line_descriptor, (char *)data, 100, NULL) && written;
        expected = checksum(expected, data, 100);
        if (data[99] != '\n') expected = checksum(expected, "\n", 1);
    }
    setitimer(ITIMER_REAL, &off, NULL);
    close(line_descriptor);
    pthread_join(thread, NULL);
    sigaction(SIGALRM, &before, NULL);
    close(reader.descriptor);
    assert_true(written);
    assert_int_equal(reader.read, SIZE + LINES * (data[99] == '\n' ? 100 : 101));
    assert_int_equal(reader.sum, expected);
    free(data);
    check_count("bytes through a pipe", reader.read);
}

static void test_append_line(void **state) {
    (void)state;
    const char *path = path_in(temporary_directory(), "metrics.jsonl");
    int descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    assert_true(file_append_line(descriptor, "{\"a\":1}", 7, NULL));
    assert_true(file_append_line(descriptor, "{\"b\":2}\n", 8, NULL)); // no second newline
    assert_true(file_append_line(descriptor, "", 0, NULL));
    close(descriptor);
    expect_content(path, "{\"a\":1}\n{\"b\":2}\n\n", 17);
    Error error = {0};
    descriptor = open("/dev/full", O_WRONLY);
    assert_false(file_append_line(descriptor, "x", 1, &error));
    close(descriptor);
    assert_non_null(strstr(error.message, "No space left"));
    check_count("lines", 4);
}

static void test_read_all(void **state) {
    (void)state;
    const char *folder = temporary_directory(), *path = path_in(folder, "text");
    Error error = {0};
    size_t size;
    assert_true(file_write_atomic(path, "12345", 5, NULL));
    char *content = file_read_all(path, 5, &size, &error); // exactly at the limit
    assert_non_null(content);
    free(content);
    assert_null(file_read_all(path, 4, &size, &error));
    assert_int_equal(error.kind, ERROR_USER);
    assert_non_null(strstr(error.message, "text is larger than the 4 bytes"));
    error_clear(&error);
    assert_null(file_read_all(path_in(folder, "absent"), 4, &size, &error));
    assert_int_equal(error.kind, ERROR_USER);
    assert_non_null(strstr(error.message, "absent"));
    error_clear(&error);
    assert_null(file_read_all(folder, 1000, &size, &error));
    assert_non_null(strstr(error.message, "Is a directory"));
    error_clear(&error);
    content = file_read_all("/proc/self/status", 1 << 20, &size, &error); // its size is 0 to fstat
    assert_non_null(content);
    assert_true(size > 100 && strlen(content) == size);
    free(content);
    assert_null(file_read_all("/dev/zero", 100000, &size, &error)); // endless
    assert_int_equal(error.kind, ERROR_USER);
    check_count("whole files", 6);
}

static void test_read_at(void **state) {
    (void)state;
    const char *path = path_in(temporary_directory(), "shard");
    unsigned char *data = noise(5000), part[5000];
    assert_true(file_write_atomic(path, data, 5000, NULL));
    int descriptor = open(path, O_RDONLY);
    size_t cases = 0;
    for (size_t offset = 0; offset < 5000; offset += 613)
        for (size_t size = 0; offset + size <= 5000; size += 331, cases++) {
            assert_true(file_read_at(descriptor, path, part, size, offset, NULL));
            assert_memory_equal(part, data + offset, size);
        }
    const uint64_t beyond[][2] = {{1, 5000},       {5000, 1},         {2, 4999},
                                  {1, UINT64_MAX}, {5000, INT64_MAX}, {1, (uint64_t)1 << 40}};
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++, cases++) {
        Error error = {0};
        assert_false(file_read_at(descriptor, path, part, (size_t)beyond[i][0], beyond[i][1], &error));
        assert_int_equal(error.kind, ERROR_CORRUPT);
        assert_non_null(strstr(error.message, path));
    }
    assert_int_equal(truncate(path, 2500), 0); // cut under our hands: a message, not a signal
    Error error = {0};
    assert_false(file_read_at(descriptor, path, part, 5000, 0, &error));
    assert_non_null(strstr(error.message, "truncated: 2500 bytes are missing"));
    close(descriptor);
    free(data);
    check_count("parts of files", cases + 1);
}

static void test_checksum(void **state) {
    (void)state;
    assert_int_equal(checksum(0, "123456789", 9), 0xCBF43926); // the check value of CRC-32
    assert_int_equal(checksum(checksum(0, "1234", 4), "56789", 5), 0xCBF43926);
    assert_int_equal(checksum(0, "", 0), 0);
    check_count("checksums", 3);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_writer_pieces),
    cmocka_unit_test(test_atomic_replaces),
    cmocka_unit_test(test_full_disk_keeps_the_old_file),
    cmocka_unit_test(test_writer_remembers_the_first_failure),
    cmocka_unit_test(test_interrupted_and_short_writes),
    cmocka_unit_test(test_append_line),
    cmocka_unit_test(test_read_all),
    cmocka_unit_test(test_read_at),
    cmocka_unit_test(test_checksum),
};

TEST_MAIN(tests)
