// rope export: a checkpoint in another program's format. What it writes appears whole or not at all.
#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "model/checkpoint.h"
#include "model/export.h"
#include "train/command.h"
#include "train/loaded.h"
#include "train/snapshot.h"
#include "train/words.h"

// What is exported. Without a tokenizer: NULL and an empty vocabulary.
typedef struct Export {
    const Loaded *loaded;
    const char *out;
    char name[256]; // of the model, UTF-8
    Tokenizer *tokenizer;
    ExportVocabulary vocabulary;
} Export;

// ---- vocabulary -----------------------------------------------------------------------------------------------------

// The pieces, and as many more as the model has tokens that the tokenizer does not know: vocabulary->pieces is
// malloc'd, with the spare ones' texts behind it; those without a tokenizer's belong to it.
static bool read_vocabulary(const Tokenizer *tokenizer, size_t count, ExportVocabulary *vocabulary, Error *error) {
    enum { SPARE_TEXT = 32 };
    const size_t known = tokenizer_vocabulary(tokenizer);
    if (known > count)
        return error_set(error, ERROR_USER, "The tokenizer has %zu tokens, the model %zu.", known, count);
    ExportPiece *pieces = malloc(count * sizeof *pieces + (count - known) * SPARE_TEXT);
    if (!pieces) return error_set(error, ERROR_MEMORY, "There is no memory for %zu tokens.", count);
    for (size_t i = 0; i < known; i++) {
        const TokenizerPiece piece = tokenizer_piece(tokenizer, (int32_t)i);
        pieces[i] = (ExportPiece){piece.text, piece.score, (int)piece.type};
    }
    for (size_t i = known; i < count; i++) {
        char *text = (char *)(pieces + count) + (i - known) * SPARE_TEXT;
        snprintf(text, SPARE_TEXT, "[PAD%zu]", i);
        pieces[i] = (ExportPiece){text, -1e10f, EXPORT_UNUSED};
    }
    *vocabulary = (ExportVocabulary){.pieces = pieces,
                                     .bos = tokenizer_bos(tokenizer),
                                     .eos = tokenizer_eos(tokenizer),
                                     .unknown = tokenizer_unknown(tokenizer),
                                     .space_prefix = tokenizer_space_prefix(tokenizer)};
    return true;
}

static bool open_tokenizer(Export *export, Error *error) {
    const Loaded *loaded = export->loaded;
    char path[RUN_PATH];
    // A task's tokens are numbers, whatever lies in data.dir.
    if (*loaded->config.task || !loaded_tokenizer_path(loaded, path)) return true;
    export->tokenizer = tokenizer_load(path, error);
    if (!export->tokenizer || !read_vocabulary(export->tokenizer, loaded->config.vocabulary, &export->vocabulary, error))
        return false;
    // Models made elsewhere begin with it, and `rope sample` begins theirs so; `rope train` puts nothing in front.
    export->vocabulary.bos_prefix = !loaded->own && export->vocabulary.bos >= 0;
    return true;
}

static const ExportVocabulary *vocabulary_of(const Export *export) {
    return export->tokenizer ? &export->vocabulary : NULL;
}

// ---- formats --------------------------------------------------------------------------------------------------------

static bool write_gguf(const Export *export, const char *path, Error *error) {
    return export_gguf(path, export->loaded->model, vocabulary_of(export), export->name, error);
}

static bool write_llama2(const Export *export, const char *directory, Error *error) {
    return export_llama2(directory, export->loaded->model, vocabulary_of(export), error);
}

static bool write_bf16(const Export *export, const char *directory, Error *error) {
    // A model made elsewhere stays one, which begins texts in its own way, as long as config.json says all of it.
    const bool plain = !export->loaded->own && !checkpoint_inexpressible(model_settings(export->loaded->model));
    json_t *settings = plain ? NULL : snapshot_settings(&export->loaded->config);
    if (!plain && !settings) return error_set(error, ERROR_MEMORY, "Out of memory while writing %s.", export->out);
    const CheckpointInfo info = {.rope_c = settings,
                                 .bos = export->tokenizer ? export->vocabulary.bos : -1,
                                 .eos = export->tokenizer ? export->vocabulary.eos : -1};
    bool fine = checkpoint_write_as(directory, dtype_find("BF16"), export->loaded->model, &info, error) &&
                (!export->tokenizer || snapshot_write_tokenizer(directory, export->tokenizer, error));
    json_decref(settings);
    return fine;
}

