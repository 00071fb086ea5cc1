// Where the values come from, in this order: the table's defaults, files, the command line; then what is derived.
#include "train/config_table.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "attention/position.h"
#include "core/files.h"
#include "data/data.h"
#include "train/words.h"

static void full_name(const ConfigKey *key, char name[64]) { snprintf(name, 64, "%s.%s", key->section, key->key); }

size_t config_key_count(void) { return config_keys_count; }

void config_key_name(size_t key, char name[64]) {
    REQUIRE(key < config_keys_count);
    full_name(&config_keys[key], name);
}

static bool find_key(const char *section, const char *name, size_t *index) {
    for (*index = 0; *index < config_keys_count; ++*index)
        if (!strcmp(config_keys[*index].section, section) && !strcmp(config_keys[*index].key, name)) return true;
    return false;
}

size_t config_key(const char *name) {
    char section[64];
    size_t index, dot = strcspn(name, ".");
    snprintf(section, sizeof section, "%.*s", (int)dot, name);
    REQUIRE(name[dot] && find_key(section, name + dot + 1, &index));
    return index;
}

static bool was_given(ConfigOrigin origin) { return origin == ORIGIN_FILE || origin == ORIGIN_COMMAND_LINE; }

ConfigOrigin config_origin(const Config *config, const char *name) {
    return (ConfigOrigin)config->origin[config_key(name)];
}

bool config_is_given(const Config *config, const char *name) { return was_given(config_origin(config, name)); }

void config_value(const Config *config, size_t key, char text[CONFIG_TEXT]) {
    REQUIRE(key < config_keys_count);
    config_format_value(config, &config_keys[key], text);
}

// A mistyped section costs as much as a mistyped key; the right key in another section is always worth naming.
static bool unknown_key(const char *section, const char *name, Error *error) {
    char best[64] = "", candidate[64];
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < config_keys_count; i++) {
        size_t in_key = words_distance(name, config_keys[i].key);
        size_t in_section = words_distance(section, config_keys[i].section);
        bool known_section = in_section == 0;
        if (!(words_close(name, in_key) && (in_key == 0 || known_section || words_close(section, in_section))))
            continue;
        full_name(&config_keys[i], candidate);
        if (2 * in_key + in_section < least) {
            least = 2 * in_key + in_section;
            snprintf(best, sizeof best, "%s", candidate);
        }
    }
    if (*best) return error_set(error, ERROR_USER, "There is no setting %s.%s; did you mean %s?", section, name, best);
    char nearest[64];
    if (words_nearest(section, "model,attention,optim,data,train", nearest, sizeof nearest) && strcmp(nearest, section))
        return error_set(error, ERROR_USER, "There is no section [%s]; did you mean [%s]?", section, nearest);
    return error_set(error, ERROR_USER, "There is no setting %s.%s; --print-config lists them all.", section, name);
}

// That of the kernel before, unless it was given together with this one.
static void forget_checksum(Config *config, ConfigOrigin origin, const char *file) {
    const size_t index = config_key("attention.kernel_crc32");
    const bool together = config->origin[index] == origin && config->file[index] == file;
    if (!together || (origin != ORIGIN_FILE && origin != ORIGIN_COMMAND_LINE)) *config->kernel_crc32 = 0;
}

bool config_assign(Config *config, const char *section, const char *name, const char *text, ConfigOrigin origin,
                   const char *file, unsigned line, size_t *index, Error *error) {
    if (!find_key(section, name, index)) return unknown_key(section, name, error);
    const ConfigKey *key = &config_keys[*index];
    Error why = {0};
    if (!config_parse_value(config, key, text, &why))
        return error_set(error, why.kind, "%s.%s: %s", section, name, why.message);
    if (key->offset == offsetof(Config, kernel)) forget_checksum(config, origin, file);
    size_t last = key->type == KEY_PAIR ? config_key("optim.beta2") : *index;
    for (size_t i = key->type == KEY_PAIR ? last - 1 : *index; i <= last; i++) {
        config->origin[i] = (unsigned char)origin;
        config->file[i] = file;
        config->line[i] = line;
    }
    return true;
}

void config_defaults(Config *config) {
    memset(config, 0, sizeof *config);
    for (size_t i = 0; i < config_keys_count; i++) // their origin is 0, ORIGIN_DEFAULT
        if (config_keys[i].preset) REQUIRE(config_parse_value(config, &config_keys[i], config_keys[i].preset, NULL));
}

// The polynomial methods need bounded far logits; exact needs nothing.
static bool needs_bound(const Config *config) {
    bool polynomial = false;
    const char *at = config->method;
    while (*at) {
        size_t length = strcspn(at, ",");
        polynomial |= strncmp(at, "exact", length) != 0;
        at += length + (at[length] == ',');
    }
    return polynomial;
}

bool config_needed_no_bound(const Config *config) { return !strcmp(config->bound, "none") && !needs_bound(config); }

// Another method derives its own.
static void forget_bound(Config *config) {
    if (config_needed_no_bound(config)) *config->bound = 0;
}

