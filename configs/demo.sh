#!/bin/sh
# make demo: from the King James Bible to a tokenizer, a trained model, its held-out loss beside a unigram model's, and a
# sample. Everything goes below runs/; run it again to begin anew.
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
printf '\ndone in %d s; more: %s sample runs/demo --prompt "In the beginning"\n' $(($(date +%s) - started)) "$rope" >&2
