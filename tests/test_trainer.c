// The training step and its checkpoints: accumulation, clipping, and runs that stop anywhere and go on bit for bit.
// Numbers that are not finite: test_not_finite.c. Models of a few thousand numbers; shards short enough for many epochs.
#include "tests/support/check.h"
#include "tests/support/toy_trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/random.h"
#include "core/threads.h"
#include "train/estimate.h"
#include "train/snapshot.h"
#include "train/state.h"

enum { VOCABULARY = 16, PATH = 512 };
static const size_t state_bytes = offsetof(RunState, eval_due) + sizeof(bool); // without the padding behind it

static const char *shards(void) {
    static const char *directory;
    if (directory) return directory;
    directory = temporary_directory();
    const size_t counts[] = {70, 45, 33};
    const char *const names[] = {"train_a.bin", "train_b.bin", "val.bin"};
    for (size_t i = 0; i < 3; i++) {
        char path[PATH];
        int32_t ids[70];
        Error error = {0};
        for (size_t t = 0; t < counts[i]; t++)
            ids[t] = (int32_t)random_below((Random){i, RANDOM_TEST, 0}, t, VOCABULARY);
        assert_true(path_join(path, sizeof path, directory, names[i], &error));
        ShardWriter *writer = shard_create(path, VOCABULARY, &error);
        assert_non_null(writer);
        if (!shard_append(writer, ids, counts[i], &error) || !shard_finish(writer, NULL, NULL, &error))
            fail_msg("%s", error.message);
    }
    return directory;
}

// Settings of a toy run; `more` are assignments, NULL at the end.
static Config settings(const char *const *more) {
    static char directory[PATH];
    snprintf(directory, sizeof directory, "data.dir=%s", shards());
    const char *const common[] = {directory,
                                  "model.layers=1",
                                  "model.width=16",
                                  "model.heads=2",
                                  "model.kv_heads=1",
                                  "model.tokens=8",
                                  "model.vocabulary=16",
                                  "train.batch=2",
                                  "train.accumulate=2",
                                  "train.steps=1000",
                                  "optim.warmup=5",
                                  "optim.learning_rate=0.01",
                                  NULL};
    return toy_settings(common, more);
}

static double norm(const real *values, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)values[i] * (double)values[i];
    return sqrt(sum);
}

// Four sequences make the same step however they are cut into batches: plain text, and a task whose examples do not
// all ask, so that batches have different numbers of targets.
static void test_accumulation(void **unused) {
    (void)unused;
    static const char *const sources[] = {NULL, "data.task=induction"};
    static const char *const cuts[][2] = {{"train.batch=4", "train.accumulate=1"},
                                          {"train.batch=2", "train.accumulate=2"},
                                          {"train.batch=1", "train.accumulate=4"}};
    for (size_t source = 0; source < 2; source++) {
        double loss[3], length[3];
        for (size_t cut = 0; cut < 3; cut++) {
            const char *more[] = {cuts[cut][0], cuts[cut][1], sources[source], "data.dir=", NULL};
            if (!sources[source]) more[2] = NULL;
            Config config = settings(more);
            Trainer trainer;
            toy_trainer_create(&trainer, &config);
            for (size_t i = 0; i < 3; i++) {
                StepResult result = toy_trainer_step(&trainer);
                loss[cut] = result.loss;
                length[cut] = result.gradient_norm;
            }
            trainer_destroy(&trainer);
            if (fabs(loss[cut] - loss[0]) > 1e-5 * loss[0] || fabs(length[cut] - length[0]) > 1e-4 * length[0])
                fail_msg("%s %s: loss %.9g, gradient norm %.9g instead of %.9g, %.9g", cuts[cut][0], cuts[cut][1],
                         loss[cut], length[cut], loss[0], length[0]);
            check_count("ways to accumulate", 1);
        }
    }
}

