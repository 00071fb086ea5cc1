// What a SentencePiece model says that the library does not pass on. C++, private to tokenizer*.cc.
#ifndef ROPE_DATA_TOKENIZER_MODEL_H
#define ROPE_DATA_TOKENIZER_MODEL_H

#include <string_view>
#include <vector>

struct ModelFacts {
    std::vector<unsigned char> types; // of every id: a TokenizerPieceType
    bool space_prefix;                // add_dummy_prefix
    bool merges;                      // bpe or char, of texts as they are
    bool bytes;                       // a piece for each byte
};

// `model`: the bytes of a file that SentencePiece has loaded. Throws std::bad_alloc.
ModelFacts model_facts(std::string_view model);

#endif
