// safetensors: round trips, every damage to a small file of ours, a list of hostile headers, and the exact conversion
// of every half and bfloat16 number.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/random.h"
#include "model/dtype.h"
#include "model/safetensors.h"
#include "tests/support/check.h"

static const char *path_of(const char *name) {
    static char path[4096];
    static const char *root;
    Error error = {0};
    if (!root) root = temporary_directory();
    assert_true(path_join(path, sizeof path, root, name, &error));
    return path;
}

// A file of others: the header as given, then `data_size` bytes.
static void write_foreign(const char *path, const char *header, size_t header_size, const void *data,
                          size_t data_size) {
    unsigned char *bytes = malloc(8 + header_size + data_size);
    uint64_t length = header_size;
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, header_size);
    if (data_size) memcpy(bytes + 8 + header_size, data, data_size);
    check_write_file(path, bytes, 8 + header_size + data_size);
    free(bytes);
}

static const real matrix[6] = {1, -2, 3, 0.5f, -0.25f, 1024}, vector[3] = {7, 8, 9};
static const SafetensorsItem items[] = {
    {"a.weight", 2, {2, 3}, matrix}, {"b", 1, {3}, vector}, {"scalar", 0, {0}, vector}};
enum { ITEMS = sizeof items / sizeof *items };

// Opens and reads all there is in a file of `items`.
static bool read_items(const char *path, Error *error) {
    Safetensors *file = safetensors_open(path, error);
    if (!file) return false;
    bool good = true;
    for (size_t i = 0; good && i < ITEMS; i++) {
        real out[6];
        size_t elements = items[i].rank == 2 ? 6 : items[i].rank == 1 ? 3 : 1;
        good = safetensors_read(file, items[i].name, items[i].rank, items[i].shape, out, error);
        if (good) assert_memory_equal(out, items[i].data, elements * sizeof(real));
    }
    safetensors_close(file);
    return good;
}

static void test_round_trip(void **state) {
    (void)state;
    static const char *const metadata[] = {"step", "12", "words", "quotes \" and \\ and é", NULL};
    Error error = {0};
    const char *path = path_of("round.safetensors");
    assert_true(safetensors_write(path, items, ITEMS, metadata, &error));
    assert_true(read_items(path, &error));
    Safetensors *file = safetensors_open(path, &error);
    assert_non_null(file);
    assert_true(safetensors_ours(file));
    assert_int_equal(safetensors_count(file), ITEMS);
    assert_string_equal(safetensors_name(file, 0), "a.weight");
    assert_null(safetensors_name(file, ITEMS));
    assert_string_equal(safetensors_metadata(file, "words"), metadata[3]);
    assert_string_equal(safetensors_metadata(file, "format"), "pt");
    assert_null(safetensors_metadata(file, "absent"));
    size_t rank, shape[4];
    assert_true(safetensors_shape(file, "a.weight", &rank, shape));
    assert_true(rank == 2 && shape[0] == 2 && shape[1] == 3);
    assert_false(safetensors_shape(file, "absent", &rank, shape));
    real out[6];
    assert_false(safetensors_read(file, "absent", 1, (size_t[]){3}, out, &error));
    assert_non_null(strstr(error.message, "absent"));
    error_clear(&error);
    assert_false(safetensors_read(file, "b", 1, (size_t[]){4}, out, &error));
    assert_non_null(strstr(error.message, "shape"));
    safetensors_close(file);

    // The data start at a multiple of 8, for readers that map the file.
    size_t size;
    error_clear(&error);
    char *bytes = file_read_all(path, 1 << 20, &size, &error);
    uint64_t length;
    memcpy(&length, bytes, 8);
    assert_int_equal(length % 8, 0);
    assert_int_equal(size, 8 + length + 10 * sizeof(float));
    free(bytes);
    check_count("tensors written and read back", ITEMS);
}

// More than one chunk, and a length that is no multiple of it.
static void test_large(void **state) {
    (void)state;
    enum { COUNT = 100003 };
    real *numbers = guarded_new(COUNT), *out = guarded_new(COUNT);
    random_fill_normal(numbers, COUNT, 1, (Random){3, RANDOM_TEST, 0});
    for (size_t i = 0; i < COUNT; i++) numbers[i] = (real)(float)numbers[i];
    const SafetensorsItem item = {"large", 1, {COUNT}, numbers};
    Error error = {0};
    const char *path = path_of("large.safetensors");
    assert_true(safetensors_write(path, &item, 1, NULL, &error));
    Safetensors *file = safetensors_open(path, &error);
    assert_non_null(file);
    assert_true(safetensors_read(file, "large", 1, item.shape, out, &error));
    check_same_bits("numbers read back", numbers, out, COUNT * sizeof *out);
    safetensors_close(file);
    assert_true(safetensors_write(path, NULL, 0, NULL, &error));
    assert_non_null(file = safetensors_open(path, &error));
    assert_int_equal(safetensors_count(file), 0);
    safetensors_close(file);
    guarded_free(numbers), guarded_free(out);
}

