// Position kernels from a file: arbitrary W_t on a support S, and a bias b_t (fast RoPE attention, Definition 1.1 with
// ‖W‖∞ ≤ 1 and |S| = O(D); the bias is this project's addition, an exact Hadamard factor exp(b_t)).
//
// The file is text, one lag a line. `#` starts a comment; blank lines and the amount of space between words do not
// matter. Words before `data` may come in any order, but `rope-table 1` comes first:
//
//     rope-table 1              # format and version
//     size 4                    # D: W_t is a D×D matrix; must be [model] qk_size
//     lags 0 511                # first and last lag t = i - j of the file; all lags between them follow
//     support 0:0 1:1 2:3       # S: row:column of W_t, counted from 0; may be repeated to add more
//     bias                      # optional: every data line ends with one more number, b_t
//     data
//     0   1.0  0.5 -0.25  0.0   # t, then W_t at each entry of S in the order of the support lines (then b_t)
//     1   0.9  0.5 -0.25 -0.1   # each lag once, ascending
//     …
//     end
//
// Causal attention of T tokens needs lags 0 … T-1, attention without a mask -(T-1) … T-1; a file may hold more.
// Entries of W are within [-1, 1], as in the definition (a scale belongs into logit_scale); a bias is within
// [-TABLE_MAX_BIAS, TABLE_MAX_BIAS], and -TABLE_MAX_BIAS is as good as a mask. Method toeplitz refuses a table by which
// a token sees only biases far below the largest of the far field: rounding would leave nothing of its sums.
#ifndef ROPE_ATTENTION_TABLE_H
#define ROPE_ATTENTION_TABLE_H

#include "attention/position.h"

#define TABLE_MAX_BIAS 1000.0
#define TABLE_MAX_BYTES ((size_t)1 << 30) // of the file, and of the numbers in memory

// Reads and checks the file against what will be asked of it: `size` = D, and `tokens` = T lags (both signs unless
// causal). ERROR_USER names file, line and what is wrong; *table is then empty. Free with table_free.
bool table_read(PositionTable *table, const char *path, size_t size, size_t tokens, bool causal, Error *error);
void table_free(PositionTable *table);

#endif
