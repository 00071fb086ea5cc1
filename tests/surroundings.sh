#!/bin/bash
# What a run must stand when its surroundings are strange: streams that are closed or full, data that change under it, runs
# that were copied or moved, names that no file can hold. $BUILD is the build directory. Prints "NAME: ok".
set -u
cd "$(dirname "$0")/.." && . tests/script.sh || exit 2
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

small_run
task='--data.task=mqar --data.pairs=4'

# With standard output and error closed, their numbers must not go to the run's files.
(exec $train $task --train.out=closed >&- 2>&-) || fail "closed streams: exit code $?"
[ -s closed/metrics.jsonl ] && ! grep -qv '^{' closed/metrics.jsonl || fail 'closed streams: messages among the metrics'
(exec "$rope" prepare text.txt --out closed_data --vocab 300 <&- >&- 2>&-) ||
    fail "prepare, closed streams: exit code $?"
cmp -s data/tokenizer.model closed_data/tokenizer.model || fail 'prepare, closed streams: another tokenizer'
(exec "$rope" prepare - --out closed_data --vocab 300 <&-) >out 2>err
[ $? -eq 1 ] || fail 'prepare from a closed standard input: exit code'
says 'prepare from a closed standard input' 'cannot read'
ok 'closed standard streams'

expect 1 'settings on a full disk' sh -c "'$rope' train --print-config >/dev/full"
says 'settings on a full disk' 'standard output'
ok 'standard output is full'

# Data that are made again, or go, while a run trains on them: its checkpoints keep the tokenizer of its tokens.
for change in again gone; do
    cp -a data data_$change
    $train --data.dir=data_$change --train.steps=100000 --train.save_every=100 --train.out=$change >out 2>err & pid=$!
    wait_for $change/latest $pid
    rm -rf data_$change
    [ $change = gone ] || "$rope" prepare text.txt --out data_$change --vocab 290 --quiet 2>console ||
        fail 'prepare again'
    kill -TERM $pid
    wait $pid || fail "data $change: exit code $?"
    says "data $change" "Go on with: rope train --resume $change"
    cmp -s data/tokenizer.model $change/latest/tokenizer.model || fail "data $change: the tokenizer of the checkpoint"
done
ok 'data that change while they are trained on'

# Other bytes in the place of a shard's, written into the file itself; a run that goes on with other data says so.
"$rope" prepare text.txt --out data_written --vocab 300 --quiet 2>console || fail 'prepare data to write into'
long="$train --data.dir=data_written --train.steps=100000 --train.save_every=100"
$long --train.out=written >out 2>err & pid=$!
wait_for written/latest $pid
touch data_written/train.bin
sleep 0.2
kill -0 $pid 2>/dev/null || fail 'a shard that was only touched'
head -c 9000 /dev/zero | dd of=data_written/train.bin bs=1 seek=1024 conv=notrunc status=none
wait $pid
[ $? -eq 1 ] || fail 'a shard that is written to: exit code'
says 'a shard that is written to' 'data_written/train.bin: another program wrote to it'
says 'a shard that is written to' 'Go on with: rope train --resume written'
expect 1 'a shard that was written to' "$rope" train --resume written
says 'a shard that was written to' 'do not match their checksum'
tail -n 300 text.txt >shorter.txt
expect 0 'prepare a shorter text' "$rope" prepare shorter.txt --out data_written --tokenizer data/tokenizer.model
cp -a run other_data
expect 0 'resume on a shorter text' "$rope" train --resume other_data --data.dir=data_written --train.steps=33
says 'resume on a shorter text' 'The data differ from those of other_data/step_00000030'
says 'resume on a shorter text' 'The held-out data differ from those of other_data/step_00000030'
expect 0 'resume on the same text' "$rope" train --resume other_data --train.steps=36
grep -q 'data differ' err && fail 'resume on the same text: it is no other'
ok 'shards that are written to, and a run on other data'

