// The tests of what attention stands on in the double build.
#include "tests/test_attention_parts.c"
