#!/bin/sh
# Guards speed by ratios, which move little between machines, never by times: each figure of tests/bench_check.txt is
# measured again, and a loss of more than 15 % fails. Other programs can only slow a ratio down, so up to three rounds
# count, with the best of each figure. --figures prints the lines of the file as measured here, to be committed when a
# change has made something faster.
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build}
rope=$BUILD/rope
get=$BUILD/tests/json_get
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# bench FILE OPTIONS...: the JSON of one benchmark
bench() {
    file=$work/$1
    shift
    "$rope" bench "$@" --json >"$file" 2>"$work/err" || { cat "$work/err" >&2; exit 2; }
}
# quotient FILE ROW ROW KEYS...: (the keys' sum in the first row) / (in the second)
quotient() {
    file=$work/$1 first=$2 second=$3
    shift 3
    for key in "$@"; do
        printf '%s %s\n' "$("$get" rows "$first" "$key" <"$file")" "$("$get" rows "$second" "$key" <"$file")"
    done | awk '{ a += $1; b += $2 } END { print a / b }'
}
figure() { printf '%s %s\n' "$1" "$2"; }

measure() {
    bench step step --model.vocabulary=4096
    figure step_width_512_of_sgemm "$("$get" sgemm_share <"$work/step")"
    figure linear_width_512_of_sgemm "$("$get" linear_share <"$work/step")"
    bench step step --model.width=128 --model.layers=4 --model.heads=4 --train.batch=16 --model.vocabulary=2048
    figure step_width_128_of_sgemm "$("$get" sgemm_share <"$work/step")"
    bench exact attention --tokens 2048 --method exact --model.heads=8 --model.qk_size=64 --model.v_size=64 --rounds 15
    figure exact_forward_of_sgemm "$("$get" rows 0 forward_share <"$work/exact")"
    figure exact_backward_of_sgemm "$("$get" rows 0 backward_share <"$work/exact")"
    bench small attention --tokens 4096 --model.heads=8 --model.qk_size=16 --model.v_size=64 --attention.far_size=0 \
        --attention.degree=2 --attention.near=32 --rounds 9
    figure lowrank_degree_2_forward_of_sgemm "$("$get" rows 1 forward_share <"$work/small")"
    figure lowrank_degree_2_backward_of_sgemm "$("$get" rows 1 backward_share <"$work/small")"
    figure exact_over_lowrank_degree_2_at_4K "$(quotient small 0 1 forward_ms backward_ms)"
    bench recall attention --tokens 4096 --model.heads=8 --model.qk_size=64 --model.v_size=64 --rounds 9
    figure lowrank_recall_forward_of_sgemm "$("$get" rows 1 forward_share <"$work/recall")"
    figure lowrank_recall_backward_of_sgemm "$("$get" rows 1 backward_share <"$work/recall")"
    figure exact_over_lowrank_recall_at_4K "$(quotient recall 0 1 forward_ms backward_ms)"
}

if [ "$1" = --figures ]; then
    measure
    exit
fi
round=0
: >"$work/best"
while :; do
    round=$((round + 1))
    measure >"$work/now" || exit 2
    # the file of the best is empty at first
    awk -v now="$work/now" 'FILENAME != now { best[$1] = $2; next }
        { print $1, ($2 + 0 > best[$1] + 0 ? $2 : best[$1]) }' "$work/best" "$work/now" >"$work/better"
    mv "$work/better" "$work/best"
    awk -v round=$round '
        /^#/ { next }
        FNR == NR { committed[$1] = $2; count++; next }
        { measured[$1] = $2 }
        END {
            printf "round %d %31s %10s %8s\n", round, "committed", "best", "of it"
            for (name in committed) {
                share = measured[name] / committed[name]
                lost = !(share >= 0.85)
                failed += lost
                printf "%-36s %9.3f %10.3f %7.0f%%%s\n", name, committed[name], measured[name], 100 * share,
                       lost ? "  LOST" : "" | "sort"
            }
            close("sort")
            printf "%d passed, %d failed\n", count - failed, failed
            exit failed > 0
        }' tests/bench_check.txt "$work/best" && exit 0
    [ $round -lt 3 ] || exit 1
done
