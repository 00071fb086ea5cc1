// Shards, meta.json, texts.
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "data/data.h"
#include "data/shards.h"
#include "tests/fuzz/inputs.h"
#include "train/words.h"

// ---- shards ---------------------------------------------------------------------------------------------------------

static int32_t ids[MOST_NUMBERS], again[MOST_NUMBERS];

// The loader's windows are the shard's ids one after another, and the targets those one later.
static void read_windows(const char *path, size_t count, size_t limit) {
    enum { TOKENS = 4 };
    Error error = {0};
    int32_t inputs[TOKENS], targets[TOKENS];
    Loader *loader = loader_open(
        &(DataSettings){.path = path, .split = "train", .batch = 1, .tokens = TOKENS, .vocabulary = limit}, &error);
    require_reason(loader, &error);
    REQUIRE(loader || count <= TOKENS);
    if (!loader) return;
    REQUIRE(loader_windows(loader) == (count - 1) / TOKENS && loader_tokens(loader) == count);
    for (size_t w = 0; w < loader_windows(loader); w++) {
        REQUIRE(loader_next(loader, inputs, targets, &error));
        REQUIRE(!memcmp(inputs, ids + w * TOKENS, sizeof inputs) &&
                !memcmp(targets, ids + w * TOKENS + 1, sizeof inputs));
    }
    loader_close(loader);
}

// The ids are written to a shard of ours and read again.
static void write_again(size_t count, size_t limit) {
    Error error = {0};
    Shard shard;
    static const char path[] = MEMORY "/shard/again.bin";
    ShardWriter *writer = shard_create(path, limit, &error);
    REQUIRE(writer && shard_append(writer, ids, count, &error) && shard_finish(writer, NULL, NULL, &error));
    REQUIRE(shard_open(&shard, path, &error) && shard.count == count && shard.vocabulary == limit);
    REQUIRE(shard_read(&shard, 0, count, limit, again, &error) && !memcmp(ids, again, count * sizeof *ids));
    shard_close(&shard);
}

static bool read_shard(const uint8_t *data, size_t size) {
    Error error = {0};
    Shard shard;
    const char *path = file_of(data, size);
    bool good = shard_open(&shard, path, &error);
    require_reason(good, &error);
    if (!good) return false;
    const size_t limit = shard.vocabulary ? shard.vocabulary : 65536;
    const size_t count = shard.count < MOST_NUMBERS ? (size_t)shard.count : MOST_NUMBERS;
    good = shard_read(&shard, shard.count - count, count, limit, ids, &error);
    require_reason(good, &error);
    for (size_t i = 0; good && i < count; i++) REQUIRE(ids[i] >= 0 && (size_t)ids[i] < limit);
    good = good && limit <= INT32_MAX;
    if (good && shard.count == count) read_windows(path, count, limit);
    if (good) write_again(count, limit);
    shard_close(&shard);
    return good;
}

// As the bytes are, and with the checksums that a file of ours has.
static bool run_shard(const uint8_t *data, size_t size) {
    enum { HEADER = 1024, IDS_CRC = 4, HEADER_CRC = 5 };
    const bool taken = read_shard(data, size);
    if (size < HEADER) return taken;
    uint8_t *mended = malloc(size);
    REQUIRE(mended);
    memcpy(mended, data, size);
    const uint32_t ids_crc = checksum(0, mended + HEADER, size - HEADER);
    memcpy(mended + 4 * IDS_CRC, &ids_crc, 4);
    const uint32_t header_crc = checksum(0, mended, 4 * HEADER_CRC);
    memcpy(mended + 4 * HEADER_CRC, &header_crc, 4);
    if (memcmp(mended, data, size)) read_shard(mended, size);
    free(mended);
    return taken;
}

