#!/bin/bash
# What commands must stand when files are not theirs alone: two programs at one path, files that must not be read or
# written, file systems that cannot do everything, settings from elsewhere. $BUILD is the build directory. Prints
# "NAME: ok".
set -u
cd "$(dirname "$0")/.." && . tests/script.sh || exit 2
checkout=$OLDPWD
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

small_run

# Two at one folder would mix their tokenizers and shards.
expect 2 'two that prepare one folder' flock data "$rope" prepare text.txt --out data --vocab 290
says 'two that prepare one folder' 'data is being written by another process'
expect 0 'eval of what the first prepared' "$rope" eval run --data data
ok 'two that prepare one folder'

# A run that was interrupted goes on with its own settings or not at all: its row would tell of others.
begun="$train --data.dir=data --train.out=begun --train.save_every=100 --sweep optim.learning_rate=1e-3,3e-3"
$begun --train.steps=100000 --json >out 2>err & pid=$!
wait_for begun/learning_rate=1e-3/latest/state.json $pid
kill -INT $pid
wait $pid || fail "a sweep that is interrupted: exit code $?"
[ "$("$get" rows <out)" = '[]' ] && [ "$("$get" complete <out)" = false ] ||
    fail 'a sweep that is interrupted: it counts the run that is not finished'
[ "$("$get" learning_rate=1e-3 state <begun/sweep.json)" = started ] || fail 'a sweep that is interrupted: its record'
checkpoint=$(readlink begun/learning_rate=1e-3/latest)
for other in --train.batch=1 --optim.weight_decay=0 --train.steps=40; do
    expect 2 "a run that was interrupted, and $other" $begun --train.steps=100000 $other --resume
    says "a run that was interrupted, and $other" 'begun/learning_rate=1e-3 was run with other settings'
