// Reads safetensors (interface and checksums: safetensors.h). Everything that the header says is checked against the
// size of the file before anything is used: a header that passes describes tensors that follow one another from the
// first byte of the data to the last, each as long as its shape and format say.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/descriptor.h"
#include "core/files.h"
#include "model/dtype.h"
#include "core/json_text.h"
#include "model/safetensors_internal.h"

enum { MAX_RANK = 4 };

typedef struct Entry {
    const char *name; // belongs to the JSON, as all strings here
    const Dtype *dtype;
    size_t rank, shape[MAX_RANK], elements;
    uint64_t begin, end;   // in the data
    const char *checksum;  // 8 hexadecimal digits; NULL in files of others
} Entry;

struct Safetensors {
    char *path;
    int descriptor;
    bool ours;
    json_t *header;
    const json_t *metadata; // NULL if there is none
    size_t count;
    Entry *entries;         // in the order of their data
    uint64_t data_start, data_size;
};

static bool fail(const Safetensors *file, Error *error, const char *section, const char *what) {
    return error_set(error, ERROR_CORRUPT, "%s: %s: %s.", file->path, section, what);
}

static bool fail_tensor(const Safetensors *file, Error *error, const char *name, const char *what) {
    return error_set(error, ERROR_CORRUPT, "%s: tensor '%.200s': %s.", file->path, name, what);
}

static bool size_from(const json_t *value, size_t *size) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *size = (size_t)json_integer_value(value);
    return true;
}

static bool read_shape(const json_t *shape, Entry *entry) {
    if (!json_is_array(shape) || json_array_size(shape) > MAX_RANK) return false;
    entry->rank = json_array_size(shape);
    entry->elements = 1;
    for (size_t i = 0; i < entry->rank; i++)
        if (!size_from(json_array_get(shape, i), &entry->shape[i]) ||
            !size_multiply(entry->elements, entry->shape[i], &entry->elements))
            return false;
    return true;
}

static bool read_entry(const Safetensors *file, const char *name, const json_t *value, Entry *entry, Error *error) {
    const json_t *offsets = json_object_get(value, "data_offsets");
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    entry->name = name;
    if (!dtype || !(entry->dtype = dtype_find(dtype))) return fail_tensor(file, error, name, "its dtype is unknown");
    if (!read_shape(json_object_get(value, "shape"), entry))
        return fail_tensor(file, error, name, "its shape is not a list of at most 4 sizes whose product fits");
    size_t begin, end, bytes;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !size_from(json_array_get(offsets, 0), &begin) ||
        !size_from(json_array_get(offsets, 1), &end) || begin > end || end > file->data_size)
        return fail_tensor(file, error, name, "its data_offsets do not lie in the file");
    if (!size_multiply(entry->elements, entry->dtype->bytes, &bytes) || bytes != end - begin)
        return fail_tensor(file, error, name, "its data_offsets do not fit its shape and dtype");
    entry->begin = begin;
    entry->end = end;
    return true;
}