// Why the format cannot hold the model; NULL if it can.
static const char *hindrance_of_gguf(const ModelSettings *settings, const ExportVocabulary *vocabulary) {
    (void)vocabulary;
    return checkpoint_inexpressible(settings);
}

typedef struct Format {
    const char *name;
    bool directory; // else one file
    bool merges;    // its reader joins pieces by their scores, whatever the tokenizer is
    bool spaces;    // its reader puts a space in front of every prompt, and crashes where there is no token for it
    bool (*write)(const Export *export, const char *path, Error *error);
    const char *(*hindrance)(const ModelSettings *settings, const ExportVocabulary *vocabulary); // NULL: holds all
} Format;

static const Format formats[] = {
    {"gguf", false, true, false, write_gguf, hindrance_of_gguf},
    {"llama2.c", true, true, true, write_llama2, export_llama2_inexpressible},
    {"bf16", true, false, false, write_bf16, NULL},
};
enum { FORMATS = sizeof formats / sizeof *formats };

static const Format *find_format(const char *name, Error *error) {
    char names[64] = "", nearest[64];
    for (size_t i = 0; i < FORMATS; i++) {
        if (!strcmp(name, formats[i].name)) return &formats[i];
        words_append(names, sizeof names, formats[i].name);
    }
    if (words_nearest(name, names, nearest, sizeof nearest))
        error_set(error, ERROR_USER, "--format: There is no format %.64s; did you mean %s?", name, nearest);
    else
        error_set(error, ERROR_USER, "--format: There is no format %.64s; there are gguf, llama2.c, bf16.", name);
    return NULL;
}

// ---- the command ----------------------------------------------------------------------------------------------------

// Of a folder the name may end in slashes, which say nothing; of a file they do.
static bool check_kind(const Format *format, const char *out, Error *error) {
    if (format->directory || out[strlen(out) - 1] != '/') return true;
    return error_set(error, ERROR_USER, "--out: %s is a folder's name, and %s is one file.", out, format->name);
}

static bool must_be_free(const char *out, Error *error) {
    struct stat status;
    if (lstat(out, &status) != 0) return true; // whatever else is wrong with it shows when it is written
    return error_set(error, ERROR_USER, "%s exists already: choose another --out or remove it.", out);
}

// What the formats' temporary files begin with, and the names in their directories.
static const char gguf_magic[] = "GGUF";
static const char *const written_names[] = {"config.json",   "model.safetensors", "tokenizer.model", "model.bin",
                                            "tokenizer.bin", NULL};

// All of it or nothing, and by one program at a time: what is temporary is locked.
static bool write_whole(const Export *export, const Format *format, Error *error) {
    char temporary[RUN_PATH];
    const int lock = format->directory
                         ? directory_begin_alone(export->out, written_names, temporary, sizeof temporary, error)
                         : file_begin_alone(export->out, gguf_magic, temporary, sizeof temporary, error);
    if (lock < 0) return false;
    bool written = must_be_free(export->out, error);
    if (format->directory)
        written = written && format->write(export, temporary, error) && directory_commit(temporary, export->out, error);
    else // which writes into the same temporary file
        written = written && format->write(export, export->out, error);
    if (!written) directory_remove(temporary, NULL); // best effort: the message is about what failed first
    close(lock);
    return written;
}

static bool file_bytes(const char *path, uint64_t *bytes, Error *error) {
    struct stat status;
    if (stat(path, &status) != 0) return error_errno(error, "Cannot look at %s", path);
    *bytes += (uint64_t)status.st_size;
    return true;
}

// Of the file, or of all files in the directory.
static bool count_bytes(const char *out, bool directory, uint64_t *bytes, Error *error) {
    DirectoryList list = {0};
    *bytes = 0;
    if (!directory) return file_bytes(out, bytes, error);
    bool fine = directory_list(&list, out, error);
    for (size_t i = 0; fine && i < list.count; i++) {
        char path[RUN_PATH];
        fine = path_join(path, sizeof path, out, list.entries[i]->d_name, error) && file_bytes(path, bytes, error);
    }
    directory_list_free(&list);
    return fine;
}

