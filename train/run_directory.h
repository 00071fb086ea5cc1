// A run on disk: config.ini, metrics.jsonl, step_NNNNNNNN/ checkpoints, and the links `latest` and `best`.
#ifndef ROPE_TRAIN_RUN_DIRECTORY_H
#define ROPE_TRAIN_RUN_DIRECTORY_H

#include "data/tokenizer.h"
#include "train/trainer.h"

enum { RUN_PATH = 4096 };

typedef struct RunDirectory {
    char path[RUN_PATH];
    int lock; // descriptor of the locked directory
} RunDirectory;

// Makes the directory if need be, locks it against a second trainer, removes what a killed run left half-written, gives a
// checkpoint that stepped aside for one that never came its name back, and puts a copy's directories `latest` and `best`,
// if whole, in the place of their steps.
bool run_open(RunDirectory *run, const char *path, Error *error);
void run_close(RunDirectory *run);
// For what does not go on elsewhere, as run_keep_place does: ERROR_USER if the directory that is locked was removed or
// moved. What has its name now may be somebody else's.
bool run_check_place(const RunDirectory *run, Error *error);
// For a run that begins at step 0: ERROR_USER if it would write over the metrics of one whose checkpoints were removed.
bool run_check_gone(const RunDirectory *run, Error *error);
// Whether a directory, there or not, may be used so: ERROR_USER if it holds something of another kind, or without `resume`
// of the same.
typedef enum RunUse { USE_RUN, USE_COMPARISON, USE_SWEEP, RUN_USES } RunUse;
bool run_may_use(const char *path, RunUse use, bool resume, Error *error);

// Where the directory is now, for what is to be written next. Moved, the run goes on where it is: path and saved (RUN_PATH,
// the last checkpoint or "") name the new place. Removed, it is made again with config.ini and *anew is set, saved is empty;
// ERROR_USER if another run is there by now. Says so on standard error.
bool run_keep_place(RunDirectory *run, const Config *config, char *saved, bool *anew, Error *error);
// Writes step_NNNNNNNN/ of the trainer's state, points `latest` (and `best`, if this step is the best) to it, and
// removes older checkpoints beyond config->keep. `tokenizer` may be NULL. saved (RUN_PATH) receives its path once it is
// whole, though links or the removal may fail then; until then it is left alone.
bool run_save(RunDirectory *run, Trainer *trainer, const Tokenizer *tokenizer, char *saved, Error *error);
// Loads the newest checkpoint that is whole into the trainer; says on standard error which ones it passed over.
// *found is false if there is none: the trainer is as it was. ERROR_USER if it is under another step's name.
bool run_load_latest(const RunDirectory *run, Trainer *trainer, bool *found, Error *error);

// A checkpoint directory from what people type: itself, or of a run directory the newest (else the best). A link is
// followed, so that a run that goes on meanwhile does not change what is read.
bool run_find_checkpoint(const char *argument, char *path, Error *error);
// The same for a reader, whom a run that goes on beside it must not take it from: older than `keep` or not, it stays as
// long as *held, the caller's to close, is open. *held < 0, with success: it can be read and not be held.
bool run_hold_checkpoint(const char *argument, char *path, int *held, Error *error);
// The weights of train.init, if it is set, for a run that begins: a longer context, another attention or other data from
// there on. Says so on standard error. from (RUN_PATH) = the checkpoint, "" if there is none.
bool run_initialise(Trainer *trainer, char *from, Error *error);

#endif
