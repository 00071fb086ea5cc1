// What the targets share: seeds, bytes as a file or in a directory, the checksums of files of ours. Private to fuzz/.
#ifndef ROPE_TESTS_FUZZ_INPUTS_H
#define ROPE_TESTS_FUZZ_INPUTS_H

#include <stdio.h>

#include "core/error.h"
#include "data/tokenizer.h"
#include "tests/fuzz/memory_files.h"
#include "tests/fuzz/targets.h"

enum { PATH_SIZE = 256, MOST_NUMBERS = 1 << 16 };

// A refusal says why, and of which kind it is.
void require_reason(bool good, const Error *error);

// A seed that the target takes, and one that it refuses.
void seed(const void *bytes, size_t size);
void seed_text(const char *text);
void seed_file(const char *path);
void seed_refused(const void *bytes, size_t size);

// The path of a file in memory that holds the bytes until the next call.
const char *file_of(const void *data, size_t size);
// On disk: directories of this process, removed at the end; the path holds until the next call. "target", "target/file".
const char *directory(const char *name);
const char *scratch_path(const char *target_and_file);
void write_scratch(const char *target_and_file, const void *data, size_t size);

// Standard output and error lead nowhere in between.
void quiet_begin(void);
void quiet_end(void);

// Puts the checksum on the header of a safetensors file of ours, where there is a place for it.
void mend_safetensors(uint8_t *bytes, size_t size);

// A small tokenizer of ours, and "text/data", the directory that `prepare` made it in.
Tokenizer *tokenizer(void);

extern const FuzzTarget fuzz_safetensors, fuzz_checkpoint, fuzz_shard, fuzz_meta, fuzz_prepare, fuzz_text_in,
    fuzz_text_out, fuzz_settings, fuzz_command_line, fuzz_table, fuzz_state, fuzz_snapshot, fuzz_run_directory,
    fuzz_metrics, fuzz_progress, fuzz_sweep;

#endif
