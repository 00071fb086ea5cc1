// One HTML file per report (report.h): the style sheet, sections with figures and tables, and the data itself.
#include "train/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/json_text.h"

struct Report {
    char *text;
    size_t size;
    FILE *out;     // memory stream over text
    size_t tables; // so far
    bool in_section, incomplete;
};

// Colours that stay apart for colour-blind readers, in a light and a dark set; dashes tell bounds from measurements. On a
// phone a chart is less than half as wide, so what is written in it is twice as large; class wide is left out there.
static const char style[] =
    ":root{--ink:#1c2330;--soft:#5b6472;--page:#fff;--card:#f6f7f9;--rule:#d9dde3;--c0:#0067b1;--c1:#c84e00;"
    "--c2:#007a53;--c3:#a0357f;--c4:#8a6d00;--c5:#4b5bd0;--c6:#00788f;--c7:#7a4a2b;--c8:#6b7280;--c9:#b3261e;"
    "--c10:#3f8f2f;--c11:#444b57}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e7eaf0;--soft:#a3acba;--page:#14171d;--card:#1d222b;--rule:#343b47;"
    "--c0:#5cb3ff;--c1:#ff9457;--c2:#3ecf9b;--c3:#ef8fd0;--c4:#e0c04f;--c5:#98a4ff;--c6:#4fd0e6;--c7:#d6a280;"
    "--c8:#a3acba;--c9:#ff8a80;--c10:#8edc7c;--c11:#c9cfd9}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1rem;color:var(--ink);background:var(--page);"
    "font:16px/1.5 system-ui,sans-serif}h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.15rem;"
    "margin:2rem 0 .5rem}.lead{font-size:1.1rem;border-left:4px solid var(--c0);padding:.25rem .75rem;margin:1rem 0}"
    "figure{margin:1rem 0;padding:.75rem;background:var(--card);border-radius:.5rem;break-inside:avoid}"
    "figcaption{color:var(--soft);font-size:.9rem;margin-top:.25rem}figure h3{font-size:1rem;margin:0 0 .25rem}"
    "svg{width:100%;height:auto;display:block;overflow:visible}.grid{stroke:var(--rule);stroke-width:1}"
    ".tick{fill:var(--soft);font-size:14px}.value{fill:var(--ink);font-size:14px}.value.dark{fill:var(--page)}"
    ".label{fill:var(--ink);font-size:15px}.series{fill:none;stroke-width:2.25;stroke-linejoin:round}.ring{fill:none;"
    "stroke-width:2}"
    ".series.s0{stroke-width:4}.dashed{stroke-dasharray:6 5}.series.s0.dashed{stroke-width:2.25}.cell{fill:var(--c0)}"
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:.25rem 0;padding:0;font-size:.9rem}"
    ".key{display:inline-block;width:.9em;height:.9em;border-radius:.2em;margin-right:.4em;vertical-align:-.1em}"
    ".key.dashed{width:1.4em;height:0;border-radius:0;border-top:3px dashed;background:none!important;"
    "vertical-align:.25em}"
    ".table{padding:0;background:none}.table figcaption{margin-bottom:.25rem}.scroll{overflow-x:auto}"
    "table{border-collapse:collapse;font-size:.9rem;width:100%}th{white-space:normal;vertical-align:bottom}th,td{"
    "padding:.3rem .6rem;"
    "border-bottom:1px solid var(--rule);text-align:right;font-variant-numeric:tabular-nums}"
    "td{white-space:nowrap}.word,th:first-child,td:first-child{text-align:left}"
    "summary{cursor:pointer;padding:.25rem 0}pre{background:var(--card);padding:.75rem;overflow-x:auto;font-size:.8rem;"
    "border-radius:.5rem}\n"
    "@media(max-width:40rem){.tick{font-size:23px}.label{font-size:25px}.value{font-size:21px}.wide{display:none}"
    "figure{padding:.5rem}h1{font-size:1.35rem}th,td{padding:.3rem .45rem}}\n"
    "@media print{body{max-width:none;font-size:11pt}details::details-content{content-visibility:visible;height:auto}"
    "table{font-size:8.5pt}th,td{padding:.15rem .3rem}pre{white-space:pre-wrap;font-size:7.5pt;columns:2}"
    "summary{list-style:none}h1,h2,h3,h4,summary{break-after:avoid}figure svg{max-height:9cm}}\n";