static void must_refuse(const char *path, const char *what, size_t where) {
    Error error = {0};
    if (read_items(path, &error)) fail_msg("%s at byte %zu was accepted", what, where);
    if (error.kind != ERROR_CORRUPT || !strstr(error.message, path) ||
        !(strstr(error.message, "header") || strstr(error.message, "tensor") || strstr(error.message, "data")))
        fail_msg("%s at byte %zu: kind %d, '%s' names no file and section", what, where, error.kind, error.message);
}

// Every byte of a file of ours: 8 bit flips, 00, FF, every truncation, bytes appended.
static void test_every_damage(void **state) {
    (void)state;
    Error error = {0};
    static const char *const metadata[] = {"config.crc32", "0badcafe", NULL};
    const char *path = path_of("damage.safetensors");
    assert_true(safetensors_write(path, items, ITEMS, metadata, &error));
    size_t size, cases = 0;
    char *bytes = file_read_all(path, 1 << 20, &size, &error);
    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++) {
        char kept = bytes[i];
        for (int change = 0; change < 10; change++) {
            bytes[i] = (char)(change < 8 ? kept ^ (1 << change) : change == 8 ? 0 : 0xff);
            if (bytes[i] == kept) continue;
            check_write_file(path, bytes, size);
            must_refuse(path, "a changed byte", i);
            cases++;
        }
        bytes[i] = kept;
    }
    for (size_t cut = 0; cut < size; cut++, cases++) {
        check_write_file(path, bytes, cut);
        must_refuse(path, "truncation", cut);
    }
    bytes = realloc(bytes, size + 16);
    memset(bytes + size, 0, 16);
    for (size_t more = 1; more <= 16; more++, cases++) {
        check_write_file(path, bytes, size + more);
        must_refuse(path, "appended bytes", size + more);
    }
    check_write_file(path, bytes, size);
    assert_true(read_items(path, &error)); // and undamaged it is accepted
    free(bytes);
    check_count("damaged files refused", cases);
}

#define T(name, dtype, shape, offsets)                                                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

