// Charts: axes that hold the data between round ticks, text that cannot break a page, and drawings of nothing, of one
// point, and of what is not a number.
#include "train/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "tests/support/check.h"

static double place(const ChartAxis *axis, double value) { return axis->logarithmic ? log10(value) : value; }

// 1, 2 or 5 times a power of ten
static bool is_round(double value) {
    double exponent = floor(log10(value) + 1e-9), digit = value / pow(10, exponent);
    return fabs(digit - 1) < 1e-6 || fabs(digit - 2) < 1e-6 || fabs(digit - 5) < 1e-6;
}

static void check_axis(double low, double high, bool logarithmic) {
    ChartAxis axis = chart_axis(low, high, logarithmic);
    double span = axis.high - axis.low, slack = 1e-8 * span;
    assert_true(isfinite(span) && span > 0 && axis.logarithmic == logarithmic);
    assert_true(axis.low <= place(&axis, low) + slack && place(&axis, high) <= axis.high + slack);
    assert_true(axis.tick_count >= 2 && axis.tick_count <= 16);
    for (size_t i = 0; i < axis.tick_count; i++) {
        double at = place(&axis, axis.ticks[i]);
        assert_true(at >= axis.low - slack && at <= axis.high + slack);
        if (i > 0) assert_true(axis.ticks[i] > axis.ticks[i - 1]);
        if (logarithmic && frexp(axis.ticks[i], &(int){0}) != 0.5) assert_true(is_round(axis.ticks[i]));
    }
    if (logarithmic) return;
    double step = axis.ticks[1] - axis.ticks[0], size = fmax(fabs(axis.low), fabs(axis.high));
    if (step > 1e-6 * size) { // closer ticks lose the digits that this needs
        assert_true(is_round(step));
        for (size_t i = 1; i < axis.tick_count; i++)
            assert_true(fabs(axis.ticks[i] - axis.ticks[i - 1] - step) < 1e-6 * step);
    }
    // ends are ticks, and the data fill more than half of the axis
    assert_true(fabs(axis.ticks[0] - axis.low) <= slack && fabs(axis.ticks[axis.tick_count - 1] - axis.high) <= slack);
    if (high - low > 2e-4 * size) assert_true(high - low > 0.5 * span);
}

static void test_axes(void **state) {
    (void)state;
    Random random = {1, RANDOM_TEST, 2};
    enum { RANGES = 20000 };
    for (uint64_t i = 0; i < RANGES; i++) {
        double middle = pow(10, 30 * random_uniform(random, 4 * i) - 15),
               share = pow(10, -7 * random_uniform(random, 4 * i + 1));
        double sign = random_uniform(random, 4 * i + 2) < 0.5 ? -1 : 1;
        check_axis(sign * middle - share * middle, sign * middle + share * middle, false);
        check_axis(middle, middle * pow(10, 12 * random_uniform(random, 4 * i + 3)), true);
    }
    static const double ends[][2] = {{0, 0},     {1, 1},          {-3, -3},         {0, 1e-300},
                                     {0, 1e299}, {-1e299, 1e299}, {1e16, 1e16 + 2}, {5e-324, 1e-320},
                                     {0.1, 0.3}, {2.01, 2.03},    {-1, 1},          {99.99, 100}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) check_axis(ends[i][0], ends[i][1], false);
    for (int low = -300; low < 300; low += 7)
        for (int high = low; high < 300; high += 13) check_axis(pow(10, low), pow(10, high), true);
    check_count("axes", 2 * RANGES + sizeof ends / sizeof *ends);
}

static void test_context_lengths(void **state) {
    (void)state;
    size_t cases = 0;
    for (int low = 0; low <= 12; low++)
        for (int high = low + 3; high <= low + 14; high++, cases++) {
            ChartAxis axis = chart_axis(exp2(low), exp2(high), true);
            assert_int_equal(axis.tick_count, high - low + 1);
            for (size_t i = 0; i < axis.tick_count; i++) assert_true(axis.ticks[i] == exp2(low + (int)i));
        }
    check_count("axes of powers of two", cases);
}

static void test_ticks(void **state) {
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"},
                 {0.001, "0.001"},
                 {0.00015, "0.00015"},
                 {1e-5, "1e-05"},
                 {1.5e-7, "1.5e-07"},
                 {250, "250"},
                 {-2.5, "-2.5"},
                 {1000, "1000"},
                 {1024, "1K"},
                 {65536, "64K"},
                 {128000, "128000"},
                 {1500000, "1.5M"},
                 {2e7, "20M"},
                 {1048576, "1.04858M"},
                 {3e9, "3e+09"},
                 {0.30000000000000004, "0.3"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        chart_tick(text, sizeof text, cases[i].value);
        assert_string_equal(text, cases[i].text);
    }
    // neighbours on an axis never look the same
    Random random = {2, RANDOM_TEST, 3};
    for (uint64_t i = 0; i < 5000; i++) {
        double low = pow(10, 20 * random_uniform(random, 2 * i) - 8),
               high = low * (1 + 9 * pow(10, -12 * random_uniform(random, 2 * i + 1)));
        ChartAxis axis = chart_axis(low, high, false);
        char before[32] = "";
        for (size_t t = 0; t < axis.tick_count; t++) {
            char text[32];
            chart_tick(text, sizeof text, axis.ticks[t]);
            assert_string_not_equal(text, before);
            memcpy(before, text, sizeof text);
        }
    }
    check_count("labels", sizeof cases / sizeof *cases + 5000);
}