static void colours(FILE *out) {
    for (int i = 0; i < 12; i++) {
        fprintf(out, ".series.s%d,.ring.s%d{stroke:var(--c%d)}.dot.s%d{fill:var(--c%d)}.k%d{background:var(--c%d)}", i,
                i, i, i, i, i, i);
        fprintf(out, ".key.dashed.k%d{border-color:var(--c%d)}", i, i);
        fprintf(out, ".part.p%d{fill:var(--c%d)}.key.p%d{background:var(--c%d)}\n", i, i, i, i);
    }
}

Report *report_new(const char *title, const char *lead) {
    Report *report = calloc(1, sizeof *report);
    if (!report || !(report->out = open_memstream(&report->text, &report->size))) {
        free(report);
        return NULL;
    }
    FILE *out = report->out;
    fputs("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n<title>",
          out);
    chart_escape(out, title);
    fprintf(out, "</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n%s", style);
    colours(out);
    fputs("</style>\n</head>\n<body>\n<main>\n<h1>", out);
    chart_escape(out, title);
    fputs("</h1>\n<p class=\"lead\">", out);
    chart_escape(out, lead);
    fputs("</p>\n", out);
    return report;
}

void report_incomplete(Report *report) { report->incomplete = true; }

void report_section(Report *report, const char *heading, const char *text) {
    if (report->in_section) fputs("</section>\n", report->out);
    report->in_section = true;
    fputs("<section>\n<h2>", report->out);
    chart_escape(report->out, heading);
    fputs("</h2>\n", report->out);
    if (!text) return;
    fputs("<p>", report->out);
    chart_escape(report->out, text);
    fputs("</p>\n", report->out);
}

static void open_figure(FILE *out, const char *title) {
    fputs("<figure>\n<h3>", out);
    chart_escape(out, title);
    fputs("</h3>\n", out);
}

static void close_figure(FILE *out, const char *caption) {
    fputs("<figcaption>", out);
    chart_escape(out, caption);
    fputs("</figcaption>\n</figure>\n", out);
}

void report_chart(Report *report, const Chart *chart) {
    open_figure(report->out, chart->title);
    chart_svg(report->out, chart);
    close_figure(report->out, chart->caption);
}

void report_bars(Report *report, const ChartBars *bars) {
    open_figure(report->out, bars->title);
    chart_bars_svg(report->out, bars);
    close_figure(report->out, bars->caption);
}

void report_heat(Report *report, const ChartHeat *heat) {
    open_figure(report->out, heat->title);
    chart_heat_svg(report->out, heat);
    close_figure(report->out, heat->caption);
}

// "rows/2/phases": an index where there is an array, a key where there is an object. NULL where it leads nowhere.
static const json_t *find(const json_t *value, const char *path) {
    while (value && *path) {
        char part[64];
        size_t length = strcspn(path, "/");
        snprintf(part, sizeof part, "%.*s", (int)length, path);
        value = json_is_array(value) ? json_array_get(value, strtoul(part, NULL, 10)) : json_object_get(value, part);
        path += length + (path[length] == '/');
    }
    return value;
}

// 1234567 as "1 234 567", with spaces that are thin and do not break.
static void grouped(FILE *out, long long number) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%lld", number);
    for (int i = 0; i < length; i++) {
        if (i > 0 && digits[i - 1] != '-' && (length - i) % 3 == 0 && length > 5) fputs("&#8239;", out);
        fputc(digits[i], out);
    }
}