// Headers over 16 bytes of data.
static void test_hostile_headers(void **state) {
    (void)state;
    static const char *const hostile[] = {
        "[]",
        "  {}",
        "{",
        "{}x",
        "null",
        "\"\"",
        "{\"a\":1}",
        "{\"a\":[]}",
        "{\"a\":{}}",
        "{}",                                   // 16 bytes that belong to nobody
        "{" T("a", "F32", "[3]", "[0,12]") "}", // 4 bytes at the end
        "{" T("a", "F32", "[3]", "[4,16]") "}", // 4 bytes in front
        "{" T("a", "F32", "[5]", "[0,20]") "}", // beyond the end
        "{" T("a", "F32", "[4]", "[16,32]") "}",
        "{" T("a", "F32", "[2]", "[0,8]") "," T("b", "F32", "[1]", "[12,16]") "}",        // hole
        "{" T("a", "F32", "[3]", "[0,12]") "," T("b", "F32", "[2]", "[8,16]") "}",        // overlap
        "{" T("a", "F32", "[4]", "[0,16]") "," T("b", "F32", "[4]", "[0,16]") "}",        // the same bytes twice
        "{" T("a", "F32", "[4]", "[0,16]") "," T("a", "F32", "[4]", "[0,16]") "}",        // the same name twice
        "{" T("a", "F32", "[4]", "[0,16]") "," T("\\u0061", "F32", "[0]", "[16,16]") "}", // and in disguise
        "{" T("a", "F32", "[4]", "[16,0]") "}",
        "{" T("a", "F32", "[4]", "[-16,0]") "}",
        "{" T("a", "F32", "[3]", "[0,16]") "}",
        "{" T("a", "F64", "[4]", "[0,16]") "}",
        "{" T("a", "F16", "[4]", "[0,16]") "}",
        "{" T("a", "F32", "[4]", "[0,16,16]") "}",
        "{" T("a", "F32", "[4]", "[0]") "}",
        "{" T("a", "F32", "[4]", "16") "}",
        "{" T("a", "F32", "[4]", "[0.0,16.0]") "}",
        "{" T("a", "F32", "[4]", "[0,\"16\"]") "}",
        "{" T("a", "F32", "[4.0]", "[0,16]") "}",
        "{" T("a", "F32", "[\"4\"]", "[0,16]") "}",
        "{" T("a", "F32", "[true]", "[0,16]") "}",
        "{" T("a", "F32", "[-4]", "[0,16]") "}",
        "{" T("a", "F32", "[-2,-2]", "[0,16]") "}",
        "{" T("a", "F32", "4", "[0,16]") "}",
        "{" T("a", "F32", "null", "[0,16]") "}",
        " {" T("a", "F32", "[4]", "[0,16]") "}",        // does not start with {
        "{" T("a", "F32", "[1,1,1,1,4]", "[0,16]") "}", // rank
        "{" T("a", "F32", "[4,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,16]") "}",
        "{" T("a", "F32", "[4611686018427387905,4]", "[0,16]") "}", // 2^62 + 1 times 4 wraps to 4
        "{" T("a", "F32", "[4294967296,4294967296]", "[0,0]") "}",  // wraps to 0
        "{" T("a", "F32", "[4611686018427387908]", "[0,16]") "}",   // bytes wrap to 16
        "{" T("a", "F32", "[9223372036854775808]", "[0,16]") "}",   // 2^63
        "{" T("a", "F32", "[4]", "[0,18446744073709551616]") "}",   // 2^64
        "{" T("a", "F32", "[4]", "[9223372036854775792,9223372036854775807]") "}",
        "{" T("a", "F33", "[4]", "[0,16]") "}",
        "{" T("a", "", "[4]", "[0,16]") "}",
        "{" T("a", "f32", "[4]", "[0,16]") "}",
        "{\"a\":{\"dtype\":32,\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,16]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}",
        "{\"a\":{\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"__metadata__\":[]," T("a", "F32", "[4]", "[0,16]") "}",
        "{\"__metadata__\":null," T("a", "F32", "[4]", "[0,16]") "}",
        "{\"__metadata__\":{\"x\":1}," T("a", "F32", "[4]", "[0,16]") "}",
        "{\"__metadata__\":{\"x\":\"1\",\"x\":\"1\"}," T("a", "F32", "[4]", "[0,16]") "}",
        "{\"__metadata__\":{},\"__metadata__\":{}," T("a", "F32", "[4]", "[0,16]") "}",
        "{\"__metadata__\":{\"writer\":\"rope.c\"}," T("a", "F32", "[4]", "[0,16]") "}",
        "{\"__metadata__\":{\"crc32.header\":\"00000000\"}," T("a", "F32", "[4]", "[0,16]") "}",
        "{\"__metadata__\":{\"crc32.header\":\"0\"}," T("a", "F32", "[4]", "[0,16]") "}",
        "{\"__metadata__\":{\"crc32.header\":\"\"}}",
        "{" T("a", "F32", "[4]", "[0,16]") ",\"__metadata__\":{\"crc32.header\":\"\"}}",          // no room for digits
        "{" T("a", "F32", "[4]", "[0,16]") ",\"__metadata__\":{\"crc32.header\": \"00000000\"}}", // not as we write it
        "{" T("a\\u0000b", "F32", "[4]", "[0,16]") "}",
        "{" T("a\xff", "F32", "[4]", "[0,16]") "}",
        "{" T("a", "F32", "[4]", "[0,16]") "}{}",
        "{" T("a", "F32", "[4]", "[0,16]") ",}",
    };
    static const char data[16] = {0};
    const char *path = path_of("hostile.safetensors");
    size_t cases = sizeof hostile / sizeof *hostile;
    for (size_t i = 0; i < cases; i++) {
        Error error = {0};
        write_foreign(path, hostile[i], strlen(hostile[i]), data, sizeof data);
        Safetensors *file = safetensors_open(path, &error);
        if (file) fail_msg("accepted: %s", hostile[i]);
        if (error.kind != ERROR_CORRUPT || !strstr(error.message, path))
            fail_msg("%s: kind %d, '%s'", hostile[i], error.kind, error.message);
    }
    static const char *const good[] = {
        "{" T("a", "F32", "[4]", "[0,16]") "}",
        "{" T("a", "F32", "[4]", "[0,16]") "}       ",
        "{" T("b", "F32", "[2,1]", "[8,16]") "," T("a", "F32", "[1,1,1,2]", "[0,8]") "}",
        "{" T("e", "F32", "[0,7]", "[8,8]") "," T("b", "I64", "[]", "[8,16]") "," T("a", "BOOL", "[8]", "[0,8]") "}",
        "{\"__metadata__\":{}," T("a", "F32", "[4]", "[0,16]") "}",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        Error error = {0};
        write_foreign(path, good[i], strlen(good[i]), data, sizeof data);
        Safetensors *file = safetensors_open(path, &error);
        if (!file) fail_msg("%s: %s", good[i], error.message);
        assert_false(safetensors_ours(file));
        safetensors_close(file);
    }
    check_count("hostile headers refused", cases);
}

