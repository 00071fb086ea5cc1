// Position table files for tests.
#ifndef ROPE_TESTS_SUPPORT_TABLE_FILE_H
#define ROPE_TESTS_SUPPORT_TABLE_FILE_H

#include <stdbool.h>
#include <stddef.h>

// Writes a table of D×D matrices W_t over a support of 2·D-1 entries (diagonal and the one below it; not symmetric) and
// lags 1-T … T-1, smooth in t with |W| ≤ 1, and a bias between -1 and 0 if asked for. Returns the path, valid until the
// next call with the same `name`.
const char *table_file_write(const char *name, size_t size, size_t tokens, bool bias);
// The same with all W times `scale`.
const char *table_file_write_scaled(const char *name, size_t size, size_t tokens, bool bias, double scale);

// A table of D×D entries `weight`, all of them or the diagonal alone, at lags 0 … T-1, and a bias of each lag unless
// that is NULL. The path is valid until the next call.
const char *table_file_write_constant(size_t size, size_t tokens, bool dense, double weight, const double *bias);

#endif
