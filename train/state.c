// The document ends with "crc32": "xxxxxxxx", the checksum of the document with zeros in that place.
#include "train/state.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/json_text.h"

enum { STATE_VERSION = 1, STATE_LIMIT = 1 << 20, PATH_SIZE = 4096, CRC_DIGITS = 8 };
static const char seal[] = "\"crc32\": \"";

uint32_t config_fingerprint(const Config *config) {
    static const char *const without[] = {
        "data.dir",         "train.out",          "train.threads",        "train.keep",
        "train.save_every", "train.sample_every", "attention.cost_exact", "attention.cost_lowrank"};
    uint32_t crc = 0;
    for (size_t i = 0; i < config_key_count(); i++) {
        char name[64], value[CONFIG_TEXT];
        config_key_name(i, name);
        bool counts = true;
        for (size_t k = 0; k < sizeof without / sizeof without[0]; k++) counts &= strcmp(name, without[k]) != 0;
        if (config->train_tokens && !strcmp(name, "train.steps")) counts = false; // they follow from the tokens that are left
        if (!counts) continue;
        config_value(config, i, value);
        if (!*value && !strcmp(name, "attention.kernel_crc32")) continue; // as before there was that setting
        crc = checksum(crc, name, strlen(name) + 1);
        crc = checksum(crc, value, strlen(value) + 1);
    }
    return crc;
}

static bool seal_file(json_t *files, const char *directory, const char *name, Error *error) {
    char path[PATH_SIZE], text[16];
    uint32_t crc;
    if (!path_join(path, sizeof path, directory, name, error) || !file_checksum(path, &crc, error)) return false;
    snprintf(text, sizeof text, "%08" PRIx32, crc);
    json_object_set_new(files, name, json_string(text)); // json_whole tells of a failure
    return true;
}

// {"config.json": "0123abcd", ...} of every file there is but state.json, in the order of their names.
static json_t *seal_files(const char *directory, Error *error) {
    DirectoryList list;
    json_t *files = json_object();
    bool fine = directory_list(&list, directory, error);
    for (size_t i = 0; fine && i < list.count; i++) {
        const char *name = list.entries[i]->d_name;
        fine = !strcmp(name, "state.json") || seal_file(files, directory, name, error);
    }
    directory_list_free(&list);
    if (fine && json_whole()) return files;
    json_decref(files);
    return NULL;
}

// The place of the eight digits, NULL if the text does not end as a sealed document does.
static char *find_seal(char *text, size_t size) {
    size_t tail = strlen(seal) + CRC_DIGITS + strlen("\"}\n");
    if (size < tail || strlen(text) != size) return NULL;
    char *at = text + size - tail;
    if (memcmp(at, seal, strlen(seal)) || strcmp(at + strlen(seal) + CRC_DIGITS, "\"}\n")) return NULL;
    return at + strlen(seal);
}

// The document as it is sealed: on one line, with its own checksum in the place of the zeros. Takes the reference.
static char *seal_document(json_t *document) {
    char *text = json_print(document, JSON_REAL_PRECISION(17)), *line = NULL, digits[16];
    json_decref(document);
    if (text && asprintf(&line, "%s\n", text) < 0) line = NULL;
    free(text);
    if (!line) return NULL;
    snprintf(digits, sizeof digits, "%08" PRIx32, checksum(0, line, strlen(line)));
    memcpy(find_seal(line, strlen(line)), digits, CRC_DIGITS);
    return line;
}

bool state_write(const char *directory, const RunState *state, uint64_t seed, uint64_t optimizer_steps,
                 uint32_t fingerprint, Error *error) {
    char path[PATH_SIZE], settings[16];
    if (!path_join(path, sizeof path, directory, "state.json", error)) return false;
    json_watch();
    json_t *files = seal_files(directory, error);
    if (!files) return error_set(error, ERROR_MEMORY, "Out of memory while sealing %s.", directory);
    snprintf(settings, sizeof settings, "%08" PRIx32, fingerprint);
    char *text = seal_document(json_pack(
        "{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:I, s:I, s:I}, s:I, s:f, s:I, s:o, s:I, s:I, s:b, s:s, s:o, s:s}",
        "version", STATE_VERSION, "step", (json_int_t)state->step, "updates", (json_int_t)state->updates, "tokens",
        (json_int_t)state->tokens, "skipped", (json_int_t)state->skipped, "skipped_in_row",
        (json_int_t)state->skipped_in_row, "fell_back", (json_int_t)state->fell_back, "optimizer_steps",
        (json_int_t)optimizer_steps, "data", "epoch", (json_int_t)state->data.epoch, "window",
        (json_int_t)state->data.window, "checksum", (json_int_t)state->data_checksum, "seed", (json_int_t)seed,
        "loss_sum", state->loss_sum, "loss_count", (json_int_t)state->loss_count, "best_loss",
        state->best_step && isfinite(state->best_loss) ? json_real(state->best_loss) : json_null(), "best_step",
        (json_int_t)state->best_step, "judged_by", (json_int_t)state->judged_by, "eval_due", (int)state->eval_due, "settings", settings, "files", files, "crc32", "00000000"));
    bool fine = text ? file_write_atomic(path, text, strlen(text), error)
                     : error_set(error, ERROR_MEMORY, "Out of memory while writing %s.", path);
    free(text);
    return fine;
}