bool config_set(Config *config, const char *assignment, ConfigOrigin origin, Error *error) {
    size_t equals = strcspn(assignment, "="), dot = strcspn(assignment, ".");
    char section[64], name[64];
    if (dot >= equals || dot >= sizeof section || equals - dot > sizeof name)
        return error_set(error, ERROR_USER, "'%s' is not of the form section.key=value.", assignment);
    if (!assignment[equals]) return error_set(error, ERROR_USER, "%s needs a value: %s=VALUE.", assignment, assignment);
    snprintf(section, sizeof section, "%.*s", (int)dot, assignment);
    snprintf(name, sizeof name, "%.*s", (int)(equals - dot - 1), assignment + dot + 1);
    size_t index;
    if (origin == ORIGIN_COMMAND_LINE && !strcmp(section, "attention") && !strcmp(name, "method") &&
        config_origin(config, "attention.bound") != ORIGIN_COMMAND_LINE)
        forget_bound(config);
    return config_assign(config, section, name, assignment + equals + 1, origin, NULL, 0, &index, error);
}

bool config_set_method(Config *config, const char *method, Error *error) {
    char assignment[CONFIG_TEXT + 32];
    snprintf(assignment, sizeof assignment, "attention.method=%s", method);
    return config_set(config, assignment, ORIGIN_COMMAND_LINE, error);
}

void config_overlay(Config *base, const Config *over) {
    if (config_is_given(over, "attention.method")) forget_bound(base);
    if (config_is_given(over, "attention.kernel")) *base->kernel_crc32 = 0;
    for (size_t i = 0; i < config_keys_count; i++) {
        if (!was_given((ConfigOrigin)over->origin[i])) continue;
        const ConfigKey *key = &config_keys[i];
        memcpy((char *)base + key->offset, (const char *)over + key->offset, key->room);
        base->origin[i] = over->origin[i];
        base->file[i] = over->file[i];
        base->line[i] = over->line[i];
    }
}

static void derive_size(Config *config, const char *name, size_t *field, size_t value) {
    if (*field) return;
    *field = value;
    config->origin[config_key(name)] = ORIGIN_DERIVED;
}

static void derive_bound(Config *config) {
    if (*config->bound) return;
    snprintf(config->bound, sizeof config->bound, "%s", needs_bound(config) ? "ball" : "none");
    config->origin[config_key("attention.bound")] = ORIGIN_DERIVED;
}

// A table that was edited or replaced would change what was trained with it, and nothing would tell. What is wrong with a
// file that cannot be read, attention_create says.
static bool derive_kernel_checksum(Config *config, Error *error) {
    uint32_t crc;
    char digits[9];
    struct stat status;
    const bool table = position_kind(config->kernel) == POSITION_TABLE;
    if (!table) *config->kernel_crc32 = 0;
    if (!table || stat(config->kernel, &status) != 0 || !S_ISREG(status.st_mode) ||
        !file_checksum(config->kernel, &crc, NULL))
        return true;
    snprintf(digits, sizeof digits, "%08x", crc);
    if (*config->kernel_crc32 && strcmp(config->kernel_crc32, digits))
        return error_set(
            error, ERROR_USER,
            "attention.kernel: %s is not the table that this was trained with (crc32 %s instead of %s). Put "
            "that back, or go on with this one: --attention.kernel_crc32=%s.",
            config->kernel, digits, config->kernel_crc32, digits);
    if (*config->kernel_crc32) return true;
    strcpy(config->kernel_crc32, digits);
    config->origin[config_key("attention.kernel_crc32")] = ORIGIN_DERIVED;
    return true;
}

static bool derive_vocabulary(Config *config, Error *error) {
    if (config->vocabulary) return true;
    size_t vocabulary = *config->task ? 512 : 4096;
    if (*config->data_dir) {
        PrepareResult meta;
        struct stat status;
        if (stat(config->data_dir, &status) != 0 || !S_ISDIR(status.st_mode))
            return error_set(error, ERROR_USER, "data.dir: %s is no directory that `rope prepare` made.",
                             config->data_dir);
        if (!data_read_meta(config->data_dir, &meta, error)) {
            error_context(error, "model.vocabulary is not set");
            return false;
        }
        vocabulary = meta.vocabulary;
    }
    derive_size(config, "model.vocabulary", &config->vocabulary, vocabulary);
    return true;
}

// Nearer to 1 single precision no longer holds 1 - beta, nor does a moment, which would end 1.5 % and more from what it
// should be. Not in the table: a run of before can be given another one.
static bool check_betas(const Config *config, Error *error) {
    static const double most = 0.99999;
    const bool second = config->beta1 <= most;
    if (config->beta1 <= most && config->beta2 <= most) return true;
    return error_set(error, ERROR_USER, "optim.%s = %g: above %g single precision does not hold the moment; give less.",
                     second ? "beta2" : "beta1", second ? config->beta2 : config->beta1, most);
}

