#!/bin/sh
# Runs libFuzzer on every target (or those named), as many at a time as there are processors, for $FUZZ_SECONDS each (0: no
# limit) or until $FUZZ_RUNS (-1: no limit), from the seeds and words that the program writes and what earlier runs have
# found. An input that breaks something is copied to tests/fuzz/regressions/TARGET.
# Prints "TARGET: N runs, F findings"; exit 1 if there are any.
cd "$(dirname "$0")/.." || exit 2
export BUILD="${BUILD:-build/fuzz}"
corpus=build/fuzz/corpus # of all builds

fuzz() { # fuzz TARGET
    target=$1
    found=$BUILD/found/$target
    log=$corpus/$target.log
    rm -rf "$found"
    mkdir -p "$found"
    # Inputs longer than twice the longest seed take their time and show nothing that these do not.
    length=$(wc -c "$corpus/$target"/seed-* | awk '$2 != "total" && $1 > l { l = $1 } END { print (l > 64 ? 2 * l : 128) }')
    # Stacks of allocations take time, as does freed memory that is held back until caches are cold, and filling what is
    # new; a finding that is replayed without this shows the whole of its own.
    asan=malloc_context_size=1:quarantine_size_mb=1:thread_local_quarantine_size_kb=64:max_malloc_fill_size=0
    asan=$asan:detect_leaks=$([ "$target" = command_line ] && echo 0 || echo 1)
    # In processes of 4,000,000 runs: what command lines with mistakes leave behind, where the program would end, adds up.
    start=$(date +%s)
    limit=${FUZZ_SECONDS:-20}
    wanted=${FUZZ_RUNS:--1}
    runs=0 count=0
    while :; do
        left=$((wanted < 0 ? 4000000 : wanted - runs))
        seconds=$((limit == 0 ? 0 : limit - $(date +%s) + start))
        [ "$left" -gt 0 ] && { [ "$limit" -eq 0 ] || [ "$seconds" -gt 0 ]; } || break
        FUZZ_TARGET=$target ASAN_OPTIONS=$asan \
            "$BUILD/tests/fuzz" -max_total_time="$seconds" -runs=$((left < 4000000 ? left : 4000000)) -max_len="$length" \
            -timeout=20 -rss_limit_mb=4096 -close_fd_mask=1 -print_final_stats=1 -artifact_prefix="$found/" \
            -dict="$corpus/$target.words" "$corpus/$target" >"$log" 2>&1
        status=$?
        done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        runs=$((runs + ${done:-0}))
        count=$(ls "$found" | wc -l)
        [ "$status" -eq 0 ] || [ "$count" -gt 0 ] || count=1 # it can fail without an input to blame
        [ "$count" -eq 0 ] && [ "${done:-0}" -gt 0 ] || break
        echo "$runs" >"$corpus/$target.runs" # of this call, so far
    done
    echo "$target: $runs runs, $count findings"
    [ "$count" -gt 0 ] || return 0
    tail -n 40 "$log" | sed 's/^/    /'
    [ -z "$(ls "$found")" ] || {
        mkdir -p "tests/fuzz/regressions/$target"
        cp "$found"/* "tests/fuzz/regressions/$target/"
    }
    return 1
}

if [ "$1" = --one ]; then
    fuzz "$2"
    exit
fi
mkdir -p "$corpus"
"$BUILD/tests/fuzz" --seeds "$corpus" >"$corpus/log" 2>&1 || { cat "$corpus/log"; exit 2; }
printf '%s\n' ${*:-$(ls -d "$corpus"/*/ | xargs -n 1 basename)} | xargs -n 1 -P "$(nproc)" sh tests/fuzz.sh --one || exit 1
