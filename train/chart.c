// Axes with round ticks, and the SVG of charts (chart.h). Colours, strokes and type come from the report's style sheet,
// so that one drawing serves light, dark and print.
#include <math.h>

#include "train/chart_internal.h"

enum { WIDTH = 720, HEIGHT = 400, LEFT = 72, RIGHT = 16, TOP = 16, BOTTOM = 52 };

void chart_escape(FILE *out, const char *text) {
    for (; *text; text++) switch (*text) {
        case '&': fputs("&amp;", out); break;
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '"': fputs("&quot;", out); break;
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
    else if (magnitude >= 1e9)
        snprintf(text, size, "%.4g", value);
    else if (magnitude >= 1e6)
        snprintf(text, size, "%.6gM", value / 1e6);
    else
        snprintf(text, size, "%.6g", value);
}

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

static void open_svg(FILE *out, const char *title, const char *caption, double height) {
    fprintf(out, "<svg viewBox=\"0 0 %d %g\" role=\"img\" aria-label=\"", WIDTH, height);
    chart_escape(out, title);
    fputs(". ", out);
    chart_escape(out, caption);
    fputs("\">\n", out);
}

static void text_at(FILE *out, double x, double y, const char *class, const char *anchor, const char *text) {
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
        text_at(out, x, HEIGHT - BOTTOM + 18, "tick", "middle", label);
    }
    for (size_t i = 0; i < y_axis->tick_count; i++) {
        double y = place(y_axis, y_axis->ticks[i], HEIGHT - BOTTOM, TOP);
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT, WIDTH - RIGHT, y, y);
        chart_tick(label, sizeof label, y_axis->ticks[i]);
        text_at(out, LEFT - 8, y + 4, "tick", "end", label);
    }
    text_at(out, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10, "label", "middle", chart->x_label);
    fprintf(out, "<g transform=\"translate(16 %g) rotate(-90)\">", (TOP + HEIGHT - BOTTOM) / 2.0);
    text_at(out, 0, 0, "label", "middle", chart->y_label);
    fputs("</g>\n", out);
}

static void series_svg(FILE *out, const Chart *chart, size_t index, const ChartAxis *x_axis, const ChartAxis *y_axis) {
    const ChartSeries *series = &chart->series[index];
    bool pen_down = false;
    fprintf(out, "<path class=\"series s%zu%s\" d=\"", index % CHART_MAX_SERIES, series->dashed ? " dashed" : "");
    for (size_t i = 0; i < series->count; i++) {
        bool here = chart_drawable(chart, series->x[i], series->y[i]);
        if (here)
            fprintf(out, "%c%.1f %.1f", pen_down ? 'L' : 'M', place(x_axis, series->x[i], LEFT, WIDTH - RIGHT),
                    place(y_axis, series->y[i], HEIGHT - BOTTOM, TOP));
        pen_down = here;
    }
    fputs("\"/>\n", out);
    if (series->dashed || series->count > 60) return; // markers would hide a dense line
    for (size_t i = 0; i < series->count; i++) {
        if (!chart_drawable(chart, series->x[i], series->y[i])) continue;
        fprintf(out, "<circle class=\"dot s%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>", index % CHART_MAX_SERIES,
                place(x_axis, series->x[i], LEFT, WIDTH - RIGHT), place(y_axis, series->y[i], HEIGHT - BOTTOM, TOP));
        chart_escape(out, series->name);
        fprintf(out, ": %.6g at %.6g</title></circle>\n", series->y[i], series->x[i]);
    }
}

static void legend(FILE *out, const char *const *names, size_t count, const char *kind) {
    fputs("<ul class=\"legend\">", out);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "<li><span class=\"key %s%zu\"></span>", kind, i);
        chart_escape(out, names[i]);
        fputs("</li>", out);
    }
    fputs("</ul>\n", out);
}

void chart_svg(FILE *out, const Chart *chart) {
    ChartAxis x_axis, y_axis;
    const char *names[CHART_MAX_SERIES];
    if (!chart_ranges(chart, &x_axis, &y_axis)) {
        fputs("<p>No data yet.</p>\n", out);
        return;
    }
    open_svg(out, chart->title, chart->caption, HEIGHT);
    axes_svg(out, chart, &x_axis, &y_axis);
    for (size_t s = 0; s < chart->series_count; s++) {
        series_svg(out, chart, s, &x_axis, &y_axis);
        names[s] = chart->series[s].name;
    }
    fputs("</svg>\n", out);
    legend(out, names, chart->series_count, "k");
}

