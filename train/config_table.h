// One row per setting. To add a setting: a field in Config, a row here. Private to config*.c.
#ifndef ROPE_TRAIN_CONFIG_TABLE_H
#define ROPE_TRAIN_CONFIG_TABLE_H

#include "train/config.h"

typedef enum KeyType {
    KEY_SIZE,    // size_t
    KEY_INTEGER, // uint64_t
    KEY_REAL,    // double
    KEY_BOOL,    // bool
    KEY_TEXT,    // char[room]
    KEY_CHOICE,  // char[room], one of `choices`
    KEY_SCALE,   // char[room]: 1/sqrt(d), 1/d, or a number above 0
    KEY_METHODS, // char[room]: attention methods, comma-separated
    KEY_PAIR,    // two doubles "a,b": another spelling of two neighbouring keys, never printed
} KeyType;

typedef struct ConfigKey {
    const char *section, *key;
    KeyType type;
    size_t offset, room; // in Config
    const char *preset;  // the default, as text; NULL for KEY_PAIR
    double low, high;    // numbers: the closed range
    const char *choices; // KEY_CHOICE: comma-separated
    const char *help;    // one line
} ConfigKey;

extern const ConfigKey config_keys[];
extern const size_t config_keys_count;

// config.c: sets one value and where it came from (file NULL: no file; it is kept). *index: the key, if there is one of
// that name.
bool config_assign(Config *config, const char *section, const char *name, const char *text, ConfigOrigin origin,
                   const char *file, unsigned line, size_t *index, Error *error);
// It has no bound because its method needs none.
bool config_needed_no_bound(const Config *config);

// config_value.c: text to field and back.
bool config_parse_value(Config *config, const ConfigKey *key, const char *text, Error *error);
void config_format_value(const Config *config, const ConfigKey *key, char text[CONFIG_TEXT]);

#endif
