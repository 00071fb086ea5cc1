// Axes with round ticks, and the SVG of charts (chart.h). Colours, strokes and type come from the report's style sheet,
// so that one drawing serves light, dark and print.
#include <math.h>

#include "train/chart_internal.h"

enum { WIDTH = CHART_WIDTH, HEIGHT = 420, LEFT = 84, RIGHT = CHART_RIGHT, TOP = 40, BOTTOM = 62 };

void chart_escape(FILE *out, const char *text) {
    for (; *text; text++) switch (*text) {
        case '&': fputs("&amp;", out); break;
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '"': fputs("&quot;", out); break;
        case ' ': fputs(text[1] == '%' ? "&nbsp;" : " ", out); break; // a number keeps its sign
        default:
            if ((unsigned char)*text >= ' ' && *text != 127)
                fputc(*text, out);
            else if (*text == '\n')
                fputc('\n', out); // no other control character is allowed in a page
        }
}

void chart_tick(char *text, size_t size, double value) {
    double magnitude = fabs(value);
    int exponent;
    if (magnitude >= 1024 && magnitude < 1048576 && frexp(magnitude, &exponent) == 0.5)
        snprintf(text, size, "%gK", value / 1024);
    else if (magnitude >= 1e6 && magnitude < 1e9)
        snprintf(text, size, "%.6gM", value / 1e6);
    else
        snprintf(text, size, "%.6g", value);
}

// An axis narrower than this share of its values would have the same label, of six digits, at several ticks.
static const double least_share = 2e-4;

static void add_tick(ChartAxis *axis, double value) {
    if (axis->tick_count < sizeof axis->ticks / sizeof *axis->ticks) axis->ticks[axis->tick_count++] = value;
}

// Steps of 1, 2 or 5 times a power of ten that give four to eight ticks.
static ChartAxis linear_axis(double low, double high) {
    ChartAxis axis = {.low = low, .high = high};
    double size = fmax(fabs(low), fabs(high));
    if (!(high - low > 1e-9 * size) || size < 1e-290) { // as good as one value: room on both sides
        axis.low = low - (size > 1e-290 ? size / 10 : 1);
        axis.high = high + (size > 1e-290 ? size / 10 : 1);
    }
    const double missing = least_share * size - (axis.high - axis.low);
    if (missing > 0) axis.low -= missing / 2, axis.high += missing / 2;
    double raw = (axis.high - axis.low) / 5, power = pow(10, floor(log10(raw)));
    double step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
    double first = floor(axis.low / step + 1e-9), last = ceil(axis.high / step - 1e-9);
    for (double tick = first; tick <= last; tick++) add_tick(&axis, tick * step);
    axis.low = fmin(axis.low, first * step);
    axis.high = fmax(axis.high, last * step);
    return axis;
}

// Powers of two where both ends are, a factor of eight apart at least (context lengths, distances); else powers of ten,
// with 2 and 5 between them over few decades.
static ChartAxis log_axis(double low, double high) {
    ChartAxis axis = {.logarithmic = true};
    double exponent_low = log2(low), exponent_high = log2(high);
    bool binary = low >= 1 && exponent_high - exponent_low >= 3 && exponent_high - exponent_low <= 14 &&
                  exponent_low == floor(exponent_low) && exponent_high == floor(exponent_high);
    if (binary) {
        for (double e = exponent_low; e <= exponent_high; e++) add_tick(&axis, exp2(e));
        axis.low = log10(low);
        axis.high = log10(high);
        return axis;
    }
    axis.low = floor(log10(low) + 1e-9);
    axis.high = ceil(log10(high) - 1e-9);
    if (axis.high <= axis.low) axis.high = axis.low + 1;
    double decades = axis.high - axis.low, stride = ceil(decades / 10);
    for (double e = axis.low; e <= axis.high; e += stride) {
        add_tick(&axis, pow(10, e));
        if (decades <= 3 && e < axis.high) {
            add_tick(&axis, 2 * pow(10, e));
            add_tick(&axis, 5 * pow(10, e));
        }
    }
    return axis;
}

ChartAxis chart_axis(double low, double high, bool logarithmic) {
    return logarithmic ? log_axis(low, high) : linear_axis(low, high);
}

static double place(const ChartAxis *axis, double value, double from, double to) {
    double position = axis->logarithmic ? log10(value) : value;
    return from + (position - axis->low) / (axis->high - axis->low) * (to - from);
}

bool chart_drawable(const Chart *chart, double x, double y) {
    const double largest = 1e300; // differences are finite too
    return fabs(x) < largest && fabs(y) < largest && (!chart->log_x || x > 0) && (!chart->log_y || y > 0);
}

bool chart_ranges(const Chart *chart, ChartAxis *x_axis, ChartAxis *y_axis) {
    double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
    for (size_t s = 0; s < chart->series_count; s++)
        for (size_t i = 0; i < chart->series[s].count; i++) {
            double point[2] = {chart->series[s].x[i], chart->series[s].y[i]};
            if (!chart_drawable(chart, point[0], point[1])) continue;
            for (size_t a = 0; a < 2; a++) {
                low[a] = fmin(low[a], point[a]);
                high[a] = fmax(high[a], point[a]);
            }
        }
    if (!isfinite(low[0])) return false;
    *x_axis = chart_axis(low[0], high[0], chart->log_x);
    *y_axis = chart_axis(low[1], high[1], chart->log_y);
    return true;
}

