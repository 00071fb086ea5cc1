// The fuzz targets (see targets.h). Bytes that the program reads from files are given to it as a file in memory.
#include "tests/fuzz/targets.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attention/table.h"
#include "core/files.h"
#include "data/data.h"
#include "data/shards.h"
#include "data/tokenizer.h"
#include "model/checkpoint.h"
#include "model/safetensors.h"
#include "train/command.h"
#include "train/state.h"
#include "train/words.h"

enum { PATH_SIZE = 256, MOST_NUMBERS = 1 << 16, MOST_ARGUMENTS = 32 };

// A refusal says why, and of which kind it is.
static void require_reason(bool good, const Error *error) {
    REQUIRE(good ? error->kind == ERROR_NONE : error->kind != ERROR_NONE && *error->message);
}

// ---- inputs and seeds ------------------------------------------------------------------------------------------------

static void (*seed_receiver)(void *context, const void *bytes, size_t size);
static void *seed_context;

static void seed(const void *bytes, size_t size) { seed_receiver(seed_context, bytes, size); }
static void seed_text(const char *text) { seed(text, strlen(text)); }

static void seed_file(const char *path) {
    Error error = {0};
    size_t size;
    char *bytes = file_read_all(path, 1 << 24, &size, &error);
    REQUIRE(bytes);
    seed(bytes, size);
    free(bytes);
}