# A text that changes after it was looked at: the pipe behind it, which waits for a writer, holds rope prepare up until then.
mkfifo piped.txt
for change in 'cp upper.txt lines.txt' 'cat text.txt >>lines.txt' 'head -n 300 text.txt >lines.txt' 'mv other.txt lines.txt'; do
    cp text.txt lines.txt
    tr a-z A-Z <text.txt | tee upper.txt >other.txt
    "$rope" prepare lines.txt piped.txt --out changing --tokenizer data/tokenizer.model >out 2>err & pid=$!
    exec 9>piped.txt # it has been opened, so lines.txt was
    eval "$change"
    echo 'the last line' >&9
    exec 9>&-
    wait $pid
    [ $? -eq 1 ] || fail "prepare, $change: exit code"
    says "prepare, $change" 'lines.txt: it was changed or replaced while it was read'
    [ ! -e changing/train.bin ] || fail "prepare, $change: it left data"
done
ok 'texts that change while they are prepared'

# Data of another tokenizer, of the same size: their ids would be taken for tokens that they are not.
tr a-z A-Z <text.txt >upper.txt
expect 0 'prepare other data' "$rope" prepare upper.txt --out data_other --vocab 300
cp -a run other
expect 2 'resume on other data' "$rope" train --resume other --data.dir=data_other --train.steps=40
says 'resume on other data' 'another tokenizer'
expect 2 'eval on other data' "$rope" eval run --data data_other
says 'eval on other data' '--tokenizer run/'
expect 2 'init on other data' $train --data.dir=data_other --train.init=run --train.out=begun
says 'init on other data' 'another tokenizer'
expect 0 'the same tokenizer' "$rope" prepare upper.txt --out data_other --tokenizer run/latest/tokenizer.model
expect 0 'eval on other data with the same tokenizer' "$rope" eval run --data data_other
ok 'data of another tokenizer'

# A table of attention.kernel that is edited after something was trained with it.
{
    printf 'rope-table 1\nsize 16\nlags 0 31\nsupport 0:0 1:1\ndata\n'
    for t in $(seq 0 31); do echo "$t 0.5 0.25"; done
    echo end
} >table
sed 's/0\.25/-0.25/' table >other_table
expect 0 'train with a table' $train --data.dir=data --attention.kernel=table --train.out=tabled
expect 0 'eval with its table' "$rope" eval tabled --json
"$get" held_out_loss <out >value
cp table kept_table && cp other_table table
for command in "train --resume tabled" "eval tabled" "sample tabled"; do
    expect 2 "$command with another table" "$rope" $command
    says "$command with another table" 'table is not the table that this was trained with'
done
expect 0 'eval with another table, as asked' "$rope" eval tabled --attention.kernel=other_table --json
"$get" held_out_loss <out | cmp -s value - && fail 'eval with another table: the same loss'
crc=$(sed -n 's/.*--attention.kernel_crc32=\([0-9a-f]*\).*/\1/p' <<<"$("$rope" eval tabled 2>&1)")
expect 0 'resume with another table, as asked' "$rope" train --resume tabled --attention.kernel_crc32=$crc --train.steps=33
says 'resume with another table, as asked' 'The settings differ'
expect 0 'resume with it again' "$rope" train --resume tabled --train.steps=36
for how in "--attention.kernel_crc32=deadbeef --attention.kernel=table" "--attention.kernel=table --attention.kernel_crc32=deadbeef"; do
    expect 2 'a table that is not the one that is asked for' $train --data.dir=data --train.out=tableless $how
    says 'a table that is not the one that is asked for' 'table is not the table that this was trained with'
    tr ' =' '\n ' <<<"$how" | sed 's/--attention\.//; s/ / = /; 1i [attention]' >tables.ini
    expect 2 'a table that is not the one in the file' $train --data.dir=data --train.out=tableless --config tables.ini
    says 'a table that is not the one in the file' 'table is not the table that this was trained with'
done
cp kept_table table
expect 2 'resume with the first table' "$rope" train --resume tabled --train.steps=39
ok 'a table that is edited'

# Copies that follow links (scp -r, cp -rL) have directories in the place of `latest` and `best`.
cp -rL run copied
cp -rL run alone && rm -r alone/step_* # a copy of `latest` and `best` only
cp -rL run damaged && rm damaged/latest/model.safetensors
for copy in copied alone; do
    expect 0 "resume a run $copy" "$rope" train --resume $copy --train.steps=33
    says "resume a run $copy" 'at step 30'
    [ "$(readlink $copy/latest)" = step_00000033 ] && [ -L $copy/best ] || fail "a run $copy: its links"
done
expect 2 'resume a damaged copy' "$rope" train --resume damaged
says 'resume a damaged copy' 'move it away'
ok 'runs copied with their links followed'