// What a bar can show of a value.
static double extent(double value) { return isfinite(value) && value > 0 ? value : 0; }

void chart_bars_svg(FILE *out, const ChartBars *bars) {
    enum { BAR = 26, GAP = 16, NAME = 150, TOTAL = 90 };
    double largest = 0;
    for (size_t b = 0; b < bars->bar_count; b++) {
        double total = 0;
        for (size_t p = 0; p < bars->part_count; p++) total += extent(bars->values[b * bars->part_count + p]);
        largest = fmax(largest, total);
    }
    if (!(largest > 0)) {
        fputs("<p>No data yet.</p>\n", out);
        return;
    }
    open_svg(out, bars->title, bars->caption, (double)bars->bar_count * (BAR + GAP) + GAP);
    for (size_t b = 0; b < bars->bar_count; b++) {
        double y = GAP + (double)b * (BAR + GAP), x = NAME, scale = (WIDTH - NAME - TOTAL) / largest, total = 0;
        text_at(out, NAME - 8, y + BAR / 2.0 + 5, "tick", "end", bars->bars[b]);
        for (size_t p = 0; p < bars->part_count; p++) {
            double value = extent(bars->values[b * bars->part_count + p]);
            fprintf(out, "<rect class=\"part p%zu\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%d\"><title>", p, x,
                    y, value * scale, BAR);
            chart_escape(out, bars->parts[p]);
            fprintf(out, ": %.4g ", value);
            chart_escape(out, bars->unit);
            fputs("</title></rect>\n", out);
            x += value * scale;
            total += value;
        }
        char label[48];
        snprintf(label, sizeof label, "%.4g %s", total, bars->unit);
        text_at(out, x + 8, y + BAR / 2.0 + 5, "tick", "start", label);
    }
    fputs("</svg>\n", out);
    legend(out, bars->parts, bars->part_count, "p");
}

void chart_heat_svg(FILE *out, const ChartHeat *heat) {
    enum { LABELS = 64, LINE = 28 };
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < heat->rows * heat->columns; i++) {
        double value = heat->values[i];
        if (!isfinite(value) || (heat->log_scale && value <= 0)) continue;
        low = fmin(low, value);
        high = fmax(high, value);
    }
    if (!isfinite(low)) {
        fputs("<p>No data yet.</p>\n", out);
        return;
    }
    double width = (WIDTH - LABELS - RIGHT) / (double)heat->columns, from = heat->log_scale ? log(low) : low;
    double span = (heat->log_scale ? log(high) : high) - from;
    char label[64];
    open_svg(out, heat->title, heat->caption, (double)heat->rows * LINE + 44);
    for (size_t r = 0; r < heat->rows; r++) {
        snprintf(label, sizeof label, "%s %zu", heat->row_label, r);
        text_at(out, LABELS - 8, 20 + (double)r * LINE + LINE / 2.0 + 4, "tick", "end", label);
        for (size_t c = 0; c < heat->columns; c++) {
            double value = heat->values[r * heat->columns + c], x = LABELS + (double)c * width;
            if (!isfinite(value)) continue;
            double position = heat->log_scale ? (value > 0 ? log(value) : from) : value;
            double shade = span > 0 ? (position - from) / span : 0.5;
            fprintf(out,
                    "<rect class=\"cell\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" fill-opacity=\"%.3f\"/>\n",
                    x, 20 + (double)r * LINE, width - 2, LINE - 2, 0.08 + 0.92 * shade);
            snprintf(label, sizeof label, "%.1e", value);
            if (width >= 52)
                text_at(out, x + width / 2 - 1, 20 + (double)r * LINE + LINE / 2.0 + 4,
                        shade > 0.5 ? "value dark" : "value", "middle", label);
        }
    }
    for (size_t c = 0; c < heat->columns; c++) {
        snprintf(label, sizeof label, "%s %zu", heat->column_label, c);
        if (width >= 40 || c % 4 == 0) text_at(out, LABELS + ((double)c + 0.5) * width, 14, "tick", "middle", label);
    }
    snprintf(label, sizeof label, "from %.2e to %.2e", low, high);
    text_at(out, LABELS, (double)heat->rows * LINE + 38, "label", "start", label);
    fputs("</svg>\n", out);
}
