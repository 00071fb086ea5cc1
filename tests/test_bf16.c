// Checkpoints in BF16: rounding, the way through our own reader, damage, and weights that the format cannot hold.
#include "tests/support/checkpoint_files.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/dtype.h"

// The nearest number of 8 significant bits, ties to even, by way of doubles.
static float rounded(double value) {
    int exponent;
    frexp(value, &exponent);
    const double step = ldexp(1, (exponent < -125 ? -125 : exponent) - 8);
    return (float)(nearbyint(value / step) * step);
}

static void test_rounding(void **state) {
    (void)state;
    static const uint32_t lows[] = {0, 1, 0x1234, 0x7fff, 0x8000, 0x8001, 0xabcd, 0xffff}; // around a tie
    size_t cases = 0;
    for (uint32_t high = 0; high < 0x7f80; high++)
        for (size_t i = 0; i < 2 * sizeof lows / sizeof *lows; i++, cases++) {
            const uint32_t bits = (uint32_t)(i & 1) << 31 | high << 16 | lows[i / 2];
            float value;
            memcpy(&value, &bits, sizeof value);
            const float back = float_from_bfloat(bfloat_from_float(value)), wanted = rounded((double)value);
            if (memcmp(&back, &wanted, sizeof back)) fail_msg("%a became %a instead of %a", value, back, wanted);
        }
    check_count("numbers rounded to BF16", cases);
    const uint32_t low_nan = 0xff800001; // all but the lower half is infinity's
    float nan;
    memcpy(&nan, &low_nan, sizeof nan);
    assert_true(isnan(float_from_bfloat(bfloat_from_float(nan))) && bfloat_from_float(nan) >> 15);
    assert_true(isinf(float_from_bfloat(bfloat_from_float(INFINITY))));
    const Dtype *dtype = dtype_find("BF16");
    assert_true(isfinite(float_from_bfloat(bfloat_from_float(nextafterf((float)dtype->limit, 0)))));
    assert_true(isinf(float_from_bfloat(bfloat_from_float((float)dtype->limit))));
}

static void test_bf16(void **state) {
    (void)state;
    Error error = {0};
    ModelSettings settings = plain_settings();
    settings.config.token_shift = true; // what only our own reader reads
    for (size_t round = 0; round < 2; round++, settings.config.token_shift = false) {
        Model *model = filled(&settings), *other = toy_create(&settings);
        const CheckpointInfo info = {NULL, 1, 2};
        const char *directory = directory_new("bf16");
        if (!checkpoint_write_as(directory, dtype_find("BF16"), model, &info, &error)) fail_msg("%s", error.message);
        if (!load(directory, other, &error)) fail_msg("%s", error.message);
        const size_t elements = model_tensors(model)->elements;
        for (size_t i = 0; i < elements; i++) model_parameters(model)[i] = rounded(model_parameters(model)[i]);
        check_same_bits("weights in BF16", model_parameters(other), model_parameters(model), elements * sizeof(real));

        json_t *json = json_load_file(join(directory, "config.json"), 0, NULL);
        assert_string_equal(json_string_value(json_object_get(json, "torch_dtype")), "bfloat16");
        json_decref(json);
        size_t size;
        const char *path = join(directory, "model.safetensors");
        char *bytes = read_bytes(path, &size);
        uint64_t header;
        memcpy(&header, bytes, sizeof header);
        assert_int_equal(size, 8 + header + 2 * model_tensors(model)->parameters);
        for (size_t place = 8 + header; place < size; place += 97) { // every damage is noticed
            bytes[place] ^= 1;
            check_write_file(path, bytes, size);
            error_clear(&error);
            assert_false(load(directory, other, &error));
            assert_non_null(strstr(error.message, "checksum"));
            bytes[place] ^= 1;
            check_count("damaged BF16 checkpoints refused", 1);
        }
        error_clear(&error);
        free(bytes);
        model_destroy(model), model_destroy(other);
    }
}

// What single precision holds, and BF16 does not.
static void test_bf16_limits(void **state) {
    (void)state;
    const ModelSettings settings = plain_settings();
    Model *model = filled(&settings);
    const char *directory = directory_new("limits");
    const Tensor *tensor = tensor_of(model_tensors(model), TENSOR_DOWN, 1);
    static const float bad[] = {3.4e38f, -3.4e38f, INFINITY, NAN};
    for (size_t i = 0; i < 4; i++) {
        Error error = {0};
        model_parameters(model)[tensor->offset + i] = bad[i];
        assert_false(checkpoint_write_as(directory, dtype_find("BF16"), model, NULL, &error));
        assert_true(error.kind == ERROR_CORRUPT && strstr(error.message, tensor->name) &&
                    strstr(error.message, "BF16"));
        assert_int_not_equal(access(join(directory, "config.json"), F_OK), 0); // nothing was begun
        model_parameters(model)[tensor->offset + i] = 1;
        check_count("weights beyond BF16 refused", 1);
    }
    model_destroy(model);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_rounding),
    cmocka_unit_test(test_bf16),
    cmocka_unit_test(test_bf16_limits),
};
TEST_MAIN(tests)