// train.recompute changes memory, not a bit of the result, and its cost is known beforehand.
static void test_recompute(void **unused) {
    (void)unused;
    real *kept = NULL;
    ModelNeeds needs[2];
    for (int recompute = 0; recompute < 2; recompute++) {
        const char *more[] = {recompute ? "train.recompute=true" : "train.recompute=false", "model.layers=3", NULL};
        Config config = settings(more);
        Estimate estimate;
        Error error = {0};
        assert_true(estimate_memory(&config, &estimate, &error));
        needs[recompute] = estimate.model;
        Trainer trainer;
        toy_trainer_create(&trainer, &config);
        for (size_t i = 0; i < 3; i++) toy_trainer_step(&trainer);
        const size_t bytes = elements(&trainer) * sizeof(real);
        if (!recompute) kept = memcpy(malloc(bytes), model_parameters(trainer.model), bytes);
        check_same_bits("parameters with and without recompute", kept, model_parameters(trainer.model), bytes);
        trainer_destroy(&trainer);
    }
    free(kept);
    assert_true(needs[1].activation_bytes < needs[0].activation_bytes);
    const double more = needs[1].backward_flops - needs[0].backward_flops;
    assert_true(more > 0.5 * needs[0].forward_flops && more < needs[0].forward_flops);
}

// The first moment after one step is (1 - β1) times the clipped gradient; a step leaves nothing behind for the next.
static void test_gradient(void **unused) {
    (void)unused;
    static const char *const clips[] = {"optim.clip=0", "optim.clip=0.01", "optim.clip=0.3", "optim.clip=1000"};
    for (size_t i = 0; i < sizeof clips / sizeof *clips; i++) {
        const char *more[] = {clips[i], "optim.learning_rate=1e-30", NULL};
        Config config = settings(more);
        Trainer trainer;
        toy_trainer_create(&trainer, &config);
        DataPosition start = batches_position(trainer.train);
        const double first = toy_trainer_step(&trainer).gradient_norm;
        const double wanted = config.clip > 0 && config.clip < first ? config.clip : first;
        const double moment = norm(optim_state(trainer.optim, 0, NULL), elements(&trainer));
        if (fabs(moment - (1 - config.beta1) * wanted) > 1e-5 * moment)
            fail_msg("%s: first moment %.9g instead of %.9g", clips[i], moment, (1 - config.beta1) * wanted);
        batches_seek(trainer.train, start);
        if (toy_trainer_step(&trainer).gradient_norm != first)
            fail_msg("%s: the second step saw the first one's gradient", clips[i]);
        trainer_destroy(&trainer);
        check_count("clipped gradients", 1);
    }
}

// A step that is logged makes certificates; an evaluation after it, which nobody asks for any, leaves them as they are.
static void test_evaluation_reports_nothing(void **unused) {
    (void)unused;
    const char *more[] = {"attention.method=lowrank", "attention.near=2", "train.log_every=1", NULL};
    Config config = settings(more);
    Trainer trainer;
    Evaluation evaluation;
    Error error = {0};
    toy_trainer_create(&trainer, &config);
    toy_trainer_step(&trainer);
    const AttentionReport *report = model_report(trainer.model, 0);
    const double before[] = {report->logit_bound[0], report->output_bound[0], report->dq_bound[1]};
    assert_true(before[1] > 0);
    if (!evaluate(trainer.model, trainer.train, 4, NULL, &evaluation, &error)) fail_msg("%s", error.message);
    const double after[] = {report->logit_bound[0], report->output_bound[0], report->dq_bound[1]};
    check_same_bits("reports of a step, after an evaluation", before, after, sizeof before);
    trainer_destroy(&trainer);
}

// What attention reports of a step is said of all its sequences, not of the last batch alone.
static void test_reports_of_all_batches(void **unused) {
    (void)unused;
    static const char *const cuts[][2] = {{"train.batch=4", "train.accumulate=1"},
                                          {"train.batch=2", "train.accumulate=2"},
                                          {"train.batch=1", "train.accumulate=4"}};
    static const char *const bounds[] = {"attention.bound=ball", "attention.bound=none"};
    for (size_t bound = 0; bound < 2; bound++) {
        AttentionSummary of[3];
        uint64_t fell_back[3];
        for (size_t cut = 0; cut < 3; cut++) {
            const char *more[] = {cuts[cut][0],       cuts[cut][1],         "attention.method=lowrank",
                                  "attention.near=2", "attention.degree=2", "attention.logit_bound=0.01",
                                  bounds[bound],      "train.log_every=1",  NULL};
            Config config = settings(more);
            Trainer trainer;
            toy_trainer_create(&trainer, &config);
            toy_trainer_step(&trainer);
            of[cut] = trainer_attention(&trainer);
            fell_back[cut] = trainer.state.fell_back;
            assert_true(of[cut].fell_back == (double)fell_back[cut]);
            trainer_destroy(&trainer);
        }
        assert_true(bound ? fell_back[0] > 0 : of[0].clipped > 0 && of[0].clipped < 1 && of[0].output_bound > 0);
        for (size_t cut = 1; cut < 3; cut++) {
            const double seen[] = {of[cut].logit_bound, of[cut].output_bound, of[cut].dq_bound, of[cut].dk_bound,
                                   of[cut].dv_bound,    of[cut].clipped,      of[cut].fell_back};
            const double whole[] = {of[0].logit_bound, of[0].output_bound, of[0].dq_bound, of[0].dk_bound,
                                    of[0].dv_bound,    of[0].clipped,      of[0].fell_back};
            for (size_t i = 0; i < sizeof seen / sizeof *seen; i++)
                if (!(fabs(seen[i] - whole[i]) <= 1e-4 * whole[i]))
                    fail_msg("%s, %s: figure %zu is %g instead of %g", bounds[bound], cuts[cut][1], i, seen[i],
                             whole[i]);
            check_count("reports of several batches", 1);
        }
    }
}

