// Sampling: softmax(logits / temperature), cut by top-k, top-p and min-p, in double; one uniform number per position.
#include "train/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "train/words.h"

typedef struct Candidate {
    double weight;
    int32_t token;
} Candidate;

struct Sampler {
    SamplerSettings settings;
    size_t vocabulary;
    Candidate *candidates; // (vocabulary)
};

Sampler *sampler_create(const SamplerSettings *settings, size_t vocabulary, Error *error) {
    Sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler) sampler->candidates = calloc(vocabulary, sizeof *sampler->candidates);
    if (!sampler || !sampler->candidates) {
        free(sampler);
        error_set(error, ERROR_MEMORY, "Out of memory for sampling from %zu tokens.", vocabulary);
        return NULL;
    }
    sampler->settings = *settings;
    sampler->vocabulary = vocabulary;
    return sampler;
}

void sampler_destroy(Sampler *sampler) {
    if (!sampler) return;
    free(sampler->candidates);
    free(sampler);
}

// Likeliest first; equal weights in the order of ids, so that the order is one.
static int likelier(const void *left, const void *right) {
    const Candidate *a = left, *b = right;
    if (a->weight != b->weight) return a->weight > b->weight ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

static int32_t likeliest(const real *logits, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

// Weights relative to the likeliest token, in order; returns how many survive the cuts.
static size_t shortlist(Sampler *sampler, const real *logits) {
    const SamplerSettings *settings = &sampler->settings;
    double largest = (double)logits[likeliest(logits, sampler->vocabulary)];
    size_t count = 0;
    for (size_t i = 0; i < sampler->vocabulary; i++) {
        double weight = exp(((double)logits[i] - largest) / settings->temperature);
        if (weight > 0 && weight >= settings->min_p) sampler->candidates[count++] = (Candidate){weight, (int32_t)i};
    }
    qsort(sampler->candidates, count, sizeof *sampler->candidates, likelier);
    if (settings->top_k && settings->top_k < count) count = settings->top_k;
    double total = 0, reached = 0;
    for (size_t i = 0; i < count; i++) total += sampler->candidates[i].weight;
    for (size_t i = 0; i < count && settings->top_p < 1; i++) {
        reached += sampler->candidates[i].weight;
        if (reached >= settings->top_p * total) count = i + 1;
    }
    return count;
}

int32_t sampler_draw(Sampler *sampler, const real *logits, uint64_t position) {
    if (sampler->settings.temperature <= 0) return likeliest(logits, sampler->vocabulary);
    size_t count = shortlist(sampler, logits);
    if (count == 0) return likeliest(logits, sampler->vocabulary); // NaN logits: nothing compares
    double total = 0;
    for (size_t i = 0; i < count; i++) total += sampler->candidates[i].weight;
    Random random = {.seed = sampler->settings.seed, .stream = RANDOM_SAMPLE, .step = position};
    double left = random_uniform(random, 0) * total;
    for (size_t i = 0; i + 1 < count; i++) {
        left -= sampler->candidates[i].weight;
        if (left < 0) return sampler->candidates[i].token;
    }
    return sampler->candidates[count - 1].token;
}

// The text so far, and what of it has been shown: characters are held back until their last byte is there.
typedef struct Text {
    int32_t *ids;
    size_t count, room;
    size_t shown; // ids whose text has been written
} Text;

static bool text_add(Text *text, int32_t id, Error *error) {
    if (text->count == text->room) {
        size_t room = text->room ? 2 * text->room : 256;
        int32_t *ids = realloc(text->ids, room * sizeof *ids);
        if (!ids) return error_set(error, ERROR_MEMORY, "Out of memory for the text.");
        text->ids = ids;
        text->room = room;
    }
    text->ids[text->count++] = id;
    return true;
}

static bool show(const Tokenizer *tokenizer, Text *text, bool last, Writing *writing, Error *error) {
    char *bytes;
    size_t size;
    if (text->shown == text->count) return true;
    if (!tokenizer_decode(tokenizer, text->ids + text->shown, text->count - text->shown, &bytes, &size, error))
        return false;
    if (last || text_whole(bytes, size) == size) {
        writing->write(writing->context, bytes, size);
        text->shown = text->count;
    }
    free(bytes);
    return true;
}

// Feeds text->ids[from..]; starts over with the last half of the context when it is full. NULL: asked to stop.
static const real *feed(Decoder *decoder, size_t context, const Text *text, size_t from, const Writing *writing) {
    const real *logits = NULL;
    for (size_t i = from; i < text->count; i++) {
        if (writing->stop && writing->stop()) return NULL;
        if (decoder_position(decoder) == context) {
            size_t keep = context > 1 ? context / 2 : 0;
            decoder_reset(decoder);
            for (size_t k = i - keep; k < i; k++) decoder_feed(decoder, text->ids[k]);
        }
        logits = decoder_feed(decoder, text->ids[i]);
    }
    return logits;
}

// A tokenizer that was given may drop spaces and line ends, and nothing would be left to begin with.
static bool begin_text(const Tokenizer *tokenizer, Text *text, Writing *writing, Error *error) {
    int32_t bos = tokenizer_bos(tokenizer), *ids;
    size_t count;
    const char *prompt = writing->prompt_size ? writing->prompt : "\n";
    if (writing->from_bos && bos >= 0) {
        if (!text_add(text, bos, error)) return false;
        if (writing->prompt_size == 0) return true;
    }
    if (!tokenizer_encode(tokenizer, prompt, writing->prompt_size ? writing->prompt_size : 1, &ids, &count, error))
        return false;
    bool fine = true;
    for (size_t i = 0; i < count && fine; i++) fine = text_add(text, ids[i], error);
    free(ids);
    if (!fine || text->count) return fine;
    if (bos >= 0) return text_add(text, bos, error);
    return error_set(error, ERROR_USER, "The tokenizer has no token for %s, so there is nothing to begin with.",
                     writing->prompt_size ? "anything in this prompt" : "a line end; give a prompt");
}

bool write_check(const Model *model, const Tokenizer *tokenizer, Error *error) {
    const size_t known = tokenizer_vocabulary(tokenizer), vocabulary = model_settings(model)->config.vocabulary;
    return known <= vocabulary ||
           error_set(error, ERROR_USER, "The tokenizer has %zu tokens, the model %zu.", known, vocabulary);
}

// Numbers that are not finite say nothing of any token.
static bool check_logits(const real *logits, size_t count, size_t position, Error *error) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(logits[i]))
            return error_set(error, ERROR_CORRUPT, "The model's logits are not finite behind %zu tokens.", position);
    return true;
}

