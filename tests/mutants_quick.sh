#!/bin/sh
# Whether all planted bugs can still be planted, and three of them. All: `make mutants`.
cd "$(dirname "$0")/.." || exit 2
if grep -q -e __asan_init -e __tsan_init "${BUILD:-build}/rope"; then
    echo "nothing to run in a build with a sanitizer"
    exit 0
fi
sh tests/mutants.sh --texts || exit 1
exec sh tests/mutants.sh no-first-bias-correction targets-are-the-inputs multinomial-missing
