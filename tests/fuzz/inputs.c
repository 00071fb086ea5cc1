// Seeds, files and directories of the targets (inputs.h).
#include "tests/fuzz/inputs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "data/data.h"
#include "model/safetensors_internal.h"

void require_reason(bool good, const Error *error) {
    REQUIRE(good ? error->kind == ERROR_NONE : error->kind != ERROR_NONE && *error->message);
}

static FuzzGive seed_receiver;
static void *seed_context;

void seed(const void *bytes, size_t size) { seed_receiver(seed_context, bytes, size, true); }
void seed_text(const char *text) { seed(text, strlen(text)); }
void seed_refused(const void *bytes, size_t size) { seed_receiver(seed_context, bytes, size, false); }

void seed_file(const char *path) {
    Error error = {0};
    size_t size;
    char *bytes = file_read_all(path, 1 << 24, &size, &error);
    REQUIRE(bytes);
    seed(bytes, size);
    free(bytes);
}

void fuzz_each_seed(const FuzzTarget *target, FuzzGive give, void *context) {
    seed_receiver = give;
    seed_context = context;
    target->seeds();
}

const char *file_of(const void *data, size_t size) {
    static const char path[] = MEMORY "/file/file";
    memory_put(path, data, size);
    return path;
}

static char scratch[PATH_SIZE];
static void remove_scratch(void) { directory_remove(scratch, NULL); }
const char *directory(const char *name) {
    static char path[PATH_SIZE + 32];
    if (!*scratch) {
        snprintf(scratch, sizeof scratch, "%s/rope-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        REQUIRE(mkdtemp(scratch));
        atexit(remove_scratch);
    }
    snprintf(path, sizeof path, "%s/%.30s", scratch, name);
    REQUIRE(mkdir(path, 0777) == 0 || errno == EEXIST);
    return path;
}

const char *scratch_path(const char *target_and_file) {
    static char path[PATH_SIZE + 96];
    char target[32];
    snprintf(target, sizeof target, "%.*s", (int)strcspn(target_and_file, "/"), target_and_file);
    directory(target);
    snprintf(path, sizeof path, "%s/%.64s", scratch, target_and_file);
    return path;
}

void write_scratch(const char *target_and_file, const void *data, size_t size) {
    int descriptor = open(scratch_path(target_and_file), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    REQUIRE(descriptor >= 0 && write(descriptor, data, size) == (ssize_t)size && close(descriptor) == 0);
}

static int nowhere = -1, kept[2];
void quiet_begin(void) {
    fflush(stdout);
    for (int i = 0; i < 2 && nowhere < 0; i++) kept[i] = fcntl(i + 1, F_DUPFD_CLOEXEC, 3);
    if (nowhere < 0) nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    for (int i = 0; i < 2; i++) dup2(nowhere, i + 1);
}

void quiet_end(void) {
    fflush(stdout);
    for (int i = 0; i < 2; i++) dup2(kept[i], i + 1);
}

void mend_safetensors(uint8_t *bytes, size_t size) {
    uint64_t length;
    if (size < sizeof length) return;
    memcpy(&length, bytes, sizeof length);
    if (length > size - sizeof length) return;
    char *text = (char *)bytes + sizeof length, *digits = safetensors_header_digits(text, length);
    if (!digits) return;
    char sum[SAFETENSORS_CHECKSUM_DIGITS + 1];
    snprintf(sum, sizeof sum, "%08x", safetensors_header_checksum(bytes, text, length, digits));
    memcpy(digits, sum, SAFETENSORS_CHECKSUM_DIGITS);
}

Tokenizer *tokenizer(void) {
    static Tokenizer *loaded;
    if (loaded) return loaded;
    static const char text[] = "the king of the hill and his sons went up to see what no man had seen before\n"
                               "caf\xC3\xA9 na\xC3\xAFve \xE2\x82\xAC 1234567890 !?.,;:'\" the end of the land\n";
    write_scratch("text/text.txt", text, sizeof text - 1);
    char input[PATH_SIZE + 64], out[PATH_SIZE + 64];
    snprintf(input, sizeof input, "%s/text.txt", directory("text"));
    snprintf(out, sizeof out, "%s/data", directory("text"));
    const char *const inputs[] = {input};
    PrepareResult result;
    Error error = {0};
    const PrepareSettings settings = {.inputs = inputs,
                                      .input_count = 1,
                                      .out = out,
                                      .type = "bpe",
                                      .vocabulary = 320,
                                      .validation_share = 0.1,
                                      .quiet = true};
    if (!data_prepare(&settings, &result, &error)) fprintf(stderr, "%s\n", error.message);
    loaded = tokenizer_load(scratch_path("text/data/tokenizer.model"), &error);
    REQUIRE(loaded);
    return loaded;
}
