// The table of the fuzz targets (see targets.h).
#include <string.h>

#include "tests/fuzz/inputs.h"

const FuzzTarget *const fuzz_targets[] = {
    &fuzz_safetensors,   &fuzz_checkpoint, &fuzz_shard,        &fuzz_meta,  &fuzz_prepare, &fuzz_text_in,
    &fuzz_text_out,      &fuzz_settings,   &fuzz_command_line, &fuzz_table, &fuzz_state,   &fuzz_snapshot,
    &fuzz_run_directory, &fuzz_metrics,    &fuzz_progress,     &fuzz_sweep,
};
const size_t fuzz_target_count = sizeof fuzz_targets / sizeof *fuzz_targets;

const FuzzTarget *fuzz_find(const char *name) {
    for (size_t i = 0; i < fuzz_target_count; i++)
        if (strcmp(fuzz_targets[i]->name, name) == 0) return fuzz_targets[i];
    return NULL;
}