static bool has_space(const ExportVocabulary *vocabulary, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!strcmp(vocabulary->pieces[i].text, "\u2581")) return true; // how SentencePiece writes it
    return false;
}

static bool report(const Export *export, const Format *format, uint64_t bytes, bool json, Error *error) {
    const size_t parameters = model_tensors(export->loaded->model)->parameters;
    if (export->tokenizer && format->merges && !tokenizer_merges(export->tokenizer))
        fprintf(stderr,
                "rope: tokenizer.model is no bpe or char model, or one that normalises texts first: readers of %s may split "
                "texts into other tokens.\n",
                format->name);
    if (export->tokenizer && format->spaces && !tokenizer_spells_bytes(export->tokenizer))
        fprintf(stderr,
                "rope: tokenizer.model has no tokens for single bytes: run.c of %s takes others for characters that it does "
                "not know.\n",
                format->name);
    if (export->tokenizer && format->spaces && !has_space(&export->vocabulary, export->loaded->config.vocabulary))
        fprintf(stderr,
                "rope: tokenizer.model has no token for a space, which run.c of %s puts in front of every prompt: it will "
                "crash with one.\n",
                format->name);
    if (json)
        return command_print_json(json_pack("{s:s, s:s, s:s, s:I, s:I}", "checkpoint", export->loaded->path, "format",
                                            format->name, "out", export->out, "bytes", (json_int_t)bytes, "parameters",
                                            (json_int_t)parameters),
                                  error);
    fprintf(stderr, "%s: %s as %s, %.3f M parameters, %.3f MB%s\n", export->out, export->loaded->path, format->name,
            (double)parameters / 1e6, (double)bytes / 1e6, export->tokenizer ? "" : ", without a tokenizer");
    return true;
}

static bool run(Loaded *loaded, Export *export, const Format *format, const CommandLine *line, Error *error) {
    uint64_t bytes;
    if (!check_kind(format, export->out, error) || !must_be_free(export->out, error) ||
        !loaded_open(loaded, line->positional[0], &line->config, 1, error) ||
        !open_tokenizer(export, error))
        return false;
    const ModelSettings *settings = model_settings(loaded->model);
    const char *hindrance = format->hindrance ? format->hindrance(settings, vocabulary_of(export)) : NULL;
    if (hindrance)
        return error_set(error, ERROR_USER, "%s cannot be exported as %s: %s", loaded->path, format->name, hindrance);
    if (!write_whole(export, format, error) || !count_bytes(export->out, format->directory, &bytes, error))
        return false;
    return report(export, format, bytes, line->json, error);
}

// The last part of what the user calls the checkpoint.
static void name_model(const char *argument, char *name, size_t size) {
    size_t end = strlen(argument);
    while (end > 0 && argument[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && argument[start - 1] != '/') start--;
    snprintf(name, size, "%.*s", (int)(end - start), argument + start);
    if (!*name || *name == '.' || !text_valid(name, strlen(name))) snprintf(name, size, "rope.c");
}

int command_export(int argc, char **argv) {
    enum { FORMAT, OUT, OPTIONS };
    static const CommandOption options[] = {
        {"format", 'f', "F", "gguf (llama.cpp), llama2.c, or bf16 (a checkpoint of half the size)"},
        {"out", 'o', "PATH", "what is written: a file for gguf, else a directory; must not exist"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    static CommandLine line;
    static Loaded loaded;
    static Export export;
    Error error = {0};
    command_parse(command_find("export"), options, values, argc, argv, &line);
    export = (Export){.loaded = &loaded, .out = values[OUT]};
    const Format *format = NULL;
    if (line.positional_count != 1)
        error_set(&error, ERROR_USER, "export takes one checkpoint or run directory.");
    else if (!values[FORMAT])
        error_set(&error, ERROR_USER, "export needs --format gguf, llama2.c or bf16.");
    else if (!export.out || !*export.out)
        error_set(&error, ERROR_USER, "export needs --out PATH.");
    else
        format = find_format(values[FORMAT], &error);
    if (!format) return command_fail(&error);
    name_model(line.positional[0], export.name, sizeof export.name);
    bool fine = run(&loaded, &export, format, &line, &error);
    free((void *)export.vocabulary.pieces);
    if (export.tokenizer) tokenizer_free(export.tokenizer);
    loaded_close(&loaded);
    return fine ? 0 : command_fail(&error);
}