# A line of metrics that is damaged, or all NUL, must not take those behind it along; lines of later steps go.
cp -a run scratched
{ sed '3s/.*/scratched/; 5s/.*//' run/metrics.jsonl; head -c 8 /dev/zero; echo; sed -n '$p' run/metrics.jsonl; } >before
cp before scratched/metrics.jsonl
printf '{"step": 31}\nscratched\n{"step":' >>scratched/metrics.jsonl
expect 0 'resume with damaged metrics' "$rope" train --resume scratched --train.steps=33
head -n "$(wc -l <before)" scratched/metrics.jsonl | cmp -s - before || fail 'damaged metrics: lines were lost'
[ "$(tail -n +$(($(wc -l <before) + 1)) scratched/metrics.jsonl | grep -c '^{"step":33,.*}$')" = 2 ] &&
    [ $(($(wc -l <before) + 2)) = "$(wc -l <scratched/metrics.jsonl)" ] || fail 'damaged metrics: the lines that follow'
# A copy of hard links shares its files with what it was copied from.
cp -al run linked && cp run/metrics.jsonl linked.jsonl
expect 0 'a run of hard links goes on' "$rope" train --resume linked --train.steps=33
cmp -s run/metrics.jsonl linked.jsonl || fail 'a run of hard links: the metrics of the other changed'
[ "$(tail -n 1 linked/metrics.jsonl | "$get" step)" = 33 ] && cmp -s <(head -c $(wc -c <linked.jsonl) linked/metrics.jsonl) linked.jsonl ||
    fail 'a run of hard links: its metrics'
# Metrics may be all that somebody kept of a run.
cp -a run kept && rm -r kept/step_*
for how in "$train --data.dir=data --train.out=kept" "$rope train --resume kept"; do
    expect 2 'metrics without checkpoints' $how
    says 'metrics without checkpoints' 'kept/metrics.jsonl is of a run whose checkpoints are gone (kept/latest leads nowhere)'
    cmp -s run/metrics.jsonl kept/metrics.jsonl || fail 'metrics without checkpoints: they changed'
done
mv kept/metrics.jsonl kept/before.jsonl
expect 0 'metrics that were moved away' $train --data.dir=data --train.out=kept
ok 'damaged metrics'

# No /proc, as in a bare chroot: what memory there is must be asked for elsewhere.
# (Without it the leak sanitizer cannot work, nor learn that it is not wanted, and the thread sanitizer cannot tell
# libraries apart.)
if ! grep -qE '__[at]san_init' "$rope" && unshare -rm mount -t tmpfs none /proc 2>/dev/null; then
    expect 0 'eval without /proc' unshare -rm sh -c \
        "mount -t tmpfs none /proc && '$rope' eval run --data data --batches 1"
    ok 'no /proc'
fi

# A terminal that closes (which may say so twice), and a reader of the messages that leaves: the step at hand is saved.
long="$train --data.dir=data --train.steps=100000 --train.log_every=100 --train.save_every=100"
$long --train.out=hung >out 2>err & pid=$!
wait_for hung/latest $pid
kill -HUP $pid
kill -HUP $pid
wait $pid || fail "SIGHUP: exit code $?"
says 'SIGHUP' 'Go on with: rope train --resume hung'
{ $long --train.out=unread 2>&1 >out; echo $? >code; } | grep -m 1 'step 500' >console
[ "$(cat code)" = 0 ] && [ -L unread/latest ] || fail "a reader that leaves: exit code $(cat code)"
(trap '' HUP; exec $long --train.steps=3000 --train.out=nohup) >out 2>err & pid=$!
wait_for nohup/latest $pid
kill -HUP $pid
wait $pid && [ "$(readlink nohup/latest)" = step_00003000 ] || fail 'SIGHUP was to be ignored'
ok 'a terminal that closes, a reader that leaves'

# Names that config.ini or JSON could not give back, which a run gets when it is moved.
for name in "$(printf 'two\nlines')" "$(printf 'no\377utf')"; do
    cp -a run "$name"
    expect 2 'resume a run of such a name' "$rope" train --resume "$name" --train.steps=33
    says 'resume a run of such a name' 'train.out: The value'
    cmp -s run/config.ini "$name/config.ini" || fail 'such a name: config.ini'
    expect 0 'eval of such a name' "$rope" eval "$name" --data data --batches 1