static void check_untouched(const char *what, Trainer *trainer, const Copy *before) {
    const Copy now = numbers_of(trainer);
    for (size_t i = 0; i < 3; i++)
        check_same_bits(what, now.values[i], before->values[i], elements(trainer) * sizeof(real));
}

// $RESUME_STEPS (40): a run of so many steps is stopped after each of them, over epochs and ends of shards.
static void test_resume_everywhere(void **unused) {
    (void)unused;
    const char *wanted = getenv("RESUME_STEPS"), *directory = temporary_directory();
    const size_t steps = wanted ? strtoul(wanted, NULL, 10) : 40;
    Config config = settings(NULL);
    Trainer whole;
    char path[PATH];
    Error error = {0};
    toy_trainer_create(&whole, &config);
    for (size_t k = 0; k < steps; k++) {
        snprintf(path, sizeof path, "%s/%zu", directory, k);
        if (!snapshot_save(path, &whole, NULL, &error)) fail_msg("%s", error.message);
        toy_trainer_step(&whole);
    }
    Copy end = copy_of(&whole);
    for (size_t k = 0; k < steps; k++) {
        Trainer resumed;
        toy_trainer_create(&resumed, &config);
        snprintf(path, sizeof path, "%s/%zu", directory, k);
        if (!snapshot_load(path, &resumed, &error)) fail_msg("%s", error.message);
        for (size_t i = k; i < steps; i++) toy_trainer_step(&resumed);
        check_untouched("resumed numbers", &resumed, &end);
        check_same_bits("resumed states", &resumed.state, &whole.state, state_bytes);
        assert_int_equal(optim_step_count(resumed.optim), optim_step_count(whole.optim));
        trainer_destroy(&resumed);
        check_count("resumed runs", 1);
    }
    if (whole.state.data.epoch < 2) fail_msg("the run ended in epoch %zu", (size_t)whole.state.data.epoch);
    free_copy(&end);
    trainer_destroy(&whole);
}

