// rope ab: two or three arms (settings) trained side by side. Private to ab*.c.
//
// Every arm starts from the same weights where shapes agree (initial weights are a function of seed and tensor, or those
// of train.init) and sees the same batches. Their steps alternate in one process, and the order within a pair alternates
// too, so that a busy machine slows all of them alike; ratios are taken step by step.
#ifndef ROPE_TRAIN_AB_H
#define ROPE_TRAIN_AB_H

#include "core/clock.h"
#include "train/estimate.h"
#include "train/run_directory.h"
#include "train/starts.h"
#include "train/trainer.h"

enum { AB_ARMS = 3, AB_WARMUP = 2 }; // the first steps of each session warm caches and pages and are not timed

typedef struct AbArm {
    const char *key; // "a", "b", "control"
    char name[CONFIG_TEXT];
    Config config; // resolved
    Estimate estimate;
} AbArm;

// What one arm did under one seed. Arrays grow with the steps.
typedef struct AbTrack {
    double *loss, *seconds;                       // (steps)
    double *eval_step, *eval_loss, *eval_seconds; // (evaluations): step, held-out loss, seconds of training until then
    size_t evaluations;
    PhaseTimes phases; // sums over timed steps
    Evaluation final;
    double bits_per_byte; // 0: unknown
} AbTrack;

typedef struct Ab {
    AbArm arms[AB_ARMS];
    size_t arm_count, steps, seed_count;
    AbTrack *tracks;   // (seed_count, AB_ARMS); an evaluation is in all arms' tracks or in none
    size_t seed, step; // where the comparison stands: this seed (index), this many steps done
    json_t *fidelity;  // array, one row per seed, step, layer and head
    json_t *gradients; // array, one row per seed and step
    json_t *sessions;  // array of [seed, step]: where trainers were made, at the start and after each interruption
    DataIdentity data; // of arm a, as of now
    Starts starts;     // train.init of the arms
    Tokenizer *tokenizer; // of the data, for the checkpoints, while they are made; NULL: none
    RunDirectory run;  // OUT, locked
    // What --resume goes on from for certain: what was saved or loaded, up to that step of that seed; else not `safe`.
    bool safe;
    size_t safe_seed, safe_step;
} Ab;

static inline AbTrack *ab_track(const Ab *ab, size_t seed, size_t arm) { return &ab->tracks[seed * AB_ARMS + arm]; }
// The seed by its number in the settings.
static inline uint64_t ab_seed(const Ab *ab, size_t seed) { return ab->arms[0].config.seed + seed; }
// The caches are warm at this step.
bool ab_timed(const Ab *ab, size_t seed, size_t step);

// ab_run.c: trains all seeds from where the comparison stands. True as well when a signal stopped it; what was measured
// until then is in the tracks either way, and saved as of the last evaluation or the stop, which safe_step says.
bool ab_run(Ab *ab, Error *error);

// ab_progress.c: the tracks of seed_count seeds of `steps` steps, and fidelity, gradients and sessions, all empty; freed
// also where only some of them could be made.
bool ab_record_make(Ab *ab, Error *error);
void ab_record_free(Ab *ab);
// ab_progress.c: OUT/progress.json, with which an interrupted comparison goes on. Load fails with ERROR_USER when there
// is one and `resume` is false, or when the arms' settings are not those it was made with; *found false: there is none.
bool ab_progress_save(const Ab *ab, Error *error);
bool ab_progress_load(Ab *ab, bool resume, bool *found, Error *error);

// ab_fidelity.c: on the weights of arm b and one held-out batch, how far b's attention (outputs and gradients) is from
// the true exp over the same far field, next to its certificates, and from arm a's attention; and how far the gradients
// of all weights are apart. Appends rows to ab->fidelity and ab->gradients. Does nothing where shapes differ.
bool ab_fidelity(Ab *ab, Trainer *a, Trainer *b, Error *error);

// ab_results.c
json_t *ab_document(const Ab *ab); // the contract of product.md; a new reference, NULL only when memory is out
void ab_print(const Ab *ab, const json_t *document); // table, charts and verdict on standard error
bool ab_write_report(const Ab *ab, const json_t *document, const char *path, Error *error);

#endif