static void table_cell(FILE *out, const char *key, const json_t *value) {
    if (json_is_integer(value)) {
        fprintf(out, "<td data-key=\"%s\" data-value=\"%lld\">", key, (long long)json_integer_value(value));
        grouped(out, (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        const double real = json_real_value(value);
        fprintf(out, "<td data-key=\"%s\" data-value=\"%.17g\">", key, real);
        if (fabs(real) >= 99999.5 && fabs(real) < 1e15) // five digits would have an exponent
            grouped(out, llround(real));
        else
            fprintf(out, "%.5g", real);
    } else if (json_is_string(value)) {
        fputs("<td class=\"word\">", out);
        chart_escape(out, json_string_value(value));
    } else {
        fputs(json_is_true(value) ? "<td>yes" : json_is_false(value) ? "<td>no" : "<td>–", out);
    }
    fputs("</td>", out);
}

static void table_row(FILE *out, const json_t *row, const char *path, const ReportTable *table) {
    fprintf(out, "<tr data-row=\"%s\">", path);
    for (size_t c = 0; c < table->column_count; c++) table_cell(out, table->columns[c], find(row, table->columns[c]));
    fputs("</tr>\n", out);
}

void report_table(Report *report, const json_t *document, const ReportTable *table) {
    FILE *out = report->out;
    // The caption stands outside of the table, so that it does not scroll with it.
    fprintf(out, "<figure class=\"table\">\n<figcaption id=\"table%zu\">", ++report->tables);
    chart_escape(out, table->caption);
    fprintf(out,
            "</figcaption>\n<div class=\"scroll\" tabindex=\"0\"><table aria-labelledby=\"table%zu\">\n<thead><tr>",
            report->tables);
    for (size_t c = 0; c < table->column_count; c++) {
        const json_t *first = table->path_count ? find(document, table->paths[0]) : NULL;
        if (json_is_array(first)) first = json_array_get(first, 0);
        fprintf(out, "<th scope=\"col\"%s>", json_is_string(find(first, table->columns[c])) ? " class=\"word\"" : "");
        chart_escape(out, table->headings[c]);
        fputs("</th>", out);
    }
    fputs("</tr></thead>\n<tbody>\n", out);
    for (size_t p = 0; p < table->path_count; p++) {
        const json_t *rows = find(document, table->paths[p]);
        if (!json_is_array(rows)) table_row(out, rows, table->paths[p], table);
        for (size_t i = 0; i < json_array_size(rows); i++) {
            char path[256];
            snprintf(path, sizeof path, "%s/%zu", table->paths[p], i);
            table_row(out, json_array_get(rows, i), path, table);
        }
    }
    fputs("</tbody>\n</table></div>\n</figure>\n", out);
}

void report_fold(Report *report, const char *summary) {
    fputs("<details>\n<summary>", report->out);
    chart_escape(report->out, summary);
    fputs("</summary>\n", report->out);
}

void report_fold_end(Report *report) { fputs("</details>\n", report->out); }

void report_settings(Report *report, const char *heading, const char *text) {
    fputs("<details>\n<summary>", report->out);
    chart_escape(report->out, heading);
    fputs("</summary>\n<pre>", report->out);
    chart_escape(report->out, text);
    fputs("</pre>\n</details>\n", report->out);
}

bool report_write(Report *report, const char *path, const json_t *document, Error *error) {
    FILE *out = report->out;
    if (report->in_section) fputs("</section>\n", out);
    fputs("</main>\n<script type=\"application/json\" id=\"data\">", out);
    char *data = json_print(document, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    // "<" in a string could end the script element or open a comment; as an escape it means the same in JSON
    for (const char *p = data; p && *p; p++)
        if (*p == '<')
            fputs("\\u003c", out);
        else
            fputc(*p, out);
    fputs("</script>\n</body>\n</html>\n", out);
    bool complete = data && !ferror(out) && !report->incomplete;
    complete = fclose(out) == 0 && complete;
    bool written = complete
                       ? file_write_atomic(path, report->text, report->size, error)
                       : error_set(error, ERROR_MEMORY, "There is not enough memory to write the report %s.", path);
    free(data);
    free(report->text);
    free(report);
    return written;
}

bool report_write_json(const char *directory, const char *name, const json_t *document, Error *error) {
    char path[4096];
    char *text = json_print(document, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    bool written = (text || error_set(error, ERROR_MEMORY, "Out of memory for %s.", name)) &&
                   path_join(path, sizeof path, directory, name, error) &&
                   file_write_atomic(path, text, strlen(text), error);
    free(text);
    return written;
}
