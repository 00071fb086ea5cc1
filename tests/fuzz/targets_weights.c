// Weight files and checkpoint directories.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/files.h"
#include "core/json_text.h"
#include "model/checkpoint_internal.h"
#include "model/safetensors.h"
#include "model/tensors.h"
#include "tests/fuzz/inputs.h"
#include "train/snapshot.h"
#include "train/state.h"

// ---- safetensors ----------------------------------------------------------------------------------------------------

enum { MOST_TENSORS = 64 };

// Reads every tensor of the file; those that were read are items over `numbers` (MOST_NUMBERS). False if any was not.
static bool read_all(Safetensors *file, real *numbers, SafetensorsItem items[MOST_TENSORS], size_t *count) {
    bool all = safetensors_count(file) <= MOST_TENSORS;
    size_t used = 0;
    *count = 0;
    for (size_t i = 0; i < safetensors_count(file) && i < MOST_TENSORS; i++) {
        SafetensorsItem *item = &items[*count];
        size_t elements = 1;
        item->name = safetensors_name(file, i);
        item->data = numbers + used;
        REQUIRE(safetensors_shape(file, item->name, &item->rank, item->shape));
        bool fits = true;
        for (size_t d = 0; d < item->rank; d++) fits = fits && size_multiply(elements, item->shape[d], &elements);
        Error refusal = {0};
        bool good = fits && elements <= MOST_NUMBERS - used &&
                    safetensors_read(file, item->name, item->rank, item->shape, numbers + used, &refusal);
        if (fits && elements <= MOST_NUMBERS - used) require_reason(good, &refusal);
        all =
            all && good && strcmp(item->name, "header") != 0; // a tensor of that name has the header's key for its sum
        *count += good;
        used += good ? elements : 0;
    }
    return all;
}

// What was read is written and read again.
static void round_trip(const SafetensorsItem *items, size_t count) {
    static real again[MOST_NUMBERS];
    SafetensorsItem found[MOST_TENSORS];
    size_t found_count;
    Error error = {0};
    static const char path[] = MEMORY "/safetensors/again";
    REQUIRE(safetensors_write(path, items, count, NULL, &error));
    Safetensors *file = safetensors_open(path, &error);
    REQUIRE(file && safetensors_ours(file) && safetensors_count(file) == count);
    REQUIRE(read_all(file, again, found, &found_count) && found_count == count);
    for (size_t i = 0; i < count; i++) {
        size_t elements = 1, k = 0;
        while (strcmp(found[k].name, items[i].name)) REQUIRE(++k < count); // empty tensors may change places
        for (size_t d = 0; d < items[i].rank; d++) elements *= items[i].shape[d];
        REQUIRE(found[k].rank == items[i].rank &&
                !memcmp(found[k].shape, items[i].shape, found[k].rank * sizeof(size_t)));
        REQUIRE(memcmp(found[k].data, items[i].data, elements * sizeof(real)) == 0);
    }
    safetensors_close(file);
}

static bool open_and_read(const uint8_t *data, size_t size, bool *ours) {
    static real numbers[MOST_NUMBERS];
    SafetensorsItem items[MOST_TENSORS];
    Error error = {0};
    size_t count;
    Safetensors *file = safetensors_open(file_of(data, size), &error);
    require_reason(file, &error);
    if (!file) return false;
    *ours = safetensors_ours(file);
    bool all = read_all(file, numbers, items, &count);
    if (all) round_trip(items, count);
    safetensors_close(file);
    return all;
}

// As the bytes are, and with the checksum that a header of ours would have: without it hardly a changed one is read.
static bool run_safetensors(const uint8_t *data, size_t size) {
    uint8_t *mended = malloc(size + 1);
    bool ours = false, taken = open_and_read(data, size, &ours);
    REQUIRE(mended);
    if (size) memcpy(mended, data, size);
    mend_safetensors(mended, size);
    const bool same = size == 0 || memcmp(mended, data, size) == 0;
    REQUIRE(same || !ours);
    if (!same) open_and_read(mended, size, &ours);
    free(mended);
    return taken;
}

static void seed_foreign(const char *header, size_t data_size, bool taken) {
    unsigned char bytes[512] = {0};
    const size_t length = strlen(header);
    REQUIRE(length < 256 && 8 + length + data_size <= sizeof bytes);
    bytes[0] = (unsigned char)length;
    memcpy(bytes + 8, header, length);
    (taken ? seed : seed_refused)(bytes, 8 + length + data_size);
}

