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
void report_section(Report *report, const char *heading, const char *text); // text may be NULL
void report_chart(Report *report, const Chart *chart);
void report_bars(Report *report, const ChartBars *bars);
void report_heat(Report *report, const ChartHeat *heat);
// A table with a caption, of the array of objects `rows`: columns are keys of the objects; headings name them. Numbers
// are shown with up to six digits and carry the whole value in data-value, so that a test can compare page and JSON.
void report_table(Report *report, const char *caption, const json_t *rows, const char *const *columns,
                  const char *const *headings, size_t column_count);
// The settings, folded away, as text.
void report_settings(Report *report, const char *heading, const char *text);
// Writes the page atomically, with `document` embedded (script type application/json, id "data"). Frees the report.
bool report_write(Report *report, const char *path, const json_t *document, Error *error);

#endif
