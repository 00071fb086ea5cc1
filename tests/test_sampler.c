// Drawing tokens: as often as their probabilities say, only from those that the cuts leave, the same for the same seed.
#include "tests/support/foreign_model.h"
#include "tests/support/toy_run.h"

#include <math.h>
#include <string.h>

#include "train/sampler.h"

enum { TOKENS = 9, DRAWS = 20000 };

static const real logits[TOKENS] = {0, 1, -2, 3, 2.5, -30, 3, 0.25, -1};

typedef struct Cut {
    SamplerSettings settings;
    const char *left; // the tokens that may be drawn
} Cut;

static const Cut cuts[] = {{{.temperature = 1, .top_p = 1}, "01234678"}, // e^-33 does not come up in 20,000 draws
                           {{.temperature = 2, .top_p = 1}, "01234678"},
                           {{.temperature = 0.5, .top_p = 1, .top_k = 1}, "3"}, // of equal ones the first
                           {{.temperature = 1, .top_p = 1, .top_k = 3}, "346"},
                           {{.temperature = 1, .top_p = 1, .top_k = 100}, "01234678"},
                           {{.temperature = 1, .top_p = 0.3}, "3"},  // 0.366 of the probability
                           {{.temperature = 1, .top_p = 0.5}, "36"}, // 0.732
                           {{.temperature = 1, .top_p = 1, .min_p = 0.5}, "346"},
                           {{.temperature = 1, .top_p = 1, .min_p = 1}, "36"},
                           {{.temperature = 0, .top_p = 1}, "3"}};

// Frequencies against the softmax over what is left: five standard deviations of a count, over 90 counts.
static void test_frequencies(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        const SamplerSettings *s = &cuts[c].settings;
        double weight[TOKENS], total = 0;
        size_t count[TOKENS] = {0};
        Error error = {0};
        for (size_t i = 0; i < TOKENS; i++) {
            weight[i] = strchr(cuts[c].left, '0' + (int)i) ? exp((double)logits[i] / fmax(s->temperature, 1e-3)) : 0;
            total += weight[i];
        }
        Sampler *sampler = sampler_create(s, TOKENS, &error);
        assert_non_null(sampler);
        for (uint64_t position = 0; position < DRAWS; position++) count[sampler_draw(sampler, logits, position)]++;
        for (size_t i = 0; i < TOKENS; i++) {
            const double p = weight[i] / total, expected = DRAWS * p;
            if (fabs((double)count[i] - expected) > 5 * sqrt(expected * (1 - p)) || (p == 0 && count[i]))
                fail_msg("cut %zu, token %zu: %zu draws, %g expected", c, i, count[i], expected);
            check_count("frequencies of tokens", 1);
        }
        sampler_destroy(sampler);
    }
}

static void test_seeds(void **state) {
    (void)state;
    int32_t drawn[3][50];
    for (size_t run = 0; run < 3; run++) {
        const SamplerSettings settings = {.temperature = 1, .top_p = 1, .seed = run == 2 ? 8 : 7};
        Error error = {0};
        Sampler *sampler = sampler_create(&settings, TOKENS, &error);
        for (uint64_t position = 0; position < 50; position++)
            drawn[run][position] = sampler_draw(sampler, logits, position);
        sampler_destroy(sampler);
    }
    check_same_bits("draws of the same seed", drawn[0], drawn[1], sizeof drawn[0]);
    assert_true(memcmp(drawn[0], drawn[2], sizeof drawn[0]) != 0);
}

static void count_bytes(void *context, const char *text, size_t size) {
    (void)text;
    *(size_t *)context += size;
}

// Where the tokenizer drops line ends, a text begins with <s>; it is not empty.
static void test_nothing_to_begin_with(void **state) {
    (void)state;
    const char *path = below(temporary_directory(), "tokenizer.model");
    const Config config = settings((const char *const[]){NULL});
    Trainer trainer;
    Error error = {0};
    toy_trainer_create(&trainer, &config);
    for (ForeignNewline newline = NEWLINE_PIECE; newline <= NEWLINE_DROPPED; newline++)
        for (size_t size = 0; size < 3; size++) {
            write_foreign_model(path, false, newline);
            Tokenizer *tokenizer = tokenizer_load(path, &error);
            if (!tokenizer) fail_msg("%s", error.message);
            size_t bytes = 0, drawn = 0;
            for (uint64_t seed = 0; seed < 10; seed++) { // some texts end at once, with </s>
                const SamplerSettings sampling = {.temperature = 1, .top_p = 1, .seed = seed};
                Writing writing = {.sampling = &sampling,
                                   .prompt = "\n\n",
                                   .prompt_size = size,
                                   .tokens = 8,
                                   .write = count_bytes,
                                   .context = &bytes};
                if (!write_text(trainer.model, tokenizer, &writing, &error)) fail_msg("%s", error.message);
                assert_true(writing.prompt_tokens > 0);
                drawn += writing.drawn;
                // Of a model made elsewhere <s> comes before the prompt, and is all there is without one.
                const size_t without = newline == NEWLINE_DROPPED || size == 0 ? 0 : writing.prompt_tokens;
                writing.from_bos = true;
                if (!write_text(trainer.model, tokenizer, &writing, &error)) fail_msg("%s", error.message);
                assert_int_equal(writing.prompt_tokens, 1 + without);
            }
            if (drawn == 0 || bytes == 0) fail_msg("line ends %d, prompt of %zu: nothing is drawn", newline, size);
            tokenizer_free(tokenizer);
            check_count("texts that begin with nothing", 1);
        }
    trainer_destroy(&trainer);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_frequencies), cmocka_unit_test(test_seeds),
                                          cmocka_unit_test(test_nothing_to_begin_with)};
TEST_MAIN(tests)
