// SentencePiece as a lossless tokenizer: decode(encode(x)) == x for any bytes x.
//
// SentencePiece itself loses three things even with identity normalisation: invalid UTF-8 (becomes U+FFFD), U+2581 (its
// own sign for a space), and, in some versions, NUL. Those bytes are never shown to it: they become byte pieces <0xNN>
// here, and the text around them is encoded. Decoding goes piece by piece, so that byte pieces give raw bytes, and the
// decoding of a sequence is the concatenation of the decodings of its ids.
//
// Encoding cost: our own models have no piece across a word's end, so every word is encoded once per call and then
// copied, which gives SentencePiece's own result at several times its speed.
#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "data/tokenizer_error.h"
#include "data/tokenizer_model.h"
#include "data/utf8.h"

namespace {

constexpr size_t model_bytes_limit = size_t{1} << 30;
constexpr std::string_view space_sign = "\xE2\x96\x81"; // U+2581

// Bytes that SentencePiece must not see, at the start of text: 0 when it may see the character there.
size_t hidden_length(const char *text, size_t size) {
    size_t length = utf8_length(text, size);
    if (length == 0 || text[0] == '\0') return 1;
    return length == 3 && std::string_view(text, 3) == space_sign ? 3 : 0;
}

// What a piece stands for in text.
std::string surface_of(const sentencepiece::SentencePieceProcessor &processor, int id) {
    const std::string &piece = processor.IdToPiece(id);
    if (processor.IsByte(id)) return std::string(1, static_cast<char>(std::strtoul(piece.c_str() + 3, nullptr, 16)));
    if (processor.IsControl(id)) return "";
    if (processor.IsUnknown(id)) return "\xEF\xBF\xBD"; // U+FFFD; our own models never encode to it
    std::string text;
    for (size_t i = 0; i < piece.size();) {
        bool space = piece.compare(i, space_sign.size(), space_sign) == 0;
        text += space ? ' ' : piece[i];
        i += space ? space_sign.size() : 1;
    }
    return text;
}

} // namespace

struct Tokenizer {
    sentencepiece::SentencePieceProcessor processor;
    std::string model;                 // the file's bytes
    std::vector<std::string> surfaces; // text of every id
    int byte_ids[256];                 // id of <0xNN>; the unknown id in models without byte pieces
    ModelFacts facts;                  // what the processor does not tell of its model
    bool separable;                    // no piece crosses the end of a word or line: words can be encoded alone

    void prepare();
    size_t unit_length(const char *text, size_t size) const;
    bool encode(std::string_view text, std::vector<int> &ids) const;
};

void Tokenizer::prepare() {
    int size = processor.GetPieceSize();
    for (int &id : byte_ids) id = processor.unk_id();
    int newline = processor.PieceToId("\n");
    const std::vector<int> alone = processor.EncodeAsIds("\n");
    separable = !processor.IsUnknown(newline) && alone.size() == 1 && alone[0] == newline;
    for (int id = 0; id < size; id++) {
        surfaces.push_back(surface_of(processor, id));
        const std::string &text = surfaces.back();
        if (processor.IsByte(id)) byte_ids[static_cast<unsigned char>(text[0])] = id;
        size_t word = text.find_first_not_of(' ');
        bool crosses = word != std::string::npos && text.find(' ', word) != std::string::npos;
        if (crosses || (text.size() > 1 && text.find('\n') != std::string::npos)) separable = false;
    }
    // Models that normalise, or put a space in front, must see the text as a whole.
    std::string probe;
    for (int id : processor.EncodeAsIds("  a  \xEF\xAC\x81 ")) probe += surfaces[static_cast<size_t>(id)];
    if (probe != "  a  \xEF\xAC\x81 ") separable = false;
}

// Bytes from the start of text that are encoded together: a newline, or spaces and the word after them; in a model that
// is not separable, all that SentencePiece may see.
size_t Tokenizer::unit_length(const char *text, size_t size) const {
    if (separable && text[0] == '\n') return 1;
    size_t i = 0;
    if (separable)
        while (i < size && text[i] == ' ') i++;
    while (i < size && hidden_length(text + i, size - i) == 0) {
        if (separable && (text[i] == ' ' || text[i] == '\n')) break;
        i += utf8_length(text + i, size - i);
    }
    return i;
}

bool Tokenizer::encode(std::string_view text, std::vector<int> &ids) const {
    struct Span {
        size_t start, count;
    };
    std::unordered_map<std::string_view, Span> known; // unit -> where its ids stand in `ids`
    std::vector<int> pieces;
    for (size_t i = 0; i < text.size();) {
        size_t hidden = hidden_length(text.data() + i, text.size() - i);
        for (size_t end = i + hidden; i < end; i++) ids.push_back(byte_ids[static_cast<unsigned char>(text[i])]);
        if (hidden) continue;
        std::string_view unit = text.substr(i, unit_length(text.data() + i, text.size() - i));
        i += unit.size();
        auto found = known.find(unit);
        if (found == known.end()) {
            if (!processor.Encode({unit.data(), unit.size()}, &pieces).ok()) return false;
            if (separable) known.emplace(unit, Span{ids.size(), pieces.size()});
            ids.insert(ids.end(), pieces.begin(), pieces.end());
        } else {
            size_t end = ids.size();
            ids.resize(end + found->second.count);
            std::copy_n(ids.data() + found->second.start, found->second.count, ids.data() + end);
        }
    }
    return true;
}

