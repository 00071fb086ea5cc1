// Drawing tokens from logits, and writing text token by token.
#ifndef ROPE_TRAIN_SAMPLER_H
#define ROPE_TRAIN_SAMPLER_H

#include "data/tokenizer.h"
#include "model/model.h"

typedef struct SamplerSettings {
    double temperature; // 0: always the likeliest token
    size_t top_k;       // keep this many tokens; 0: all
    double top_p;       // keep the likeliest tokens that reach this share; 1: all
    double min_p;       // keep tokens at least this share of the likeliest; 0: all
    uint64_t seed;
} SamplerSettings;

typedef struct Sampler Sampler;
Sampler *sampler_create(const SamplerSettings *settings, size_t vocabulary, Error *error);
// A token drawn from logits (vocabulary): a function of the logits, the seed and `position` alone.
int32_t sampler_draw(Sampler *sampler, const real *logits, uint64_t position);
void sampler_destroy(Sampler *sampler);

typedef struct Writing {
    const SamplerSettings *sampling;
    const char *prompt; // "" starts from a new line
    bool from_bos;      // if the tokenizer has one, the beginning-of-text token comes first, and stands for the new line:
                        // our training never shows it, but where there is no token for a new line, or for the prompt,
                        // that is all there is
    size_t prompt_size;
    size_t tokens;                                               // to draw at most; stops at the end-of-text token
    void (*write)(void *context, const char *text, size_t size); // whole characters, as they come
    void *context;
    size_t drawn;         // = tokens drawn
    double per_second;    // = tokens fed and drawn after the first one, whose logits are the prompt's; NaN: none
    size_t prompt_tokens; // =
    bool (*stop)(void);   // may be NULL
} Writing;

// Whether the model has every token of the tokenizer; ERROR_USER if not.
bool write_check(const Model *model, const Tokenizer *tokenizer, Error *error);
// Feeds the prompt, then draws. ERROR_CORRUPT if logits are not finite, after the text until then. A text longer than the model's context slides: the last half of it is fed again.
bool write_text(const Model *model, const Tokenizer *tokenizer, Writing *writing, Error *error);

#endif
