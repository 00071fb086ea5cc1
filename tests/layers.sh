#!/bin/sh
# The house has one direction: core <- attention <- model <- train; optim and data see only core; train sees all.
cd "$(dirname "$0")/.." || exit 2
status=0
allow() { # allow FLOOR REGEX: every #include "x/..." of that floor must match
    bad=$(grep -nE '^#include "' "$1"/*.c "$1"/*.cc "$1"/*.h 2>/dev/null | grep -vE "#include \"($2)/")
    if [ -n "$bad" ]; then
        printf 'layers: %s may include only %s\n%s\n' "$1" "$2" "$bad" >&2
        status=1
    fi
}
allow core core
allow attention 'core|attention'
allow model 'core|attention|model'
allow optim 'core|optim'
allow data 'core|data'
allow train 'core|attention|model|optim|data|train'
[ $status -eq 0 ] && echo 'layers: includes point downwards in every floor'
exit $status