// A header whose own checksum holds must still have one for every tensor.
static void test_checksums_of_tensors(void **state) {
    (void)state;
    static const char *const sums[] = {"", ",\"crc32.a\":\"ecbb4b55\"", ",\"crc32.a\":\"ecbb4b54\"",
                                       ",\"crc32.a\":\"ECBB4B55\"", ",\"crc32.b\":\"ecbb4b55\""};
    static const char data[16] = {0}; // whose crc32 is ecbb4b55
    const char *path = path_of("sums.safetensors");
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) {
        char header[300], sum[9];
        uint64_t length = (uint64_t)snprintf(header, sizeof header,
                                             "{\"__metadata__\":{\"crc32.header\":\"00000000\""
                                             ",\"writer\":\"rope.c\"%s}," T("a", "F32", "[4]", "[0,16]") "}",
                                             sums[i]);
        snprintf(sum, sizeof sum, "%08x", checksum(checksum(0, &length, 8), header, length));
        memcpy(strstr(header, "00000000"), sum, 8);
        write_foreign(path, header, length, data, sizeof data);
        Error error = {0};
        real out[4];
        Safetensors *file = safetensors_open(path, &error);
        bool good = file && safetensors_read(file, "a", 1, (size_t[]){4}, out, &error);
        if (good != (i == 1) || (!good && !strstr(error.message, "'a': its checksum")))
            fail_msg("%s: %s", sums[i], error.message);
        safetensors_close(file);
    }
    check_count("tensors without a good checksum refused", sizeof sums / sizeof *sums - 1);
}

