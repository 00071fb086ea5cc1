// Files: inih splits lines into section, key and value; this reader hands it only lines that are whole and text.
#include "train/config_table.h"

#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "train/words.h"

typedef struct Reading {
    Config *config;
    const char *path; // kept for the life of the program: origins point to it
    FILE *stream;
    unsigned line;                  // of the line that inih holds
    unsigned seen[CONFIG_MAX_KEYS]; // line of the key's first appearance in this file
    Error *error;
} Reading;

// inih drops what follows the bracket of a "[section]": a setting there would be missed by nobody.
static bool drops_text(const char *line) {
    static const char mark[] = "\xEF\xBB\xBF"; // of UTF-8, at the beginning of the file
    if (!strncmp(line, mark, sizeof mark - 1)) line += sizeof mark - 1;
    const char *bracket = strchr(line, ']');
    if (line[strspn(line, " \t")] != '[' || !bracket) return false;
    bracket += 1 + strspn(bracket + 1, " \t\r\n");
    return *bracket && *bracket != ';' && *bracket != '#';
}

// One line for inih, or NULL at the end of the file and at the first line that is not fit to be read.
static char *read_line(char *buffer, int size, void *context) {
    Reading *reading = context;
    int used = 0, byte;
    reading->line++;
    while ((byte = getc(reading->stream)) != EOF) {
        if (byte == 0 || byte == 127 || (byte < 32 && byte != '\n' && byte != '\r' && byte != '\t')) {
            error_set(reading->error, ERROR_USER, "%s:%u: byte 0x%02x is not text.", reading->path, reading->line,
                      (unsigned)byte);
            return NULL;
        }
        if (used && buffer[used - 1] == '\r' && byte != '\n' && byte != '\r') { // a whole file as one line
            error_set(reading->error, ERROR_USER, "%s:%u: a carriage return within the line; lines end in newlines.",
                      reading->path, reading->line);
            return NULL;
        }
        if (used == size - 1) {
            error_set(reading->error, ERROR_USER, "%s:%u: the line is longer than %d bytes.", reading->path,
                      reading->line, size - 2);
            return NULL;
        }
        buffer[used++] = (char)byte;
        if (byte == '\n') break;
    }
    if (ferror(reading->stream)) {
        error_errno(reading->error, "Reading %s", reading->path);
        return NULL;
    }
    if (used == 0) return NULL;
    buffer[used] = 0;
    if (!text_valid(buffer, (size_t)used)) {
        error_set(reading->error, ERROR_USER, "%s:%u: the line is not UTF-8.", reading->path, reading->line);
        return NULL;
    }
    if (drops_text(buffer)) {
        error_set(reading->error, ERROR_USER, "%s:%u: nothing but a comment may follow the [section] in its line.",
                  reading->path, reading->line);
        return NULL;
    }
    return buffer;
}

// Called by inih for each key. Returns 0 to stop.
static int take_value(void *context, const char *section, const char *name, const char *value) {
    Reading *reading = context;
    Error why = {0};
    size_t key;
    if (!*section)
        error_set(&why, ERROR_USER, "'%s' stands before the first [section].", name);
    else if (config_assign(reading->config, section, name, value, ORIGIN_FILE, reading->path, reading->line, &key,
                           &why)) {
        const bool pair = config_keys[key].type == KEY_PAIR; // optim.betas, which sets the two rows before it as well
        for (size_t i = pair ? key - 2 : key; i <= key; i++) {
            if (reading->seen[i] && why.kind == ERROR_NONE)
                error_set(&why, ERROR_USER, "%s.%s is set a second time; line %u set it first.", section,
                          config_keys[i].key, reading->seen[i]);
            reading->seen[i] = reading->line;
        }
    }
    if (why.kind == ERROR_NONE) return 1;
    error_set(reading->error, why.kind, "%s:%u: %s", reading->path, reading->line, why.message);
    return 0;
}

// Origins point to paths, so these are kept until the program ends; a program reads a handful of files.
static const char *keep_path(const char *path) {
    typedef struct Kept {
        struct Kept *next;
        char path[];
    } Kept;
    static Kept *all;
    for (Kept *kept = all; kept; kept = kept->next)
        if (!strcmp(kept->path, path)) return kept->path;
    Kept *kept = malloc(sizeof *kept + strlen(path) + 1);
    if (!kept) return "a file";
    strcpy(kept->path, path);
    kept->next = all;
    all = kept;
    return kept->path;
}

// What an earlier file says, or what follows from it, gives way to this one as it does to the command line.
static void override_earlier(const Reading *reading, bool needed_no_bound) {
    Config *config = reading->config;
    if (needed_no_bound && reading->seen[config_key("attention.method")] && !reading->seen[config_key("attention.bound")])
        *config->bound = 0;
    if (reading->seen[config_key("train.steps")] && !reading->seen[config_key("train.tokens")]) config->train_tokens = 0;
}

// Also of a file that sets nothing, or nothing that lasts.
static bool note_read(Config *config, const char *path, Error *error) {
    size_t i = 0;
    while (i < CONFIG_MAX_FILES && config->read[i] && strcmp(config->read[i], path)) i++;
    if (i == CONFIG_MAX_FILES) return error_set(error, ERROR_USER, "At most %d files of settings.", CONFIG_MAX_FILES);
    config->read[i] = path;
    return true;
}

bool config_read(Config *config, const char *path, Error *error) {
    FILE *stream = fopen(path, "rb");
    if (!stream) return error_set(error, ERROR_USER, "The configuration %s cannot be read: %s.", path, strerror(errno));
    // Lines of any text value fit; an indented line is a key like any other; the first error ends the reading.
    ini_use_stack = false;
    ini_allow_multiline = false;
    ini_stop_on_first_error = true;
    ini_inline_comment_prefixes = (char[]){";#"};
    ini_max_line = ini_initial_alloc = CONFIG_TEXT + 160;
    Error why = {0};
    Reading reading = {.config = config, .path = keep_path(path), .stream = stream, .error = &why};
    const bool needed_no_bound = config_needed_no_bound(config);
    int line = ini_parse_stream(read_line, &reading, take_value, &reading);
    fclose(stream);
    if (why.kind == ERROR_NONE && line < 0) error_set(&why, ERROR_MEMORY, "Out of memory while reading %s.", path);
    if (why.kind == ERROR_NONE && line > 0)
        error_set(&why, ERROR_USER, "%s:%d: the line is neither [section], key = value, nor a comment.", path, line);
    override_earlier(&reading, needed_no_bound);
    if (why.kind == ERROR_NONE) return note_read(config, reading.path, error);
    return error_set(error, why.kind, "%s", why.message);
}

char *config_text(const Config *config) {
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) return NULL;
    config_print(config, stream, false);
    if (fclose(stream) == 0) return text;
    free(text);
    return NULL;
}

bool config_write(const Config *config, const char *path, Error *error) {
    char *text = config_text(config);
    if (!text) return error_set(error, ERROR_MEMORY, "Out of memory while writing %s.", path);
    bool written = file_write_atomic(path, text, strlen(text), error);
    free(text);
    return written;
}