done
[ $(readlink begun/learning_rate=1e-3/latest) = $checkpoint ] || fail 'a run that was interrupted: it went on'
mv begun/learning_rate=1e-3/latest/state.json aside # what is not whole tells nothing
cp -a begun by_hand && mv aside by_hand/learning_rate=1e-3/latest/state.json
expect 0 'a run that was interrupted, by hand' "$rope" train --resume by_hand/learning_rate=1e-3 --optim.weight_decay=0 \
    --train.steps=$((10#${checkpoint#step_} + 1))
expect 2 'a sweep of a run that went on by hand' ${begun/=begun/=by_hand} --train.steps=100000 --resume
says 'a sweep of a run that went on by hand' 'by_hand/learning_rate=1e-3 was run with other settings'
rm -r begun/learning_rate=1e-3 # as if it had been killed before its first checkpoint
expect 0 'a run that hardly began' $begun --train.steps=4 --resume --json
[ "$("$get" complete <out) $("$get" rows 0 state <out)" = 'true finished' ] || fail 'a run that hardly began: its row'
ok 'a sweep whose run was interrupted'

# A run that others start from may go on meanwhile: all of them start from what the first did.
expect 0 'a run to start from' $train --data.dir=data --train.out=base --train.save_every=10 --train.keep=9
ln -sfn step_00000020 base/latest
from="$train --data.dir=data --train.init=base --train.out=from --sweep"
$from train.steps=3000,2 >out 2>err & pid=$!
wait_for from/steps=3000/metrics.jsonl $pid
ln -sfn step_00000030 base/latest
flock -n base/step_00000020 true && fail 'a sweep from a run: what it starts from may be removed'
wait $pid || fail "a sweep from a run: exit code $?"
[ "$(grep -cxF 'starting from the weights of base/step_00000020' err)" = 2 ] || fail 'a sweep from a run that goes on'
grep -qx 'init = base' from/steps=2/config.ini || fail 'a sweep from a run: the settings of its runs'
expect 0 'a sweep from a run, a value more' $from train.steps=3000,2,3 --resume
says 'a sweep from a run, a value more' 'starting from the weights of base/step_00000020'
mv base/step_00000020 base_away
expect 2 'a sweep from a run, which is gone' $from train.steps=3000,2,4 --resume
says 'a sweep from a run, which is gone' 'train.init: base/step_00000030 has not the weights of base/step_00000020'
cp -r base/step_00000030 base/step_00000020
expect 2 'a sweep from a run, which is another' $from train.steps=3000,2,4 --resume
says 'a sweep from a run, which is another' 'has not the weights of base/step_00000020'
expect 0 'a sweep from a run, all done' $from train.steps=3000,2,3 --resume
sed 's/"init"/"before"/' from/sweep.json >old.json && mv old.json from/sweep.json
expect 0 'a sweep from a run, as it was recorded before' $from train.steps=3000,2,4 --resume
ok 'a sweep from a run that goes on'

# Two at one sweep would lose each other's rows.
mkdir together
sweep="$train --data.dir=data --train.out=together --sweep optim.learning_rate=1e-3,3e-3 --train.steps=2"
expect 2 'two that sweep into one folder' flock together $sweep
says 'two that sweep into one folder' 'together is being swept by another process'
[ -z "$(ls together)" ] || fail 'two that sweep into one folder: what the second left'
expect 0 'a sweep once the other has ended' $sweep
ok 'two that sweep into one folder'

for format in gguf bf16; do
    if [ $format = gguf ]; then echo GGUF and half of it >exported.tmp; else mkdir exported.tmp; fi
    expect 2 "two that export, $format" flock exported.tmp "$rope" export run --format $format --out exported
    says "two that export, $format" "exported.tmp is being written by another process"
    [ ! -e exported ] && [ -e exported.tmp ] || fail "two that export, $format: what it left"
    expect 0 "export over what a killed one left, $format" "$rope" export run --format $format --out exported
    [ ! -e exported.tmp ] || fail "export over what a killed one left, $format: it is still there"
    rm -r exported
done
ok 'two that export to one path'

# What has the temporary name and is none of ours stays.
mkdir -p theirs.tmp/precious hidden.tmp && echo kept | tee theirs.tmp/precious/file hidden.tmp/.file >theirs.gguf.tmp
ln -s "$PWD/text.txt" linked.gguf.tmp && cp text.txt before.txt
for out in theirs hidden theirs.gguf linked.gguf; do
    case $out in *.gguf) format=gguf ;; *) format=bf16 ;; esac
    "$rope" export run --format $format --out $out >out 2>err && fail "export over somebody's $out.tmp"
    says "export over somebody's $out.tmp" "$out.tmp"
    [ ! -e $out ] || fail "export over somebody's $out.tmp: what it left"
done
[ "$(cat theirs.tmp/precious/file hidden.tmp/.file theirs.gguf.tmp)" = "$(printf 'kept\nkept\nkept')" ] &&
    cmp -s text.txt before.txt || fail "export over somebody's files: they are not what they were"
mkdir ours.tmp && echo x | tee ours.tmp/model.safetensors >ours.tmp/config.json.tmp && printf GGU >ours.gguf.tmp
printf '\0\0\0\0\0\0' >empty.gguf.tmp # after a loss of power
expect 0 'export over a half-written directory' "$rope" export run --format bf16 --out ours
expect 0 'export over a half-written file' "$rope" export run --format gguf --out ours.gguf
expect 0 'export over a file whose data are lost' "$rope" export run --format gguf --out empty.gguf
[ ! -e ours.tmp ] && [ ! -e ours.gguf.tmp ] && [ ! -e empty.gguf.tmp ] && [ ! -e ours/config.json.tmp ] ||
    fail 'export over what is half written'
ok 'export beside files of the temporary names'

expect 0 'install' make -s -C "$checkout" -o all install BUILD="$BUILD" DESTDIR="$work/two words"
[ -x "two words/usr/local/bin/rope" ] && [ -f "two words/usr/local/share/rope/configs/tiny.ini" ] ||
    fail 'install: what is there'
ok 'installing below a name with blanks'

