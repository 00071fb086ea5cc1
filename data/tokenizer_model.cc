// Reads a few fields of sentencepiece_model.proto, whose generated header Debian's package does not have: a message is
// fields, each a varint of number·8 + wire type, then a varint (0), 8 bytes (1), a length and bytes (2), or 4 bytes
// (5).
#include "data/tokenizer_model.h"

#include <cstdint>

#include "data/tokenizer.h"

namespace {

struct Field {
    uint64_t number, value; // value: of a varint
    std::string_view bytes; // of a message within, or a string
    bool is_message;        // or a string: a field of another type than the format has is unknown, whatever its number
};

bool take_varint(std::string_view &message, uint64_t &value) {
    value = 0;
    for (unsigned shift = 0; shift < 64 && !message.empty(); shift += 7) {
        auto byte = static_cast<unsigned char>(message.front());
        message.remove_prefix(1);
        value |= static_cast<uint64_t>(byte & 0x7f) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

// The next field, taken off the front; false at the end, and where the rest is no field.
bool take_field(std::string_view &message, Field &field) {
    uint64_t tag, size = 0;
    if (!take_varint(message, tag)) return false;
    field = {tag >> 3, 0, {}, (tag & 7) == 2};
    switch (tag & 7) {
    case 0: return take_varint(message, field.value);
    case 1: size = 8; break;
    case 2:
        if (!take_varint(message, size)) return false;
        break;
    case 5: size = 4; break;
    default: return false;
    }
    if (size > message.size()) return false;
    field.bytes = message.substr(0, size);
    message.remove_prefix(size);
    return true;
}

// The value of a varint in a message; the last one counts.
uint64_t number_in(std::string_view message, uint64_t number, uint64_t preset) {
    for (Field field; take_field(message, field);)
        if (field.number == number) preset = field.value;
    return preset;
}

// Whether a string in a message is not empty; the last one counts.
bool has_bytes(std::string_view message, uint64_t number, bool preset) {
    for (Field field; take_field(message, field);)
        if (field.number == number && field.is_message) preset = !field.bytes.empty();
    return preset;
}

} // namespace

ModelFacts model_facts(std::string_view model) {
    enum { PIECES = 1, TRAINER = 2, NORMALIZER = 3 };              // of ModelProto
    enum { PIECE_TYPE = 3, MODEL_TYPE = 3 };                       // of the first two
    enum { CHARSMAP = 2, ADD_DUMMY_PREFIX = 3, REMOVE_SPACES = 4 }; // of the last
    enum { UNIGRAM = 1, BPE = 2, CHAR = 4 };                       // TrainerSpec.ModelType
    ModelFacts facts{{}, true, false, false};
    uint64_t type = UNIGRAM, byte_pieces = 0;
    bool removes_spaces = true, maps = false; // several spaces to one; characters to others
    for (Field field; take_field(model, field);) {
        if (!field.is_message) continue;
        if (field.number == PIECES) {
            facts.types.push_back(static_cast<unsigned char>(number_in(field.bytes, PIECE_TYPE, PIECE_NORMAL)));
            byte_pieces += facts.types.back() == PIECE_BYTE;
        } else if (field.number == TRAINER) {
            type = number_in(field.bytes, MODEL_TYPE, type);
        } else if (field.number == NORMALIZER) {
            facts.space_prefix = number_in(field.bytes, ADD_DUMMY_PREFIX, facts.space_prefix) != 0;
            removes_spaces = number_in(field.bytes, REMOVE_SPACES, removes_spaces) != 0;
            maps = has_bytes(field.bytes, CHARSMAP, maps);
        }
    }
    facts.merges = (type == BPE || type == CHAR) && !removes_spaces && !maps;
    facts.bytes = byte_pieces == 256; // the library takes no two of one name
    return facts;
}