// Lengths that lie, nesting that eats the stack, things that are not files.
static void test_hostile_files(void **state) {
    (void)state;
    static const uint64_t lengths[] = {0,         1, 3, 100000001, (uint64_t)1 << 32, (uint64_t)1 << 63, UINT64_MAX - 7,
                                       UINT64_MAX};
    const char *path = path_of("lengths.safetensors");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char bytes[10] = {0};
        memcpy(bytes, &lengths[i], 8);
        memcpy(bytes + 8, "{}", 2);
        check_write_file(path, bytes, sizeof bytes);
        if (lengths[i] == 100000001) assert_int_equal(truncate(path, 100000100), 0); // too long, although it is there
        Error error = {0};
        assert_null(safetensors_open(path, &error));
        assert_int_equal(error.kind, ERROR_CORRUPT);
        assert_non_null(strstr(error.message, "a length of"));
    }
    enum { DEPTH = 1 << 20 };
    char *deep = malloc(DEPTH);
    memset(deep, '[', DEPTH);
    memcpy(deep, "{\"a\":", 5);
    write_foreign(path, deep, DEPTH, NULL, 0);
    free(deep);
    Error error = {0};
    assert_null(safetensors_open(path, &error));
    assert_int_equal(error.kind, ERROR_CORRUPT);
    error_clear(&error);
    assert_null(safetensors_open(path_of("absent.safetensors"), &error));
    assert_int_equal(error.kind, ERROR_SYSTEM);
    error_clear(&error);
    assert_null(safetensors_open(temporary_directory(), &error));
    assert_int_equal(error.kind, ERROR_USER);
    error_clear(&error);
    const char *pipe = path_of("pipe.safetensors");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_null(safetensors_open(pipe, &error));
    assert_int_equal(error.kind, ERROR_USER);
    error_clear(&error);
    assert_false(safetensors_write(path_of("no/such/folder"), items, ITEMS, NULL, &error));
    assert_int_equal(error.kind, ERROR_SYSTEM);
    check_count("hostile files refused", sizeof lengths / sizeof *lengths + 5);
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// All 65536 patterns of both formats against their definition: (-1)^s · 2^(e - bias) · 1.f, 0.f below the normal range.
static void test_conversion(void **state) {
    (void)state;
    static const struct {
        const char *dtype;
        int fraction_bits, bias;
    } formats[] = {{"F16", 10, 15}, {"BF16", 7, 127}};
    enum { PATTERNS = 65536 };
    uint16_t *stored = malloc(PATTERNS * sizeof *stored);
    real *out = guarded_new(PATTERNS);
    for (size_t i = 0; i < PATTERNS; i++) stored[i] = (uint16_t)i;
    for (size_t k = 0; k < 2; k++) {
        char header[200];
        snprintf(header, sizeof header, "{" T("x", "%s", "[65536]", "[0,131072]") "}", formats[k].dtype);
        const char *path = path_of("formats.safetensors");
        write_foreign(path, header, strlen(header), stored, PATTERNS * sizeof *stored);
        Error error = {0};
        Safetensors *file = safetensors_open(path, &error);
        assert_non_null(file);
        assert_true(safetensors_read(file, "x", 1, (size_t[]){PATTERNS}, out, &error));
        safetensors_close(file);
        int bits = formats[k].fraction_bits, largest = (1 << (15 - bits)) - 1;
        for (int i = 0; i < PATTERNS; i++) {
            int fraction = i & ((1 << bits) - 1), exponent = (i >> bits) & largest;
            double expected = exponent ? ldexp((1 << bits) + fraction, exponent - formats[k].bias - bits)
                                       : ldexp(fraction, 1 - formats[k].bias - bits);
            if (exponent == largest) expected = fraction ? NAN : INFINITY;
            if (i & 0x8000) expected = -expected;
            bool same =
                isnan(expected) ? isnan(out[i]) : (double)out[i] == expected && !signbit(out[i]) == !signbit(expected);
            if (!same) fail_msg("%s %04x: %g, not %g", formats[k].dtype, i, (double)out[i], expected);
        }
        check_count("16-bit patterns converted", PATTERNS);
    }
    // A NaN keeps its sign and payload.
    assert_int_equal(bits_of(float_from_half(0xfe01)), 0xffc02000);
    assert_int_equal(bits_of(float_from_bfloat(0xffc1)), 0xffc10000);
    free(stored), guarded_free(out);

    const double wide[] = {1.0 / 3, -0.0, 1e300, -1e-300, NAN, -INFINITY, 5e-324, 0x1.000001p0};
    const char *header = "{" T("x", "F64", "[8]", "[0,64]") "}", *path = path_of("formats.safetensors");
    write_foreign(path, header, strlen(header), wide, sizeof wide);
    Error error = {0};
    real narrow[8];
    Safetensors *file = safetensors_open(path, &error);
    assert_true(safetensors_read(file, "x", 1, (size_t[]){8}, narrow, &error));
    for (size_t i = 0; i < 8; i++) assert_true(isnan(wide[i]) ? isnan(narrow[i]) : narrow[i] == (real)wide[i]);
    check_count("F64 numbers rounded", 8);
    safetensors_close(file);

    const char *integers = "{" T("x", "I32", "[2]", "[0,8]") "}";
    write_foreign(path, integers, strlen(integers), wide, 8);
    assert_non_null(file = safetensors_open(path, &error));
    assert_false(safetensors_read(file, "x", 1, (size_t[]){2}, narrow, &error));
    assert_non_null(strstr(error.message, "I32"));
    safetensors_close(file);
}

// The file shrinks after it was opened: an error, not a signal.
static void test_shrinks_while_open(void **state) {
    (void)state;
    Error error = {0};
    const char *path = path_of("shrinks.safetensors");
    assert_true(safetensors_write(path, items, ITEMS, NULL, &error));
    Safetensors *file = safetensors_open(path, &error);
    assert_non_null(file);
    assert_int_equal(truncate(path, 20), 0);
    real out[6];
    assert_false(safetensors_read(file, "a.weight", 2, items[0].shape, out, &error));
    assert_int_equal(error.kind, ERROR_CORRUPT);
    assert_non_null(strstr(error.message, "a.weight"));
    safetensors_close(file);
    check_count("files that shrink refused", 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_round_trip),           cmocka_unit_test(test_large),
    cmocka_unit_test(test_every_damage),         cmocka_unit_test(test_hostile_headers),
    cmocka_unit_test(test_hostile_files),        cmocka_unit_test(test_conversion),
    cmocka_unit_test(test_checksums_of_tensors), cmocka_unit_test(test_shrinks_while_open),
};

TEST_MAIN(tests)
