// Text to tokens: tokenizer.model, train.bin, val.bin, meta.json.
//
// The text is read twice, a piece at a time (once, in part, to train the tokenizer; once to encode), so memory does not
// depend on its size; a file that is written to or replaced meanwhile is refused. Pieces are cut where lines end; the cuts
// depend on the text alone. The last validation_share of the bytes is held out, and neither the tokenizer nor the unigram
// model sees it.
//
// Everything is written under temporary names. Only when all is there does the old meta.json go, are the files renamed,
// and is the new meta.json written: whatever interrupts this, a meta.json stands beside the files that it describes.
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/descriptor.h"
#include "core/files.h"
#include "data/data.h"
#include "data/meta.h"
#include "data/shards.h"
#include "data/text.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

enum { PIECE_BYTES = 1 << 20, SAMPLE_BYTES = 8 << 20, PATH_BYTES = 4096, BAR_WIDTH = 30 };

enum { FILE_TOKENIZER, FILE_TRAIN, FILE_VAL, FILE_COUNT };
static const char *const file_names[FILE_COUNT] = {"tokenizer.model", "train.bin", "val.bin"};

typedef struct Preparation {
    const PrepareSettings *settings;
    Text *text;
    uint64_t split; // bytes before it are for training
    char *buffer;   // (PIECE_BYTES)
    Tokenizer *tokenizer;
    char final[FILE_COUNT][PATH_BYTES], temporary[FILE_COUNT][PATH_BYTES], meta[PATH_BYTES], new_meta[PATH_BYTES];
    int lock;       // on the folder: two programs would mix their files
    bool replacing; // from here on the folder holds old and new files until all are new
    uint32_t tokenizer_crc; // of tokenizer.model
    double started, shown; // seconds: of this stage, of the last progress line
} Preparation;

// One live line on a terminal; nothing otherwise.
static void show_progress(Preparation *p, const char *stage, uint64_t done, uint64_t total) {
    double now = clock_seconds();
    if (done == 0) p->started = now;
    if (p->settings->quiet || !isatty(STDERR_FILENO) || (done > 0 && done < total && now - p->shown < 0.1)) return;
    p->shown = now;
    char bar[BAR_WIDTH + 1];
    double share = (double)done / (double)total;
    for (int i = 0; i < BAR_WIDTH; i++) bar[i] = i < (int)(share * BAR_WIDTH) ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    double rate = done > 0 ? (double)done / fmax(now - p->started, 1e-3) : 0.0;
    fprintf(stderr, "\r%s [%s] %3.0f %%  %.1f MB  %.1f MB/s \033[K%s", stage, bar, 100.0 * share, (double)done * 1e-6,
            rate * 1e-6, done == total ? "\n" : "");
}

static bool name_files(Preparation *p, Error *error) {
    const char *out = p->settings->out;
    for (size_t i = 0; i < FILE_COUNT; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.new", file_names[i]);
        if (!path_join(p->final[i], PATH_BYTES, out, file_names[i], error)) return false;
        if (!path_join(p->temporary[i], PATH_BYTES, out, name, error)) return false;
    }
    return path_join(p->meta, PATH_BYTES, out, "meta.json", error) &&
           path_join(p->new_meta, PATH_BYTES, out, META_UNFINISHED, error);
}

// Every shard in the folder is trained on. Those of another preparation, even of another tokenizer, would be unnoticed.
static bool check_alone(const Preparation *p, Error *error) {
    DirectoryList list = {0};
    bool alone = directory_list(&list, p->settings->out, error);
    for (size_t i = 0; alone && i < list.count; i++) {
        const char *name = list.entries[i]->d_name;
        bool ours = !strcmp(name, file_names[FILE_TRAIN]) || !strcmp(name, file_names[FILE_VAL]);
        if (!ours && (shard_is_name(name, "train") || shard_is_name(name, "val")))
            alone = error_set(error, ERROR_USER,
                              "%s/%s: a shard that is there already and would be used with the new ones: remove it, or "
                              "name another folder with --out",
                              p->settings->out, name);
    }
    directory_list_free(&list);
    return alone;
}

// A text of the name that one of ours will have would be written over, or cleaned up; so would a tokenizer, but for the
// folder's own, which is written as it was.
static bool check_inputs(const Preparation *p, Error *error) {
    const char *const written[] = {p->final[0],     p->final[1],     p->final[2], p->temporary[0],
                                   p->temporary[1], p->temporary[2], p->meta,     p->new_meta};
    const char *const tokenizer = p->settings->tokenizer;
    for (size_t i = 0; i < 2 * (sizeof written / sizeof *written); i++) {
        char path[PATH_BYTES + 8]; // a small file is written under a name of its own first
        snprintf(path, sizeof path, "%s%s", written[i / 2], i % 2 ? ".tmp" : "");
        const bool is_text = text_includes(p->text, path);
        if (is_text || (tokenizer && written[i / 2] != p->final[FILE_TOKENIZER] && file_same(path, tokenizer)))
            return error_set(error, ERROR_USER, "%s: is %s, and would be written over: name another folder with --out", path,
                             is_text ? "one of the texts" : "the tokenizer");
    }
    return true;
}

