// Charts made of areas: stacked bars and heat maps (chart.h).
#include <math.h>

#include "train/chart_internal.h"

// What a bar can show of a value.
static double extent(double value) { return isfinite(value) && value > 0 ? value : 0; }

// "attention_forward" as people write it.
static void spaced(char *text, size_t size, const char *name) {
    snprintf(text, size, "%s", name);
    for (; *text; text++)
        if (*text == '_') *text = ' ';
}

// One bar below its name, its parts side by side.
static void bar_svg(FILE *out, const ChartBars *bars, size_t bar, double y, double scale) {
    enum { NAME = 24, BAR = 26 };
    double x = 0, total = 0;
    char label[64];
    chart_text_at(out, 0, y + NAME - 6, "tick", "start", bars->bars[bar]);
    for (size_t p = 0; p < bars->part_count; p++) {
        double value = extent(bars->values[bar * bars->part_count + p]);
        fprintf(out, "<rect class=\"part p%zu\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%d\"><title>", p, x,
                y + NAME, value * scale, BAR);
        spaced(label, sizeof label, bars->parts[p]);
        chart_escape(out, label);
        fprintf(out, ": %.4g ", value);
        chart_escape(out, bars->unit);
        fputs("</title></rect>\n", out);
        x += value * scale;
        total += value;
    }
    snprintf(label, sizeof label, "%.4g %s", total, bars->unit);
    chart_text_at(out, x + 8, y + NAME + BAR / 2.0 + 5, "tick", "start", label);
}

void chart_bars_svg(FILE *out, const ChartBars *bars) {
    enum { LINE = 64, TOTAL = 140 };
    double largest = 0;
    char name[64];
    for (size_t b = 0; b < bars->bar_count; b++) {
        double total = 0;
        for (size_t p = 0; p < bars->part_count; p++) total += extent(bars->values[b * bars->part_count + p]);
        largest = fmax(largest, total);
    }
    if (!(largest > 0)) {
        fputs("<p>No data yet.</p>\n", out);
        return;
    }
    chart_open_svg(out, bars->title, bars->caption, (double)bars->bar_count * LINE);
    for (size_t b = 0; b < bars->bar_count; b++)
        bar_svg(out, bars, b, (double)b * LINE, (CHART_WIDTH - TOTAL) / largest);
    fputs("</svg>\n<ul class=\"legend\">", out);
    for (size_t p = 0; p < bars->part_count; p++) {
        double sum = 0;
        for (size_t b = 0; b < bars->bar_count; b++) sum += extent(bars->values[b * bars->part_count + p]);
        spaced(name, sizeof name, bars->parts[p]);
        if (sum > 0) chart_legend_entry(out, "p", p, "", name);
    }
    fputs("</ul>\n", out);
}

// One cell: shade from 0 to 1, its value as text where there is room.
static void cell_svg(FILE *out, double x, double y, double width, double height, double shade, double value) {
    char label[32];
    fprintf(out, "<rect class=\"cell\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill-opacity=\"%.3f\">", x,
            y, width - 2, height - 2, 0.08 + 0.92 * shade);
    fprintf(out, "<title>%.4g</title></rect>\n", value);
    snprintf(label, sizeof label, "%.1e", value);
    if (width >= 56)
        chart_text_at(out, x + width / 2 - 1, y + height / 2 + 4,
                      shade > 0.5   ? width < 100 ? "value dark wide" : "value dark"
                      : width < 100 ? "value wide"
                                    : "value",
                      "middle", label);
}

void chart_heat_svg(FILE *out, const ChartHeat *heat) {
    enum { LABELS = 84, HEADER = 24, LINE = 30, FOOTER = 34 };
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
    double width = (CHART_WIDTH - LABELS - CHART_RIGHT) / (double)heat->columns,
           from = heat->log_scale ? log(low) : low;
    double span = (heat->log_scale ? log(high) : high) - from;
    char label[64];
    chart_open_svg(out, heat->title, heat->caption, HEADER + (double)heat->rows * LINE + FOOTER);
    for (size_t r = 0; r < heat->rows; r++) {
        double y = HEADER + (double)r * LINE;
        snprintf(label, sizeof label, "%s %zu", heat->row_label, r);
        chart_text_at(out, LABELS - 8, y + LINE / 2.0 + 4, "tick", "end", label);
        for (size_t c = 0; c < heat->columns; c++) {
            double value = heat->values[r * heat->columns + c];
            if (!isfinite(value)) continue;
            double position = heat->log_scale ? (value > 0 ? log(value) : from) : value;
            cell_svg(out, LABELS + (double)c * width, y, width, LINE, span > 0 ? (position - from) / span : 0.5, value);
        }
    }
    for (size_t c = 0; c < heat->columns; c++) {
        snprintf(label, sizeof label, "%s %zu", heat->column_label, c);
        if (width >= 48 || c % 4 == 0)
            chart_text_at(out, LABELS + ((double)c + 0.5) * width, HEADER - 8,
                          width < 90 && c % 4 ? "tick wide" : "tick", "middle", label);
    }
    snprintf(label, sizeof label, "from %.2e to %.2e", low, high);
    chart_text_at(out, LABELS, HEADER + (double)heat->rows * LINE + 22, "tick", "start", label);
    fputs("</svg>\n", out);
}
