#!/bin/sh
# Runs every test program of $BUILD and the scripts listed below: one line each, or the whole output of what failed;
# then one line for all. A crash, a time-out, a program that is missing or tests nothing are failures.
cd "$(dirname "$0")/.." || exit 2
# Waiting threads sleep instead of spinning: programs that share the cores would slow each other down several times.
export OMP_WAIT_POLICY=passive
BUILD=${BUILD:-build}
export BUILD
SCRIPTS='tests/ab_check.sh tests/report_check.sh tests/end_to_end.sh tests/surroundings.sh tests/surroundings_files.sh
    tests/surroundings_sweeps.sh tests/faults_quick.sh tests/mutants_quick.sh'

output=$(mktemp) || exit 2
trap 'rm -f "$output"' EXIT
trap 'exit 130' INT TERM
passed=0
failed=0
skipped=0

# run NAME SECONDS COMMAND...: leaves its output in $output, its status in $status, its time in $seconds
run() {
    name=$1 limit=$2
    shift 2
    start=$(date +%s.%N)
    timeout -k 10 "$limit" "$@" >"$output" 2>&1 </dev/null
    status=$?
    seconds=$(echo "$start $(date +%s.%N)" | awk '{ printf "%.1f", $2 - $1 }')
}

# total TEXT: the number in cmocka's line "[  TEXT  ] N test(s)"
total() {
    sed -n "s/^\[ *$1 *\] \([0-9][0-9]*\) test(s).*/\1/p" "$output" | awk '{ n += $1 } END { print n + 0 }'
}

report_failure() {
    failed=$((failed + $1))
    printf 'FAILED  %-24s %6s s  %s\n' "$name" "$seconds" "$2"
    sed 's/^/    /' "$output"
}

reason() {
    case $status in
    124 | 137) echo "ran out of time after $limit s, or was killed" ;;
    126 | 127) echo "could not be started" ;;
    129 | 1[3-9]? | 2??) echo "crashed with signal $((status - 128))" ;;
    *) echo "exit status $status" ;;
    esac
}

for source in tests/test_*.c tests/double_*.c; do
    [ -e "$source" ] || continue
    name=$(basename "$source" .c)
    run "$name" 300 "$BUILD/tests/$name"
    good=$(total PASSED)
    bad=$(total FAILED)
    passed=$((passed + good))
    if [ "$status" -ne 0 ]; then
        report_failure "$((bad > 0 ? bad : 1))" "$(reason)"
    elif [ "$good" -eq 0 ] || [ "$bad" -ne 0 ]; then
        report_failure "$((bad > 0 ? bad : 1))" "exit status 0, but $good tests passed and $bad failed"
    else
        tallies=$(sed -n 's/^  \(.*\): \([0-9][0-9]*\) compared.*/\1 \2/p' "$output" |
            awk 'NR > 1 { printf ", " } { printf "%s", $0 }')
        printf 'ok      %-24s %6s s  %3d tests: %s\n' "$name" "$seconds" "$good" "$tallies"
    fi
done

for script in $SCRIPTS; do
    [ -e "$script" ] || continue
    name=$(basename "$script" .sh)
    if [ -x "$script" ]; then run "$name" 600 "$script"; else run "$name" 600 sh "$script"; fi
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
        printf 'ok      %-24s %6s s  %s\n' "$name" "$seconds" "$(tail -n 1 "$output")"
    elif [ "$status" -eq 77 ]; then # what it needs is not on this machine
        skipped=$((skipped + 1))
        printf 'skipped %-24s %6s s  %s\n' "$name" "$seconds" "$(tail -n 1 "$output")"
    else
        report_failure 1 "$(reason)"
    fi
done

[ $((passed + failed)) -gt 0 ] || failed=1
echo "$passed passed, $failed failed$([ $skipped -eq 0 ] || echo ", $skipped skipped")"
[ "$failed" -eq 0 ]