// The path of a file that holds the bytes until the next call.
static const char *file_of(const void *data, size_t size) {
    static int descriptor = -1;
    static char path[PATH_SIZE];
    if (descriptor < 0) {
        descriptor = memfd_create("fuzz", 0);
        REQUIRE(descriptor >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    }
    REQUIRE(ftruncate(descriptor, 0) == 0 && pwrite(descriptor, data, size, 0) == (ssize_t)size);
    return path;
}

// A directory of this process and target, removed at the end.
static char scratch[PATH_SIZE];
static void remove_scratch(void) { directory_remove(scratch, NULL); }
static const char *directory(const char *name) {
    static char path[PATH_SIZE + 32];
    if (!*scratch) {
        snprintf(scratch, sizeof scratch, "%s/rope-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        REQUIRE(mkdtemp(scratch));
        atexit(remove_scratch);
    }
    snprintf(path, sizeof path, "%s/%.30s", scratch, name);
    REQUIRE(mkdir(path, 0777) == 0 || errno == EEXIST);
    return path;
}

// path: "target/file"
static const char *scratch_path(const char *target_and_file) {
    static char path[PATH_SIZE + 96];
    char target[32];
    snprintf(target, sizeof target, "%.*s", (int)strcspn(target_and_file, "/"), target_and_file);
    directory(target);
    snprintf(path, sizeof path, "%s/%.64s", scratch, target_and_file);
    return path;
}

static void write_scratch(const char *target_and_file, const void *data, size_t size) {
    int descriptor = open(scratch_path(target_and_file), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    REQUIRE(descriptor >= 0 && write(descriptor, data, size) == (ssize_t)size && close(descriptor) == 0);
}

// ---- weights -----------------------------------------------------------------------------------------------------------

static void run_safetensors(const uint8_t *data, size_t size) {
    Error error = {0};
    Safetensors *file = safetensors_open(file_of(data, size), &error);
    require_reason(file, &error);
    for (size_t i = 0; file && i < safetensors_count(file); i++) {
        static real numbers[MOST_NUMBERS];
        size_t rank, shape[4], count = 1;
        const char *name = safetensors_name(file, i);
        REQUIRE(safetensors_shape(file, name, &rank, shape));
        for (size_t d = 0; d < rank; d++)
            if (!__builtin_mul_overflow(count, shape[d], &count) && count > MOST_NUMBERS) count = SIZE_MAX;
        Error refusal = {0};
        if (count <= MOST_NUMBERS) require_reason(safetensors_read(file, name, rank, shape, numbers, &refusal), &refusal);
    }
    if (file) safetensors_close(file);
}

static void seeds_safetensors(void) {
    static const real numbers[] = {1, 2, 3, 4, 5, 6};
    const SafetensorsItem items[] = {{"a.weight", 2, {2, 3}, numbers}, {"b", 1, {4}, numbers}};
    static const char *const metadata[] = {"config.crc32", "0123abcd", NULL};
    Error error = {0};
    for (size_t count = 1; count <= 2; count++) {
        const char *path = scratch_path("safetensors/seed");
        REQUIRE(safetensors_write(path, items, count, count > 1 ? metadata : NULL, &error));
        seed_file(path);
    }
    static const char foreign[] = "{\"a\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[0,4]},"
                                  "\"b\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[4,12]}}";
    unsigned char bytes[8 + sizeof foreign - 1 + 12] = {sizeof foreign - 1};
    memcpy(bytes + 8, foreign, sizeof foreign - 1);
    seed(bytes, sizeof bytes);
}

static void run_config_json(const uint8_t *data, size_t size) {
    Error error = {0};
    static const char weights[] = "\x3a\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[0,4]}} abcd";
    ModelConfig config;
    json_t *rope_c = NULL;
    write_scratch("config/config.json", data, size);
    write_scratch("config/model.safetensors", weights, sizeof weights - 1);
    require_reason(checkpoint_read_config(directory("config"), &config, &rope_c, &error), &error);
    json_decref(rope_c);
}

static void seeds_config_json(void) {
    seed_text("{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_act\":\"silu\","
              "\"vocab_size\":300,\"hidden_size\":32,\"intermediate_size\":88,\"num_hidden_layers\":1,"
              "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":16,\"max_position_embeddings\":32,"
              "\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"tie_word_embeddings\":true,\"attention_bias\":false}");
    seed_text("{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"vocab_size\":300,\"hidden_size\":32,"
              "\"intermediate_size\":88,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
              "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":1000000},\"layer_types\":[\"full_attention\"],"
              "\"use_sliding_window\":false,\"rope_scaling\":null,\"max_position_embeddings\":40960}");
    seed_text("{\"architectures\":[\"RopeC\"],\"model_type\":\"rope_c\",\"vocab_size\":300,\"hidden_size\":32,"
              "\"intermediate_size\":88,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"v_head_dim\":8,"
              "\"qk_norm\":true,\"token_shift\":true,\"rope_c\":{\"attention.method\":\"lowrank\"}}");
}

// ---- data --------------------------------------------------------------------------------------------------------------

static void run_shard(const uint8_t *data, size_t size) {
    Error error = {0};
    Shard shard;
    bool good = shard_open(&shard, file_of(data, size), &error);
    require_reason(good, &error);
    if (!good) return;
    static int32_t ids[MOST_NUMBERS];
    const size_t limit = shard.vocabulary ? shard.vocabulary : 65536;
    const size_t count = shard.count < MOST_NUMBERS ? (size_t)shard.count : MOST_NUMBERS;
    good = shard_read(&shard, shard.count - count, count, limit, ids, &error);
    require_reason(good, &error);
    for (size_t i = 0; good && i < count; i++) REQUIRE(ids[i] >= 0 && (size_t)ids[i] < limit);
    shard_close(&shard);
}

static void seeds_shard(void) {
    static const size_t vocabularies[] = {300, 70000};
    for (size_t i = 0; i < 2; i++) {
        Error error = {0};
        const char *path = scratch_path("shard/seed");
        const int32_t ids[] = {1, 299, 0, 17, 5};
        ShardWriter *writer = shard_create(path, vocabularies[i], &error);
        REQUIRE(writer && shard_append(writer, ids, 5, &error) && shard_finish(writer, NULL, NULL, &error));
        seed_file(path);
    }
    int32_t foreign[256 + 2] = {20240520, 1, 4, [256] = 0x00020001, 0x00040003};
    seed(foreign, sizeof foreign);
}

static void run_meta(const uint8_t *data, size_t size) {
    Error error = {0};
    PrepareResult meta;
    write_scratch("meta/meta.json", data, size);
    require_reason(data_read_meta(directory("meta"), &meta, &error), &error);
}

static void seeds_meta(void) {
    seed_text("{\"version\":1,\"vocabulary\":300,\"type\":\"bpe\",\"train_tokens\":100,\"val_tokens\":10,"
              "\"train_bytes\":300,\"val_bytes\":30,\"unigram_loss\":4.5,\"inputs\":[\"text.txt\"],"
              "\"checksums\":{\"train.bin\":\"01234567\",\"val.bin\":\"01234567\",\"tokenizer.model\":\"01234567\"}}");
}

static Tokenizer *tokenizer(void) {
    static Tokenizer *loaded;
    if (loaded) return loaded;
    static const char text[] = "the king of the hill and his sons went up to see what no man had seen before\n"
                               "caf\xC3\xA9 na\xC3\xAFve \xE2\x82\xAC 1234567890 !?.,;:'\" the end of the land\n";
    write_scratch("text/text.txt", text, sizeof text - 1);
    char input[PATH_SIZE + 64], out[PATH_SIZE + 64];
    snprintf(input, sizeof input, "%s/text.txt", directory("text"));
    snprintf(out, sizeof out, "%s/data", directory("text"));
    const char *const inputs[] = {input};
    PrepareResult result;
    Error error = {0};
    const PrepareSettings settings = {.inputs = inputs, .input_count = 1, .out = out, .type = "bpe", .vocabulary = 320,
                                      .validation_share = 0.1, .quiet = true};
    if (!data_prepare(&settings, &result, &error)) fprintf(stderr, "%s\n", error.message);
    loaded = tokenizer_load(scratch_path("text/data/tokenizer.model"), &error);
    REQUIRE(loaded);
    return loaded;
}

static void run_text_in(const uint8_t *data, size_t size) {
    Error error = {0};
    int32_t *ids;
    char *text;
    size_t count, back;
    REQUIRE(tokenizer_encode(tokenizer(), (const char *)data, size, &ids, &count, &error));
    REQUIRE(tokenizer_decode(tokenizer(), ids, count, &text, &back, &error));
    REQUIRE(back == size && (size == 0 || memcmp(text, data, size) == 0) && text[back] == 0);
    const size_t whole = text_whole(text, back);
    REQUIRE(whole <= back && back - whole < 4);
    if (text_valid(text, back)) REQUIRE(whole == back);
    free(ids);
    free(text);
}

static void seeds_text_in(void) {
    seed_text("the king went up\r\nto the hill\n\n\tand saw \xE2\x82\xAC 5");
    seed("\xF0\x9F\x98\x80\xC0\x80\xED\xA0\x80\xFF\x00 <s> </s> <0x41> \xE2\x96\x81", 27);
}

// Bytes are ids, so that ids out of range are among them.
static void run_text_out(const uint8_t *data, size_t size) {
    static int32_t ids[4096];
    size_t count = size / 2 < 4096 ? size / 2 : 4096, good = 0;
    const size_t vocabulary = tokenizer_vocabulary(tokenizer());
    for (size_t i = 0; i < count; i++) {
        ids[i] = (int32_t)(data[2 * i] | data[2 * i + 1] << 8);
        if (data[2 * i + 1] & 0x80) ids[i] -= 65536;
        good += ids[i] >= 0 && (size_t)ids[i] < vocabulary;
    }
    Error error = {0};
    char *text;
    size_t bytes, done = 0;
    const bool decoded = tokenizer_decode(tokenizer(), ids, count, &text, &bytes, &error);
    require_reason(decoded, &error);
    REQUIRE(decoded == (good == count));
    for (size_t i = 0; decoded && i < count; i++) {
        char *piece;
        size_t length;
        REQUIRE(tokenizer_decode(tokenizer(), ids + i, 1, &piece, &length, &error));
        REQUIRE(length <= bytes - done && memcmp(piece, text + done, length) == 0);
        done += length;
        free(piece);
    }
    if (!decoded) return;
    REQUIRE(done == bytes);
    free(text);
}

static void seeds_text_out(void) {
    seed("\x10\x00\x20\x01\x00\x00\x01\x00\x02\x00\x03\x00\x41\x00", 14);
    seed("\x10\x00\xFF\xFF\x00\x80", 6);
}

// ---- settings ------------------------------------------------------------------------------------------------------------

static void run_settings(const uint8_t *data, size_t size) {
    static Config config, again;
    Error error = {0};
    config_defaults(&config);
    bool good = config_read(&config, file_of(data, size), &error);
    require_reason(good, &error);
    if (!good) return;
    char *text = config_text(&config);
    REQUIRE(text);
    config_defaults(&again);
    if (!config_read(&again, file_of(text, strlen(text)), &error)) {
        fprintf(stderr, "%s\n%s\n", error.message, text);
        REQUIRE(!"what was printed is read back");
    }
    free(text);
    for (size_t i = 0; i < config_key_count(); i++) {
        char before[CONFIG_TEXT], after[CONFIG_TEXT];
        config_value(&config, i, before);
        config_value(&again, i, after);
        REQUIRE(strcmp(before, after) == 0);
    }
    if (config.data_dir[0] || strchr(config.kernel, '/')) return; // resolving reads files that the input names
    require_reason(config_resolve(&config, &error), &error);
}

static void seeds_settings(void) {
    seed_text("; comment\n[model]\nlayers = 2\nwidth = 64 ; more\nheads = 4\n[attention]\nmethod = exact,lowrank\n"
              "logit_scale = 1/sqrt(d)\nbound = ball\nlogit_bound = 4\nfar_size=8\ndegree : 4\n[optim]\nbetas = 0.9,0.95\n"
              "[train]\ntokens = 1e6\nseed = 18446744073709551615\n");
    static Config config;
    config_defaults(&config);
    char *text = config_text(&config);
    REQUIRE(text);
    seed_text(text);
    free(text);
}

// The leak sanitizer, where there is one (gcc and clang both link these with -fsanitize=address).
__attribute__((weak)) void __lsan_disable(void);
__attribute__((weak)) void __lsan_enable(void);
static void leaks_ignore(void) {
    if (__lsan_disable) __lsan_disable();
}
static void leaks_report(void) {
    if (__lsan_enable) __lsan_enable();
}

// command_parse ends the program on mistakes and after --help. libc runs the handlers of atexit then: ours jumps back.
static jmp_buf after_exit;
static bool parsing;
static void jump_back(void) {
    if (parsing) longjmp(after_exit, 1);
}

static void run_command_line(const uint8_t *data, size_t size) {
    static const CommandOption options[] = {{"resume", 'r', NULL, "a flag"}, {"out", 'o', "DIR", "a value"},
                                            {"vocab", 0, "N", "a number"}, {"a", 0, "KEY=VALUE", "again"},
                                            {NULL, 0, NULL, NULL}};
    static char text[4096];
    static CommandLine line;
    char *arguments[MOST_ARGUMENTS + 1] = {"train"};
    const char *values[5], *repeats[COMMAND_REPEATS];
    int count = 1;
    size = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, size);
    text[size] = 0;
    for (char *word = text; count < MOST_ARGUMENTS && word < text + size; word += strlen(word) + 1) {
        word[strcspn(word, "\n")] = 0;
        if (!strncmp(word, "--config", 8) || !strncmp(word, "-c", 2)) continue; // files are run_settings' part
        arguments[count++] = word;
    }
    int kept[2] = {dup(1), dup(2)}, nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    fflush(stdout);
    dup2(nowhere, 1), dup2(nowhere, 2);
    REQUIRE(atexit(jump_back) == 0);
    parsing = true;
    leaks_ignore(); // what the parser holds when it calls exit() is the program's to the end; here the jump drops it
    if (!setjmp(after_exit)) {
        command_parse(command_find("train"), options, values, count, arguments, &line);
        REQUIRE(line.positional_count <= 64 && command_repeated(&line, "a", repeats) <= COMMAND_REPEATS);
        exit(0); // the handler must not stay
    }
    parsing = false;
    leaks_report();
    fflush(stdout);
    dup2(kept[0], 1), dup2(kept[1], 2);
    close(kept[0]), close(kept[1]), close(nowhere);
}

static void seeds_command_line(void) {
    seed_text("--model.layers=3\n--resume\n-o\ndir\nfile\n--json\n--a\nx.y=1\n--a=z.w=2\n--\n--not-an-option");
    seed_text("--help");
    seed_text("--print-config\n--attention.bound=clip\n--train.out=");
    seed_text("--vocab=12\n-rodir\n--out\n--optim.betas=0.9,0.99\n--usage");
}

// ---- tables and states -----------------------------------------------------------------------------------------------

static void run_table(const uint8_t *data, size_t size) {
    for (int causal = 0; causal < 2; causal++) {
        Error error = {0};
        PositionTable table;
        bool good = table_read(&table, file_of(data, size), 4, 3, causal, &error);
        require_reason(good, &error);
        if (good) REQUIRE(table.entries > 0 && table.lags >= 3);
        table_free(&table);
    }
}

static void seeds_table(void) {
    seed_text("rope-table 1\nsize 4\nlags -2 2\nsupport 0:0 1:1\nsupport 2:3\nbias\ndata\n-2 0.5 1 -1 0\n-1 .25 1 -1 -3\n"
              "0 1 1e-3 0 0 # middle\n\n1 0 0 0 1000\n2 1 -1 0 0x1p-3\nend\n");
    seed_text("rope-table 1\r\nsize 4\r\nsupport 3:0\r\nlags 0 2\r\ndata\r\n0 1\r\n1 1\r\n2 1\r\nend");
}

// The seal is put on here: a damaged one is refused before anything is read.
static void run_state(const uint8_t *data, size_t size) {
    static const char tail[] = ", \"crc32\": \"00000000\"}\n";
    char *text = malloc(size + sizeof tail);
    REQUIRE(text);
    memcpy(text, data, size);
    memcpy(text + size, tail, sizeof tail);
    char digits[16];
    snprintf(digits, sizeof digits, "%08x", checksum(0, text, size + sizeof tail - 1));
    memcpy(text + size + 12, digits, 8);
    write_scratch("state/state.json", text, size + sizeof tail - 1);
    write_scratch("state/a.bin", "abc", 3);
    free(text);
    Error error = {0};
    RunState state;
    uint64_t steps, own_seed;
    uint32_t fingerprint;
    require_reason(state_read(directory("state"), &state, &own_seed, &steps, &fingerprint, &error), &error);
}

static void seeds_state(void) {
    write_scratch("state/a.bin", "abc", 3);
    const RunState state = {.step = 7, .updates = 6, .tokens = 1000, .data = {1, 3}, .loss_sum = 1.5, .loss_count = 2,
                            .best_loss = 3.5, .best_step = 4, .eval_due = true};
    Error error = {0};
    REQUIRE(state_write(directory("state"), &state, 1, 6, 99, &error));
    size_t size;
    char *text = file_read_all(scratch_path("state/state.json"), 1 << 20, &size, &error);
    REQUIRE(text);
    char *end = strstr(text, ", \"crc32\": \"");
    REQUIRE(end);
    seed(text, (size_t)(end - text));
    free(text);
}

// ---- the table -------------------------------------------------------------------------------------------------------

const FuzzTarget fuzz_targets[] = {
    {"safetensors", run_safetensors, seeds_safetensors},
    {"config_json", run_config_json, seeds_config_json},
    {"shard", run_shard, seeds_shard},
    {"meta", run_meta, seeds_meta},
    {"text_in", run_text_in, seeds_text_in},
    {"text_out", run_text_out, seeds_text_out},
    {"settings", run_settings, seeds_settings},
    {"command_line", run_command_line, seeds_command_line},
    {"table", run_table, seeds_table},
    {"state", run_state, seeds_state},
};
const size_t fuzz_target_count = sizeof fuzz_targets / sizeof *fuzz_targets;

const FuzzTarget *fuzz_find(const char *name) {
    for (size_t i = 0; i < fuzz_target_count; i++)
        if (strcmp(fuzz_targets[i].name, name) == 0) return &fuzz_targets[i];
    return NULL;
}

void fuzz_each_seed(const FuzzTarget *target, void (*give)(void *context, const void *bytes, size_t size), void *context) {
    seed_receiver = give;
    seed_context = context;
    target->seeds();
}
