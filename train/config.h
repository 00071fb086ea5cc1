// The configuration: one table (config_table.c) of section, key, type, default, range, help serves files,
// --section.key=value, --help, --print-config, the resolved config.ini of a run, and the checkpoint's "rope_c".
#ifndef ROPE_TRAIN_CONFIG_H
#define ROPE_TRAIN_CONFIG_H

#include <stdint.h>
#include <stdio.h>

#include "core/error.h"
#include "model/model.h"
#include "optim/optim.h"

enum { CONFIG_TEXT = 512 };     // bytes of a text value, NUL included
enum { CONFIG_MAX_KEYS = 96 };  // rows of the table at most
enum { CONFIG_MAX_FILES = 32 }; // files that one Config is read from at most

typedef enum ConfigOrigin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_COMMAND_LINE, ORIGIN_DERIVED } ConfigOrigin;

typedef struct Config {
    // [model]
    // 0 is derived: kv_heads, qk_size, v_size, ffn, vocabulary
    size_t layers, width, heads, kv_heads, qk_size, v_size, ffn, tokens, vocabulary;
    double rope_theta, norm_epsilon;
    bool tie, qk_norm, token_shift;
    // [attention]
    char method[CONFIG_TEXT];                                // one name, or a comma-separated list, one per layer
    char logit_scale[32];                                    // "1/sqrt(d)", "1/d", or a number
    char bound[16], near_bound[16], far[16], polynomial[16]; // bound "": derived from the method
    double entry_bound, logit_bound, tolerance, kernel_decay, cost_exact, cost_lowrank;
    size_t far_size, degree, near, chunk, kernel_window;
    char kernel[CONFIG_TEXT], kernel_crc32[16];
    // [optim]
    char optimizer[32], schedule[16];
    double learning_rate, min_lr_share, weight_decay, beta1, beta2, epsilon, clip, wsd_decay_share;
    size_t warmup;
    // [data]
    char data_dir[CONFIG_TEXT];
    char task[32], filler[16]; // task "": data_dir
    size_t pairs, least_distance;
    double gap_power;
    // [train]
    size_t steps, batch, accumulate, eval_every, eval_batches, save_every, keep, sample_every, log_every, threads;
    bool recompute;
    char init[CONFIG_TEXT]; // "": random weights
    const char *init_at; // no setting: the checkpoint that init is, where it was looked up already (starts.h); or NULL
    uint64_t train_tokens; // 0: steps counts
    uint64_t seed;
    char out[CONFIG_TEXT];
    // Where each row of the table got its value.
    unsigned char origin[CONFIG_MAX_KEYS]; // a ConfigOrigin
    const char *file[CONFIG_MAX_KEYS];     // of ORIGIN_FILE; kept for the life of the program
    unsigned line[CONFIG_MAX_KEYS];
    const char *read[CONFIG_MAX_FILES]; // the files that were read into it, then NULL; kept likewise
} Config;

void config_defaults(Config *config);
// Reads an INI file over *config. Unknown keys, wrong types, values out of range, a key given twice, lines that are too
// long, bytes that are not text: ERROR_USER naming file, line, key, and the nearest key.
bool config_read(Config *config, const char *path, Error *error);
// "section.key=value" (leading dashes already removed).
bool config_set(Config *config, const char *assignment, ConfigOrigin origin, Error *error);
// Derives what is 0 or unset, and checks what only makes sense together. Call once after all sources. With a data
// directory and no vocabulary it reads the directory's meta.json.
bool config_resolve(Config *config, Error *error);
// Of that the [model] sizes that follow from others: kv_heads, qk_size, v_size, ffn.
void config_derive_sizes(Config *config);
// Copies the values of `over` that came from files or the command line onto *base. A bound of none that belonged to
// method exact goes with it.
void config_overlay(Config *base, const Config *over);
// Another method than the settings have. An exact run's config.ini says bound = none, because exact attention needs no
// bound: the method derives its own then, unless the command line said so.
bool config_set_method(Config *config, const char *method, Error *error);
// Every value with its origin and help (people), or as a plain INI that config_read reads back to the same Config.
void config_print(const Config *config, FILE *out, bool with_help);
bool config_write(const Config *config, const char *path, Error *error);
// The text of config_print(with_help = false), malloc'd; the caller frees.
char *config_text(const Config *config);

// Rows of the table, by name: "attention.bound". The index is REQUIREd to exist.
size_t config_key(const char *name);
ConfigOrigin config_origin(const Config *config, const char *name);
bool config_is_given(const Config *config, const char *name); // by the user: in a file or on the command line
// The value as config_set takes it. Walks with count and name for those who store or compare whole sections.
void config_value(const Config *config, size_t key, char text[CONFIG_TEXT]);
size_t config_key_count(void);
void config_key_name(size_t key, char name[64]); // "section.key"

// Says on standard error that a window was asked for by attention.far=none, where attention.method knows none. Whether it
// did.
bool config_warn_of_no_window(const Config *config);
// What the layers below want to know. The settings point into *config, which must outlive what is made from them.
void config_model(const Config *config, size_t batch, bool training, ModelSettings *settings);
OptimSettings config_optim(const Config *config);
Schedule config_schedule(const Config *config);
// Before config_resolve, where steps are timed and no run comes to an end: its warm-up stays, which keeps the first steps
// small, and is never too long, whatever steps or tokens the run was to have.
void config_without_end(Config *config);
bool config_needs_costs(const Config *config); // method auto is to measure what attention costs here
// Does so where it is needed and keeps it in *config: a run that measured again whenever it goes on could choose otherwise,
// and would not go on bit for bit.
bool config_measure_costs(Config *config, Error *error);
void config_take_costs(Config *config, double exact, double lowrank); // as they were measured before
// The other way: a checkpoint's shape as settings of origin `origin`.
void config_take_model(Config *config, const ModelConfig *model, ConfigOrigin origin);

#endif