// No fsync: thousands of damaged files are soon written.
static void overwrite(const char *path, const char *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_true(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

// state.json covers itself and any file beside it: each byte changed, removed or added is noticed.
static void test_seal(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    Error error = {0};
    char paths[2][PATH];
    assert_true(path_join(paths[0], PATH, directory, "tokenizer.model", &error));
    assert_true(path_join(paths[1], PATH, directory, "state.json", &error));
    overwrite(paths[0], "some tokenizer", 14);
    RunState state = {.step = 7, .updates = 7, .tokens = 224, .data = {1, 3}, .loss_sum = 1.5, .loss_count = 2,
                      .data_checksum = 0xfedcba98};
    assert_true(state_write(directory, &state, 1, 7, 99, &error));
    for (size_t file = 0; file < 2; file++) {
        size_t size;
        char *bytes = file_read_all(paths[file], 1 << 20, &size, &error);
        assert_non_null(bytes);
        for (size_t i = 0; i <= size; i++)
            for (int bit = -2; bit < 8; bit++) { // -2: cut here, -1: another byte added
                if ((bit >= 0 && i == size) || (bit == -2 && i == size) || (bit == -1 && i < size)) continue;
                char kept = bytes[i];
                if (bit >= 0) bytes[i] = (char)(bytes[i] ^ (1 << bit));
                if (bit == -1) bytes[i] = ' ';
                overwrite(paths[file], bytes, bit == -2 ? i : bit == -1 ? size + 1 : size);
                Error refusal = {0};
                RunState read;
                if (state_read(directory, &read, NULL, NULL, NULL, &refusal))
                    fail_msg("%s, byte %zu, damage %d: accepted", paths[file], i, bit);
                assert_int_equal(refusal.kind, ERROR_CORRUPT);
                bytes[i] = kept;
                check_count("damaged seals", 1);
            }
        overwrite(paths[file], bytes, size);
        free(bytes);
    }
    RunState read;
    if (!state_read(directory, &read, NULL, NULL, NULL, &error)) fail_msg("%s", error.message);
    check_same_bits("states read back", &read, &state, state_bytes);
}

// Shards without meta.json were made elsewhere; with a damaged one they are refused, though nothing else needs it.
static void test_damaged_meta(void **unused) {
    (void)unused;
    char path[PATH];
    Error error = {0};
    Config config = settings(NULL);
    assert_true(path_join(path, PATH, shards(), "meta.json", &error));
    static const char *const texts[] = {"", "{\"version\": 1}", "[]"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Trainer trainer;
        overwrite(path, texts[i], strlen(texts[i]));
        error_clear(&error);
        assert_false(trainer_create(&trainer, &config, false, &error));
        assert_int_equal(error.kind, ERROR_CORRUPT);
        assert_non_null(strstr(error.message, path));
        check_count("damaged descriptions of data", 1);
    }
    assert_int_equal(remove(path), 0);
    Trainer trainer;
    toy_trainer_create(&trainer, &config);
    trainer_destroy(&trainer);
}

static int one_thread(void **unused) {
    (void)unused;
    threads_set(1);
    return 0;
}

// Runs of every method and three seeds end in the same weights and moments with 1, 2, 3, 4 and 8 threads; other seeds
// in others. 200 tokens in chunks of 16: lowrank's sweep is cut into segments.
static void test_threads(void **unused) {
    (void)unused;
    enum { SEEDS = 3, STEPS = 4 };
    static const size_t threads[] = {1, 2, 3, 4, 8};
    static const char *const methods[] = {
        "attention.method=exact", "attention.method=lowrank",       "attention.method=toeplitz",
        "attention.method=auto",  "attention.method=exact,lowrank",
    };
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        Copy first[SEEDS];
        for (size_t seed = 0; seed < SEEDS; seed++)
            for (size_t n = 0; n < sizeof threads / sizeof *threads; n++) {
                char seed_text[32];
                snprintf(seed_text, sizeof seed_text, "train.seed=%zu", seed + 1);
                const char *more[] = {methods[m],
                                      seed_text,
                                      "data.dir=",
                                      "data.task=induction",
                                      "model.layers=2",
                                      "model.tokens=200",
                                      "model.vocabulary=128",
                                      "attention.far_size=4",
                                      "attention.degree=2",
                                      "attention.near=16",
                                      "attention.chunk=16",
                                      "attention.logit_bound=1",
                                      "attention.cost_exact=1",
                                      "attention.cost_lowrank=1",
                                      "train.accumulate=1",
                                      NULL};
                threads_set(threads[n]);
                Config config = settings(more);
                Trainer trainer;
                toy_trainer_create(&trainer, &config);
                for (size_t step = 0; step < STEPS; step++)
                    if (toy_trainer_step(&trainer).skipped) fail_msg("%s: a step was skipped", methods[m]);
                if (n == 0) first[seed] = copy_of(&trainer);
                if (!same_numbers(&trainer, &first[seed]))
                    fail_msg("%s, seed %zu: %zu threads change the result", methods[m], seed + 1, threads[n]);
                if (seed > 0 && same_numbers(&trainer, &first[seed - 1])) fail_msg("two seeds end alike");
                check_count("runs with 1 to 8 threads", 1);
                trainer_destroy(&trainer);
            }
        for (size_t seed = 0; seed < SEEDS; seed++) free_copy(&first[seed]);
    }
    threads_set(0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(test_accumulation, one_thread),
    cmocka_unit_test(test_recompute),
    cmocka_unit_test(test_gradient),
    cmocka_unit_test(test_evaluation_reports_nothing),
    cmocka_unit_test(test_reports_of_all_batches),
    cmocka_unit_test(test_threads),
    cmocka_unit_test(test_resume_everywhere),
    cmocka_unit_test(test_seal),
    cmocka_unit_test(test_damaged_meta),
};
TEST_MAIN(tests)
