// The tests of the optimizer in the double build, with tolerances that follow REAL_EPSILON.
#include "tests/test_optim.c"