# A checkpoint that may not be read (written under sudo, say) is not damaged: it must neither be passed over nor go.
user=
if [ "$(id -u)" -eq 0 ]; then user='setpriv --reuid=65534 --regid=65534 --clear-groups'; fi
if [ -z "$user" ] || { chmod 755 . && $user test -x "$rope"; } 2>/dev/null; then
    expect 0 'train with checkpoints' $train --data.dir=data --train.out=kept --train.save_every=10 --train.keep=5
    chmod 000 kept/step_00000030/state.json
    [ -z "$user" ] || chown -R 65534:65534 kept
    expect 2 'a checkpoint that may not be read' $user "$rope" train --resume kept --train.steps=25
    says 'a checkpoint that may not be read' 'kept/step_00000030/state.json may not be read'
    chmod 600 kept/step_00000030/state.json
    cp -a data secret && chmod 000 secret
    expect 1 'data that may not be read' $user $train --data.dir=secret --train.out=none
    says 'data that may not be read' 'secret/meta.json: Permission denied'
    expect 0 'it may be read again' $user "$rope" train --resume kept --train.steps=33
    says 'it may be read again' 'at step 30'
    ok 'a checkpoint that may not be read'
fi

# Readers beside a run that saves every step and keeps one checkpoint: none is removed under them, and all go in the end.
$train --data.dir=data --train.steps=100000 --train.save_every=1 --train.keep=1 --train.eval_every=0 --train.out=busy \
    >out 2>err & pid=$!
until [ -e busy/latest ]; do sleep 0.02; done
for i in $(seq 20); do
    "$rope" eval busy --data data --batches 1 >console 2>&1 || fail "eval beside a run: $(cat console)"
    "$rope" sample busy -n 1 >console 2>&1 || fail "sample beside a run: $(cat console)"
done
kill -TERM $pid
wait $pid || fail 'a run with readers: exit code'
[ "$(ls -d busy/step_* | wc -l)" = 1 ] || fail "a run with readers: it left $(ls busy)"
ok 'readers beside a run that keeps one checkpoint'

# Settings may come from a pipe, and late: whoever names one waits for its writer, as cat does.
expect 0 'settings from a pipe' $train --data.dir=data --train.out=from_pipe \
    --config <(sleep 0.3; echo '[train]'; sleep 0.3; echo 'keep = 7')
grep -qx 'keep = 7' from_pipe/config.ini || fail 'settings from a pipe: lost'
ok 'settings from a pipe'

# Pipes in the place of files, which nobody writes to.
for file in run/metrics.jsonl run/latest/state.json data/meta.json data/tokenizer.model; do
    rm -rf piped && mkdir piped && cp -a run data piped && rm piped/$file && mkfifo piped/$file
    timeout 20 "$rope" train --resume piped/run --data.dir=piped/data --train.steps=33 >out 2>err </dev/null
    case $? in 1 | 2) ;; *) fail "a pipe for $file: exit code" ;; esac
    says "a pipe for $file" ": piped/"
done
ok 'pipes in the place of files'

# A file system without symbolic links is refused before the first step: no checkpoint could ever be called the latest.
printf '%s' '#include <errno.h>
int symlink(const char *target, const char *path) { (void)target, (void)path; errno = EPERM; return -1; }' >links.c
if ${CC:-cc} -shared -fPIC -o links.so links.c 2>/dev/null; then
    without_links="env LD_PRELOAD=./links.so ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-}"
    expect 1 'no links' $without_links $train --data.dir=data --train.out=linkless
    says 'no links' 'takes symbolic links: Creating the link linkless/latest.tmp: Operation not permitted'
    [ ! -s linkless/metrics.jsonl ] || fail 'no links: it trained'
    expect 0 'eval without links' $without_links "$rope" eval run/step_00000030 --data data --batches 1
    ok 'no symbolic links'
fi

