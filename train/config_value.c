// One value of the configuration: text to field, with type and range checked, and back.
#include "train/config_table.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/words.h"

static bool in_list(const char *word, const char *list) {
    size_t length = strlen(word);
    while (*list) {
        size_t item = strcspn(list, ",");
        if (item == length && memcmp(word, list, length) == 0) return true;
        list += item + (list[item] == ',');
    }
    return false;
}

static bool unknown_word(const char *word, const char *list, Error *error) {
    char nearest[64];
    if (words_nearest(word, list, nearest, sizeof nearest))
        return error_set(error, ERROR_USER, "'%s' is not one of %s; did you mean %s?", word, list, nearest);
    return error_set(error, ERROR_USER, "'%s' is not one of %s.", word, list);
}

static bool parse_real(const char *text, double *value, Error *error) {
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    if (end == text || *end || !isfinite(*value)) return error_set(error, ERROR_USER, "'%s' is not a number.", text);
    return true;
}

static bool in_range(const ConfigKey *key, double value, const char *text, Error *error) {
    if (value >= key->low && value <= key->high) return true;
    return error_set(error, ERROR_USER, "%s is outside of %.10g to %.10g.", text, key->low, key->high);
}

static bool parse_integer(const ConfigKey *key, const char *text, uint64_t *value, Error *error) {
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits]) {
        if (text[0] == '-' && text[1] && strspn(text + 1, "0123456789") == strlen(text + 1))
            return in_range(key, -1, text, error);
        return error_set(error, ERROR_USER, "'%s' is not a whole number.", text);
    }
    errno = 0;
    *value = strtoull(text, NULL, 10);
    if (errno == ERANGE) return in_range(key, INFINITY, text, error);
    return in_range(key, (double)*value, text, error);
}

static bool parse_bool(const char *text, bool *value, Error *error) {
    static const char *const yes = "true,yes,on,1", *const no = "false,no,off,0";
    *value = in_list(text, yes);
    if (!*value && !in_list(text, no)) return error_set(error, ERROR_USER, "'%s' is neither true nor false.", text);
    return true;
}

static bool parse_methods(const char *text, char *out, size_t room, Error *error) {
    char names[256] = "";
    for (size_t i = 0; i < attention_method_count(); i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? "," : "",
                 attention_method_name(attention_method_at(i)));
    }
    size_t used = 0;
    do { // words, with spaces around them dropped
        text += strspn(text, " \t");
        size_t length = strcspn(text, ", \t");
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)length, text);
        if (!attention_method_find(word)) return unknown_word(word, names, error);
        if (used + length + 2 > room)
            return error_set(error, ERROR_USER, "The list is longer than %zu bytes.", room - 2);
        used += (size_t)snprintf(out + used, room - used, "%s%s", used ? "," : "", word);
        text += length;
        text += strspn(text, " \t");
        if (*text && *text != ',') return error_set(error, ERROR_USER, "Methods are separated by commas.");
    } while (*text++ == ',');
    return true;
}

static bool parse_text(const ConfigKey *key, const char *text, char *out, Error *error) {
    size_t length = strlen(text);
    if (length >= key->room) return error_set(error, ERROR_USER, "The value is longer than %zu bytes.", key->room - 1);
    // What config.ini could not give back is refused here.
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] < 32 || text[i] == 127)
            return error_set(error, ERROR_USER, "The value holds a control character.");
        if ((text[i] == ';' || text[i] == '#') && (i == 0 || text[i - 1] == ' '))
            return error_set(error, ERROR_USER, "The value holds ' %c', which begins a comment in a file.", text[i]);
    }
    if (length && (text[0] == ' ' || text[length - 1] == ' '))
        return error_set(error, ERROR_USER, "The value begins or ends with a space.");
    if (!text_valid(text, length)) return error_set(error, ERROR_USER, "The value is not UTF-8.");
    memcpy(out, text, length + 1);
    return true;
}

static bool parse_pair(const ConfigKey *key, const char *text, double *pair, Error *error) {
    char first[64];
    size_t comma = strcspn(text, ",");
    if (!text[comma] || comma >= sizeof first)
        return error_set(error, ERROR_USER, "'%s' is not two numbers with a comma between them.", text);
    snprintf(first, sizeof first, "%.*s", (int)comma, text);
    double value[2];
    const char *second = text + comma + 1;
    second += strspn(second, " \t");
    if (!parse_real(first, &value[0], error) || !parse_real(second, &value[1], error)) return false;
    if (!in_range(key, value[0], first, error) || !in_range(key, value[1], second, error)) return false;
    memcpy(pair, value, sizeof value);
    return true;
}

bool config_parse_value(Config *config, const ConfigKey *key, const char *text, Error *error) {
    void *field = (char *)config + key->offset;
    uint64_t integer;
    double number;
    bool flag;
    switch (key->type) {
    case KEY_SIZE:
        if (!parse_integer(key, text, &integer, error)) return false;
        *(size_t *)field = (size_t)integer;
        return true;
    case KEY_INTEGER:
        if (!parse_integer(key, text, &integer, error)) return false;
        *(uint64_t *)field = integer;
        return true;
    case KEY_REAL:
        if (!parse_real(text, &number, error) || !in_range(key, number, text, error)) return false;
        *(double *)field = number;
        return true;
    case KEY_BOOL:
        if (!parse_bool(text, &flag, error)) return false;
        *(bool *)field = flag;
        return true;
    case KEY_CHOICE:
        // An empty word is allowed where it is the default: "not set".
        if (!in_list(text, key->choices) && (*text || *key->preset)) return unknown_word(text, key->choices, error);
        return parse_text(key, text, field, error);
    case KEY_SCALE:
        if (strcmp(text, "1/sqrt(d)") && strcmp(text, "1/d")) {
            if (!parse_real(text, &number, NULL) || number <= 0)
                return error_set(error, ERROR_USER, "'%s' is not 1/sqrt(d), 1/d, or a number above 0.", text);
        }
        return parse_text(key, text, field, error);
    case KEY_METHODS: return parse_methods(text, field, key->room, error);
    case KEY_PAIR: return parse_pair(key, text, field, error);
    default: return parse_text(key, text, field, error); // KEY_TEXT
    }
}

void config_format_value(const Config *config, const ConfigKey *key, char text[CONFIG_TEXT]) {
    const void *field = (const char *)config + key->offset;
    switch (key->type) {
    case KEY_SIZE: snprintf(text, CONFIG_TEXT, "%zu", *(const size_t *)field); break;
    case KEY_INTEGER: snprintf(text, CONFIG_TEXT, "%llu", (unsigned long long)*(const uint64_t *)field); break;
    case KEY_BOOL: snprintf(text, CONFIG_TEXT, "%s", *(const bool *)field ? "true" : "false"); break;
    case KEY_REAL: { // the fewest digits that read back to the same number
        int digits = 6;
        do snprintf(text, CONFIG_TEXT, "%.*g", digits, *(const double *)field);
        while (digits++ < 17 && strtod(text, NULL) != *(const double *)field);
        break;
    }
    case KEY_PAIR:
        snprintf(text, CONFIG_TEXT, "%.17g,%.17g", ((const double *)field)[0], ((const double *)field)[1]);
        break;
    default: snprintf(text, CONFIG_TEXT, "%s", (const char *)field); break;
    }
}