// The byte after the first newline in [start, end), or 0.
static bool line_end_after(Preparation *p, uint64_t start, uint64_t end, uint64_t *found, Error *error) {
    *found = 0;
    while (start < end) {
        size_t size = end - start < PIECE_BYTES ? (size_t)(end - start) : PIECE_BYTES;
        if (!text_read(p->text, start, p->buffer, size, error)) return false;
        const char *newline = memchr(p->buffer, '\n', size);
        if (newline) {
            *found = start + (uint64_t)(newline - p->buffer) + 1;
            return true;
        }
        start += size;
    }
    return true;
}

// The byte after the last newline in [start, end), or 0.
static bool line_end_before(Preparation *p, uint64_t start, uint64_t end, uint64_t *found, Error *error) {
    *found = 0;
    while (start < end) {
        size_t size = end - start < PIECE_BYTES ? (size_t)(end - start) : PIECE_BYTES;
        end -= size;
        if (!text_read(p->text, end, p->buffer, size, error)) return false;
        const char *newline = memrchr(p->buffer, '\n', size);
        if (newline) {
            *found = end + (uint64_t)(newline - p->buffer) + 1;
            return true;
        }
    }
    return true;
}

// Between words or characters, `reach` bytes before the wanted place at most. A whole character is always looked at.
static bool cut_line(Preparation *p, uint64_t wanted, uint64_t reach, Error *error) {
    uint64_t size = reach < 4 ? 4 : reach < PIECE_BYTES ? reach : PIECE_BYTES;
    if (size > wanted) size = wanted;
    if (!text_read(p->text, wanted - size, p->buffer, (size_t)size, error)) return false;
    p->split = wanted - size + utf8_cut(p->buffer, (size_t)size);
    return true;
}

// Where the held-out text begins: at the line start that is nearest to the wanted place. None may be further off than
// half of the smaller part, or one long line would decide how large the parts are; then the line is cut.
static bool choose_split(Preparation *p, Error *error) {
    uint64_t total = text_size(p->text), held = (uint64_t)llround(p->settings->validation_share * (double)total);
    if (held < 1) held = 1;
    if (total < 2 || held >= total)
        return error_set(error, ERROR_USER, "%s: %llu bytes are too small a text to hold out %g of it",
                         p->settings->inputs[0], (unsigned long long)total, p->settings->validation_share);
    uint64_t wanted = total - held, reach = (held < wanted ? held : wanted) / 2, before, after;
    if (!line_end_after(p, wanted - 1, wanted + reach, &after, error) ||
        !line_end_before(p, wanted - reach - 1, wanted - 1, &before, error))
        return false;
    if (!after && !before) return cut_line(p, wanted, reach, error);
    p->split = !before || (after && after - wanted <= wanted - before) ? after : before;
    return true;
}

// Reads a piece of [offset, end) that ends where a line does, unless it is the last one.
static bool read_piece(Preparation *p, uint64_t offset, uint64_t end, size_t *size, Error *error) {
    bool last = end - offset <= PIECE_BYTES;
    *size = last ? (size_t)(end - offset) : PIECE_BYTES;
    if (!text_read(p->text, offset, p->buffer, *size, error)) return false;
    if (!last) *size = utf8_cut(p->buffer, *size);
    return true;
}

// Hands the training text to the tokenizer: all of it, or pieces spread evenly over it.
typedef struct Sampler {
    Preparation *preparation;
    uint64_t offset, stride; // of the next piece; from piece to piece, 0 to take all
    Error *error;
} Sampler;

static bool next_sample(void *context, const char **text, size_t *size) {
    Sampler *sampler = context;
    Preparation *p = sampler->preparation;
    *size = 0;
    if (sampler->offset >= p->split) return true;
    if (!read_piece(p, sampler->offset, p->split, size, sampler->error)) return false;
    *text = p->buffer;
    if (sampler->stride == 0) {
        sampler->offset += *size;
        return true;
    }
    const char *newline = sampler->offset > 0 ? memchr(p->buffer, '\n', *size - 1) : NULL;
    if (newline) { // a piece from the middle starts at a line
        *text = newline + 1;
        *size -= (size_t)(*text - p->buffer);
    }
    sampler->offset += sampler->stride;
    return true;
}