static void seeds_safetensors(void) {
    static const real numbers[] = {1, 2, 3, 4, 5, 6};
    const SafetensorsItem items[] = {{"a.weight", 2, {2, 3}, numbers}, {"b", 1, {4}, numbers}};
    static const char *const metadata[] = {"config.crc32", "0123abcd", NULL};
    Error error = {0};
    for (size_t count = 1; count <= 2; count++) {
        const char *path = MEMORY "/safetensors/seed";
        REQUIRE(safetensors_write(path, items, count, count > 1 ? metadata : NULL, &error));
        seed_file(path);
    }
    seed_foreign("{\"a\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[0,4]},"
                 "\"b\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[4,12]}}",
                 12, true);
    seed_foreign(
        "{\"b\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[4,8]},\"__metadata__\":{\"format\":\"pt\"},"
        "\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        8, true);
    seed_foreign("{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, false);
    seed_foreign("{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807,3],\"data_offsets\":[0,4]}}", 4, false);
    seed_foreign("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                 "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
                 8, false);
}

const FuzzTarget fuzz_safetensors = {"safetensors", run_safetensors, seeds_safetensors};

// ---- a checkpoint: config.json, a NUL, then what its weights are like -----------------------------------------------

// What kind of files hold the weights, and what is wrong with one tensor.
enum { OURS, OURS_BF16, FOREIGN, SHARDED, LAYOUTS };
enum { NOTHING, DROPPED, TURNED, UNKNOWN, FREQUENCIES, UNREAD, NOT_FINITE, ELSEWHERE, CHANGES };

typedef struct Weights {
    unsigned layout, change;
    size_t at; // the tensor that is changed
    SafetensorsItem items[MOST_TENSORS + 1];
    size_t count;
    real numbers[MOST_NUMBERS];
} Weights;

static void make_items(Weights *w, const TensorTable *table) {
    static const char *const more[CHANGES] = {[UNKNOWN] = "model.norm.bias",
                                              [UNREAD] = "lm_head.weight",
                                              [FREQUENCIES] = "model.layers.0.self_attn.rotary_emb.inv_freq"};
    w->count = 0;
    w->at %= table->count;
    for (size_t i = 0; i < table->elements; i++) w->numbers[i] = (real)(i % 251) / 256; // BF16 holds them as well
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        const bool changed = i == w->at, turned = changed && w->change == TURNED;
        SafetensorsItem *item = &w->items[w->count];
        if (changed && w->change == DROPPED) continue;
        if (changed && w->change == NOT_FINITE) w->numbers[tensor->offset] = (real)NAN;
        *item = (SafetensorsItem){
            tensor->name, (size_t)tensor->rank, {tensor->rows, tensor->columns}, w->numbers + tensor->offset};
        if (tensor->rank == 1) item->shape[0] = tensor->columns + turned;
        if (tensor->rank == 2 && turned) item->shape[0] = tensor->columns, item->shape[1] = tensor->rows;
        w->count++;
    }
    if (more[w->change] && !tensor_find(table, more[w->change]))
        w->items[w->count++] = (SafetensorsItem){more[w->change], 1, {1}, w->numbers};
}

// As others write it: F32, no checksums.
static void write_foreign(const char *path, const SafetensorsItem *items, size_t count) {
    char *text = NULL;
    size_t size, end = 0;
    uint64_t length = 0;
    FILE *out = open_memstream(&text, &size);
    REQUIRE(out && fwrite(&length, sizeof length, 1, out) == 1);
    for (size_t pass = 0; pass < 2; pass++) { // the header, then the numbers
        for (size_t i = 0; i < count; i++) {
            const size_t rows = items[i].rank == 2 ? items[i].shape[1] : 1, elements = items[i].shape[0] * rows;
            if (pass == 1) {
                REQUIRE(fwrite(items[i].data, sizeof(real), elements, out) == elements);
                continue;
            }
            fprintf(out, "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[%zu", i ? ',' : '{', items[i].name, items[i].shape[0]);
            if (items[i].rank == 2) fprintf(out, ",%zu", rows);
            fprintf(out, "],\"data_offsets\":[%zu,%zu]}", end, end + elements * sizeof(real));
            end += elements * sizeof(real);
        }
        if (pass == 0) length = (uint64_t)(fputs(count ? "}" : "{}", out), ftell(out)) - sizeof length;
    }
    REQUIRE(fclose(out) == 0);
    memcpy(text, &length, sizeof length);
    memory_put(path, text, size);
    free(text);
}

static void write_sharded(const Weights *w) {
    static const char *const names[] = {"model-1.safetensors", "model-2.safetensors"};
    const size_t first = w->count / 2;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    REQUIRE(out);
    write_foreign(MEMORY "/checkpoint/model-1.safetensors", w->items, first);
    write_foreign(MEMORY "/checkpoint/model-2.safetensors", w->items + first, w->count - first);
    for (size_t i = 0; i < w->count; i++)
        fprintf(out, "%s\"%s\":\"%s\"", i ? "," : "{\"weight_map\":{", w->items[i].name,
                w->change == ELSEWHERE && i == w->at ? "../shard" : names[i >= first]);
    fputs(w->count ? "}}" : "{\"weight_map\":{}}", out);
    REQUIRE(fclose(out) == 0);
    memory_put(MEMORY "/checkpoint/model.safetensors.index.json", text, size);
    free(text);
}

static void write_weights(const Weights *w, const char *text, size_t size) {
    char sum[9];
    Error error = {0};
    snprintf(sum, sizeof sum, "%08x", checksum(0, text, size));
    const char *metadata[] = {CHECKPOINT_CONFIG_CHECKSUM, sum, NULL};
    const Dtype *dtype = dtype_find(w->layout == OURS_BF16 ? "BF16" : "F32");
    static const char path[] = MEMORY "/checkpoint/model.safetensors";
    if (w->layout == SHARDED)
        write_sharded(w);
    else if (w->layout == FOREIGN)
        write_foreign(MEMORY "/checkpoint/model.safetensors", w->items, w->count);
    else
        REQUIRE(w->change == NOT_FINITE || safetensors_write_as(path, dtype, w->items, w->count, metadata, &error));
}

static bool changes_nothing(const Weights *w, const ModelConfig *config) {
    const bool ignored = w->layout >= FOREIGN && (w->change == FREQUENCIES || w->change == UNREAD);
    return w->change == NOTHING || ignored || (w->change == UNREAD && !config->tie) ||
           (w->change == ELSEWHERE && w->layout != SHARDED);
}

// All numbers are there, or the reason why not; with nothing wrong they are those that were written.
static bool read_weights(const Weights *w, const TensorTable *table, bool fine) {
    static real found[MOST_NUMBERS];
    Error error = {0};
    const bool good = checkpoint_weights(MEMORY "/checkpoint", table, found, &error);
    require_reason(good, &error);
    REQUIRE(!fine || good);
    for (size_t i = 0; good && i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        if (w->change == TURNED && i == w->at) continue;
        REQUIRE(!memcmp(found + tensor->offset, w->numbers + tensor->offset,
                        tensor->rows * tensor->columns * sizeof(real)));
    }
    return good;
}

static bool same_shape(const ModelConfig *a, const ModelConfig *b) { // without the padding at the end
    return !memcmp(a, b, offsetof(ModelConfig, tie)) && a->tie == b->tie && a->qk_norm == b->qk_norm &&
           a->token_shift == b->token_shift;
}

// The settings that eval and sample would run with; written as a checkpoint of ours has them, they are the same again.
static void settings_again(const ModelConfig *shape, const json_t *rope_c) {
    static Config config, again;
    ModelSettings settings;
    ModelConfig found;
    Error error = {0};
    config_defaults(&config);
    config_take_model(&config, shape, ORIGIN_DERIVED);
    bool good = (!rope_c || snapshot_apply_settings(rope_c, &config, &error));
    if (good && (*config.data_dir || strchr(config.kernel, '/'))) return; // resolving reads files that the input names
    good = good && config_resolve(&config, &error);
    require_reason(good, &error);
    if (!good) return;
    config_model(&config, 1, false, &settings);
    json_t *own = snapshot_settings(&config);
    const CheckpointInfo info = {own, 1, 2};
    char *text = checkpoint_config_text(&settings, &info, dtype_find("F32"));
    REQUIRE(text);
    json_t *json = json_parse("again", "contents", text, strlen(text), &error);
    REQUIRE(json && checkpoint_config_parse("again", json, &found, &error));
    REQUIRE(same_shape(&found, &settings.config));
    config_defaults(&again);
    config_take_model(&again, &found, ORIGIN_DERIVED);
    REQUIRE(snapshot_apply_settings(json_object_get(json, "rope_c"), &again, &error) && config_resolve(&again, &error));
    REQUIRE(config_fingerprint(&again) == config_fingerprint(&config));
    json_decref(json);
    json_decref(own);
    free(text);
}

static bool run_checkpoint(const uint8_t *data, size_t size) {
    static Weights w;
    const char *text = (const char *)data;
    const size_t length = size ? strnlen(text, size) : 0;
    const uint8_t *rest = data + length + 1;
    const size_t left = size > length ? size - length - 1 : 0;
    w.layout = left > 0 ? rest[0] % LAYOUTS : OURS;
    w.change = left > 1 ? rest[1] % CHANGES : NOTHING;
    w.at = left > 2 ? rest[2] : 0;
    Error error = {0};
    memory_clear(MEMORY "/checkpoint/");
    memory_put(MEMORY "/checkpoint/config.json", data, length);
    ModelConfig config, found;
    TensorTable table = {0};
    json_t *json = json_parse("config", "contents", text, length, &error), *rope_c = NULL;
    const bool sound = json && checkpoint_config_parse("config", json, &config, &error) &&
                       tensor_table_create(&table, &config, &error) && table.elements <= MOST_NUMBERS &&
                       table.count <= MOST_TENSORS;
    if (sound) make_items(&w, &table);
    if (!sound) w.count = 0, w.layout = FOREIGN;
    write_weights(&w, text, length);
    const bool fine = sound && changes_nothing(&w, &config);
    error = (Error){0};
    bool taken = checkpoint_read_config(MEMORY "/checkpoint", &found, &rope_c, &error);
    require_reason(taken, &error);
    REQUIRE(taken ? sound && same_shape(&found, &config) : !fine || w.change == TURNED);
    if (taken) taken = read_weights(&w, &table, fine);
    if (taken) settings_again(&found, rope_c);
    tensor_table_destroy(&table);
    json_decref(json);
    json_decref(rope_c);
    return taken;
}

static void seed_checkpoint(const char *text, unsigned layout, unsigned change, size_t at, bool taken) {
    char bytes[2048];
    const int length = snprintf(bytes, sizeof bytes, "%s%c%c%c%c", text, 0, (char)layout, (char)change, (char)at);
    (taken ? seed : seed_refused)(bytes, (size_t)length);
}

static void seeds_checkpoint(void) {
    static const char llama[] =
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_act\":\"silu\",\"vocab_size\":30,"
        "\"hidden_size\":32,\"intermediate_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
        "\"num_key_value_heads\":1,\"head_dim\":16,\"max_position_embeddings\":32,\"rms_norm_eps\":1e-05,"
        "\"rope_theta\":10000.0,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000.0,"
        "\"partial_rotary_factor\":1.0},\"tie_word_embeddings\":true,\"attention_bias\":false,\"mlp_bias\":null,"
        "\"partial_rotary_factor\":1,\"quantization_config\":null}";
    static const char qwen[] =
        "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"vocab_size\":30,\"hidden_size\":16,"
        "\"intermediate_size\":8,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
        "\"head_dim\":null,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":1000000},"
        "\"layer_types\":[\"full_attention\",\"full_attention\"],\"use_sliding_window\":false,\"rope_scaling\":null,"
        "\"max_position_embeddings\":40960}";
    static const char ours[] =
        "{\"model_type\":\"rope_c\",\"vocab_size\":30,\"hidden_size\":16,\"intermediate_size\":8,\"num_hidden_layers\":"
        "1,"
        "\"num_attention_heads\":2,\"v_head_dim\":4,\"qk_norm\":true,\"token_shift\":true,"
        "\"rope_c\":{\"attention.method\":\"lowrank\",\"attention.bound\":\"clip\",\"data.task\":\"mqar\"}}";
    seed_checkpoint(llama, OURS, NOTHING, 0, true);
    seed_checkpoint(qwen, FOREIGN, FREQUENCIES, 0, true);
    seed_checkpoint(qwen, SHARDED, NOTHING, 0, true);
    seed_checkpoint(ours, OURS_BF16, NOTHING, 0, true);
    seed_checkpoint(llama, SHARDED, ELSEWHERE, 1, false);
    seed_checkpoint(llama, FOREIGN, NOT_FINITE, 2, false);
    seed_checkpoint(qwen, OURS, UNKNOWN, 0, false);
    seed_checkpoint(ours, FOREIGN, DROPPED, 3, false);
}

const FuzzTarget fuzz_checkpoint = {"checkpoint", run_checkpoint, seeds_checkpoint};