bool write_text(const Model *model, const Tokenizer *tokenizer, Writing *writing, Error *error) {
    const size_t context = model_settings(model)->config.tokens;
    const size_t vocabulary = tokenizer_vocabulary(tokenizer); // a model may have more, for the sake of its shape
    Text text = {0};
    writing->drawn = 0;
    if (!write_check(model, tokenizer, error)) return false;
    Sampler *sampler = sampler_create(writing->sampling, vocabulary, error);
    Decoder *decoder = sampler ? decoder_create(model, error) : NULL;
    bool fine = decoder && begin_text(tokenizer, &text, writing, error);
    writing->prompt_tokens = text.count;
    const real *logits = fine ? feed(decoder, context, &text, 0, writing) : NULL;
    text.shown = text.count;
    double start = 0;
    size_t fed = 0;
    for (; logits && writing->drawn < writing->tokens; writing->drawn++) {
        fine = check_logits(logits, vocabulary, text.count, error);
        int32_t token = fine ? sampler_draw(sampler, logits, text.count) : 0;
        if (!fine || token == tokenizer_eos(tokenizer)) break;
        fine = text_add(&text, token, error) && show(tokenizer, &text, false, writing, error);
        if (!fine) break;
        if (!writing->drawn) start = clock_seconds();
        logits = writing->drawn + 1 < writing->tokens ? feed(decoder, context, &text, text.count - 1, writing) : NULL;
        fed += logits != NULL;
    }
    writing->per_second = fed ? (double)fed / (clock_seconds() - start) : NAN;
    fine = show(tokenizer, &text, true, writing, error) && fine;
    free(text.ids);
    if (decoder) decoder_destroy(decoder);
    sampler_destroy(sampler);
    return fine;
}