static bool make_tokenizer(Preparation *p, Error *error) {
    const PrepareSettings *settings = p->settings;
    const char *path = p->temporary[FILE_TOKENIZER];
    size_t size = 0;
    if (settings->tokenizer) {
        p->tokenizer = tokenizer_load(settings->tokenizer, error);
        if (!p->tokenizer) return false;
        const char *model = tokenizer_model(p->tokenizer, &size);
        if (!file_write_atomic(path, model, size, error)) return false;
    } else {
        // One piece more than fits, so that trimmed pieces still fill the sample.
        uint64_t stride = p->split > SAMPLE_BYTES + PIECE_BYTES ? p->split / (SAMPLE_BYTES / PIECE_BYTES + 1) : 0;
        Sampler sampler = {.preparation = p, .stride = stride, .error = error};
        TokenizerTraining training = {.type = settings->type,
                                      .vocabulary = settings->vocabulary,
                                      .model_path = path,
                                      .next = next_sample,
                                      .context = &sampler,
                                      .sample_bytes = SAMPLE_BYTES};
        if (!settings->quiet)
            fprintf(stderr, "training a %s tokenizer of %zu on %.1f MB of text\n", settings->type, settings->vocabulary,
                    fmin((double)p->split, SAMPLE_BYTES) * 1e-6);
        if (!tokenizer_train(&training, error)) return false;
        p->tokenizer = tokenizer_load(path, error);
        if (!p->tokenizer) return false;
    }
    const char *model = tokenizer_model(p->tokenizer, &size);
    p->tokenizer_crc = checksum(0, model, size);
    return true;
}

// Bytes of the text from the first that does not come back to the last that does not; what was put between is none.
static size_t bytes_lost(const char *text, size_t size, const char *back, size_t back_size) {
    size_t least = size < back_size ? size : back_size, first = 0, last = 0;
    while (first < least && text[first] == back[first]) first++;
    while (last < least - first && text[size - 1 - last] == back[back_size - 1 - last]) last++;
    return size - first - last;
}

// The same of what was encoded; the space that many models put in front of every text is not the text's.
static bool compare_back(const Preparation *p, const char *text, size_t size, const int32_t *ids, size_t count,
                         size_t *lost, Error *error) {
    char *back;
    size_t back_size;
    if (!tokenizer_decode(p->tokenizer, ids, count, &back, &back_size, error)) return false;
    size_t skip = tokenizer_space_prefix(p->tokenizer) && back_size > 0 && back[0] == ' ';
    *lost = bytes_lost(text, size, back + skip, back_size - skip);
    free(back);
    return true;
}

// How much of a piece a given tokenizer loses. Only where it does lose something is that looked for line by line.
static bool count_lost(const Preparation *p, size_t size, const int32_t *ids, size_t count, uint64_t *total,
                       Error *error) {
    size_t lost = 0;
    if (!compare_back(p, p->buffer, size, ids, count, &lost, error)) return false;
    for (size_t start = 0, end; lost > 0 && start < size; start = end) {
        const char *newline = memchr(p->buffer + start, '\n', size - start);
        end = newline ? (size_t)(newline - p->buffer) + 1 : size;
        int32_t *line;
        bool good = tokenizer_encode(p->tokenizer, p->buffer + start, end - start, &line, &count, error);
        size_t here = 0;
        good = good && compare_back(p, p->buffer + start, end - start, line, count, &here, error);
        free(line);
        if (!good) return false;
        *total += here;
    }
    return true;
}

// Encodes [start, end) into a shard and counts how often every id occurs, and what a given tokenizer loses.
static bool encode_range(Preparation *p, uint64_t start, uint64_t end, size_t file, uint64_t *counts, uint64_t *tokens,
                         uint64_t *lost, uint32_t *crc, Error *error) {
    ShardWriter *writer = shard_create(p->temporary[file], tokenizer_vocabulary(p->tokenizer), error);
    if (!writer) return false;
    const char *stage = file == FILE_TRAIN ? "encoding text for training" : "encoding held-out text";
    bool good = true;
    show_progress(p, stage, 0, end - start);
    for (uint64_t offset = start; good && offset < end;) {
        size_t size = 0, count = 0;
        int32_t *ids = NULL;
        good = read_piece(p, offset, end, &size, error) &&
               tokenizer_encode(p->tokenizer, p->buffer, size, &ids, &count, error) &&
               shard_append(writer, ids, count, error) &&
               (!p->settings->tokenizer || count_lost(p, size, ids, count, lost, error)); // our own lose nothing
        for (size_t i = 0; good && i < count; i++) counts[ids[i]]++;
        free(ids);
        offset += size;
        if (good) show_progress(p, stage, offset - start, end - start);
    }
    if (good) return shard_finish(writer, tokens, crc, error);
    shard_abandon(writer);
    return false;
}

