// Token shards on disk. Writing streams through a small buffer and patches the header at the end, so that an unfinished
// file has no valid header. Reading believes nothing: the count must match the size of the file exactly, and in files
// of our own every byte is under one of two checksums (header words 0 to 4, ids; the remaining words must be zero).
// Files are little-endian, as llm.c writes them on every machine that this program runs on.
#include "data/shards.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/descriptor.h"
#include "core/files.h"
#include "data/data.h"

enum { SHARD_MAGIC = 20240520, HEADER_WORDS = 256, HEADER_BYTES = 4 * HEADER_WORDS, BUFFER_IDS = 16384 };
enum { WORD_MAGIC, WORD_VERSION, WORD_COUNT, WORD_VOCABULARY, WORD_IDS_CRC, WORD_HEADER_CRC, WORDS_USED };

static size_t id_width(size_t vocabulary) { return vocabulary > 65536 ? 4 : 2; }

struct ShardWriter {
    FileWriter *file; // NULL once it failed: the cause has been reported
    char *path;
    size_t vocabulary, width;
    uint64_t count;
    uint32_t crc;
};

ShardWriter *shard_create(const char *path, size_t vocabulary, Error *error) {
    if (vocabulary == 0 || vocabulary > INT32_MAX) {
        error_set(error, ERROR_USER, "%s: a vocabulary of %zu is out of range", path, vocabulary);
        return NULL;
    }
    ShardWriter *writer = calloc(1, sizeof *writer);
    char *copy = strdup(path);
    if (!writer || !copy) {
        error_set(error, ERROR_MEMORY, "%s: out of memory", path);
        free(writer);
        free(copy);
        return NULL;
    }
    *writer = (ShardWriter){.path = copy, .vocabulary = vocabulary, .width = id_width(vocabulary)};
    const int32_t none[HEADER_WORDS] = {0};
    writer->file = file_writer_open(path, error);
    if (!writer->file) {
        shard_abandon(writer);
        return NULL;
    }
    file_writer_write(writer->file, none, sizeof none); // a failure stays with the file, and shows at the next write
    return writer;
}

// Closing reports why a write failed.
static bool write_failed(ShardWriter *writer, Error *error) {
    FileWriter *file = writer->file;
    writer->file = NULL;
    if (file) file_writer_close(file, error);
    return error_set(error, ERROR_SYSTEM, "%s: cannot write", writer->path);
}

bool shard_append(ShardWriter *writer, const int32_t *ids, size_t count, Error *error) {
    if (!writer->file) return write_failed(writer, error);
    if (count > INT32_MAX - writer->count)
        return error_set(error, ERROR_USER, "%s: more than 2^31-1 tokens; split the text and prepare it in parts",
                         writer->path);
    unsigned char buffer[4 * BUFFER_IDS];
    for (size_t done = 0; done < count;) {
        size_t chunk = count - done < BUFFER_IDS ? count - done : BUFFER_IDS;
        for (size_t i = 0; i < chunk; i++) {
            uint32_t id = (uint32_t)ids[done + i];
            if (id >= writer->vocabulary)
                return error_set(error, ERROR_USER, "%s: id %d does not fit a vocabulary of %zu", writer->path,
                                 ids[done + i], writer->vocabulary);
            memcpy(buffer + i * writer->width, &id, writer->width); // little-endian: the low bytes come first
        }
        writer->crc = checksum(writer->crc, buffer, chunk * writer->width);
        if (!file_writer_write(writer->file, buffer, chunk * writer->width)) return write_failed(writer, error);
        done += chunk;
    }
    writer->count += count;
    return true;
}

bool shard_finish(ShardWriter *writer, uint64_t *count, uint32_t *crc, Error *error) {
    uint32_t header[HEADER_WORDS] = {SHARD_MAGIC, writer->width == 2 ? 1 : 2, (uint32_t)writer->count,
                                     (uint32_t)writer->vocabulary, writer->crc};
    header[WORD_HEADER_CRC] = checksum(0, header, 4 * WORD_HEADER_CRC);
    bool good = writer->file && file_writer_write_at(writer->file, 0, header, sizeof header);
    if (good) {
        FileWriter *file = writer->file;
        writer->file = NULL;
        good = file_writer_close(file, error);
    } else {
        write_failed(writer, error);
    }
    if (good && count) *count = writer->count;
    if (good && crc) *crc = writer->crc;
    shard_abandon(writer);
    return good;
}

