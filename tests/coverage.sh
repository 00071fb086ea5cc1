#!/bin/sh
# Branch coverage (gcov) of checkpoint, shard, configuration and tokenizer code by these test programs (their names
# without test_), from a build with --coverage in $BUILD. Prints a line for each file and one for all; exit 1 below 95 %.
# The branches that nothing took are in $BUILD/coverage.missing: what is left there is mostly the other side of a function
# that always returns false (error_set), and of jansson's macros, which ask again whether there is a value at all.
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build/coverage}
files='model/safetensors_read.c model/safetensors_write.c model/checkpoint.c model/checkpoint_config.c
model/checkpoint_weights.c data/shards.c data/loader.c data/meta.c train/config.c train/config_file.c train/config_value.c
train/config_model.c train/state.c train/snapshot.c train/run_directory.c data/tokenizer.cc data/tokenizer_train.cc
data/tokenizer_model.cc'
find "$BUILD" -name '*.gcda' -delete
rm -f "$BUILD/coverage.missing"
for test; do
    OMP_WAIT_POLICY=passive "$BUILD/tests/test_$test" >"$BUILD/coverage.log" 2>&1 || { cat "$BUILD/coverage.log"; exit 1; }
done
# Not counted: edges that an exception takes out of a call, and their other side, which nearly every call in C++ has; and
# REQUIRE, whose failure is a mistake in the program that no file and no setting can bring about.
for file in $files; do
    object=$BUILD/float/${file%.c}.o
    case $file in *.cc) object=$BUILD/float/$file.o ;; esac
    gcov -b -c -t -o "$(dirname "$object")" "$object" 2>/dev/null |
        awk -v file="$file" -v missing="$BUILD/coverage.missing" '
            function flush() { if (held != "" && text !~ /REQUIRE\(/) { all++; if (held > 0) taken++; else print file ":" line ": " text >>missing }; held = "" }
            /:Source:/ { flush(); mine = $0 ~ ":Source:" file "$"; next }
            !mine { next }
            /^branch .*\(throw\)/ { held = ""; next }
            /^branch / { flush(); held = $3 == "taken" ? $4 : 0; next }
            /^ *[-#=0-9]+\*?: *[0-9]+:/ { flush(); split($0, part, ":"); line = part[2] + 0; text = substr($0, 17) }
            END { flush(); print file, taken + 0, all + 0 }'
done | awk '
    { printf "%-32s %6.2f %% of %d branches\n", $1, $3 ? 100 * $2 / $3 : 100, $3; taken += $2; all += $3 }
    END { printf "%-32s %6.2f %% of %d branches\n", "all", 100 * taken / all, all; exit !(taken / all >= 0.95) }'