done
expect 2 'eval --json of such a name' "$rope" eval "$name" --data data --batches 1 --json
says 'eval --json of such a name' 'UTF-8'
expect 2 'prepare --json into such a name' "$rope" prepare text.txt --out "$name" --json
ok 'names that no file can hold'

# Pipes in the place of files, which nobody writes to.
cp -a data piped_data && rm piped_data/val.bin && mkfifo piped_data/val.bin
cp -a run/latest/ piped && rm piped/model.safetensors && mkfifo piped/model.safetensors
limit=20
expect 2 'a pipe for a shard' "$rope" eval run --data piped_data
says 'a pipe for a shard' 'not a regular file'
expect 1 'a pipe for weights' "$rope" eval piped --data data
says 'a pipe for weights' 'is damaged'
ok 'pipes in the place of files'

# The directory of a run is moved or removed while it goes on: it goes on there, or makes it again, but never shares it
# with another run.
long="$train --data.dir=data --train.steps=100000 --train.save_every=0 --train.eval_every=0"
$long --train.out=removed >out 2>err & pid=$!
wait_for removed/metrics.jsonl $pid
while [ "$(wc -l <removed/metrics.jsonl)" -lt 3 ] && kill -0 $pid; do sleep 0.02; done
cp removed/metrics.jsonl lines && rm -r removed
kill -TERM $pid
wait $pid || fail "a run that was removed: exit code $?"
says 'a run that was removed' 'is made again'
[ "$(head -c "$(wc -c <lines)" removed/metrics.jsonl | cksum)" = "$(cksum <lines)" ] || fail 'a run that was removed: its metrics'
expect 0 'a run that was removed can be resumed' "$rope" train --resume removed --dry-run
cp -a run other_run
$long --train.out=first >out 2>err & pid=$!
wait_for first/metrics.jsonl $pid
mv first away && mv other_run first # another run, which must stay as it is
kill -TERM $pid
wait $pid || fail "a run whose place is taken: exit code $?"
says 'a run whose place is taken' 'the run goes on there'
says 'a run whose place is taken' "rope train --resume $PWD/away"
expect 0 'a run that was moved can be resumed' "$rope" train --resume away --dry-run
[ "$(cat run/latest/* | cksum)" = "$(cat first/latest/* | cksum)" ] ||
    fail 'a run whose place is taken: it changed the other'
$long --train.out=second >out 2>err & pid=$!
wait_for second/metrics.jsonl $pid
rm -r second && cp -a run second
kill -TERM $pid
wait $pid
[ $? -eq 2 ] || fail "a run that was removed and whose place is taken: exit code"
says 'a run that was removed and whose place is taken' 'second was removed, and something else is there now'
[ "$(cat run/latest/* | cksum)" = "$(cat second/latest/* | cksum)" ] ||
    fail 'a run that was removed and whose place is taken: it changed the other'
ok 'a run that is moved, or whose place is taken'

# The directory of a comparison is moved while it goes on, and another comparison is there: both must stay as they are.
# It is stopped until the other has come to its end.
ab="$rope ab --model.layers=1 --model.width=32 --model.heads=2 --model.tokens=32 --train.batch=2 --train.eval_batches=2
    --train.threads=1 --train.eval_every=1000 --data.dir=data --out compared"
contents() { (cd "$1" && find . -type f -exec cksum {} + | sort); }
$ab --train.steps=100000 >out 2>replaced.err & pid=$!
wait_for compared/progress.json $pid
kill -STOP $pid
mv compared compared_away
contents compared_away >away.before
expect 0 'a comparison in the place of another' $ab --train.steps=20 --optim.learning_rate=1e-4
contents compared >compared.before
kill -TERM $pid
kill -CONT $pid
wait $pid
code=$?
cp replaced.err err
[ $code -eq 2 ] || fail "a comparison whose place is taken: exit code $code"
for run in compared compared_away; do
    contents $run | cmp -s - ${run#compared_}.before || fail "a comparison whose place is taken: it changed $run"
done
says 'a comparison whose place is taken' 'compared was removed or moved, and what is there now is not written to'
says 'a comparison whose place is taken' 'Safe is what was compared, if it was moved, up to seed 1, step 1000.'
ok 'a comparison whose place is taken'

echo "$checks checks passed"