# Files of the user's that lie where the program writes.
mkdir mine && cat >mine/config.ini <<'INI'
; written by hand
[train]
out = mine
INI
cp mine/config.ini before.ini
expect 2 'settings where they would be written over' $train --data.dir=data --config mine/config.ini
says 'settings where they would be written over' 'mine/config.ini would be written over'
cmp -s mine/config.ini before.ini || fail 'settings where they would be written over: they were'
expect 2 'settings that others take the place of' $train --data.dir=data --config mine/config.ini --train.out=mine
says 'settings that others take the place of' 'mine/config.ini would be written over'
expect 2 'another directory for a run that goes on' "$rope" train --resume run --train.out=elsewhere --train.steps=40
says 'another directory for a run that goes on' 'a run goes on in its own directory, run'
[ ! -e elsewhere ] || fail 'another directory for a run that goes on: it is there'
expect 0 'its own directory for a run that goes on' "$rope" train --resume run --train.out=run --train.steps=31
printf '[model]\nkv_heads = 0\nqk_size = 0\nv_size = 0\nffn = 0\nvocabulary = 0\n' >zeros.ini
expect 0 'sizes that follow from others' "$rope" eval run --config zeros.ini --data data --batches 1
expect 0 'a vocabulary of its own' "$rope" sample run --config zeros.ini --data.dir= --tokens 2
for other in heads=4 kv_heads=1 ffn=64; do
    expect 2 "another $other" "$rope" eval run --config zeros.ini --data data --model.$other
    says "another $other" "model.${other%=*} is "
    says "another $other" " in the checkpoint and cannot be ${other#*=}."
done
expect 2 'settings of a run without it' "$rope" eval run --print-config
says 'settings of a run without it' 'name its config.ini with --config'
expect 0 'settings of a run' "$rope" eval --config run/config.ini --print-config
grep -q '^width = 32 ' out || fail 'settings of a run: not its own'
ok 'settings that would be lost, and settings of another run'

