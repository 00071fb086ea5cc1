// The configuration: every mistake is refused where it stands with the nearest key, and what is printed reads back.
// What settings mean together is in test_config_resolved.c.
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "train/config.h"
#include "train/words.h"

static size_t refusals;

static void write_file(char *path, size_t room, const char *text, size_t size) {
    static const char *directory;
    if (!directory) directory = temporary_directory();
    snprintf(path, room, "%s/test.ini", directory);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static bool read_text(Config *config, const char *text, Error *error) {
    char path[512];
    write_file(path, sizeof path, text, strlen(text));
    config_defaults(config);
    return config_read(config, path, error);
}

// The text is refused as the user's mistake, with every one of the words in the message.
static void refuse_text(const char *text, size_t size, const char *first, const char *second) {
    char path[512];
    Config config;
    Error error = {0};
    write_file(path, sizeof path, text, size);
    config_defaults(&config);
    bool accepted = config_read(&config, path, &error);
    if (accepted || error.kind != ERROR_USER || !strstr(error.message, first) || !strstr(error.message, second))
        fail_msg("expected \"%s\" and \"%s\" of:\n%s\ngot: %s", first, second, text, error.message);
    if (!strstr(error.message, path)) fail_msg("%s is not named: %s", path, error.message);
    refusals++;
}

static void refuse_file(const char *text, const char *first, const char *second) {
    refuse_text(text, strlen(text), first, second);
}

static void refuse_setting(const char *assignment, const char *text) {
    Config config, before;
    Error error = {0};
    config_defaults(&config);
    before = config;
    bool accepted = config_set(&config, assignment, ORIGIN_COMMAND_LINE, &error);
    if (accepted || error.kind != ERROR_USER || !strstr(error.message, text))
        fail_msg("expected \"%s\" of %s, got: %s", text, assignment, error.message);
    assert_memory_equal(config.origin, before.origin, sizeof before.origin);
    refusals++;
}

static void files_are_read(void **state) {
    (void)state;
    Config config;
    Error error = {0};
    const char *text =
        "\xef\xbb\xbf; comment\n# comment\n[model]\r\nlayers = 3 ; three\n  width = 96   # indented\nheads=4\n\n"
        "[optim] ; of AdamW\r\nbetas = 0.8, 0.99\n[train]\nout = runs/a#b\ntokens = 123456789012\n";
    assert_true(read_text(&config, text, &error));
    assert_int_equal(config.layers, 3);
    assert_int_equal(config.width, 96);
    assert_int_equal(config.heads, 4);
    assert_true(config.beta1 == 0.8 && config.beta2 == 0.99);
    assert_string_equal(config.out, "runs/a#b");
    assert_true(config.train_tokens == 123456789012);
    assert_int_equal(config_origin(&config, "model.width"), ORIGIN_FILE);
    assert_int_equal(config.line[config_key("model.width")], 5);
    assert_int_equal(config.line[config_key("optim.beta1")], 9);
    assert_int_equal(config_origin(&config, "model.tokens"), ORIGIN_DEFAULT);
    // The command line comes after files.
    assert_true(config_set(&config, "model.width=128", ORIGIN_COMMAND_LINE, &error));
    assert_int_equal(config.width, 128);
    assert_int_equal(config_origin(&config, "model.width"), ORIGIN_COMMAND_LINE);
    check_count("values read", 12);
}

static void files_are_refused(void **state) {
    (void)state;
    refuse_file("[model]\nlayrs = 3\n", ":2:", "did you mean model.layers");
    refuse_file("\n[modle]\nlayers = 3\n", ":3:", "model.layers");
    refuse_file("[train]\nlearning_rate = 3\n", ":2:", "did you mean optim.learning_rate");
    refuse_file("[model]\nlayers = 3\nlayers = 4\n", ":3:", "line 2");
    refuse_file("[optim]\nbeta1 = 0.5\nbetas = 0.9,0.95\n", ":3:", "optim.beta1 is set a second time; line 2");
    refuse_file("[optim]\nbeta2 = 0.5\nbetas = 0.9,0.95\n", ":3:", "optim.beta2 is set a second time; line 2");
    refuse_file("[optim]\nbetas = 0.9,0.95\nbeta2 = 0.5\n", ":3:", "optim.beta2 is set a second time; line 2");
    refuse_file("layers = 3\n", ":1:", "before the first [section]");
    refuse_file("[model]\nlayers\n", ":2:", "neither");
    refuse_file("[model\nlayers = 3\n", ":1:", "neither");
    refuse_file("[model]\nlayers = \n", ":2:", "not a whole number");
    refuse_file("[model]\nlayers = 3x\n", ":2:", "not a whole number");
    refuse_file("[model]\nlayers = 0\n", ":2:", "outside of");
    refuse_file("[model]\nlayers = 99999999999999999999999\n", ":2:", "outside of");
    refuse_file("[model]\ntie = maybe\n", ":2:", "neither true nor false");
    refuse_file("[optim]\nschedule = cosin\n", ":2:", "did you mean cosine");
    refuse_file("[optim]\nlearning_rate = nan\n", ":2:", "not a number");
    refuse_file("[optim]\nlearning_rate = 1e999\n", ":2:", "not a number");
    refuse_file("[optim]\nbetas = 0.9\n", ":2:", "two numbers");
    refuse_file("[attention]\nmethod = exakt\n", ":2:", "did you mean exact");
    refuse_file("[attention]\nmethod = exact exact\n", ":2:", "commas");
    refuse_file("[attention]\nlogit_scale = 2/d\n", ":2:", "1/sqrt(d)");
    refuse_file("[data]\ndir = caf\xe9\n", ":2:", "not UTF-8");
    refuse_text("[model]\nlay\0ers = 3\n", 18, ":2:", "0x00");
    refuse_file("[model]\n\x1b[0m\n", ":2:", "0x1b");
    refuse_file("[model]\nlayers\t=\x7f\n", ":2:", "0x7f");
    refuse_file("[model]\rlayers = 3\r", ":1:", "carriage return");
    refuse_file("; comment\r[model]\rlayers = 3\r", ":1:", "carriage return");
    refuse_file("[model] layers = 3\n", ":1:", "follow the [section]");
    refuse_file("\xEF\xBB\xBF[model] layers = 3\n", ":1:", "follow the [section]");
    char line[2048] = "[data]\ndir = ";
    memset(line + strlen(line), 'x', 1500);
    refuse_file(line, ":2:", "longer than");
}

static void settings_are_refused(void **state) {
    (void)state;
    refuse_setting("model.width", "model.width needs a value: model.width=VALUE");
    refuse_setting("width=3", "section.key=value");
    refuse_setting("model.width=-1", "outside of");
    refuse_setting("model.width=1e3", "whole number");
    refuse_setting("model.width= 3", "whole number");
    refuse_setting("modl.width=3", "model.width");
    refuse_setting("nothing.like=3", "--print-config");
    refuse_setting("train.seed=18446744073709551616", "outside of");
    refuse_setting("optim.clip=-1", "outside of");
    refuse_setting("optim.clip=inf", "not a number");
    refuse_setting("data.dir=a ;b", "begins a comment");
    refuse_setting("data.dir= a", "space");
    refuse_setting("data.dir=a\nb", "control character");
    refuse_setting("data.task=mqra", "mqar");
    refuse_setting("attention.method=", "not one of");
    refuse_setting("model.width=-", "whole number");
    refuse_setting("model.width=-1x", "whole number");
    refuse_setting("modelwidth=1.5", "section.key=value");
    refuse_setting("a_section_of_more_than_sixty_three_characters_which_no_table_of_ours_has.width=3",
                   "section.key=value");
    refuse_setting("model.a_key_of_more_than_sixty_three_characters_which_no_table_of_ours_has_=3",
                   "section.key=value");
    refuse_setting("data.dir=#a", "begins a comment");
    refuse_setting("data.dir=a #b", "begins a comment");
    refuse_setting("data.dir=a ", "space");
    refuse_setting("data.dir=\x7f", "control character");
    refuse_setting("data.dir=caf\xe9", "not UTF-8");
    refuse_setting("optim.schedule=", "not one of");
    refuse_setting("attention.logit_scale=0", "above 0");
    refuse_setting("optim.betas=0.9;0.99", "two numbers");
    refuse_setting("optim.betas=0.99999999999999999999999999999999999999999999999999999999999999999,0.9",
                   "two numbers");
    refuse_setting("optim.betas=a,0.9", "not a number");
    refuse_setting("optim.betas=0.9,", "not a number");
    refuse_setting("optim.betas=-0.1,0.9", "outside of");
    refuse_setting("optim.betas=0.9,1", "outside of");
    refuse_setting("optim.beta2=1", "1 is outside of 0 to 0.9999999.");
    refuse_setting("train.keep=0", "outside of 1 to 1048576.");
    refuse_setting("nothing", "'nothing' is not of the form section.key=value");
    char methods[2 * CONFIG_TEXT] = "attention.method=auto";
    while (strlen(methods) < CONFIG_TEXT + 30) strcat(methods, ",auto");
    refuse_setting(methods, "longer than");
    char assignment[CONFIG_TEXT + 64] = "data.dir=";
    memset(assignment + strlen(assignment), 'x', CONFIG_TEXT);
    refuse_setting(assignment, "longer than");
}

// A checksum of a table is that of the one it is given with, in either order; one of before goes with its table.
static void checksums_of_tables(void **state) {
    (void)state;
    static const char both[] = "[attention]\nkernel_crc32 = 0123abcd\nkernel = a.table\n",
                      reversed[] = "[attention]\nkernel = a.table\nkernel_crc32 = 0123abcd\n",
                      one[] = "[attention]\nkernel = b.table\n";
    Config config;
    Error error = {0};
    for (size_t i = 0; i < 2; i++) {
        config_defaults(&config);
        assert_true(read_text(&config, i ? both : reversed, &error));
        assert_string_equal(config.kernel_crc32, "0123abcd");
        assert_true(config_set(&config, "attention.kernel=rope", i ? ORIGIN_COMMAND_LINE : ORIGIN_DERIVED, &error));
        assert_string_equal(config.kernel_crc32, "");
        assert_true(config_set(&config, "attention.kernel_crc32=0123abcd", ORIGIN_COMMAND_LINE, &error));
        assert_true(config_set(&config, "attention.kernel=c.table", ORIGIN_COMMAND_LINE, &error));
        assert_string_equal(config.kernel_crc32, "0123abcd");
        assert_true(config_set(&config, "attention.kernel_crc32=0123abcd", ORIGIN_DERIVED, &error));
        assert_true(config_set(&config, "attention.kernel=c.table", ORIGIN_DERIVED, &error));
        assert_string_equal(config.kernel_crc32, "");
    }
    const char *directory = temporary_directory();
    char path[512];
    config_defaults(&config);
    for (int i = 0; i <= CONFIG_MAX_FILES; i++) { // and as many files as there may be
        snprintf(path, sizeof path, "%s/%d.ini", directory, i);
        check_write_file(path, i % 2 ? one : both, strlen(i % 2 ? one : both));
        const bool read = config_read(&config, path, &error) && config_read(&config, path, &error); // twice is once
        if (read != (i < CONFIG_MAX_FILES)) fail_msg("file %d: %s", i, error.message);
        if (read) assert_string_equal(config.kernel_crc32, i % 2 ? "" : "0123abcd");
    }
    assert_true(error.kind == ERROR_USER && strstr(error.message, "At most 32 files"));
    check_count("checksums of tables", 2 * 4 + CONFIG_MAX_FILES);
}

// What is not read as a file at all, and values as long as can be in sections as long as can be.
static void files_that_cannot_be_read(void **state) {
    (void)state;
    Config config;
    Error error = {0};
    const char *directory = temporary_directory();
    config_defaults(&config);
    assert_false(config_read(&config, directory, &error));
    if (error.kind != ERROR_SYSTEM || !strstr(error.message, directory)) fail_msg("%s", error.message);
    error_clear(&error);
    assert_false(config_read(&config, "/nowhere/at/all.ini", &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "/nowhere/at/all.ini"));
    refusals += 2;
    char text[2048], value[CONFIG_TEXT + 150];
    memset(value, 'x', sizeof value);
    for (size_t length = CONFIG_TEXT + 80; length < sizeof value; length++) {
        snprintf(text, sizeof text, "[a_section_that_is_as_long_as_the_reader_takes_them]\nkey=%.*s\n", (int)length,
                 value);
        refuse_file(text, ":2:", "a");
    }
}

static void printed_reads_back(void **state) {
    (void)state;
    // A value away from its default for every row, as far as one is easily made.
    Config config, again;
    Error error = {0};
    config_defaults(&config);
    size_t changed = 0;
    for (size_t i = 0; i < config_key_count(); i++) {
        static const char *const tries[] = {
            "3",   "0.1234567890123456789", "true", "false", "ball", "same", "none", "taylor", "wsd", "a/b c;d#e",
            "copy"};
        char name[64], assignment[128], before[CONFIG_TEXT], after[CONFIG_TEXT];
        config_key_name(i, name);
        config_value(&config, i, before);
        for (size_t t = 0; t < sizeof tries / sizeof tries[0]; t++) {
            snprintf(assignment, sizeof assignment, "%s=%s", name, tries[t]);
            if (!config_set(&config, assignment, ORIGIN_COMMAND_LINE, NULL)) continue;
            config_value(&config, i, after);
            if (strcmp(before, after)) break;
        }
        changed += strcmp(before, after) != 0;
    }
    assert_true(changed > config_key_count() * 3 / 4);
    char path[512];
    snprintf(path, sizeof path, "%s/written.ini", temporary_directory());
    assert_true(config_write(&config, path, &error));
    config_defaults(&again);
    if (!config_read(&again, path, &error)) fail_msg("%s", error.message);
    for (size_t i = 0; i < config_key_count(); i++) {
        char name[64], first[CONFIG_TEXT], second[CONFIG_TEXT];
        config_key_name(i, name);
        config_value(&config, i, first);
        config_value(&again, i, second);
        if (strcmp(first, second)) fail_msg("%s was %s and read back as %s", name, first, second);
    }
    check_count("settings written and read back", config_key_count());
    // --print-config is a file, too: its remarks are comments, and say where a value comes from and which there are.
    assert_true(config_set(&again, "model.width=96", ORIGIN_COMMAND_LINE, NULL));
    assert_true(config_set(&again, "data.dir=", ORIGIN_DEFAULT, NULL) &&
                config_set(&again, "data.task=", ORIGIN_DERIVED, NULL));
    FILE *file = fopen(path, "w");
    config_print(&again, file, true);
    fclose(file);
    size_t size;
    char *printed = file_read_all(path, 1 << 20, &size, &error);
    static const char *const remarks[] = {" ; command line | ",
                                          " ; default | ",
                                          " ; derived | ",
                                          "written.ini:",
                                          "| learning rate over steps (cosine,linear,wsd,constant)\n",
                                          "(mqar,induction,copy,needle)\n"};
    for (size_t i = 0; i < sizeof remarks / sizeof *remarks; i++)
        if (!printed || !strstr(printed, remarks[i])) fail_msg("\"%s\" is not in:\n%s", remarks[i], printed);
    free(printed);
    config_defaults(&again);
    for (size_t i = 0; i < config_key_count(); i++) config_value(&again, i, (char[CONFIG_TEXT]){0});
    if (!config_read(&again, path, &error)) fail_msg("%s", error.message);
}

static void overlay_takes_what_was_set(void **state) {
    (void)state;
    Config base, over;
    config_defaults(&base);
    config_defaults(&over);
    assert_true(config_set(&base, "model.width=64", ORIGIN_FILE, NULL));
    assert_true(config_set(&base, "model.layers=2", ORIGIN_FILE, NULL));
    assert_true(config_set(&over, "model.layers=5", ORIGIN_COMMAND_LINE, NULL));
    assert_true(config_set(&over, "model.heads=2", ORIGIN_FILE, NULL));
    config_overlay(&base, &over);
    assert_int_equal(base.width, 64);
    assert_int_equal(base.layers, 5);
    assert_int_equal(base.heads, 2);
    check_count("overlays", 3);
}

static void words_are_near(void **state) {
    (void)state;
    assert_int_equal(words_distance("layers", "layers"), 0);
    assert_int_equal(words_distance("layres", "layers"), 1);
    assert_int_equal(words_distance("", "abc"), 3);
    assert_int_equal(words_distance("kitten", "sitting"), 3);
    char nearest[64];
    assert_true(words_nearest("trian", "prepare,train,eval", nearest, sizeof nearest));
    assert_string_equal(nearest, "train");
    assert_false(words_nearest("xyzzy", "prepare,train,eval", nearest, sizeof nearest));
    // Text is cut between characters only.
    assert_int_equal(text_whole("a\xc3", 2), 1);
    assert_int_equal(text_whole("a\xe2\x82", 3), 1);
    assert_int_equal(text_whole("a\xe2\x82\xac", 4), 4);
    assert_int_equal(text_whole("\xf0\x9f\x98", 3), 0);
    assert_int_equal(text_whole("\x80\x80\x80\x80", 4), 4);
    assert_int_equal(text_whole("", 0), 0);
    check_count("words", 13);
    check_count("refusals", refusals);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(files_are_read),
    cmocka_unit_test(files_are_refused),
    cmocka_unit_test(settings_are_refused),
    cmocka_unit_test(checksums_of_tables),
    cmocka_unit_test(files_that_cannot_be_read),
    cmocka_unit_test(printed_reads_back),
    cmocka_unit_test(overlay_takes_what_was_set),
    cmocka_unit_test(words_are_near),
};
TEST_MAIN(tests)