static void seeds_shard(void) {
    static const size_t vocabularies[] = {300, 70000};
    for (size_t i = 0; i < 2; i++) {
        Error error = {0};
        const char *path = MEMORY "/shard/seed";
        const int32_t some[] = {1, 299, 0, 17, 5, 6, 7, 8, 9};
        ShardWriter *writer = shard_create(path, vocabularies[i], &error);
        REQUIRE(writer && shard_append(writer, some, i ? 9 : 4, &error) && shard_finish(writer, NULL, NULL, &error));
        seed_file(path);
    }
    int32_t foreign[256 + 2] = {20240520, 1, 4, [256] = 0x00020001, 0x00040003};
    seed(foreign, sizeof foreign);
    foreign[2] = -1;
    seed_refused(foreign, sizeof foreign);
}

const FuzzTarget fuzz_shard = {"shard", run_shard, seeds_shard};

// ---- meta.json ------------------------------------------------------------------------------------------------------

static bool run_meta(const uint8_t *data, size_t size) {
    Error error = {0};
    PrepareResult meta;
    memory_put(MEMORY "/meta/meta.json", data, size);
    const bool taken = data_read_meta(MEMORY "/meta", &meta, &error);
    require_reason(taken, &error);
    if (taken)
        REQUIRE(meta.vocabulary > 0 && meta.train_tokens > 0 && meta.val_tokens > 0 && meta.train_bytes > 0 &&
                meta.val_bytes > 0 && meta.unigram_loss >= 0);
    return taken;
}

static void seeds_meta(void) {
    tokenizer();
    seed_file(scratch_path("text/data/meta.json"));
    seed_text("{\"version\":1,\"vocabulary\":300,\"train\":{\"bytes\":3,\"tokens\":1},"
              "\"validation\":{\"bytes\":2,\"tokens\":1},\"unigram_loss\":0}");
}

const FuzzTarget fuzz_meta = {"meta", run_meta, seeds_meta};

// ---- texts ----------------------------------------------------------------------------------------------------------

// The decoding of a shard's ids, appended to the text. The count of ids.
static uint64_t decode_shard(const char *target_and_file, char *text, size_t *size) {
    Error error = {0};
    Shard shard;
    char *decoded;
    size_t bytes;
    REQUIRE(shard_open(&shard, scratch_path(target_and_file), &error) && shard.count <= MOST_NUMBERS);
    REQUIRE(shard_read(&shard, 0, (size_t)shard.count, tokenizer_vocabulary(tokenizer()), ids, &error));
    REQUIRE(tokenizer_decode(tokenizer(), ids, (size_t)shard.count, &decoded, &bytes, &error));
    memcpy(text + *size, decoded, bytes);
    *size += bytes;
    free(decoded);
    const uint64_t count = shard.count;
    shard_close(&shard);
    return count;
}

// The first two bytes say where the rest is cut into two files, and how much of it is held out. What was prepared is,
// from its shards, the text again; meta.json says what was returned.
static bool run_prepare(const uint8_t *data, size_t size) {
    static char text[3 * MOST_NUMBERS];
    if (size < 2 || size > MOST_NUMBERS / 2) return false;
    const size_t left = size - 2, first = left * data[0] / 255;
    tokenizer(); // there is its file, then
    write_scratch("prepare/1.txt", data + 2, first);
    write_scratch("prepare/2.txt", data + 2 + first, left - first);
    char inputs[2][PATH_SIZE + 96], out[PATH_SIZE + 96], model[PATH_SIZE + 96];
    snprintf(inputs[0], sizeof inputs[0], "%s", scratch_path("prepare/1.txt"));
    snprintf(inputs[1], sizeof inputs[1], "%s", scratch_path("prepare/2.txt"));
    snprintf(out, sizeof out, "%s", scratch_path("prepare/data"));
    snprintf(model, sizeof model, "%s", scratch_path("text/data/tokenizer.model"));
    const PrepareSettings settings = {.inputs = (const char *const[]){inputs[0], inputs[1]},
                                      .input_count = 2,
                                      .out = out,
                                      .validation_share = (data[1] + 1) / 258.0,
                                      .tokenizer = model,
                                      .quiet = true};
    PrepareResult result, meta;
    Error error = {0};
    const bool taken = data_prepare(&settings, &result, &error);
    require_reason(taken, &error);
    if (!taken) return false;
    size_t back = 0;
    REQUIRE(decode_shard("prepare/data/train.bin", text, &back) == result.train_tokens && back == result.train_bytes);
    REQUIRE(decode_shard("prepare/data/val.bin", text, &back) == result.val_tokens);
    REQUIRE(back == left && !memcmp(text, data + 2, left) && back == result.train_bytes + result.val_bytes &&
            result.lossy_bytes == 0);
    REQUIRE(data_read_meta(out, &meta, &error) && meta.train_tokens == result.train_tokens &&
            meta.val_tokens == result.val_tokens && meta.train_bytes == result.train_bytes &&
            meta.val_bytes == result.val_bytes && meta.vocabulary == result.vocabulary &&
            meta.unigram_loss == result.unigram_loss);
    return true;
}

