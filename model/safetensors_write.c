// Writes safetensors (interface and checksums: safetensors.h): the header, padded with spaces to a multiple of 8, then
// each tensor's numbers in the order of the items. Two passes over the numbers: checksums first, as they stand in the
// header, then the bytes.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/files.h"
#include "core/json_text.h"
#include "model/safetensors_internal.h"

char *safetensors_header_digits(char *text, size_t size) {
    static const char key[] = "\"" SAFETENSORS_HEADER_CHECKSUM "\":\"";
    char *found = memmem(text, size, key, sizeof key - 1);
    if (!found) return NULL;
    char *digits = found + sizeof key - 1;
    return (size_t)(text + size - digits) > SAFETENSORS_CHECKSUM_DIGITS ? digits : NULL;
}

uint32_t safetensors_header_checksum(const unsigned char *length, char *text, size_t size, char *digits) {
    memset(digits, '0', SAFETENSORS_CHECKSUM_DIGITS);
    return checksum(checksum(0, length, SAFETENSORS_LENGTH_BYTES), text, size);
}

static size_t item_elements(const SafetensorsItem *item) {
    size_t elements = 1;
    for (size_t i = 0; i < item->rank; i++) REQUIRE(size_multiply(elements, item->shape[i], &elements));
    return elements;
}

static json_t *tensor_entry(const SafetensorsItem *item, const Dtype *dtype, size_t *end) {
    size_t begin = *end, bytes;
    REQUIRE(size_multiply(item_elements(item), dtype->bytes, &bytes) && size_add(begin, bytes, end));
    json_t *shape = json_array();
    for (size_t i = 0; i < item->rank; i++)
        if (json_array_append_new(shape, json_integer((json_int_t)item->shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtype->name, "shape", shape, "data_offsets", (json_int_t)begin,
                     (json_int_t)*end);
}

static bool set_checksum(json_t *metadata, const SafetensorsItem *item, const Dtype *dtype) {
    uint32_t running = 0;
    dtype_pass(dtype, item->data, item_elements(item), NULL, &running);
    char *key = NULL, digits[SAFETENSORS_CHECKSUM_DIGITS + 1];
    snprintf(digits, sizeof digits, "%08x", running);
    if (asprintf(&key, SAFETENSORS_TENSOR_CHECKSUM "%s", item->name) < 0) return false;
    bool set = json_object_set_new(metadata, key, json_string(digits)) == 0;
    free(key);
    return set;
}

// The whole header as JSON, checksum digits zero; NULL when memory runs out.
static char *header_text(const Dtype *dtype, const SafetensorsItem *items, size_t count, const char *const *metadata) {
    json_watch();
    json_t *header = json_object(), *pairs = json_object();
    bool good = json_object_set_new(header, "__metadata__", pairs) == 0 &&
                json_object_set_new(pairs, "format", json_string("pt")) == 0 &&
                json_object_set_new(pairs, "writer", json_string(SAFETENSORS_WRITER)) == 0 &&
                json_object_set_new(pairs, SAFETENSORS_HEADER_CHECKSUM, json_string("00000000")) == 0;
    for (const char *const *pair = metadata; good && pair && pair[0]; pair += 2)
        good = json_object_set_new(pairs, pair[0], json_string(pair[1])) == 0;
    size_t end = 0;
    for (size_t i = 0; good && i < count; i++)
        good = set_checksum(pairs, &items[i], dtype) &&
               json_object_set_new(header, items[i].name, tensor_entry(&items[i], dtype, &end)) == 0;
    char *text = good ? json_print(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

bool safetensors_write_as(const char *path, const Dtype *dtype, const SafetensorsItem *items, size_t count,
                          const char *const *metadata, Error *error) {
    REQUIRE(dtype && dtype->store);
    char *text = header_text(dtype, items, count, metadata);
    size_t size = text ? strlen(text) : 0, padded = (size + 7) / 8 * 8;
    char *header = text ? realloc(text, padded + 1) : NULL;
    if (!header) {
        free(text);
        return error_set(error, ERROR_MEMORY, "There is no memory for the header of %s.", path);
    }
    memset(header + size, ' ', padded - size);
    uint64_t length = padded;
    unsigned char *length_bytes = (unsigned char *)&length;
    char *digits = safetensors_header_digits(header, padded), sum[SAFETENSORS_CHECKSUM_DIGITS + 1];
    REQUIRE(digits);
    snprintf(sum, sizeof sum, "%08x", safetensors_header_checksum(length_bytes, header, padded, digits));
    memcpy(digits, sum, SAFETENSORS_CHECKSUM_DIGITS);

    FileWriter *writer = file_writer_open(path, error);
    if (!writer) {
        free(header);
        return false;
    }
    file_writer_write(writer, length_bytes, sizeof length);
    file_writer_write(writer, header, padded);
    for (size_t i = 0; i < count; i++) dtype_pass(dtype, items[i].data, item_elements(&items[i]), writer, NULL);
    free(header);
    return file_writer_close(writer, error); // reports the first cause, if any write failed
}

bool safetensors_write(const char *path, const SafetensorsItem *items, size_t count, const char *const *metadata,
                       Error *error) {
    return safetensors_write_as(path, dtype_find("F32"), items, count, metadata, error);
}
