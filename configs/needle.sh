#!/bin/sh
# Finding needles in 4,096 tokens, learned by way of 128 and 512 tokens, each length from the weights of the one before;
# then accuracy by distance. needle.ini says what the arms are. Five minutes on two cores with exact attention.
#   sh configs/needle.sh NAME [OPTION of rope train...]    runs/needle-NAME-{128,512,4096}
set -eu
[ $# -ge 1 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
rope=${BUILD:-build}/rope
name=$1
shift

# stage TOKENS PAIRS LEAST_DISTANCE BATCH STEPS WARMUP OPTION...
stage() {
    tokens=$1 pairs=$2 least=$3 batch=$4 steps=$5 warmup=$6
    shift 6
    printf '\n== %s: %s pairs in %s tokens\n' "$name" "$pairs" "$tokens" >&2
    "$rope" train --config configs/needle.ini --model.tokens="$tokens" --data.pairs="$pairs" \
        --data.least_distance="$least" --train.batch="$batch" --train.steps="$steps" --optim.warmup="$warmup" \
        --train.out="runs/needle-$name-$tokens" "$@"
}

stage 128 16 24 64 500 80 "$@"
stage 512 32 64 16 400 40 "$@" --train.init="runs/needle-$name-128"
stage 4096 32 64 2 240 20 "$@" --train.init="runs/needle-$name-512"
"$rope" eval "runs/needle-$name-4096" --batches=100