bool tokenizer_thrown(const char *where, Error *error) noexcept {
    try {
        throw;
    } catch (const std::bad_alloc &) {
        return error_set(error, ERROR_MEMORY, "%s: out of memory", where);
    } catch (const std::exception &exception) {
        return error_set(error, ERROR_SYSTEM, "%s: %s", where, exception.what());
    }
}

extern "C" Tokenizer *tokenizer_load(const char *path, Error *error) {
    size_t size = 0;
    char *model = file_read_all(path, model_bytes_limit, &size, error);
    if (!model) return nullptr;
    std::unique_ptr<Tokenizer> tokenizer;
    try {
        tokenizer = std::make_unique<Tokenizer>();
        bool good = tokenizer->processor.LoadFromSerializedProto({model, size}).ok();
        if (good) tokenizer->facts = model_facts({model, size});
        // The library passes over more than our reader does: groups, which the format has not.
        good = good && tokenizer->facts.types.size() == static_cast<size_t>(tokenizer->processor.GetPieceSize());
        if (good) {
            tokenizer->model.assign(model, size);
            tokenizer->prepare();
        } else {
            error_set(error, ERROR_CORRUPT, "%s: not a SentencePiece model", path);
            tokenizer.reset();
        }
    } catch (...) {
        tokenizer_thrown(path, error);
        tokenizer.reset();
    }
    free(model);
    return tokenizer.release();
}

extern "C" void tokenizer_free(Tokenizer *tokenizer) { delete tokenizer; }

extern "C" const char *tokenizer_model(const Tokenizer *tokenizer, size_t *size) {
    *size = tokenizer->model.size();
    return tokenizer->model.data();
}

extern "C" size_t tokenizer_vocabulary(const Tokenizer *tokenizer) { return tokenizer->surfaces.size(); }

extern "C" int32_t tokenizer_bos(const Tokenizer *tokenizer) { return tokenizer->processor.bos_id(); }

extern "C" int32_t tokenizer_eos(const Tokenizer *tokenizer) { return tokenizer->processor.eos_id(); }

extern "C" int32_t tokenizer_unknown(const Tokenizer *tokenizer) { return tokenizer->processor.unk_id(); }

extern "C" bool tokenizer_space_prefix(const Tokenizer *tokenizer) { return tokenizer->facts.space_prefix; }

extern "C" bool tokenizer_merges(const Tokenizer *tokenizer) { return tokenizer->facts.merges; }

extern "C" bool tokenizer_spells_bytes(const Tokenizer *tokenizer) { return tokenizer->facts.bytes; }

extern "C" TokenizerPiece tokenizer_piece(const Tokenizer *tokenizer, int32_t id) {
    REQUIRE(id >= 0 && static_cast<size_t>(id) < tokenizer->facts.types.size());
    return {tokenizer->processor.IdToPiece(id).c_str(), tokenizer->processor.GetScore(id),
            static_cast<TokenizerPieceType>(tokenizer->facts.types[static_cast<size_t>(id)])};
}

extern "C" bool tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t size, int32_t **ids,
                                 size_t *count, Error *error) {
    *ids = nullptr;
    *count = 0;
    try {
        std::vector<int> pieces;
        if (!tokenizer->encode({text, size}, pieces))
            return error_set(error, ERROR_SYSTEM, "SentencePiece cannot encode the text");
        *ids = static_cast<int32_t *>(malloc((pieces.size() + 1) * sizeof **ids)); // never malloc(0)
        if (!*ids) return error_set(error, ERROR_MEMORY, "out of memory for %zu tokens", pieces.size());
        for (int id : pieces) (*ids)[(*count)++] = id;
        return true;
    } catch (...) {
        return tokenizer_thrown("encoding a text", error);
    }
}

extern "C" bool tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t count, char **text,
                                 size_t *size, Error *error) {
    *text = nullptr;
    *size = 0;
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= tokenizer->surfaces.size())
            return error_set(error, ERROR_USER, "token %zu has id %d; the tokenizer has %zu", i, ids[i],
                             tokenizer->surfaces.size());
        bytes += tokenizer->surfaces[static_cast<size_t>(ids[i])].size();
    }
    *text = static_cast<char *>(malloc(bytes + 1));
    if (!*text) return error_set(error, ERROR_MEMORY, "out of memory for %zu bytes of text", bytes);
    for (size_t i = 0; i < count; i++) {
        const std::string &surface = tokenizer->surfaces[static_cast<size_t>(ids[i])];
        memcpy(*text + *size, surface.data(), surface.size());
        *size += surface.size();
    }
    (*text)[*size] = '\0';
    return true;
}