static bool check_files(const char *directory, const json_t *files, Error *error) {
    const char *name;
    json_t *value;
    size_t count = 0;
    json_object_foreach((json_t *)files, name, value) {
        char path[PATH_SIZE], text[16];
        uint32_t crc;
        if (strchr(name, '/') || !path_join(path, sizeof path, directory, name, error) ||
            (access(path, F_OK) != 0 && errno == ENOENT))
            return error_set(error, ERROR_CORRUPT, "%s: state.json names the file %s, which is not there.", directory,
                             name);
        if (!file_checksum(path, &crc, error)) return false;
        snprintf(text, sizeof text, "%08" PRIx32, crc);
        if (!json_is_string(value) || strcmp(text, json_string_value(value)))
            return error_set(error, ERROR_CORRUPT, "%s is damaged: its checksum is %s, state.json says %s.", path, text,
                             json_is_string(value) ? json_string_value(value) : "nothing");
        count++;
    }
    return count > 0 || error_set(error, ERROR_CORRUPT, "%s/state.json names no files.", directory);
}

static bool unpack(json_t *document, RunState *state, uint64_t *seed, uint64_t *optimizer_steps,
                   uint32_t *fingerprint) {
    json_int_t data_checksum = 0, judged_by = 0; // checkpoints of earlier versions have none
    json_int_t step, updates, tokens, skipped, in_row, fell_back, optimizer, epoch, window, own_seed, count, best_step;
    json_t *best;
    int version, eval_due;
    const char *settings;
    double loss_sum;
    if (json_unpack(
            document, "{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:I, s:I, s?I}, s:I, s:F, s:I, s:o, s:I, s?I, s:b, s:s}",
            "version", &version, "step", &step, "updates", &updates, "tokens", &tokens, "skipped", &skipped,
            "skipped_in_row", &in_row, "fell_back", &fell_back, "optimizer_steps", &optimizer, "data", "epoch", &epoch,
            "window", &window, "checksum", &data_checksum, "seed", &own_seed, "loss_sum", &loss_sum, "loss_count",
            &count, "best_loss", &best, "best_step", &best_step, "judged_by", &judged_by, "eval_due", &eval_due, "settings", &settings) != 0)
        return false;
    if (version != STATE_VERSION || step < 0 || epoch < 0 || window < 0 || own_seed < 0 || optimizer < 0) return false;
    *state = (RunState){.step = (uint64_t)step,
                        .updates = (uint64_t)updates,
                        .tokens = (uint64_t)tokens,
                        .skipped = (uint64_t)skipped,
                        .skipped_in_row = (uint64_t)in_row,
                        .fell_back = (uint64_t)fell_back,
                        .data = {(uint64_t)epoch, (uint64_t)window},
                        .data_checksum = (uint64_t)data_checksum,
                        .loss_sum = loss_sum,
                        .loss_count = (uint64_t)count,
                        // Null beside a step: an earlier version, looking for the best anew.
                        .best_loss = best_step && json_is_null(best) ? INFINITY : json_number_value(best),
                        .best_step = (uint64_t)best_step,
                        .judged_by = (uint32_t)judged_by,
                        .eval_due = eval_due != 0};
    *seed = (uint64_t)own_seed;
    *optimizer_steps = (uint64_t)optimizer;
    *fingerprint = (uint32_t)strtoul(settings, NULL, 16);
    return true;
}

bool state_read(const char *directory, RunState *state, uint64_t *seed, uint64_t *optimizer_steps,
                uint32_t *fingerprint, Error *error) {
    char path[PATH_SIZE], written[CRC_DIGITS + 1] = "", actual[16] = "-";
    size_t size;
    if (!path_join(path, sizeof path, directory, "state.json", error)) return false;
    if (access(path, F_OK) != 0 && errno == ENOENT) // what a removal that was cut short may leave: no mistake of the user's
        return error_set(error, ERROR_CORRUPT, "%s is not whole: it has no state.json.", directory);
    char *text = file_read_all(path, STATE_LIMIT, &size, error);
    if (!text) return false;
    char *digits = find_seal(text, size);
    if (digits) {
        snprintf(written, sizeof written, "%.8s", digits);
        memset(digits, '0', CRC_DIGITS);
        snprintf(actual, sizeof actual, "%08" PRIx32, checksum(0, text, size));
    }
    bool whole = digits && !strcmp(written, actual);
    json_t *document = whole ? json_parse(path, "contents", text, size, error) : NULL;
    free(text);
    RunState own;
    uint64_t own_seed, own_steps;
    uint32_t own_fingerprint;
    bool fine = document &&
                unpack(document, state ? state : &own, seed ? seed : &own_seed,
                       optimizer_steps ? optimizer_steps : &own_steps, fingerprint ? fingerprint : &own_fingerprint);
    if (!fine && whole && !json_whole()) // unpacking takes memory too
        error_set(error, ERROR_MEMORY, "There is no memory for the contents of %s.", path);
    if (!fine) error_set(error, ERROR_CORRUPT, "%s is damaged: its checksum or its form does not hold.", path);
    fine = fine && check_files(directory, json_object_get(document, "files"), error);
    json_decref(document);
    return fine;
}
