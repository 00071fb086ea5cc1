// Exceptions to errors, for tokenizer*.cc: none crosses their C API.
#ifndef ROPE_DATA_TOKENIZER_ERROR_H
#define ROPE_DATA_TOKENIZER_ERROR_H

#include "core/error.h"

// In a catch (...): what was thrown as an error "WHERE: …". Always returns false.
bool tokenizer_thrown(const char *where, Error *error) noexcept;

#endif
