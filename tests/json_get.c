// json_get [KEY...] < FILE: fails unless standard input is one JSON document and nothing else; prints the value that
// the keys lead to (an array takes a number). For shell tests, where no jq is taken for granted.
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    json_error_t error;
    json_t *document = json_loadf(stdin, JSON_REJECT_DUPLICATES, &error), *at = document;
    if (!document) {
        fprintf(stderr, "json_get: line %d: %s\n", error.line, error.text);
        return 1;
    }
    for (int i = 1; i < argc; i++) {
        at = json_is_array(at) ? json_array_get(at, strtoul(argv[i], NULL, 10)) : json_object_get(at, argv[i]);
        if (!at) {
            fprintf(stderr, "json_get: there is no %s\n", argv[i]);
            return 1;
        }
    }
    if (json_is_string(at))
        puts(json_string_value(at));
    else if (json_dumpf(at, stdout, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17)) == 0)
        putchar('\n');
    json_decref(document);
    return 0;
}