static void seeds_prepare(void) {
    seed_text("\x80\x20the king of the hill\nand his sons\r\nwent up \xE2\x82\xAC\n");
    seed_text("\xFF\x7Fno line ends here, \xE2\x96\x81 nor there");
    seed("\x10\x40\n\n\n\xC0\x80\x00\x00\xF0\x9F\x98", 12);
    seed_refused("\x80\x80x", 3);
}

const FuzzTarget fuzz_prepare = {"prepare", run_prepare, seeds_prepare};

static bool run_text_in(const uint8_t *data, size_t size) {
    Error error = {0};
    int32_t *found;
    char *text;
    size_t count, back;
    REQUIRE(tokenizer_encode(tokenizer(), (const char *)data, size, &found, &count, &error));
    REQUIRE(tokenizer_decode(tokenizer(), found, count, &text, &back, &error));
    REQUIRE(back == size && (size == 0 || memcmp(text, data, size) == 0) && text[back] == 0);
    const size_t whole = text_whole(text, back);
    REQUIRE(whole <= back && back - whole < 4);
    if (text_valid(text, back)) REQUIRE(whole == back);
    free(found);
    free(text);
    return true;
}

static void seeds_text_in(void) {
    seed_text("the king went up\r\nto the hill\n\n\tand saw \xE2\x82\xAC 5");
    seed("\xF0\x9F\x98\x80\xC0\x80\xED\xA0\x80\xFF\x00 <s> </s> <0x41> \xE2\x96\x81", 27);
}

const FuzzTarget fuzz_text_in = {"text_in", run_text_in, seeds_text_in};

// Bytes are ids, so that ids out of range are among them.
static bool run_text_out(const uint8_t *data, size_t size) {
    size_t count = size / 2 < 4096 ? size / 2 : 4096, good = 0;
    const size_t vocabulary = tokenizer_vocabulary(tokenizer());
    for (size_t i = 0; i < count; i++) {
        ids[i] = (int32_t)(data[2 * i] | data[2 * i + 1] << 8);
        if (data[2 * i + 1] & 0x80) ids[i] -= 65536;
        good += ids[i] >= 0 && (size_t)ids[i] < vocabulary;
    }
    Error error = {0};
    char *text;
    size_t bytes, done = 0;
    const bool decoded = tokenizer_decode(tokenizer(), ids, count, &text, &bytes, &error);
    require_reason(decoded, &error);
    REQUIRE(decoded == (good == count));
    for (size_t i = 0; decoded && i < count; i++) {
        char *piece;
        size_t length;
        REQUIRE(tokenizer_decode(tokenizer(), ids + i, 1, &piece, &length, &error));
        REQUIRE(length <= bytes - done && memcmp(piece, text + done, length) == 0);
        done += length;
        free(piece);
    }
    if (!decoded) return false;
    REQUIRE(done == bytes);
    free(text);
    return true;
}

static void seeds_text_out(void) {
    seed("\x10\x00\x20\x01\x00\x00\x01\x00\x02\x00\x03\x00\x41\x00", 14);
    seed_refused("\x10\x00\xFF\xFF\x00\x80", 6);
}

const FuzzTarget fuzz_text_out = {"text_out", run_text_out, seeds_text_out};