# Data that do not belong together, or to what they are compared with.
"$rope" prepare text.txt --out other --vocab 300 --validation 0.3 --quiet || fail 'other data'
cp -r data mixed && cp other/val.bin mixed/
expect 1 'a shard of other data' $train --data.dir=mixed --train.out=mixed_run
says 'a shard of other data' 'mixed/val.bin: it is not the file that meta.json beside it speaks of'
expect 2 'training on a file' $train --data.dir=data/train.bin --model.vocabulary=300 --train.out=of_file
says 'training on a file' 'would be trained on and held out as well'
"$rope" prepare text.txt --out foreign --vocab 290 --quiet || fail 'foreign data'
expect 0 'eval on a shard' "$rope" eval run --data data/val.bin
expect 2 'eval on a shard of another tokenizer' "$rope" eval run --data foreign/val.bin
says 'eval on a shard of another tokenizer' 'another tokenizer'
for how in mixed unfinished mistaken; do # a shard that is named itself is no better than its folder
    [ $how = mixed ] || cp -r data $how
    [ $how != unfinished ] || mv $how/meta.json $how/meta.json.new
    [ $how != mistaken ] || cp other/*.bin other/meta.json $how/
    timeout 60 "$rope" eval run --data $how >out 2>err && fail "a folder of data, $how"
    mv err folder
    timeout 60 "$rope" eval run --data $how/val.bin >out 2>err && fail "a shard in a folder of data, $how"
    cmp -s err folder || fail "a shard in a folder of data, $how: it says something else"
done
mkdir lonely && cp data/val.bin lonely/stories_val.bin && echo '{"dataset": "stories"}' >lonely/meta.json
expect 0 'a shard beside a meta.json of another kind' "$rope" eval run --data lonely/stories_val.bin
# Nor do their figures, or their tokenizer.
expect 0 'eval of its data' "$rope" eval run --data data --json
"$get" bits_per_byte <out >value && "$get" unigram_loss <out >value || fail 'eval of its data: no bits per byte'
cp -r data both && cp other/val.bin both/val_2.bin
expect 0 'eval of shards that meta.json does not speak of' "$rope" eval run --data both --json
grep -q -e per_byte -e unigram out && fail 'eval of shards that meta.json does not speak of: figures of others'
cp -r data mixed_tokens && cp other/tokenizer.model mixed_tokens/
cmp -s data/tokenizer.model other/tokenizer.model && fail 'a tokenizer of other data: it is the same'
expect 1 'a tokenizer of other data' $train --data.dir=mixed_tokens --train.out=mixed_run
says 'a tokenizer of other data' 'mixed_tokens/tokenizer.model: it is not the tokenizer that meta.json'
cp -r data again
expect 0 'a run whose data are prepared again' $train --data.dir=again --train.out=seen --train.steps=2
expect 0 'eval of it before' "$rope" eval seen
grep -q 'may have seen' err && fail 'eval of a run: its data are those that it was trained on'
expect 0 'data prepared again' "$rope" prepare text.txt --out again --tokenizer seen/latest/tokenizer.model --validation 0.5
expect 0 'eval of a run whose data were prepared again' "$rope" eval seen
says 'eval of a run whose data were prepared again' 'may have seen what is held out'
for how in '--data again/.' '--config seen/config.ini'; do
    expect 0 "eval of data prepared again, $how" "$rope" eval seen $how
    says "eval of data prepared again, $how" 'may have seen what is held out'
done
expect 0 'eval of others' "$rope" eval seen --data data
grep -q 'may have seen' err && fail 'eval of data that it was not trained on'
# What is left under the names that files are written with first is nobody else's, and not gone through.
cp text.txt precious.txt && mkdir through && ln -s ../precious.txt through/train.bin.new
expect 1 'a link in the place of a temporary file' "$rope" prepare text.txt --out through --vocab 300
says 'a link in the place of a temporary file' 'through/train.bin.new'
cmp -s text.txt precious.txt || fail 'a link in the place of a temporary file: what it led to was written over'
for name in tokenizer.model.new val.bin.new meta.json; do
    mkdir own_$name && cp data/tokenizer.model own_$name/$name
    expect 2 "a tokenizer called $name" "$rope" prepare text.txt --out own_$name --tokenizer own_$name/$name
    says "a tokenizer called $name" "own_$name/$name: is the tokenizer, and would be written over"
    cmp -s data/tokenizer.model own_$name/$name || fail "a tokenizer called $name: it is gone"
done
mkdir own_tokens && cp data/tokenizer.model own_tokens/
expect 0 "the folder's own tokenizer" "$rope" prepare text.txt --out own_tokens --tokenizer own_tokens/tokenizer.model
cmp -s data/tokenizer.model own_tokens/tokenizer.model || fail "the folder's own tokenizer: it changed"
cp -r data bare
expect 0 'a run whose data lose their tokenizer' $train --data.dir=bare --train.out=kept_tokens --train.steps=2
rm bare/tokenizer.model
expect 0 'a run whose data have lost their tokenizer' "$rope" train --resume kept_tokens --train.steps=4
says 'a run whose data have lost their tokenizer' 'bare has no tokenizer.model; that of kept_tokens/step_00000002 is kept'
cmp -s data/tokenizer.model kept_tokens/latest/tokenizer.model || fail 'a run whose data have lost their tokenizer: it has gone'
expect 0 'weights to begin with, and data without a tokenizer' $train --data.dir=bare --train.out=init_tokens --train.steps=2 \
    --train.init=kept_tokens
cmp -s data/tokenizer.model init_tokens/latest/tokenizer.model || fail 'weights to begin with: their tokenizer'
# Files of llm.c, which have no checksums, of one length: they are other data all the same.
for name in a b; do
    mkdir plain_$name && cp data/meta.json data/tokenizer.model plain_$name/
    for split in train val; do
        { head -c 12 data/$split.bin && head -c 1012 /dev/zero && tail -c +1025 data/$split.bin; } >plain_$name/$split.bin
    done
done
printf '\1\0' | dd of=plain_b/train.bin bs=1 seek=2000 conv=notrunc status=none
expect 0 'a run on files without checksums' $train --data.dir=plain_a --train.out=plain --train.steps=2
expect 0 'the same' "$rope" train --resume plain --train.steps=4
grep -q 'data differ' err && fail 'a run on files without checksums: they do not differ'
expect 0 'a run on other files without checksums' "$rope" train --resume plain --data.dir=plain_b --train.steps=6
says 'a run on other files without checksums' 'The data differ'
mkdir not_ours && echo 'colour: blue' >not_ours/config.ini
expect 2 "a run in somebody's directory" $train --data.dir=data --train.out=not_ours --train.steps=2
says "a run in somebody's directory" 'not_ours/config.ini'
[ "$(cat not_ours/config.ini)" = 'colour: blue' ] || fail "a run in somebody's directory: it wrote over a file"
ok 'shards of other data, and files in the place of directories'

sweep="$train --train.out=sweep --sweep optim.learning_rate=1e-3,3e-3 --train.steps=4"
expect 0 'a sweep' $sweep --data.dir=data
grep -q 'different data' err && fail 'a sweep: its data do not differ'
expect 2 'a sweep that goes on with other data' $sweep --data.dir=other --resume
says 'a sweep that goes on with other data' 'was run on other data'
cp -r data copy
expect 0 'a sweep that goes on with a copy of its data' $sweep --data.dir=copy --resume
expect 0 'a sweep over data' $train --train.out=over --sweep data.dir=data,other --model.vocabulary=300 --dry-run
says 'a sweep over data' 'will be of different data'
mkdir data_of && cp -r data data_of/x && cp -r data data_of_x
expect 2 'a sweep of two names that are one' $train --train.out=over --sweep data.dir=data_of/x,data_of_x
says 'a sweep of two names that are one' 'two runs would have the directory dir=data_of_x'
ab="$rope ab --model.layers=1 --model.width=32 --model.heads=2 --model.tokens=32 --train.batch=2 --train.eval_batches=2
    --train.steps=6 --out compared"
expect 0 'a comparison' $ab --data.dir=data
expect 2 'a comparison that goes on with other data' $ab --data.dir=other --resume --seeds 2
says 'a comparison that goes on with other data' 'is of other data'
expect 0 'a comparison that goes on' $ab --data.dir=data --resume --seeds 2
ok 'sweeps and comparisons of one and the same data'

# run.c puts a space in front of every prompt.
for i in $(seq 400); do echo ACGTTGCAACGGTCA; done >dna.txt
expect 0 'a text without spaces' "$rope" prepare dna.txt --out dna --type char --vocab 280
expect 0 'a model without spaces' $train --data.dir=dna --train.out=dna_run --train.steps=2
for format in llama2.c gguf; do
    expect 0 "a model without spaces as $format" "$rope" export dna_run --format $format --out dna.$format
    [ "$(grep -c 'no token for a space' err)" = "$([ $format = gguf ]; echo $?)" ] ||
        fail "a model without spaces as $format: whether that is said"
done
expect 0 'a model with spaces' "$rope" export run --format llama2.c --out spaces
grep -q 'no token for a space' err && fail 'a model with spaces: they are missed'
ok 'a tokenizer without a space'

# The budget of tokens is that of the whole run, whatever a step takes.
expect 0 'ten steps' $train --data.dir=data --train.out=budget --train.steps=10 # 640 tokens
for batch in 1 8; do
    cp -r budget budget_$batch
    expect 0 "a budget of tokens, batches of $batch" "$rope" train --resume budget_$batch --train.tokens=1280 \
        --train.batch=$batch --json
    steps=$((10 + (640 + 32 * batch - 1) / (32 * batch)))
    cp out budget.json
    [ "$("$get" step <out) $("$get" steps <out)" = "$steps $steps" ] ||
        fail "a budget of tokens, batches of $batch: $("$get" step <out) steps of $("$get" steps <out), not $steps"
    expect 0 "a budget of tokens, batches of $batch, again" "$rope" train --resume budget_$batch
    grep -q 'settings differ' err && fail "a budget of tokens, batches of $batch: nothing differs"
    [ "$("$get" tokens <budget.json)" -ge 1280 ] || fail "a budget of tokens, batches of $batch: $("$get" tokens <budget.json)"
done
ok 'train.tokens of a run whose batches change'

echo "$checks checks passed"