static int compare_entries(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

// Tensors must follow one another without holes or overlaps and end with the file.
static bool check_layout(Safetensors *file, Error *error) {
    qsort(file->entries, file->count, sizeof *file->entries, compare_entries);
    uint64_t end = 0;
    for (size_t i = 0; i < file->count; i++) {
        if (file->entries[i].begin != end)
            return fail_tensor(file, error, file->entries[i].name,
                               file->entries[i].begin > end ? "a hole lies in front of its data"
                                                            : "its data overlap another tensor's");
        end = file->entries[i].end;
    }
    return end == file->data_size || fail(file, error, "data", "bytes follow the last tensor");
}

static bool check_metadata(const Safetensors *file, Error *error) {
    if (!json_object_get(file->header, "__metadata__")) return true;
    if (!json_is_object(file->metadata)) return fail(file, error, "header", "__metadata__ is not an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)file->metadata, key, value)
        if (!json_is_string(value)) return fail(file, error, "header", "__metadata__ holds something other than text");
    return true;
}

static bool read_entries(Safetensors *file, Error *error) {
    file->entries = calloc(json_object_size(file->header) + 1, sizeof *file->entries);
    if (!file->entries) return error_set(error, ERROR_MEMORY, "There is no memory for the header of %s.", file->path);
    const char *name;
    json_t *value;
    json_object_foreach(file->header, name, value) {
        if (value == file->metadata) continue;
        if (!read_entry(file, name, value, &file->entries[file->count++], error)) return false;
    }
    return check_layout(file, error);
}

// Files of ours: the header's own checksum, and that there is one for each tensor.
static bool check_ours(Safetensors *file, const unsigned char *length, char *text, size_t size, Error *error) {
    const char *writer = safetensors_metadata(file, "writer");
    const char *stored = safetensors_metadata(file, SAFETENSORS_HEADER_CHECKSUM);
    file->ours = stored || (writer && strcmp(writer, SAFETENSORS_WRITER) == 0);
    if (!file->ours) return true;
    char *digits = safetensors_header_digits(text, size), sum[SAFETENSORS_CHECKSUM_DIGITS + 1];
    if (!stored || !digits) return fail(file, error, "header", "its checksum is missing");
    snprintf(sum, sizeof sum, "%08x", safetensors_header_checksum(length, text, size, digits));
    if (strcmp(sum, stored) != 0) return fail(file, error, "header", "its checksum does not hold");
    for (size_t i = 0; i < file->count; i++) {
        Entry *entry = &file->entries[i];
        char *key = NULL;
        if (asprintf(&key, SAFETENSORS_TENSOR_CHECKSUM "%s", entry->name) < 0)
            return error_set(error, ERROR_MEMORY, "There is no memory for the header of %s.", file->path);
        entry->checksum = safetensors_metadata(file, key);
        free(key);
        if (!entry->checksum) return fail_tensor(file, error, entry->name, "its checksum is missing");
    }
    return true;
}

static bool parse_header(Safetensors *file, const unsigned char *length, char *text, size_t size, Error *error) {
    if (text[0] != '{') return fail(file, error, "header", "it does not start with '{'");
    file->header = json_parse(file->path, "header", text, size, error);
    if (!file->header) return false;
    file->metadata = json_object_get(file->header, "__metadata__");
    return check_metadata(file, error) && read_entries(file, error) && check_ours(file, length, text, size, error);
}

static bool read_header(Safetensors *file, Error *error) {
    struct stat status;
    if (fstat(file->descriptor, &status) != 0) return error_errno(error, "%s", file->path);
    if (!S_ISREG(status.st_mode)) return error_set(error, ERROR_USER, "%s is not a regular file.", file->path);
    uint64_t size = (uint64_t)status.st_size, length;
    unsigned char bytes[SAFETENSORS_LENGTH_BYTES];
    if (size < sizeof bytes + 2) return fail(file, error, "header", "the file is truncated before it");
    if (!file_read_at(file->descriptor, file->path, bytes, sizeof bytes, 0, error)) return false;
    memcpy(&length, bytes, sizeof length);
    if (length < 2 || length > SAFETENSORS_HEADER_LIMIT || length > size - sizeof bytes)
        return error_set(error, ERROR_CORRUPT, "%s: header: a length of %llu bytes cannot be (the file has %llu).",
                         file->path, (unsigned long long)length, (unsigned long long)size);
    file->data_start = sizeof bytes + length;
    file->data_size = size - file->data_start;
    char *text = malloc(length);
    if (!text) return error_set(error, ERROR_MEMORY, "There is no memory for the header of %s.", file->path);
    bool good = file_read_at(file->descriptor, file->path, text, length, sizeof bytes, error) &&
                parse_header(file, bytes, text, length, error);
    free(text);
    return good;
}

Safetensors *safetensors_open(const char *path, Error *error) {
    Safetensors *file = calloc(1, sizeof *file);
    if (file) file->path = strdup(path);
    if (!file || !file->path) {
        free(file);
        error_set(error, ERROR_MEMORY, "There is no memory to open %s.", path);
        return NULL;
    }
    file->descriptor = descriptor_open_to_read(path);
    bool good = file->descriptor >= 0 || error_errno(error, "%s", path);
    if (good && read_header(file, error)) return file;
    safetensors_close(file);
    return NULL;
}

void safetensors_close(Safetensors *file) {
    if (!file) return;
    if (file->descriptor >= 0) close(file->descriptor);
    json_decref(file->header);
    free(file->entries);
    free(file->path);
    free(file);
}

bool safetensors_ours(const Safetensors *file) { return file->ours; }
size_t safetensors_count(const Safetensors *file) { return file->count; }
const char *safetensors_name(const Safetensors *file, size_t index) {
    return index < file->count ? file->entries[index].name : NULL;
}
const char *safetensors_metadata(const Safetensors *file, const char *key) {
    return json_string_value(json_object_get(file->metadata, key));
}

static const Entry *entry_find(const Safetensors *file, const char *name) {
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->entries[i].name, name) == 0) return &file->entries[i];
    return NULL;
}

bool safetensors_shape(const Safetensors *file, const char *name, size_t *rank, size_t shape[4]) {
    const Entry *entry = entry_find(file, name);
    if (!entry) return false;
    *rank = entry->rank;
    memcpy(shape, entry->shape, entry->rank * sizeof *shape);
    return true;
}

bool safetensors_read(Safetensors *file, const char *name, size_t rank, const size_t *shape, real *out, Error *error) {
    const Entry *entry = entry_find(file, name);
    if (!entry) return fail_tensor(file, error, name, "it is missing");
    bool same = entry->rank == rank;
    for (size_t i = 0; same && i < rank; i++) same = entry->shape[i] == shape[i];
    if (!same)
        return fail_tensor(file, error, name, "it has another shape than the configuration says");
    if (!entry->dtype->convert)
        return error_set(error, ERROR_USER, "%s: tensor '%.200s' is %s; F32, BF16, F16 and F64 can be read.",
                         file->path, name, entry->dtype->name);
    unsigned char chunk[SAFETENSORS_CHUNK]; // a multiple of every format's size
    uint32_t running = 0;
    for (uint64_t at = entry->begin; at < entry->end;) {
        size_t size = entry->end - at < sizeof chunk ? (size_t)(entry->end - at) : sizeof chunk;
        size_t count = size / entry->dtype->bytes;
        if (!file_read_at(file->descriptor, file->path, chunk, size, file->data_start + at, error)) {
            error_context(error, "tensor '%.200s'", name);
            return false;
        }
        running = checksum(running, chunk, size);
        entry->dtype->convert(out, chunk, count);
        out += count;
        at += size;
    }
    char sum[SAFETENSORS_CHECKSUM_DIGITS + 1];
    snprintf(sum, sizeof sum, "%08x", running);
    return !entry->checksum || strcmp(sum, entry->checksum) == 0 ||
           fail_tensor(file, error, name, "its checksum does not hold: the data are damaged");
}