void shard_abandon(ShardWriter *writer) {
    if (!writer) return;
    if (writer->file) file_writer_abandon(writer->file);
    free(writer->path);
    free(writer);
}

static bool sum_ids(const Shard *shard, uint32_t *sum, Error *error) {
    unsigned char buffer[1 << 16];
    uint64_t bytes = shard->count * shard->width;
    uint32_t crc = 0;
    for (uint64_t done = 0; done < bytes;) {
        size_t chunk = bytes - done < sizeof buffer ? (size_t)(bytes - done) : sizeof buffer;
        if (!file_read_at(shard->descriptor, shard->path, buffer, chunk, HEADER_BYTES + done, error)) return false;
        crc = checksum(crc, buffer, chunk);
        done += chunk;
    }
    *sum = crc;
    return true;
}

static bool check_ids_crc(const Shard *shard, uint32_t expected, Error *error) {
    uint32_t crc;
    if (!sum_ids(shard, &crc, error)) return false;
    if (crc == expected) return true;
    return error_set(error, ERROR_CORRUPT, "%s: the tokens do not match their checksum (%08x, expected %08x)",
                     shard->path, crc, expected);
}

// Words 3 and up, if the file is one of ours.
static bool check_own_header(Shard *shard, const uint32_t *header, Error *error) {
    if (checksum(0, header, 4 * WORD_HEADER_CRC) != header[WORD_HEADER_CRC])
        return error_set(error, ERROR_CORRUPT, "%s: the header does not match its checksum", shard->path);
    for (size_t i = WORDS_USED; i < HEADER_WORDS; i++)
        if (header[i] != 0) return error_set(error, ERROR_CORRUPT, "%s: header word %zu is not zero", shard->path, i);
    if (header[WORD_VOCABULARY] > INT32_MAX) // ids are int32_t: none is to come out negative
        return error_set(error, ERROR_CORRUPT, "%s: a vocabulary of %u is out of range", shard->path,
                         header[WORD_VOCABULARY]);
    shard->vocabulary = header[WORD_VOCABULARY];
    shard->crc = header[WORD_IDS_CRC];
    shard->summed = check_ids_crc(shard, shard->crc, error);
    return shard->summed;
}

static bool check_header(Shard *shard, uint64_t file_bytes, Error *error) {
    uint32_t header[HEADER_WORDS];
    const char *path = shard->path;
    if (file_bytes < HEADER_BYTES)
        return error_set(error, ERROR_CORRUPT, "%s: truncated, %llu bytes are less than the header", path,
                         (unsigned long long)file_bytes);
    if (!file_read_at(shard->descriptor, path, header, sizeof header, 0, error)) return false;
    if (header[WORD_MAGIC] != SHARD_MAGIC)
        return error_set(error, ERROR_CORRUPT, "%s: no token shard (magic %u instead of %d)", path, header[WORD_MAGIC],
                         SHARD_MAGIC);
    if (header[WORD_VERSION] != 1 && header[WORD_VERSION] != 2)
        return error_set(error, ERROR_CORRUPT, "%s: version %d; versions 1 and 2 are known", path,
                         (int32_t)header[WORD_VERSION]);
    shard->width = header[WORD_VERSION] == 1 ? 2 : 4;
    shard->count = header[WORD_COUNT];
    if (shard->count == 0) return error_set(error, ERROR_CORRUPT, "%s: holds no tokens", path);
    if (shard->count > INT32_MAX)
        return error_set(error, ERROR_CORRUPT, "%s: the token count %d is negative", path, (int32_t)header[WORD_COUNT]);
    uint64_t expected = HEADER_BYTES + shard->count * shard->width; // below 2^34
    if (file_bytes != expected)
        return error_set(
            error, ERROR_CORRUPT, "%s: %s: the header says %llu tokens, which are %llu bytes; the file has %llu", path,
            file_bytes < expected ? "truncated" : "bytes after the last token", (unsigned long long)shard->count,
            (unsigned long long)expected, (unsigned long long)file_bytes);
    bool own = header[WORD_VOCABULARY] || header[WORD_IDS_CRC] || header[WORD_HEADER_CRC];
    return own ? check_own_header(shard, header, error) : sum_ids(shard, &shard->crc, error);
}

