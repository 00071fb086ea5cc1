// The settings of the program, one row each. The file, the command line, --help, --print-config, config.ini of a run
// and the checkpoint all read this table.
#include "train/config_table.h"

#include <stddef.h>

#define FIELD(name) offsetof(Config, name), sizeof(((Config *)0)->name)
#define SIZE(section, key, field, preset, low, high, help)                                                             \
    { section, key, KEY_SIZE, FIELD(field), preset, low, high, NULL, help }
#define REAL(section, key, field, preset, low, high, help)                                                             \
    { section, key, KEY_REAL, FIELD(field), preset, low, high, NULL, help }
#define INTEGER(section, key, field, preset, low, high, help)                                                          \
    { section, key, KEY_INTEGER, FIELD(field), preset, low, high, NULL, help }
#define SWITCH(section, key, field, preset, help)                                                                      \
    { section, key, KEY_BOOL, FIELD(field), preset, 0, 0, NULL, help }
#define WORDS(section, key, type, field, preset, choices, help)                                                        \
    { section, key, type, FIELD(field), preset, 0, 0, choices, help }

static const double large = 1e12; // sizes beyond this are typing mistakes, and their products are checked below us

const ConfigKey config_keys[] = {
    SIZE("model", "layers", layers, "6", 1, MODEL_MAX_LAYERS, "transformer layers"),
    SIZE("model", "width", width, "512", 1, 1 << 20, "size of the residual stream"),
    SIZE("model", "heads", heads, "8", 1, 1 << 16, "query heads"),
    SIZE("model", "kv_heads", kv_heads, "0", 0, 1 << 16, "key/value heads, a divisor of heads; 0: heads"),
    SIZE("model", "qk_size", qk_size, "0", 0, 1 << 16, "query/key head size, even; 0: width / heads"),
    SIZE("model", "v_size", v_size, "0", 0, 1 << 16, "value head size; 0: qk_size"),
    SIZE("model", "ffn", ffn, "0", 0, 1 << 22, "hidden size of the feed-forward; 0: 8/3 width, rounded up to 64s"),
    SIZE("model", "tokens", tokens, "512", 1, 1 << 30, "context length"),
    REAL("model", "rope_theta", rope_theta, "10000", 1, 1e12, "rotary base: pair p turns by theta^(-2p/D) per token"),
    SWITCH("model", "tie", tie, "true", "the output matrix is the embedding"),
    SWITCH("model", "qk_norm", qk_norm, "false", "RMSNorm on each head of q and k (Qwen3)"),
    SWITCH("model", "token_shift", token_shift, "false", "mix the previous token's embedding in (recall models)"),
    SIZE("model", "vocabulary", vocabulary, "0", 0, 1 << 30, "0: that of the data; 512 for tasks; 4096 without data"),
    REAL("model", "norm_epsilon", norm_epsilon, "1e-5", 1e-12, 1, "added to the mean square in RMSNorm"),

    WORDS("attention", "method", KEY_METHODS, method, "exact", NULL,
          "exact, lowrank, toeplitz, auto; or a list, one per layer"),
    WORDS("attention", "logit_scale", KEY_SCALE, logit_scale, "1/sqrt(d)", NULL,
          "1/sqrt(d), 1/d (the papers), or a number"),
    WORDS("attention", "bound", KEY_CHOICE, bound, "", "none,clip,ball",
          "what keeps far logits bounded; unset: none for exact, ball for the others"),
    REAL("attention", "entry_bound", entry_bound, "1", 1e-6, 1e6, "B: bound = clip cuts entries of q and k at it"),
    REAL("attention", "logit_bound", logit_bound, "4", 1e-3, 80, "interval of the polynomial, and radius of the ball"),
    WORDS("attention", "near_bound", KEY_CHOICE, near_bound, "none", "none,same", "bounding of the near field"),
    WORDS("attention", "far", KEY_CHOICE, far, "polynomial", "polynomial,exact,none",
          "far field; exact: the reference of polynomial, none: the window alone"),
    SIZE("attention", "far_size", far_size, "8", 0, 1 << 16,
         "rotary dimensions the far field sees, the slowest ones; 0: all"),
    SIZE("attention", "degree", degree, "4", 1, 64, "degree of the polynomial"),
    WORDS("attention", "polynomial", KEY_CHOICE, polynomial, "minimax", "minimax,taylor,power", "power = (1 + x/g)^g"),
    REAL("attention", "tolerance", tolerance, "0.01", 0, 1e6, "auto: relative error, of truncation and certified, that is accepted"),
    SIZE("attention", "near", near, "64", 0, 1 << 30, "tokens back that are attended to exactly; 0: none"),
    SIZE("attention", "chunk", chunk, "0", 0, 1 << 20, "tokens per chunk, changes speed only; 0: chosen"),
    WORDS("attention", "kernel", KEY_TEXT, kernel, "rope", NULL,
          "rope, rope-decay, rope-window, alibi, or a table file"),
    WORDS("attention", "kernel_crc32", KEY_TEXT, kernel_crc32, "", NULL,
          "checksum of the table file, kept with what was trained with it; unset: that of the file as it is"),
    REAL("attention", "kernel_decay", kernel_decay, "1", 1e-6, 1, "rope-decay: factor per token"),
    SIZE("attention", "kernel_window", kernel_window, "256", 1, 1 << 30, "rope-window: tokens that are seen"),
    REAL("attention", "cost_exact", cost_exact, "0", 0, 1e6, "auto: seconds per GFLOP of exact; 0: measure"),
    REAL("attention", "cost_lowrank", cost_lowrank, "0", 0, 1e6, "auto: seconds per GFLOP of lowrank; 0: measure"),

    WORDS("optim", "method", KEY_CHOICE, optimizer, "adamw", "adamw", "optimizer"),
    REAL("optim", "learning_rate", learning_rate, "1e-3", 0, 1e6, "highest learning rate"),
    WORDS("optim", "schedule", KEY_CHOICE, schedule, "cosine", "cosine,linear,wsd,constant",
          "learning rate over steps"),
    SIZE("optim", "warmup", warmup, "100", 0, large, "steps of linear warm-up; unset: at most a tenth of the steps"),
    REAL("optim", "weight_decay", weight_decay, "0.1", 0, 1e3, "decoupled decay of matrices"),
    REAL("optim", "beta1", beta1, "0.9", 0, 0.9999999, "decay of the first moment"),
    REAL("optim", "beta2", beta2, "0.95", 0, 0.9999999, "decay of the second moment"),
    {"optim", "betas", KEY_PAIR, FIELD(beta1), NULL, 0, 0.9999999, NULL, "beta1,beta2 in one"},
    REAL("optim", "epsilon", epsilon, "1e-8", 0, 1, "added to the root of the second moment"),
    REAL("optim", "clip", clip, "1", 0, 1e30, "largest global gradient norm; 0: no clipping"),
    REAL("optim", "min_lr_share", min_lr_share, "0.1", 0, 1, "last learning rate as a share of the highest"),
    REAL("optim", "wsd_decay_share", wsd_decay_share, "0.2", 0, 1, "wsd: share of the steps that decay at the end"),

    WORDS("data", "dir", KEY_TEXT, data_dir, "", NULL, "directory made by rope prepare (train*.bin, val*.bin)"),
    WORDS("data", "task", KEY_CHOICE, task, "", "mqar,induction,copy,needle",
          "synthetic data made on the fly, instead of dir"),
    SIZE("data", "pairs", pairs, "8", 1, 1 << 24, "mqar, needle: key/value pairs in a context"),
    REAL("data", "gap_power", gap_power, "0.01", 1e-6, 1, "mqar: gaps before queries are likelier to be short below 1"),
    WORDS("data", "filler", KEY_CHOICE, filler, "random", "random,distinct,blank",
          "mqar, needle: what lies between pairs"),
    SIZE("data", "least_distance", least_distance, "0", 0, 1 << 30, "needle: no answer is nearer than this"),

    SIZE("train", "steps", steps, "1000", 1, large, "updates"),
    INTEGER("train", "tokens", train_tokens, "0", 0, 1e15, "tokens to train on, instead of steps; 0: steps counts"),
    SIZE("train", "batch", batch, "8", 1, 1 << 20, "sequences per forward and backward"),
    SWITCH("train", "recompute", recompute, "false",
           "keep only each layer's input and run it again in backward: less memory, a quarter more time"),
    SIZE("train", "accumulate", accumulate, "1", 1, 1 << 20, "batches per update"),
    INTEGER("train", "seed", seed, "1", 0, 9e15, "of weights, data order and samples"),
    SIZE("train", "eval_every", eval_every, "100", 0, large, "steps between held-out evaluations; 0: at the end only"),
    SIZE("train", "eval_batches", eval_batches, "20", 0, large, "batches per evaluation; 0: all held-out data"),
    SIZE("train", "save_every", save_every, "500", 0, large, "steps between checkpoints; 0: at the end only"),
    SIZE("train", "keep", keep, "2", 1, 1 << 20, "newest checkpoints to keep, besides the best"),
    SIZE("train", "sample_every", sample_every, "0", 0, large, "steps between printed samples; 0: none"),
    SIZE("train", "log_every", log_every, "10", 1, large, "steps between lines of metrics.jsonl"),
    SIZE("train", "threads", threads, "0", 0, 4096, "0: OMP_NUM_THREADS, else every core"),
    WORDS("train", "init", KEY_TEXT, init, "", NULL, "checkpoint or run whose weights to start from; unset: random"),
    WORDS("train", "out", KEY_TEXT, out, "runs/rope", NULL, "run directory"),
};
const size_t config_keys_count = sizeof config_keys / sizeof config_keys[0];

_Static_assert(sizeof config_keys / sizeof config_keys[0] <= CONFIG_MAX_KEYS, "raise CONFIG_MAX_KEYS");
