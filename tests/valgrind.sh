#!/bin/sh
# The test programs (or those named) under valgrind: what depends on memory that nobody has written, which the address
# sanitizer does not see, and blocks that are lost. All is 20 to 50 times slower there: what measures speed is left out,
# and the largest programs take long. Prints a line for each, then "N passed, N failed".
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build}
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive LOWRANK_CASES=${LOWRANK_CASES:-1000}
limit=${VALGRIND_SECONDS:-3600}
log=$BUILD/valgrind.log
passed=0
failed=0

for name in ${*:-$(ls tests/test_*.c tests/double_*.c | sed 's|tests/||; s|\.c$||')}; do
    unset TEST_SKIP TEST_SHARE TEST_FILTER
    leaks=full
    case $name in # speed; long double, which has 64 bits there; programs that start themselves anew
    test_bench | test_polynomial | test_cpu) continue ;;
    test_blas) export TEST_SKIP=test_rates ;;
    test_model) export TEST_SKIP=test_no_allocation ;; # valgrind has malloc for itself
    test_certificates_range) export TEST_FILTER='*o*lo*' ;; # no polynomials, for the same reason as:
    double_lowrank) export TEST_SKIP=test_sizes ;; # polynomials of degree 7 and 8 need the 80 bits
    test_toeplitz) export TEST_SKIP=test_certificates ;;
    test_attention) export TEST_SHARE=5 ;; # fused multiply-add is emulated there one number at a time
    test_fuzz) leaks=no ;; # jumps out of the parser of command lines, and drops what that holds
    test_optim) export TEST_SKIP=test_norm ;;
    test_files) export TEST_SKIP=test_interrupted_and_short_writes ;; # its timer runs out before a call gets anywhere
    esac
    start=$(date +%s)
    # fair-sched: a thread that waits in a loop for another would run for ever otherwise
    timeout "$limit" valgrind -q --trace-children=yes --fair-sched=yes --error-exitcode=99 --leak-check="$leaks" \
        --show-leak-kinds=definite --errors-for-leak-kinds=definite --num-callers=24 "$BUILD/tests/$name" >"$log" 2>&1
    status=$?
    if [ "$status" -eq 0 ] && ! grep -q '^==[0-9]*== ' "$log"; then
        passed=$((passed + 1))
        printf 'ok      %-24s %6d s\n' "$name" $(($(date +%s) - start))
    else
        failed=$((failed + 1))
        printf 'FAILED  %-24s %6d s, exit status %d\n' "$name" $(($(date +%s) - start)) "$status"
        sed 's/^/    /' "$log"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