void chart_open_svg(FILE *out, const char *title, const char *caption, double height) {
    fprintf(out, "<svg viewBox=\"0 0 %d %g\" role=\"img\" aria-label=\"", WIDTH, height);
    chart_escape(out, title);
    fputs(". ", out);
    chart_escape(out, caption);
    fputs("\">\n", out);
}

void chart_text_at(FILE *out, double x, double y, const char *class, const char *anchor, const char *text) {
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">", x, y, class, anchor);
    chart_escape(out, text);
    fputs("</text>\n", out);
}

static void axes_svg(FILE *out, const Chart *chart, const ChartAxis *x_axis, const ChartAxis *y_axis) {
    char label[32];
    for (size_t i = 0; i < x_axis->tick_count; i++) {
        double x = place(x_axis, x_axis->ticks[i], LEFT, WIDTH - RIGHT);
        fprintf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", x, x, TOP,
                HEIGHT - BOTTOM);
        chart_tick(label, sizeof label, x_axis->ticks[i]);
        chart_text_at(out, x, HEIGHT - BOTTOM + 26, "tick", "middle", label);
    }
    for (size_t i = 0; i < y_axis->tick_count; i++) {
        double y = place(y_axis, y_axis->ticks[i], HEIGHT - BOTTOM, TOP);
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT, WIDTH - RIGHT, y, y);
        chart_tick(label, sizeof label, y_axis->ticks[i]);
        chart_text_at(out, LEFT - 8, y + 4, "tick", "end", label);
    }
    chart_text_at(out, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10, "label", "middle", chart->x_label);
    chart_text_at(out, 0, 18, "label", "start", chart->y_label); // upright, where nothing is in its way
}

static size_t colour_of(const Chart *chart, size_t index) {
    size_t colour = chart->series[index].colour;
    return colour ? colour - 1 : index;
}

// A line has no length here: its neighbours, if any, cannot be drawn.
static bool lone(const Chart *chart, const ChartSeries *series, size_t i) {
    return (i == 0 || !chart_drawable(chart, series->x[i - 1], series->y[i - 1])) &&
           (i + 1 == series->count || !chart_drawable(chart, series->x[i + 1], series->y[i + 1]));
}

static void series_svg(FILE *out, const Chart *chart, size_t index, const ChartAxis *x_axis, const ChartAxis *y_axis) {
    const ChartSeries *series = &chart->series[index];
    size_t colour = colour_of(chart, index);
    bool pen_down = false;
    fprintf(out, "<path class=\"series s%zu%s\" d=\"", colour, series->dashed ? " dashed" : "");
    for (size_t i = 0; i < series->count; i++) {
        bool here = chart_drawable(chart, series->x[i], series->y[i]);
        if (here)
            fprintf(out, "%c%.1f %.1f", pen_down ? 'L' : 'M', place(x_axis, series->x[i], LEFT, WIDTH - RIGHT),
                    place(y_axis, series->y[i], HEIGHT - BOTTOM, TOP));
        pen_down = here;
    }
    fputs("\"/>\n", out);
    const bool all = !series->dashed && series->count <= 60; // markers would hide a dense line
    for (size_t i = 0; i < series->count; i++) {
        if (!chart_drawable(chart, series->x[i], series->y[i]) || !(all || lone(chart, series, i))) continue;
        fprintf(out, "<circle class=\"%s s%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"%g\"><title>",
                series->dashed ? "ring" : "dot", colour, // hollow beside another of its colour, as dashes are
                place(x_axis, series->x[i], LEFT, WIDTH - RIGHT), place(y_axis, series->y[i], HEIGHT - BOTTOM, TOP),
                index == 0 ? 4.5 : 3.5); // the first one can be seen below another that equals it
        chart_escape(out, series->name);
        fprintf(out, ": %.6g at %.6g</title></circle>\n", series->y[i], series->x[i]);
    }
}

void chart_legend_entry(FILE *out, const char *kind, size_t colour, const char *look, const char *name) {
    fprintf(out, "<li><span class=\"key %s%zu%s\"></span>", kind, colour, look);
    chart_escape(out, name);
    fputs("</li>", out);
}

void chart_svg(FILE *out, const Chart *chart) {
    ChartAxis x_axis, y_axis;
    if (!chart_ranges(chart, &x_axis, &y_axis)) {
        fputs("<p>No data yet.</p>\n", out);
        return;
    }
    chart_open_svg(out, chart->title, chart->caption, HEIGHT);
    axes_svg(out, chart, &x_axis, &y_axis);
    for (size_t s = 0; s < chart->series_count; s++) series_svg(out, chart, s, &x_axis, &y_axis);
    fputs("</svg>\n<ul class=\"legend\">", out);
    for (size_t s = 0; s < chart->series_count; s++)
        chart_legend_entry(out, "k", colour_of(chart, s), chart->series[s].dashed ? " dashed" : "",
                           chart->series[s].name);
    fputs("</ul>\n", out);
}