typedef void (*Draw)(FILE *out, const void *what);
static void draw_chart(FILE *out, const void *what) { chart_svg(out, what); }
static void draw_bars(FILE *out, const void *what) { chart_bars_svg(out, what); }
static void draw_heat(FILE *out, const void *what) { chart_heat_svg(out, what); }
static void draw_unicode(FILE *out, const void *what) { chart_text(out, what, 40, 8, true); }
static void draw_ascii(FILE *out, const void *what) { chart_text(out, what, 40, 8, false); }

// What a drawing writes; malloc'd.
static char *drawn(Draw draw, const void *what) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    draw(out, what);
    assert_int_equal(fclose(out), 0);
    return text;
}

static size_t occurrences(const char *text, const char *part) {
    size_t count = 0;
    for (; (text = strstr(text, part)); text++) count++;
    return count;
}

// Markup that is closed, and no number that is none.
static void check_markup(const char *text) {
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    static const char *const elements[] = {"svg", "text", "g", "title", "circle", "ul", "li", "p"};
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++) {
        char open[16], bare[16], close[16];
        snprintf(open, sizeof open, "<%s ", elements[i]);
        snprintf(bare, sizeof bare, "<%s>", elements[i]);
        snprintf(close, sizeof close, "</%s>", elements[i]);
        assert_int_equal(occurrences(text, open) + occurrences(text, bare), occurrences(text, close));
    }
}

static const double values_x[] = {1, 2, NAN, 4, 5, INFINITY, -1, 0}, values_y[] = {3, NAN, 5, 1, INFINITY, 2, 6, -2};

static bool can_be_drawn(int logs, double x, double y) {
    return isfinite(x) && isfinite(y) && (!(logs & 1) || x > 0) && (!(logs & 2) || y > 0);
}

static void test_drawings(void **state) {
    (void)state;
    size_t cases = 0;
    for (int logs = 0; logs < 4; logs++)
        for (size_t count = 0; count <= 8; count++, cases++) {
            const ChartSeries series[] = {{"a", values_x, values_y, count, false, 0},
                                          {"b", values_y, values_x, count, true, 0}};
            const Chart chart = {"title", "caption", "x", "y", logs & 1, logs & 2, series, 2};
            char *svg = drawn(draw_chart, &chart), *text = drawn(draw_unicode, &chart),
                 *ascii = drawn(draw_ascii, &chart);
            check_markup(svg);
            size_t points = 0, alone = 0;
            for (size_t i = 0; i < count; i++) {
                points += can_be_drawn(logs, values_x[i], values_y[i]);
                alone += can_be_drawn(logs, values_y[i], values_x[i]) &&
                         (i == 0 || !can_be_drawn(logs, values_y[i - 1], values_x[i - 1])) &&
                         (i + 1 == count || !can_be_drawn(logs, values_y[i + 1], values_x[i + 1]));
            }
            if (count == 0) assert_non_null(strstr(svg, "No data"));
            assert_int_equal(occurrences(svg, "<circle"), points + alone); // b is dashed: only where it is no line
            if (points) assert_true(occurrences(text, "●") >= 1 && occurrences(text, "\n") >= 11);
            for (const char *p = ascii; *p; p++) assert_true(*p == '\n' || (*p >= ' ' && *p <= '~'));
            free(svg);
            free(text);
            free(ascii);
        }
    check_count("charts", cases);
}

// A point without a neighbour is no line, so it has a marker, in series as well whose lines have none.
static void test_lone_points(void **state) {
    (void)state;
    enum { DENSE = 100 };
    double x[DENSE], y[DENSE];
    for (size_t i = 0; i < DENSE; i++) x[i] = (double)i, y[i] = i == 1 || i == 3 || i == 98 ? NAN : 1;
    const struct {
        size_t from, count;
        bool dashed;
        size_t markers;
    } cases[] = {{0, 1, true, 1},  {0, 1, false, 1},  {0, 2, true, 1},      {0, 4, true, 2},
                 {4, 90, true, 0}, {4, 90, false, 0}, {0, 90, false, 2},    {90, 10, true, 1},
                 {1, 1, true, 0},  {0, 0, true, 0},   {0, DENSE, false, 3}, {0, DENSE, true, 3}};
    const ChartSeries whole = {"line", x + 4, y + 4, 90, true, 0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const ChartSeries series[] = {whole,
                                      {"a", x + cases[i].from, y + cases[i].from, cases[i].count, cases[i].dashed, 0}};
        char *svg = drawn(draw_chart, &(Chart){"t", "c", "x", "y", false, false, series, 2});
        check_markup(svg);
        if (occurrences(svg, cases[i].dashed ? "<circle class=\"ring s1" : "<circle class=\"dot s1") !=
                cases[i].markers ||
            occurrences(svg, "<circle") != cases[i].markers)
            fail_msg("case %zu: %s", i, svg);
        free(svg);
    }
    check_count("series with lone points", sizeof cases / sizeof *cases);
}

