#!/bin/sh
# The long forms, within about $SOAK_SECONDS, as a table: row of reliability.md, cases, failures, seconds.
# $SOAK_ROWS: only rows whose name this regular expression matches. Sanitizers (row 15) are make asan, make tsan.
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build}
export BUILD OMP_WAIT_POLICY=passive
SOAK_SECONDS=${SOAK_SECONDS:-3600}
log=$BUILD/soak.log
directory=/tmp
[ -w /dev/shm ] && directory=/dev/shm
all_failures=0

# row NAME SECONDS COMMAND...: the command's output gives cases and failures (see count_cases)
row() {
    name=$1 limit=$2
    shift 2
    printf '%s\n' "$name" | grep -Eq "${SOAK_ROWS:-.}" || return 0
    start=$(date +%s)
    timeout -k 10 "$limit" "$@" >"$log" 2>&1
    status=$?
    cases=$(count_cases)
    failures=$([ "$status" -eq 0 ] && echo 0 || echo 1)
    all_failures=$((all_failures + failures))
    printf '%-28s %12s %9s %8s\n' "$name" "$cases" "$failures" $(($(date +%s) - start))
    [ "$failures" -eq 0 ] || tail -n 30 "$log" | sed 's/^/    /'
}
# tests NAME PROGRAM...: a row of test programs, which `make test` runs as they are
tests() {
    name=$1
    shift
    row "$name" 900 sh -c 'for test; do "$BUILD/tests/$test" || exit; done' sh "$@"
}
# "N cases, …" of the faults, "N of M planted bugs", "TARGET: N runs", and the tallies of test programs
count_cases() {
    awk '/^[0-9]+ cases, / { n = $1 }
         / planted bugs caught/ { n = $1 }
         /: [0-9]+ runs, / { for (i = 1; i < NF; i++) if ($(i + 1) == "runs,") n += $i }
         /^  .*: [0-9]+ compared/ { for (i = 1; i < NF; i++) if ($(i + 1) ~ /^compared/) n += $i }
         END { print n + 0 }' "$log"
}

printf '%-28s %12s %9s %8s\n' row cases failures seconds
tests '1 gradients' double_gradients double_attention double_attention_parts double_lowrank double_toeplitz double_optim \
    double_papers
tests '2 kernels' test_vector test_blas test_polynomial test_attention test_attention_parts test_lowrank test_toeplitz \
    test_layer_kernels test_kernels_training test_model test_optim
row '3 planted bugs' $((SOAK_SECONDS / 2 + 3600)) sh tests/mutants.sh
row '4 certificates' 3600 env LOWRANK_CASES=1000000 TEST_FILTER=test_certificates "$BUILD/tests/test_lowrank"
tests '4 certificates, extremes' test_certificates test_toeplitz test_toeplitz_extremes test_toeplitz_tables
row '5 resume at every step' 3600 env RESUME_STEPS=200 "$BUILD/tests/test_trainer"
row '6 determinism' 900 env TEST_FILTER=test_threads "$BUILD/tests/test_trainer"
row '7, 8, 9, 14 faults' $((SOAK_SECONDS + 7200)) "$BUILD/tests/faults" "$directory/rope-soak.$$" 1 $((SOAK_SECONDS / 3))
tests '10 corrupt files' test_safetensors test_checkpoint test_shards
row '11 changed seeds' $((SOAK_SECONDS / 6 + 600)) env FUZZ_RUNS=$((SOAK_SECONDS * 30)) "$BUILD/tests/test_fuzz"
row '11 fuzz' $((SOAK_SECONDS + 3600)) sh -c 'make --no-print-directory fuzz FUZZ_SECONDS="$1" &&
    make --no-print-directory fuzz FUZZ_TRACED=no FUZZ_RUNS=100000000 FUZZ_SECONDS="$2"' sh \
    $((SOAK_SECONDS / 300 + 1)) $((SOAK_SECONDS / 30))
tests '12 hostile sizes' test_sizes test_prepare test_prepare_refused test_config test_config_resolved
tests '13 numbers' test_not_finite
[ "$all_failures" -eq 0 ]
