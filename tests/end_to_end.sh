#!/bin/bash
# The built program from raw text to a sample, and its promises on the way: exit codes, messages, one JSON document,
# resuming bit for bit, and checkpoints that survive a full disk. $BUILD is the build directory. Prints "NAME: ok".
set -u
cd "$(dirname "$0")/.." && . tests/script.sh || exit 2
# Threads that wait do not spin: the suite shares its cores with whatever else runs.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
same_run() { # same_run A B NAME: metrics but for times, and every file of the last checkpoint
    sed 's/,"time":.*//' "$1/metrics.jsonl" >a.metrics
    sed 's/,"time":.*//' "$2/metrics.jsonl" >b.metrics
    [ -s a.metrics ] && cmp -s a.metrics b.metrics || fail "$3: metrics differ"
    [ "$(ls "$1/latest/")" = "$(ls "$2/latest/")" ] || fail "$3: other files"
    for file in "$1"/latest/*; do
        cmp -s "$file" "$2/latest/$(basename "$file")" || fail "$3: $(basename "$file") differs"
    done
}
lines() { cat "$1/metrics.jsonl" 2>/dev/null | wc -l; }
wait_for_lines() { # wait_for_lines RUN N PID
    for _ in $(seq 600); do
        [ "$(lines "$1")" -ge "$2" ] && return
        kill -0 "$3" 2>/dev/null || return
        sleep 0.02
    done
    fail "$1 wrote no $2 lines of metrics"
}

# A text with structure, the same everywhere.
awk 'BEGIN {
    split("the king of the hill and his sons went up to see what no man had seen before in the land by night", w, " ")
    for (i = 0; i < 6000; i++) { x = (x * 1103515245 + 12345) % 2147483648; printf "%s%s", w[int(x / 65536) % 21 + 1], i % 9 == 8 ? ".\n" : " " }
}' >text.txt

expect 0 prepare "$rope" prepare text.txt --out data --vocab 300 --json
for key in vocabulary train_tokens val_tokens unigram_loss; do "$get" $key <out >value || fail "prepare --json: $key"; done
ok 'prepare, and its JSON'

# More texts than a process may have open at once.
mkdir parts && split -l 1 -a 4 text.txt parts/ || fail 'a text in parts'
expect 0 'prepare many texts' sh -c "ulimit -n 64 && '$rope' prepare parts/* --out many --vocab 300 --quiet"
for file in tokenizer.model train.bin val.bin; do cmp -s data/$file many/$file || fail "prepare many texts: $file"; done
ok 'many texts'

# A tokenizer that knows a and b only, of pieces (text, score -1, type) and how to normalise: nothing.
{
    piece() {
        printf "\\n\\x$(printf %x $((${#1} + 9)))\\n\\x$(printf %x ${#1})%s\\x15\\0\\0\\x80\\xBF\\x18\\x$2" "$1"
    }
    piece '<unk>' 2; piece '<s>' 3; piece '</s>' 3; piece a 1; piece b 1
    printf '\x12\x02\x18\x01\x1A\x06\x18\0\x20\0\x28\x01'
} >lossy.model
for i in $(seq 100); do echo abbabab; done >lines.txt
expect 0 'prepare under a lossy tokenizer' "$rope" prepare lines.txt --out lossy --tokenizer lossy.model --quiet
says 'prepare under a lossy tokenizer' "100 of 800 bytes (12.5 %) do not come back from lossy.model's tokens"
grep -q '(.* bits per byte)' err && fail 'prepare under a lossy tokenizer: bits per byte, as if they were right'
expect 0 'prepare under a lossy tokenizer' "$rope" prepare lines.txt --out lossy --tokenizer lossy.model --quiet --json
says 'prepare under a lossy tokenizer, --json' '100 of 800 bytes'
[ "$("$get" lossy_bytes <out)" = 100 ] && [ "$("$get" lossy_bytes <lossy/meta.json)" = 100 ] ||
    fail 'prepare under a lossy tokenizer: --json or meta.json'
grep -q unigram_bits out && fail 'prepare under a lossy tokenizer, --json: bits per byte'
expect 0 'train under a lossy tokenizer' "$rope" train --model.layers=1 --model.width=16 --model.heads=2 --model.tokens=16 \
    --data.dir=lossy --train.batch=2 --train.steps=2 --train.out=of_lossy
expect 0 'eval under a lossy tokenizer' "$rope" eval of_lossy
says 'eval under a lossy tokenizer' 'unigram  '
grep -q 'bits per byte' err && fail 'eval under a lossy tokenizer: bits per byte'
expect 0 'eval under a lossy tokenizer, --json' "$rope" eval of_lossy --json
[ "$("$get" unigram_loss <out)" ] || fail 'eval under a lossy tokenizer, --json'
expect 0 'prepare under a given tokenizer' "$rope" prepare text.txt --out copied --tokenizer data/tokenizer.model --quiet
grep -q 'come back' err && fail 'prepare under a given tokenizer: nothing is lost'
ok 'tokenizers that lose text'

cat >run.ini <<'INI'
; a tiny model
[model]
layers = 1
width = 32
heads = 2
tokens = 32
[optim]
learning_rate = 3e-3
[data]
dir = data
[train]
steps = 30
batch = 2
accumulate = 2
threads = 1
eval_every = 7
eval_batches = 4
save_every = 10
log_every = 3
INI
train="$rope train --config run.ini"

expect 0 dry-run $train --train.out=dry --dry-run --json
"$get" total_bytes <out >value || fail 'dry run: no total_bytes'
[ ! -e dry ] || fail 'a dry run left files'
ok 'dry run: figures, and nothing on disk'

expect 0 print-config $train --train.seed=7 --print-config
grep -q '^seed = 7 .*command line' out && grep -q '^width = 32 .*run.ini:4' out && grep -q '^v_size = 16 .*derived' out ||
    fail 'print-config'
ok 'settings with their origin'

expect 0 train $train --train.out=whole --json
"$get" <out >value && [ "$("$get" step <out)" = 30 ] || fail 'train --json'
for key in held_out_loss bits_per_byte peak_bytes; do "$get" $key <out >value || fail "train --json: $key"; done
cp out whole.json
[ "$(readlink whole/latest)" = step_00000030 ] && [ -d whole/best/ ] || fail 'links of the run'
for file in config.json model.safetensors tokenizer.model optimizer.safetensors state.json; do
    [ -s whole/latest/$file ] || fail "the checkpoint has no $file"
done
while read -r line; do echo "$line" | "$get" step >value || fail "metrics.jsonl: $line"; done <whole/metrics.jsonl
ok 'train: 30 steps, run directory, JSON'

# Steps that change nothing leave the weights that the run began with.
still='--train.steps=2 --train.save_every=0 --optim.learning_rate=1e-30 --optim.weight_decay=0 --optim.warmup=0'
expect 0 'init' $train --train.init=whole --model.tokens=32 --attention.method=lowrank $still --train.out=begun
says 'init' 'starting from the weights of whole/step_00000030'
tensors whole/latest/model.safetensors >a.value && tensors begun/latest/model.safetensors >b.value &&
    [ -s a.value ] && cmp -s a.value b.value || fail 'train.init: the weights are not those of the run'
expect 0 'init of a run that goes on' "$rope" train --resume begun --train.init=whole --train.steps=3
says 'init of a run that goes on' 'train.init is where a new run begins'
expect 2 'init of another shape' $train --train.init=whole --model.width=16 $still --train.out=other
says 'init of another shape' 'another shape'
expect 2 'init from nothing' $train --train.init=nowhere $still --train.out=other
ok 'train.init: the weights of another run, with another context and attention'

expect 0 'train on two threads' $train --train.out=threads --train.threads=2
same_run whole threads 'two threads'
ok 'two threads give the same bytes as one'

# The gradient of an update does not depend on how its sequences are cut into batches.
expect 0 'one batch of four' $train --train.steps=1 --train.log_every=1 --train.batch=4 --train.accumulate=1 --train.out=one
expect 0 'four of one' $train --train.steps=1 --train.log_every=1 --train.batch=1 --train.accumulate=4 --train.out=four
for key in loss grad_norm; do
    head -n 1 one/metrics.jsonl | "$get" $key >a.value && head -n 1 four/metrics.jsonl | "$get" $key >b.value || fail "$key"
    awk -v a="$(cat a.value)" -v b="$(cat b.value)" 'BEGIN { d = a - b; exit !(a > 0 && d * d <= 1e-10 * a * a) }' ||
        fail "accumulation: $key $(cat a.value) in one batch, $(cat b.value) in four"
done
ok 'four batches of one accumulate to one batch of four'

# A run long enough to be stopped in its middle.
expect 0 'lowrank' $train --train.steps=5 --train.log_every=2 --attention.method=lowrank --attention.bound=ball \
    --attention.logit_bound=1 --attention.near=2 --attention.degree=2 --train.out=certified
head -n 1 certified/metrics.jsonl >first
for key in output_bound dq_bound dk_bound dv_bound; do
    value=$("$get" attention $key <first) && [ "${value%%.*}" != null ] && [ "$value" != 0.0 ] || fail "metrics: $key is $value"
    head=$("$get" attention layers 0 $key 0 <first) || fail "metrics: layer 0 has no $key"
    awk "BEGIN { exit !($head > 0 && $head <= $value) }" || fail "metrics: $key of a head is $head, of all $value"
done
[ "$(lines certified)" -ge 3 ] || fail 'metrics: a line for steps 2, 4 and 5'
ok 'certificates of every layer and head in the metrics'

# What falls back is counted by step, as all of that object is, and beside it over the run: also over a run that stopped.
falling="$train --model.layers=2 --train.log_every=1 --train.save_every=2 --attention.method=lowrank --attention.near=2
    --attention.degree=1 --attention.bound=none --attention.logit_bound=0.01"
expect 0 'falling back' $falling --train.steps=4 --train.out=falling
total=0
while read -r line; do
    echo "$line" | "$get" loss >value 2>/dev/null || continue
    step=$(echo "$line" | "$get" attention fell_back) heads=0
    for place in '0 fell_back 0' '0 fell_back 1' '1 fell_back 0' '1 fell_back 1'; do
        heads=$(awk "BEGIN { print $heads + $(echo "$line" | "$get" attention layers $place) }")
    done
    total=$((total + step))
    [ "$step" -gt 0 ] && [ "$step" = "$heads" ] || fail "fell_back is $step, of the heads $heads"
    [ "$(echo "$line" | "$get" fell_back_total)" = $total ] || fail "fell_back_total is not $total"
done <falling/metrics.jsonl
[ $total -gt 0 ] || fail 'nothing fell back'
cp -a falling fallen
rm -r fallen/step_00000004 && ln -sfn step_00000002 fallen/latest
expect 0 'falling back, resumed' "$rope" train --resume fallen
same_run falling fallen 'falling back, resumed'
ok "fallbacks: $total in 4 steps, by step and in all, resumed as well"

long="$train --train.steps=2000 --train.eval_every=500 --train.save_every=100 --train.log_every=10"
expect 0 'train long' $long --train.out=long
for signal in INT TERM KILL; do
    $long --train.out=stopped >out 2>err & pid=$!
    wait_for_lines stopped 25 $pid
    kill -$signal $pid
    wait $pid
    code=$?
    if [ $signal = KILL ]; then [ $code -eq 137 ] || fail "kill: exit code $code"
    else
        [ $code -eq 0 ] || fail "SIG$signal: exit code $code"
        says "SIG$signal" 'Finishing this step and saving; once more stops at once.'
        says "SIG$signal" 'Go on with: rope train --resume stopped'
    fi
    [ "$(lines stopped)" -lt "$(lines long)" ] || fail "SIG$signal: the run had already ended"
    expect 0 resume "$rope" train --resume stopped
    same_run long stopped "resumed after SIG$signal"
    rm -rf stopped
    ok "SIG$signal, then --resume: same metrics, same bytes"
done

expect 0 'resume with nothing to do' "$rope" train --resume whole --json
for key in loss held_out_loss step; do
    [ "$("$get" $key <out)" = "$("$get" $key <whole.json)" ] || fail "resume with nothing to do: $key"
done
[ "$("$get" step_ms <out)" != null ] || fail 'resume with nothing to do: step_ms'
expect 2 'a run is there' $train --train.out=whole
says 'a run is there' '--resume'
expect 2 'another shape' $train --resume --train.out=whole --model.width=64
says 'another shape' 'another shape'
ok 'an existing run is not overwritten'

# The newest checkpoint is damaged: the one before it is taken.
cp -a long damaged
newest=$(readlink damaged/latest)
printf X | dd of="damaged/$newest/model.safetensors" bs=1 seek=5000 conv=notrunc 2>dd.log
expect 1 'eval of a damaged checkpoint' "$rope" eval "damaged/$newest"
says 'eval of a damaged checkpoint' 'damaged'
expect 0 'resume past damage' "$rope" train --resume damaged
says 'resume past damage' 'Passing over'
same_run long damaged 'past a damaged checkpoint'
ok 'a damaged checkpoint is named and passed over'

expect 0 eval "$rope" eval whole --json
for key in held_out_loss perplexity bits_per_byte unigram_loss positions; do "$get" $key <out >value || fail "eval: $key"; done
loss=$("$get" held_out_loss <out)
unigram=$("$get" unigram_loss <out)
expect 0 'eval of the long run' "$rope" eval long --json
better=$("$get" held_out_loss <out)
awk "BEGIN { exit !($better < $unigram && $better < $loss) }" || fail "losses: $better, shorter run $loss, unigram $unigram"
expect 0 'eval, longer context' "$rope" eval long --model.tokens=64 --data data --batches 2 --json
[ "$("$get" context <out)" = 64 ] || fail 'eval: context'
expect 2 'eval, another width' "$rope" eval long --model.width=64
says 'eval, another width' 'model.width'
ok "eval: held-out loss $better below the unigram model's $unigram"

expect 0 sample "$rope" sample long --prompt 'the king' -n 40
[ -s out ] && grep -q '^the king' out || fail 'sample: no text'
cp out first
expect 0 'sample again' "$rope" sample long --prompt 'the king' -n 40
cmp -s out first || fail 'sample: the same seed gave another text'
expect 0 'another seed' "$rope" sample long --prompt 'the king' -n 40 --seed 2
! cmp -s out first || fail 'sample: another seed gave the same text'
expect 0 'sample --json' "$rope" sample long -n 100 --temperature 0.5 --top-k 0 --json
[ "$("$get" tokens <out)" = 100 ] || fail 'sample: beyond the context'
awk "BEGIN { exit !($("$get" tokens_per_s <out) > 1) }" || fail 'sample --json: tokens_per_s'
expect 0 'sample of one token' "$rope" sample long -n 1 --json
grep -q '"tokens_per_s": null' out || fail 'sample of one token: its logits are the prompt'\''s'
for seed in $(seq 40); do # a text ends at its end-of-text token, and each build draws its own
    expect 0 'sample of all bytes' "$rope" sample long -n 3000 --temperature 1000 --top-k 0 --seed $seed --json
    grep -q 'u0000[^"]' out && break
done
grep -q 'u0000[^"]' out || fail 'sample --json: the text ends at its first NUL'
expect 1 'sample of NaN' "$rope" sample long --attention.logit_scale=1e300
says 'sample of NaN' 'logits are not finite'
"$rope" sample long -n 1000000000 --seed 18446744073709551615 >out 2>err & pid=$!
for _ in $(seq 600); do
    [ "$(wc -c <out)" -ge 100 ] && break
    sleep 0.02
done
kill -INT $pid
wait $pid || fail "sample, SIGINT: exit code $?"
says 'sample, SIGINT' 'Stopping after this token; once more stops at once.'
ok 'sample: repeatable, beyond the context, JSON, stopped'

# A model may have more tokens than its tokenizer, for the sake of its shape: they are never drawn. Fewer it may not.
expect 0 'a vocabulary with room' $train --train.out=room --model.vocabulary=350 --train.steps=4 --train.sample_every=2
says 'a vocabulary with room' 'sample at step 4:'
expect 0 'sample of a vocabulary with room' "$rope" sample room -n 40 --temperature 1000 --top-k 0
cp -rL room/latest small
expect 0 "prepare with more tokens" "$rope" prepare text.txt --out data_large --vocab 380
cp data_large/tokenizer.model small/ && rm small/state.json
expect 2 'a tokenizer too large' "$rope" sample small --prompt 'the king'
says 'a tokenizer too large' 'The tokenizer has 380 tokens, the model 350'
[ ! -s out ] || fail 'a tokenizer too large: the prompt was shown'
mkdir odd && ln -s "$(printf 'odd/\377')" strange && cp -rL long/latest "$(printf 'odd/\377')"
expect 0 'a link to a name that is no text' "$rope" eval strange --json
ok 'vocabularies with room; a link to a name that is no text'

expect 0 'export gguf' "$rope" export whole --format gguf --out whole.gguf --json
[ "$("$get" format <out)" = gguf ] && [ "$("$get" bytes <out)" = "$(wc -c <whole.gguf)" ] &&
    [ "$("$get" checkpoint <out)" = whole/step_00000030 ] && [ "$("$get" parameters <out)" -gt 20000 ] || fail 'export --json'
[ "$(head -c 4 whole.gguf)" = GGUF ] && grep -qaF '<0x0A>' whole.gguf || fail 'export: no GGUF file with a tokenizer'
expect 0 'export llama2.c' "$rope" export whole/best --format llama2.c --out whole.bin
[ "$(ls whole.bin)" = "$(printf 'model.bin\ntokenizer.bin')" ] || fail 'export: the files of llama2.c'
says 'export llama2.c' 'M parameters'
expect 0 'export bf16' "$rope" export whole --format bf16 --out made/half/
cmp -s data/tokenizer.model made/half/tokenizer.model || fail 'export: the tokenizer'
[ $((2 * $(wc -c <made/half/model.safetensors))) -lt $(($(wc -c <whole/latest/model.safetensors) + 8000)) ] ||
    fail 'export: not half the size'
expect 0 'eval of bf16' "$rope" eval made/half --json
half=$("$get" held_out_loss <out)
awk "BEGIN { d = $half - $loss; exit !(d * d < 1e-4) }" || fail "export: a loss of $half in bf16, $loss before"
expect 0 'sample of bf16' "$rope" sample made/half -n 10
expect 0 'train.init of bf16' $train --train.init=made/half $still --train.out=from_half
for size in 290 320; do # a tokenizer that knows fewer tokens than the model, and one that knows more
    expect 0 prepare "$rope" prepare text.txt --out data_$size --vocab $size
    cp -a made/half half_$size && cp data_$size/tokenizer.model half_$size/
done
expect 0 'export with spare tokens' "$rope" export half_290 --format gguf --out made/for/spare.gguf
grep -qaF '[PAD299]' made/for/spare.gguf && ! grep -qaF '[PAD289]' made/for/spare.gguf || fail 'export: tokens without a piece'
ok "export: gguf, llama2.c, and bf16 with a held-out loss of $half"

# A model made elsewhere: no settings of ours, no checksums. It begins with its BOS, and so do its exports.
cp -aL whole/latest elsewhere && rm elsewhere/state.json elsewhere/optimizer.safetensors
sed -i 's/"rope_c"/"others"/' elsewhere/config.json
LC_ALL=C sed -i 's/"crc32\.header"/"other.header"/; s/"config\.crc32"/"others.crc32"/; s/"writer"/"others"/' elsewhere/model.safetensors
expect 0 'bf16 of a model made elsewhere' "$rope" export elsewhere --format bf16 --out elsewhere16
grep -q rope_c elsewhere16/config.json && fail 'bf16 of a model made elsewhere: one of ours'
expect 0 'sample of its bf16' "$rope" sample elsewhere16 -n 5
expect 0 'gguf of a model made elsewhere' "$rope" export elsewhere --format gguf --out elsewhere.gguf
bos() { # the type of add_bos_token and its value
    tail -c +$((14 + $(grep -aobF add_bos_token "$1" | cut -d : -f 1))) "$1" | head -c 5 | od -An -t u1 | tr -d ' '
}
[ "$(bos elsewhere.gguf) $(bos whole.gguf)" = '70001 70000' ] || fail "gguf: BOS $(bos elsewhere.gguf), $(bos whole.gguf)"
ok 'export of a model made elsewhere'

expect 0 task $rope train --data.task=mqar --data.pairs=4 --model.layers=1 --model.width=16 --model.heads=1 \
    --model.tokens=32 --model.token_shift=true --train.steps=6 --train.batch=4 --train.eval_batches=2 --train.seed=7 \
    --train.out=task --json
"$get" held_out_loss <out >trained
expect 0 'eval of a task' $rope eval task --batches 2 --json
[ "$("$get" distances 0 targets <out)" -gt 0 ] && "$get" accuracy <out >value || fail 'eval of a task'
"$get" held_out_loss <out | cmp -s trained || fail "eval of a task: not on the examples of $(cat trained)"
expect 0 'eval of a task, other batches' $rope eval task --batches 1 --train.batch=8 --json
[ "$("$get" settings train.batch <out)" = 8 ] || fail 'eval of a task, other batches: its settings'
awk -v loss="$("$get" held_out_loss <out)" '{ exit !(($1 / loss - 1) ^ 2 < 1e-12) }' trained || fail 'eval of a task, other batches'
ok 'a synthetic task, with accuracy by distance, on the examples of its seed, as many as in training'

expect 0 'a loss beyond exp' $rope train --data.task=copy --model.layers=1 --model.width=16 --model.heads=2 \
    --model.tokens=16 --train.steps=7 --optim.learning_rate=100 --optim.weight_decay=0 --train.out=huge
expect 0 'eval, a loss beyond exp' $rope eval huge --json
[ "$("$get" perplexity <out)" = null ] && [ "$("$get" held_out_loss <out | sed 's/\..*//')" -gt 709 ] ||
    fail 'eval: a perplexity that is infinite'
expect 0 'eval, not finite' $rope eval whole --attention.logit_scale=1e300 --json
for key in held_out_loss perplexity 'positions 0 loss'; do
    [ "$("$get" $key <out)" = null ] || fail "eval, not finite: $key"
done
ok 'eval: figures that are not finite are null'

# A sweep is interrupted in its second run; what was finished is not run again, and the rest comes out the same.
sweep="$rope train --config run.ini --train.eval_every=100 --train.log_every=100 --sweep optim.learning_rate=1e-3,3e-3 --sweep train.steps=20,1000"
expect 0 'sweep --dry-run' $sweep --train.out=swept --dry-run --json
[ "$("$get" rows 3 name <out)" = learning_rate=3e-3,steps=1000 ] && [ ! -e swept ] || fail 'sweep --dry-run'
expect 0 sweep $sweep --train.out=swept --json
cp out swept.json
$sweep --train.out=cut >out 2>err & pid=$!
wait_for_lines cut/learning_rate=1e-3,steps=1000 3 $pid
kill -INT $pid
wait $pid || fail "an interrupted sweep: exit code $?"
says 'interrupted sweep' '--resume'
[ ! -e cut/learning_rate=3e-3,steps=20 ] || fail 'the interrupted sweep went on'
before=$(ls -l --time-style=full-iso cut/learning_rate=1e-3,steps=20)
expect 2 'the sweep again' $sweep --train.out=cut
expect 0 'resume a sweep' $sweep --train.out=cut --resume --json
[ "$before" = "$(ls -l --time-style=full-iso cut/learning_rate=1e-3,steps=20)" ] || fail 'a finished run was repeated'
for i in 0 1 2 3; do
    for key in name state held_out_loss accuracy; do
        "$get" rows $i $key <out >a.value && "$get" rows $i $key <swept.json >b.value && cmp -s a.value b.value ||
            fail "sweep: $key of row $i"
    done
done
best=$("$get" best <out)
mv swept/sweep.json unrecorded.json # as if it had been interrupted in a run's last evaluation
expect 0 'a sweep of finished runs' $sweep --train.out=swept --resume --json
grep -w nan err && fail 'a sweep of finished runs: its table'
for i in 0 1 2 3; do
    [ "$("$get" rows $i loss <out)" = "$("$get" rows $i loss <swept.json)" ] || fail "a sweep of finished runs: loss of row $i"
done
mkdir -p unrecorded/sweep.json.tmp # where the record is written first
expect 1 'a sweep without a record' $train --data.dir=data --train.out=unrecorded --sweep optim.learning_rate=1e-3,3e-3
says 'a sweep without a record' 'The sweep ends at learning_rate=1e-3. Go on with the same command and --resume.'
printf '{"learning_rate=1e-3,steps=20": {}}' >cut/sweep.json
expect 1 'a damaged sweep' $sweep --train.out=cut --resume
says 'a damaged sweep' 'sweep.json is not a sweep'
"$get" rows <swept.json >rows && [ "$best" = learning_rate=3e-3,steps=1000 ] || fail "sweep: the best is $best"
more="$train --train.out=more --sweep train.batch=1,2 --dry-run"
expect 0 'a sweep of batches' $more
says 'a sweep of batches' 'with train.eval_batches=0 they can be compared'
expect 0 'a sweep of batches, all held-out data' $more --train.eval_batches=0
grep -q 'can be compared' err && fail 'a sweep of batches is judged by the same data'
expect 0 'a sweep of batches, more than there are' $more --train.eval_batches=100000
grep -q 'can be compared' err && fail 'a sweep of batches is judged by all of the data'
expect 0 'a run that explodes' $train --train.out=exploded --sweep attention.logit_scale=1e300,1/d
says 'a run that explodes' 'diverged at step 10'
says 'a run that explodes' 'lowest held-out loss: logit_scale=1_d'
expect 0 'a sweep of steps' $train --train.tokens=1000000 --train.out=lengths --sweep train.steps=2,3 --json
[ "$("$get" rows 0 step <out) $("$get" rows 1 step <out)" = '2 3' ] || fail 'a sweep of steps: train.tokens won'
ok 'a sweep: combinations, the best, interruption, runs that explode'

# 4 batches of 2 windows of 32 tokens judge a: 4 windows of 64 tokens are as much of the text.
expect 0 'ab, arms of other contexts' "$rope" ab --config run.ini --out contexts --train.steps=4 --train.eval_batches=4 \
    --b attention.method=exact --b model.tokens=64 --json
"$get" b held_out_loss <out >value
expect 0 'eval of an arm' "$rope" eval contexts/seed_1/b --train.batch=1 --batches 4 --json
awk -v loss="$("$get" held_out_loss <out)" '{ exit !(($1 / loss - 1) ^ 2 < 1e-12) }' value ||
    fail "arms of other contexts: $(cat value) is not the loss of 256 tokens"
ok 'ab: arms of other contexts are judged by the same stretch of text'

# An arm's checkpoint has the tokenizer that its tokens are of, whatever becomes of the data's. One without says what it takes.
cmp -s data/tokenizer.model contexts/seed_1/b/latest/tokenizer.model || fail 'ab: checkpoints without their tokenizer'
"$get" bos_token_id <contexts/seed_1/b/latest/config.json >value 2>err || fail 'ab: config.json without its tokens'
expect 0 'sample of an arm' "$rope" sample contexts/seed_1/b -n 5
grep -q 'is taken' err && fail 'sample of an arm: the tokenizer of the data'
cp -aL contexts/seed_1/b/latest bare && rm bare/tokenizer.model bare/state.json
expect 0 'sample without its own tokenizer' "$rope" sample bare -n 5
says 'sample without its own tokenizer' 'bare has no tokenizer.model; that of data is taken'
ok 'ab: checkpoints have their tokenizer'

"$rope" doctor --json >out 2>err
[ $? -le 1 ] && "$get" sgemm_gflops <out >value || fail 'doctor --json'
"$get" problems <out >value || fail 'doctor: problems'
"$rope" doctor --attention.method=auto,lowrank --model.layers=2 --model.tokens=4096 --attention.bound=ball \
    --attention.logit_bound=1 >out 2>err
[ $? -le 1 ] && says 'doctor' 'layer 0         auto: exact' && says 'doctor' 'layer 1         lowrank: degree 4' ||
    fail 'doctor: what attention comes down to'
expect 2 'doctor with settings that make no plan' "$rope" doctor --attention.method=lowrank --attention.degree=8 \
    --model.qk_size=64 --attention.far_size=0
says 'doctor' 'features'
ok 'doctor'

mistake() { # mistake TEXT COMMAND...
    local text=$1
    shift
    expect 2 "$*" "$@"
    says "$*" "$text"
    [ ! -s out ] || fail "$*: wrote to standard output"
    mistakes=$((mistakes + 1))
}
mistakes=0
mistake 'did you mean train' "$rope" trian
mistake 'did you mean train' "$rope" help trian
mistake 'did you mean --resume' "$rope" train --resum
mistake 'did you mean model.layers' "$rope" train --model.layrs=3
mistake 'did you mean optim.learning_rate' "$rope" train --train.learning_rate=3
mistake 'did you mean cosine' "$rope" train --optim.schedule=cosin
mistake 'not a whole number' "$rope" train --model.width=big
mistake 'outside of' "$rope" train --model.width=-1
mistake 'needs a value' "$rope" train --model.width
mistake 'There are no data' "$rope" train --model.layers=1 --model.width=16 --model.tokens=16
mistake 'cannot be read' "$rope" train --config nowhere.ini
mistake 'cannot be read' "$rope" eval nowhere
mistake 'neither a checkpoint' "$rope" eval data
mistake 'takes text files' "$rope" prepare --out x
mistake 'standard input can be read once' "$rope" prepare - - --out x
mistake 'not JSON' "$rope" train --print-config --json
mistake 'bench step measures what the settings say' "$rope" bench step --tokens 64
mistake 'bench gemm has sizes of its own' "$rope" bench gemm --method exact
mistake 'is one file' "$rope" export whole --format gguf --out x/
mistake 'lower model.tokens' $train --model.tokens=1000000 --train.out=x --dry-run
mistake 'holds a run already' $train --train.out=whole --dry-run
mistake 'holds a comparison: for a run choose another train.out' $train --train.out=contexts
mistake 'holds a run: for a comparison choose another --out' "$rope" ab --config run.ini --out whole --dry-run
mistake 'holds a comparison already' "$rope" ab --config run.ini --out contexts --dry-run
mistake 'is no directory that' $train --data.dir=text.txt --train.out=x
mistake 'is the same as learning_rate=1e-3' $train --train.out=x --sweep optim.learning_rate=1e-3,0.001
mistake 'holds a sweep: for a run choose another train.out' $train --train.out=swept
mistake 'holds a sweep already' $train --train.out=swept --sweep optim.learning_rate=1e-3,2e-3 --dry-run
mistake 'holds a run: for a sweep choose another train.out' $train --train.out=whole --sweep train.batch=1,2
mistake 'exists and is not a folder' $train --train.out=text.txt --dry-run
mistake 'lower model.tokens' $train --train.out=x --sweep model.tokens=16,1000000
mistake '--out: The path is not UTF-8' "$rope" ab --config run.ini --out "$(printf 'odd/\377')"
mistake 'A relative path is meant from where rope is started' sh -c "cd parts && '$rope' eval ../whole"
mistake '--out' "$rope" prepare text.txt
mistake '--tokenizer comes with' "$rope" prepare text.txt --out given --tokenizer data/tokenizer.model --vocab 300
mistake 'eval takes' "$rope" eval parts/*
mistake '1e-09 to 0.9' "$rope" prepare text.txt --out given --validation 0
mistake 'ab takes no arguments' "$rope" ab --config run.ini whole
mistake 'profile takes no arguments' "$rope" profile --config run.ini whole
mistake '--size: 3 is odd' "$rope" verify --size 3
mistake 'features' "$rope" verify --size 64 --degree 10 --tokens 16,32 --method lowrank
! grep -q 'limit' err || fail 'verify: what cannot be solved was said to take too long'
mistake 'is neither rope, rope-decay' $train --attention.kernel=rope-dcay --train.out=x
mistake "Arm a: 'foo' is not of the form" "$rope" ab --config run.ini --a foo
mistake 'GiB are available' $train --train.batch=1000000 --model.width=4096 --train.out=x
printf '[model]\nlayers = 1\nwidht = 3\n' >bad.ini
mistake 'bad.ini:3:' "$rope" train --config bad.ini
printf '[model]\nlay\000ers = 1\n' >bad.ini
mistake 'bad.ini:2:' "$rope" train --config bad.ini
export="$rope export whole --out x"
mistake 'takes one checkpoint' "$rope" export --format gguf --out x
mistake 'cannot be read' "$rope" export nowhere --format gguf --out x
mistake 'needs --format' $export
mistake 'needs --out' "$rope" export whole --format gguf
mistake 'did you mean gguf' $export --format ggfu
mistake 'did you mean llama2.c' $export --format llama2
mistake 'there are gguf, llama2.c, bf16' $export --format pickle
mistake 'exists already' "$rope" export whole --format gguf --out whole.gguf
mistake 'exists already' "$rope" export whole --format bf16 --out data
mistake 'model.rope_theta' $export --format llama2.c --model.rope_theta=500
mistake 'model.norm_epsilon' $export --format llama2.c --model.norm_epsilon=1e-6
mistake 'attention.bound' $export --format gguf --attention.method=lowrank
mistake 'model.token_shift' "$rope" export task --format gguf --out x
mistake 'The tokenizer has 320 tokens' "$rope" export half_320 --format gguf --out x
[ ! -e x ] && [ ! -e x.tmp ] || fail 'export: a mistake left files'
ok "$mistakes mistakes: exit code 2, the place, the remedy"

expect 0 'help of a command' "$rope" help train
grep -q '^Usage: rope train' out || fail 'help of a command'
expect 1 'help on a full disk' sh -c "'$rope' train --help >/dev/full"
says 'help on a full disk' 'Writing to standard output failed'
expect 0 'a window of exact attention' $train --train.out=x --attention.far=none --dry-run
says 'a window of exact attention' 'attention.far=none changes nothing'
expect 0 'a window' $train --train.out=x --attention.far=none --attention.method=lowrank --dry-run
grep -q 'changes nothing' err && fail 'a window: said to be none'
ok 'help of commands; a window that exact attention does not have'

expect 1 'unwritable' $train --train.out=text.txt/run
says 'unwritable' 'text.txt/run'
ok 'an unwritable run directory'

# A full disk: no file may grow beyond a few blocks, so that saving fails. The last good checkpoint stays. The thread
# sanitizer writes a longer file when a program starts, and dies of it.
if ! grep -q __tsan_init "$rope"; then
    cp -a long full
    sum=$(cat full/latest/* | cksum)
    (trap '' XFSZ; ulimit -f 20; exec $rope train --resume full --train.steps=2100) >out 2>err
    [ $? -eq 1 ] || fail 'full disk: exit code'
    says 'full disk' 'Safe is'
    [ "$(cat full/latest/* | cksum)" = "$sum" ] || fail 'full disk: the last checkpoint changed'
    [ -z "$(ls full | grep tmp)" ] || fail 'full disk: half a checkpoint was left'
    for format in gguf llama2.c bf16; do
        (trap '' XFSZ; ulimit -f 8; exec $rope export whole --format $format --out full.$format) >out 2>err
        [ $? -eq 1 ] && [ -z "$(ls -d full.$format* 2>/dev/null)" ] || fail "full disk: export as $format"
        says "full disk, $format" "full.$format.tmp"
    done
    expect 1 'standard output is full' sh -c "$rope eval whole --json >/dev/full"
    ok 'a full disk: message, exit code 1, the last checkpoint intact'
fi

# Numbers that explode: ten skipped steps in a row end the run, and nothing is saved over the good checkpoint, though one
# was due after each step and an evaluation (for the best one) after the fifth.
cp -a whole nan
links="$(readlink nan/latest) $(readlink nan/best)"
sum=$(cat nan/latest/* nan/best/* | cksum)
expect 1 'NaN' "$rope" train --resume nan --train.steps=60 --attention.logit_scale=1e300 --train.save_every=1
says NaN '10 steps in a row'
says NaN 'the run stops at step 40.'
says NaN 'Safe is nan/step_00000030'
[ "$(grep -c 'is skipped: loss nan' err)" = 10 ] || fail 'NaN: not each of ten steps was named'
[ "$links" = "$(readlink nan/latest) $(readlink nan/best)" ] && [ "$sum" = "$(cat nan/latest/* nan/best/* | cksum)" ] ||
    fail 'NaN: a checkpoint was replaced'
[ "$("$get" skipped_in_row <"nan/latest/state.json")" = 0 ] || fail 'NaN: a skipped step was saved'
# Weights that are finite, though the squares of what they make are not: a row of zeros has a loss of ln V.
expect 1 'overflow' $train --train.out=overflow --optim.learning_rate=1e3 --optim.weight_decay=0 --optim.clip=0 --train.steps=60
says overflow '10 steps in a row'
ok 'ten steps without finite numbers end the run'

# Fewer of them at the end of a run: it is saved if held-out data show that the weights are good, and has failed if not.
cp -a whole late
expect 1 'NaN at the end' "$rope" train --resume late --train.steps=33 --attention.logit_scale=1e300
says 'NaN at the end' 'held out at step 33: loss nan, perplexity nan'
says 'NaN at the end' 'The last 3 of 33 steps had no finite loss and gradient'
says 'NaN at the end' 'Safe is late/step_00000030'
expect 0 'too steep at the end' "$rope" train --resume late --train.steps=33 --attention.logit_scale=1e36 --optim.clip=0
says 'too steep at the end' 'Step 33 is skipped'
says 'too steep at the end' 'saved in late/step_00000033'
ok 'skipped steps at the end of a run'

echo "$checks checks passed"