// On a narrow page (report.c) ticks are 23 and labels 25 units high: the one at the top of the axis must not run into
// the label above it, nor the lowest one into the first of the other axis, nor that into the label below.
static void test_room_for_text(void **state) {
    (void)state;
    enum { TICK = 23, LABEL = 25 };
    const double x[] = {128, 4096}, y[] = {10, 10000}, digit = 0.75 * TICK, capital = 0.75 * LABEL,
                 descender = 0.25 * LABEL;
    const ChartSeries series = {"a", x, y, 2, false, 0};
    char *svg = drawn(draw_chart, &(Chart){"title", "caption", "x", "gyp", true, true, &series, 1});
    double ticks[32], labels[2];
    size_t tick_count = 0, label_count = 0;
    for (const char *at = svg; (at = strstr(at, "<text ")); at++) {
        double height;
        char class[16];
        assert_int_equal(sscanf(at, "<text x=\"%*f\" y=\"%lf\" class=\"%15[a-z]\"", &height, class), 2);
        if (!strcmp(class, "tick"))
            ticks[tick_count++] = height;
        else
            labels[label_count++] = height;
        assert_true(tick_count < 32 && label_count <= 2);
    }
    free(svg);
    assert_int_equal(label_count, 2);
    double top = INFINITY, low = -INFINITY;
    for (size_t i = 0; i < tick_count; i++) {
        top = fmin(top, ticks[i]);
        if (ticks[i] != ticks[0]) low = fmax(low, ticks[i]); // the first ones are those of the x axis, in a line
    }
    assert_true(top - digit >= labels[1] + descender + 1);
    assert_true(ticks[0] - digit >= low + 1);
    assert_true(labels[0] - capital >= ticks[0] + 1);
    check_count("gaps between lines of text", 3);
}

static void test_bars_and_heat(void **state) {
    (void)state;
    static const char *const names[] = {"one", "two"}, *const parts[] = {"p", "q", "r"};
    const double some[] = {1, 2, 3, 4, 0, 0}, none[6] = {0}, broken[] = {1, NAN, 2, INFINITY, -1, 3};
    const double *const inputs[] = {some, none, broken};
    for (size_t i = 0; i < 3; i++) {
        char *bars = drawn(draw_bars, &(ChartBars){"t", "c", "ms", names, parts, inputs[i], 2, 3});
        check_markup(bars);
        assert_true((strstr(bars, "No data") != NULL) == (i == 1));
        assert_true(i == 1 || strstr(bars, i == 0 ? ">6 ms<" : ">3 ms<")); // the sums, without what cannot be drawn
        assert_null(strstr(bars, "=\"-"));                                 // no negative width
        free(bars);
        for (int log_scale = 0; log_scale < 2; log_scale++) {
            char *heat = drawn(draw_heat, &(ChartHeat){"t", "c", "layer", "head", inputs[i], 2, 3, log_scale});
            check_markup(heat);
            free(heat);
        }
    }
    check_count("bars and heat maps", 9);
}

static void test_escapes(void **state) {
    (void)state;
    const char *hostile = "<script>\"&'</svg>\x01\x7f é";
    const ChartSeries series = {hostile, values_x, values_y, 1, false, 0};
    const double one = 1;
    char *texts[] = {
        drawn(draw_chart, &(Chart){hostile, hostile, hostile, hostile, false, false, &series, 1}),
        drawn(draw_bars, &(ChartBars){hostile, hostile, hostile, &hostile, &hostile, &one, 1, 1}),
        drawn(draw_heat, &(ChartHeat){hostile, hostile, hostile, hostile, &one, 1, 1, false}),
    };
    for (size_t i = 0; i < 3; i++) {
        assert_null(strstr(texts[i], "<script"));
        assert_null(strstr(texts[i], "\"&'"));
        assert_int_equal(occurrences(texts[i], "</svg>"), 1);
        assert_non_null(strstr(texts[i], "&lt;script&gt;&quot;&amp;"));
        assert_null(strchr(texts[i], 1)); // control characters are in no HTML
        free(texts[i]);
    }
    check_count("hostile names", 3);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_axes),          cmocka_unit_test(test_context_lengths), cmocka_unit_test(test_ticks),
    cmocka_unit_test(test_drawings),      cmocka_unit_test(test_bars_and_heat),   cmocka_unit_test(test_escapes),
    cmocka_unit_test(test_room_for_text), cmocka_unit_test(test_lone_points),
};
TEST_MAIN(tests)
