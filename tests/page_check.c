// page_check PAGE JSON: a report's page against the JSON that was written beside it. Fails unless the page carries the
// same document, every number of a table is the one at its place there and is shown as such, there is a drawing, and
// nothing refers to a network. PAGE may be as written or as a browser serialises it.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_file(const char *path) {
    enum { LIMIT = 1 << 26 };
    char *text = malloc(LIMIT);
    FILE *file = fopen(path, "rb");
    size_t size = file && text ? fread(text, 1, LIMIT, file) : LIMIT;
    if (size == LIMIT) {
        fprintf(stderr, "page_check: %s cannot be read\n", path);
        exit(2);
    }
    fclose(file);
    text[size] = 0;
    return text;
}

_Noreturn static void complain(const char *what, const char *where) {
    fprintf(stderr, "page_check: %s: %.120s\n", what, where);
    exit(1);
}

// The text after `label` up to `end`, which follows it somewhere; "" if there is none.
static void text_after(const char *at, const char *label, char end, char *out, size_t size) {
    const char *start = strstr(at, label);
    *out = 0;
    if (!start) return;
    start += strlen(label);
    const char *stop = strchr(start, end);
    if (stop && (size_t)(stop - start) < size) snprintf(out, size, "%.*s", (int)(stop - start), start);
}

static json_t *find(json_t *value, const char *path) {
    while (value && *path) {
        char part[64];
        size_t length = strcspn(path, "/");
        snprintf(part, sizeof part, "%.*s", (int)length, path);
        value = json_is_array(value) ? json_array_get(value, strtoul(part, NULL, 10)) : json_object_get(value, part);
        path += length + (path[length] == '/');
    }
    return value;
}

static void check_document(const char *page, const json_t *expected) {
    static const char open[] = "<script type=\"application/json\" id=\"data\">";
    const char *start = strstr(page, open), *stop = start ? strstr(start, "</script>") : NULL;
    if (!stop) complain("no document", open);
    start += strlen(open);
    json_t *found = json_loadb(start, (size_t)(stop - start), 0, NULL);
    if (!found || !json_equal(found, expected)) complain("the page carries another document", start);
    json_decref(found);
}

// What is shown is what the attribute says, to the digits shown. Groups of digits are parted by thin spaces.
static void check_shown(const char *cell, double value) {
    char shown[64], digits[64];
    size_t count = 0;
    text_after(cell, ">", '<', shown, sizeof shown);
    for (const char *p = shown; *p; p++) {
        if (!strncmp(p, "\xe2\x80\xaf", 3))
            p += 2;
        else if (!strncmp(p, "&#8239;", 7))
            p += 6;
        else
            digits[count++] = *p;
    }
    digits[count] = 0;
    char *end;
    double number = strtod(digits, &end);
    if (end == digits || *end || fabs(number - value) > 6e-5 * fabs(value)) complain("another number is shown", cell);
    if (strchr(digits, 'e') && fabs(value) >= 1 && fabs(value) < 1e15) complain("shown with an exponent", cell);
}

static size_t check_row(const char *row, const char *path, json_t *document) {
    const char *stop = strstr(row, "</tr>");
    size_t count = 0;
    json_t *object = find(document, path);
    if (!stop || !object) complain("no such row in the JSON", row);
    for (const char *cell = row; (cell = strstr(cell, "<td data-key=\"")) && cell < stop; cell++, count++) {
        char key[64], text[64];
        text_after(cell, "data-key=\"", '"', key, sizeof key);
        text_after(cell, "data-value=\"", '"', text, sizeof text);
        json_t *number = find(object, key);
        char *end;
        double value = strtod(text, &end);
        if (!json_is_number(number) || !*text || *end || value != json_number_value(number))
            complain("another number in the JSON", cell);
        check_shown(cell, value);
    }
    return count;
}

static size_t check_tables(const char *page, json_t *document) {
    size_t count = 0;
    for (const char *row = page; (row = strstr(row, "<tr data-row=\"")); row++) {
        char path[128];
        text_after(row, "data-row=\"", '"', path, sizeof path);
        count += check_row(row, path, document);
    }
    if (!count) complain("no numbers in tables", page);
    return count;
}

static void check_references(const char *page) {
    static const char *const outside[] = {"://",     "src=",    "@import", "url(",     "<link rel=\"stylesheet",
                                          "<iframe", "<object", "<embed",  "href=\"//"};
    const char *end = strstr(page, "<script type=\"application/json\""); // behind it there are data only
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        const char *found = strstr(page, outside[i]);
        if (found && (!end || found < end)) complain("a reference to elsewhere", found);
    }
    if (!strstr(page, "<svg")) complain("no drawing", page);
    if (strstr(page, "nan\"") || strstr(page, ">nan") || strstr(page, ">inf")) complain("a number that is none", page);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    char *page = read_file(argv[1]);
    json_t *document = json_load_file(argv[2], JSON_REJECT_DUPLICATES, NULL);
    if (!document) complain("not JSON", argv[2]);
    check_document(page, document);
    check_references(page);
    printf("%zu\n", check_tables(page, document));
    json_decref(document);
    free(page);
    return 0;
}
