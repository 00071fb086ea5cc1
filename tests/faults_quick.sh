#!/bin/sh
# A quick share of the injected faults (tests/faults): every so-many-th case of each row. The whole: `make faults`.
# $BUILD is the build directory. A sanitizer has malloc for itself, so there is nothing to run in such a build.
cd "$(dirname "$0")/.." || exit 2
faults=${BUILD:-build}/tests/faults
if grep -q -e __asan_init -e __tsan_init "${BUILD:-build}/rope"; then
    echo "nothing to run in a build with a sanitizer"
    exit 0
fi
directory=/tmp
[ -w /dev/shm ] && directory=/dev/shm
exec timeout 500 "$faults" "$directory/rope-faults-quick.$$" 60