bool shard_is_name(const char *name, const char *split) {
    size_t length = strlen(name), prefix = strlen(split);
    return length >= prefix + 4 && strncmp(name, split, prefix) == 0 && strcmp(name + length - 4, ".bin") == 0;
}

bool shard_open(Shard *shard, const char *path, Error *error) {
    *shard = (Shard){.descriptor = descriptor_open_to_read(path), .path = strdup(path)};
    struct stat status;
    bool good = false;
    if (!shard->path)
        error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    else if (shard->descriptor < 0 && errno == ENOENT)
        error_set(error, ERROR_USER, "%s: no such file", path);
    else if (shard->descriptor < 0 || fstat(shard->descriptor, &status) != 0)
        error_errno(error, "%s: cannot open", path);
    else if (!S_ISREG(status.st_mode))
        error_set(error, ERROR_USER, "%s: not a regular file", path);
    else
        good = check_header(shard, (uint64_t)status.st_size, error);
    if (good) shard->stamp = stamp_of(&status); // of before anything was read
    if (!good) shard_close(shard);
    return good;
}

// *same: nobody wrote to the file since its stamp. Where somebody did (`touch` is enough), it gets a new one if it holds
// what it held.
static bool check_stamp(Shard *shard, bool *same, Error *error) {
    struct stat status;
    Error why = {0};
    if (fstat(shard->descriptor, &status) != 0) return error_errno(error, "%s: cannot look at it", shard->path);
    *same = stamp_holds(&shard->stamp, &status);
    if (*same) return true;
    if (check_ids_crc(shard, shard->crc, &why)) {
        shard->stamp = stamp_of(&status);
        return true;
    }
    if (why.kind == ERROR_SYSTEM) return error_set(error, why.kind, "%s", why.message);
    return error_set(error, ERROR_CORRUPT,
                     "%s: another program wrote to it while it was in use, and its tokens are not what they were; make it "
                     "again",
                     shard->path);
}

// Bytes that the file had when it was opened.
static bool read_unchanged(Shard *shard, void *data, size_t size, uint64_t offset, Error *error) {
    for (bool same = false; !same;) { // what was read before a new stamp may be of a time in between
        Error why = {0};
        const bool read = file_read_at(shard->descriptor, shard->path, data, size, offset, &why);
        if (!check_stamp(shard, &same, error)) return false;
        if (!read) return error_set(error, why.kind, "%s", why.message);
    }
    return true;
}

bool shard_read(Shard *shard, uint64_t first, size_t count, size_t limit, int32_t *ids, Error *error) {
    REQUIRE(first <= shard->count && count <= shard->count - first);
    uint64_t offset = HEADER_BYTES + first * shard->width;
    if (!read_unchanged(shard, ids, count * shard->width, offset, error)) return false;
    const unsigned char *raw = (const unsigned char *)ids;
    // Widened in place: from the end, so that no id is overwritten before it is read.
    for (size_t i = count; i-- > 0;) {
        uint32_t id = 0;
        memcpy(&id, raw + i * shard->width, shard->width);
        if (id >= limit)
            return error_set(error, ERROR_USER, "%s: id %u at byte %llu; the vocabulary has %zu", shard->path, id,
                             (unsigned long long)(offset + i * shard->width), limit);
        ids[i] = (int32_t)id;
    }
    return true;
}

void shard_close(Shard *shard) {
    if (shard->descriptor >= 0) close(shard->descriptor);
    free(shard->path);
    *shard = (Shard){.descriptor = -1};
}