static bool check_together(const Config *config, Error *error) {
    if (!check_betas(config, error)) return false;
    if (config_origin(config, "model.qk_size") == ORIGIN_DERIVED && (config->qk_size == 0 || config->qk_size % 2))
        return error_set(error, ERROR_USER,
                         "model.width (%zu) over model.heads (%zu) gives heads of size %zu, but RoPE "
                         "turns pairs: make it even, or set model.qk_size.",
                         config->width, config->heads, config->qk_size);
    ModelSettings settings;
    config_model(config, 1, false, &settings);
    if (!model_config_check(&settings.config, error)) return false;
    if (settings.method_count != 1 && settings.method_count != config->layers)
        return error_set(error, ERROR_USER,
                         "attention.method lists %zu methods for %zu layers: name one, or one for each.",
                         settings.method_count, config->layers);
    if (config->far_size % 2 || config->far_size > config->qk_size)
        return error_set(error, ERROR_USER, "attention.far_size (%zu) must be even and at most model.qk_size (%zu).",
                         config->far_size, config->qk_size);
    OptimSettings optim = config_optim(config);
    Schedule schedule = config_schedule(config);
    return optim_check(&optim, error) && schedule_check(&schedule, error);
}

// Defaults that fit an ordinary model are cut down for a tiny one or a short run.
static void cut_default(Config *config, const char *name, size_t *field, size_t limit) {
    if (config_origin(config, name) != ORIGIN_DEFAULT || *field <= limit) return;
    *field = limit;
    config->origin[config_key(name)] = ORIGIN_DERIVED;
}

void config_derive_sizes(Config *config) {
    derive_size(config, "model.kv_heads", &config->kv_heads, config->heads);
    derive_size(config, "model.qk_size", &config->qk_size, config->width / config->heads);
    derive_size(config, "model.v_size", &config->v_size, config->qk_size);
    derive_size(config, "model.ffn", &config->ffn, ((config->width * 8 + 2) / 3 + 63) / 64 * 64);
}

bool config_resolve(Config *config, Error *error) {
    if (*config->data_dir && *config->task)
        return error_set(error, ERROR_USER, "data.dir (%s) and data.task (%s) exclude each other.", config->data_dir,
                         config->task);
    if (!derive_vocabulary(config, error)) return false;
    config_derive_sizes(config);
    // A run's own config.ini holds both: steps asked for by name must not be lost to its tokens.
    if (config_origin(config, "train.steps") == ORIGIN_COMMAND_LINE &&
        config_origin(config, "train.tokens") != ORIGIN_COMMAND_LINE)
        config->train_tokens = 0;
    if (config->train_tokens) {
        size_t per_step; // the first two are at most 2^20 each
        if (!size_multiply(config->batch * config->accumulate, config->tokens, &per_step))
            return error_set(error, ERROR_USER, "train.batch × train.accumulate × model.tokens does not fit.");
        config->steps = (size_t)((config->train_tokens + per_step - 1) / per_step);
        config->origin[config_key("train.steps")] = ORIGIN_DERIVED;
    }
    cut_default(config, "optim.warmup", &config->warmup, config->steps / 10);
    cut_default(config, "attention.far_size", &config->far_size, config->qk_size);
    derive_bound(config);
    if (!derive_kernel_checksum(config, error)) return false;
    return check_together(config, error);
}

static void print_origin(const Config *config, size_t index, FILE *out) {
    switch (config->origin[index]) {
    case ORIGIN_FILE: fprintf(out, "%s:%u", config->file[index], config->line[index]); break;
    case ORIGIN_COMMAND_LINE: fprintf(out, "command line"); break;
    case ORIGIN_DERIVED: fprintf(out, "derived"); break;
    default: fprintf(out, "default"); break;
    }
}

void config_print(const Config *config, FILE *out, bool with_help) {
    const char *section = "";
    for (size_t i = 0; i < config_keys_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (key->type == KEY_PAIR) continue;
        if (strcmp(section, key->section)) fprintf(out, "%s[%s]\n", *section ? "\n" : "", key->section);
        section = key->section;
        char text[CONFIG_TEXT];
        config_format_value(config, key, text);
        if (!with_help && !*text && !*key->preset) continue; // an unset word: the file leaves it unset
        int column = fprintf(out, "%s = %s", key->key, text);
        if (with_help) {
            fprintf(out, "%*s ; ", column < 32 ? 32 - column : 0, "");
            print_origin(config, i, out);
            fprintf(out, " | %s", key->help);
            if (key->choices) fprintf(out, " (%s)", key->choices);
        }
        fputc('\n', out);
    }
}

OptimSettings config_optim(const Config *config) {
    return (OptimSettings){.method = config->optimizer,
                           .learning_rate = config->learning_rate,
                           .beta1 = config->beta1,
                           .beta2 = config->beta2,
                           .epsilon = config->epsilon,
                           .weight_decay = config->weight_decay,
                           .clip = config->clip};
}

void config_without_end(Config *config) {
    config->train_tokens = 0;
    config->steps = 10 * config->warmup + 10; // so many that no default is cut down for them
    snprintf(config->schedule, sizeof config->schedule, "constant");
}

Schedule config_schedule(const Config *config) {
    return (Schedule){.name = config->schedule,
                      .steps = config->steps,
                      .warmup = config->warmup,
                      .floor = config->min_lr_share,
                      .decay_share = config->wsd_decay_share};
}