// -Σ_v val(v)·log((train(v) + 1) / (N + V)) / M: what a model that knows frequencies only would score.
static double unigram_loss(const uint64_t *train, const uint64_t *val, const PrepareResult *result) {
    double sum = 0.0, denominator = (double)result->train_tokens + (double)result->vocabulary;
    for (size_t v = 0; v < result->vocabulary; v++)
        if (val[v] > 0) sum -= (double)val[v] * log(((double)train[v] + 1.0) / denominator);
    return sum / (double)result->val_tokens;
}

static bool encode_all(Preparation *p, PrepareResult *result, Error *error) {
    uint64_t total = text_size(p->text);
    *result = (PrepareResult){.train_bytes = p->split,
                              .val_bytes = total - p->split,
                              .vocabulary = tokenizer_vocabulary(p->tokenizer),
                              .tokenizer_crc = p->tokenizer_crc};
    uint64_t *train = calloc(result->vocabulary, sizeof *train), *val = calloc(result->vocabulary, sizeof *val);
    bool good = train && val;
    if (!good) error_set(error, ERROR_MEMORY, "out of memory for %zu counts", result->vocabulary);
    good = good &&
           encode_range(p, 0, p->split, FILE_TRAIN, train, &result->train_tokens, &result->lossy_bytes,
                        &result->train_crc, error) &&
           encode_range(p, p->split, total, FILE_VAL, val, &result->val_tokens, &result->lossy_bytes, &result->val_crc,
                        error);
    if (good && (!result->train_tokens || !result->val_tokens))
        good = error_set(error, ERROR_USER, "The tokenizer makes no token of the text that is to be %s.",
                         result->train_tokens ? "held out" : "trained on");
    if (good) result->unigram_loss = unigram_loss(train, val, result);
    free(train);
    free(val);
    return good;
}

// The new meta.json is on disk under another name before the old one goes, and gets its own name when all other files
// have theirs: that name without the other says that the files do not belong together (meta_check_whole).
static bool commit(Preparation *p, const PrepareResult *result, Error *error) {
    if (!meta_write(p->new_meta, p->settings, result, SAMPLE_BYTES, error)) return false;
    p->replacing = true;
    if (unlink(p->meta) != 0 && errno != ENOENT) return error_errno(error, "%s: cannot replace", p->meta);
    for (size_t i = 0; i < FILE_COUNT; i++)
        if (rename(p->temporary[i], p->final[i]) != 0) return error_errno(error, "%s: cannot replace", p->final[i]);
    if (rename(p->new_meta, p->meta) != 0) return error_errno(error, "%s: cannot replace", p->meta);
    return descriptor_sync_parent(p->meta, error);
}

// What a failure leaves: nothing new, unless it struck while files were being replaced; then, or if an earlier one
// did, the sign of it stays.
static void clean_up(Preparation *p) {
    for (size_t i = 0; i < FILE_COUNT; i++) unlink(p->temporary[i]);
    if (!p->replacing && access(p->meta, F_OK) == 0) unlink(p->new_meta);
}

static bool check_settings(const PrepareSettings *settings, Error *error) {
    if (settings->input_count == 0)
        return error_set(error, ERROR_USER, "no text given: name files, or - for standard input");
    if (!(settings->validation_share > 0.0 && settings->validation_share < 1.0))
        return error_set(error, ERROR_USER, "validation share %g: must lie between 0 and 1",
                         settings->validation_share);
    return true;
}

bool data_prepare(const PrepareSettings *settings, PrepareResult *result, Error *error) {
    if (!check_settings(settings, error) || !directory_make(settings->out, error)) return false;
    Preparation *p = calloc(1, sizeof *p);
    if (!p || !(p->buffer = malloc(PIECE_BYTES))) {
        free(p);
        return error_set(error, ERROR_MEMORY, "out of memory to read text");
    }
    p->settings = settings;
    p->lock = directory_lock(settings->out, "written", error);
    if (p->lock >= 0 && name_files(p, error) && check_alone(p, error))
        p->text = text_open(settings->inputs, settings->input_count, settings->out, error);
    const bool begun = p->text && check_inputs(p, error); // from here on all files with these names are ours
    bool good = begun;
    if (good && text_size(p->text) == 0)
        good = error_set(error, ERROR_USER, "%s: no text: the input is empty", settings->inputs[0]);
    good = good && choose_split(p, error) && make_tokenizer(p, error) && encode_all(p, result, error) &&
           text_check(p->text, error) && commit(p, result, error);
    if (begun && !good) clean_up(p);
    tokenizer_free(p->tokenizer);
    text_close(p->text);
    if (p->lock >= 0) close(p->lock);
    free(p->buffer);
    free(p);
    return good;
}
