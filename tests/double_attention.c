// The tests of attention in the double build, with tolerances that follow REAL_EPSILON, and finite differences.
#include "tests/test_attention.c"
