// A report is one self-contained HTML file: no network, no script that must run, works from file://. Its numbers are
// those of a JSON document, which it carries and which can be written beside it.
#ifndef ROPE_TRAIN_REPORT_H
#define ROPE_TRAIN_REPORT_H

#include <jansson.h>

#include "core/error.h"
#include "train/chart.h"

typedef struct Report Report;

// NULL only when memory is out. `title` is the page's heading, `lead` its first sentence (the verdict).
Report *report_new(const char *title, const char *lead);
// Something that belongs on the page had no memory: it will not be written.
void report_incomplete(Report *report);
void report_section(Report *report, const char *heading, const char *text); // text may be NULL
void report_chart(Report *report, const Chart *chart);
void report_bars(Report *report, const ChartBars *bars);
void report_heat(Report *report, const ChartHeat *heat);
// A table with a caption. Rows are values of the document: each path ("rows/2/phases") leads to one object, or to an
// array of them. Columns are paths from there; headings name them. Numbers are shown with up to five digits, and each
// cell carries the whole value (data-value) and where it stands in the JSON (data-row, data-key), so that a program can
// compare the two.
typedef struct ReportTable {
    const char *caption;
    const char *const *paths;
    size_t path_count;
    const char *const *columns, *const *headings;
    size_t column_count;
} ReportTable;
void report_table(Report *report, const json_t *document, const ReportTable *table);
// What lies between the two can be folded away, and is at first.
void report_fold(Report *report, const char *summary);
void report_fold_end(Report *report);
// Text as it is, such as settings, that can be folded away.
void report_settings(Report *report, const char *heading, const char *text);
// Writes the page atomically, with `document` embedded (script type application/json, id "data"). Frees the report.
bool report_write(Report *report, const char *path, const json_t *document, Error *error);
// The document itself, indented, with every digit: DIRECTORY/NAME, atomically.
bool report_write_json(const char *directory, const char *name, const json_t *document, Error *error);

#endif
