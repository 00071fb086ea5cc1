#!/bin/sh
# make demo: from the King James Bible to a tokenizer, a trained model, its held-out loss beside a unigram model's, a
# sample, and a comparison of exact with fast attention on long contexts, with its page. Everything goes below runs/; run
# it again to begin anew.
set -eu
cd "$(dirname "$0")/.."
rope=${BUILD:-build}/rope
data=runs/demo-data
started=$(date +%s)

step() { printf '\n== %s\n' "$*" >&2; }

mkdir -p runs
step 'text: the King James Bible, from the Debian package bible-kjv'
bible -f ge1:1-rev22:21 </dev/null | sed 's/^[^ ]* //' >runs/kjv.txt
wc -c runs/kjv.txt >&2
step "rope prepare runs/kjv.txt --out $data --vocab 2048"
"$rope" prepare runs/kjv.txt --out "$data" --vocab 2048 --type bpe
step 'rope train --config configs/demo.ini'
rm -rf runs/demo
"$rope" train --config configs/demo.ini
step 'rope eval runs/demo'
"$rope" eval runs/demo
step 'rope sample runs/demo --prompt "And God said" -n 150'
"$rope" sample runs/demo --prompt 'And God said' -n 150
# The demo's own model on contexts of 4,096 tokens, from scratch: too few steps to learn much, enough to time.
step 'rope ab --config configs/demo.ini: exact and lowrank attention at 4096 tokens'
rm -rf runs/demo-ab
"$rope" ab --config configs/demo.ini --model.tokens=4096 --train.batch=1 --train.steps=8 --optim.warmup=2 --train.eval_every=0 \
    --train.eval_batches=2 --out runs/demo-ab
printf '\ndone in %d s; more: %s sample runs/demo --prompt "In the beginning"\n' $(($(date +%s) - started)) "$rope" >&2
