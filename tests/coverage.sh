#!/bin/sh
# Branch coverage (gcov) of checkpoint, shard, configuration and tokenizer code by the tests that concern it, from a build
# with --coverage in $BUILD. Prints a line for each file and one for all; exit 1 below 95 %.
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build/coverage}
files='model/safetensors_read.c model/safetensors_write.c model/checkpoint.c model/checkpoint_config.c
model/checkpoint_weights.c data/shards.c data/loader.c data/meta.c train/config.c train/config_file.c train/config_value.c
train/config_model.c train/state.c train/snapshot.c train/run_directory.c data/tokenizer.cc data/tokenizer_train.cc'
find "$BUILD" -name '*.gcda' -delete
for test in safetensors checkpoint data prepare config tokenizer trainer fuzz; do
    OMP_WAIT_POLICY=passive "$BUILD/tests/test_$test" >"$BUILD/coverage.log" 2>&1 || { cat "$BUILD/coverage.log"; exit 1; }
done
BUILD=$BUILD sh tests/faults_quick.sh >"$BUILD/coverage.log" 2>&1 # killed children leave no figures; the others do
BUILD=$BUILD bash tests/end_to_end.sh >"$BUILD/coverage.log" 2>&1 || { cat "$BUILD/coverage.log"; exit 1; }
for file in $files; do
    object=$BUILD/float/${file%.c}.o
    case $file in *.cc) object=$BUILD/float/$file.o ;; esac
    gcov -b -n -o "$(dirname "$object")" "$object" 2>/dev/null |
        awk -v file="$file" -v ending="/$file'" '
            /^File / { mine = index($0, file "\x27") > 0 }
            mine && /^Branches executed/ { next }
            mine && /^Taken at least once/ { split($0, a, /[:% ]+/); split($0, b, "of "); print file, a[5], b[2]; exit }'
done | awk '
    { printf "%-32s %6.2f %% of %d branches\n", $1, $2, $3; taken += $2 / 100 * $3; all += $3 }
    END { printf "%-32s %6.2f %% of %d branches\n", "all", 100 * taken / all, all; exit !(taken / all >= 0.95) }'
