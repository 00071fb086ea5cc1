#!/bin/sh
# Finding needles in 4,096 tokens, learned by way of recall (mqar) in 128 and needles in 512, each from the weights of the
# stage before; then accuracy by distance. needle.ini says what the arms are.
#   sh configs/needle.sh NAME [OPTION of rope train...]    runs/needle-NAME-{128,512,4096}
set -eu
[ $# -ge 1 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
rope=${BUILD:-build}/rope
name=$1
shift

# stage FROM TOKENS BATCH STEPS WARMUP OPTION...: from the weights of that stage
stage() {
    from=$1 tokens=$2 batch=$3 steps=$4 warmup=$5
    shift 5
    printf '\n== %s: %s tokens\n' "$name" "$tokens" >&2
    "$rope" train --config configs/needle.ini --model.tokens="$tokens" --train.batch="$batch" --train.steps="$steps" \
        --optim.warmup="$warmup" --train.init="${from:+runs/needle-$name-$from}" --train.out="runs/needle-$name-$tokens" "$@"
}

# Questions among the pairs, and most of them soon: this is where recall is learned. Then longer and longer ways.
stage '' 128 64 400 50 --data.task=mqar --data.pairs=8 --data.least_distance=0 "$@"
stage 128 512 16 300 30 "$@"
stage 512 4096 2 200 20 "$@"
"$rope" eval "runs/needle-$name-4096" --batches=400
