#!/bin/bash
# What sweeps and runs must stand from other runs: runs that are in a sweep's place already, weights to start from that are
# written over meanwhile, a best checkpoint that is gone, a directory that something else has taken. $BUILD is the build
# directory. Prints "NAME: ok".
set -u
cd "$(dirname "$0")/.." && . tests/script.sh || exit 2
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

small_run

# A run that is there already is no run of the sweep, unless it is what the sweep would have made of it.
sweep="$train --data.dir=data --train.out=adopted --sweep optim.learning_rate=1e-3,3e-3"
expect 0 'a run of others' $train --data.dir=data --train.out=adopted/learning_rate=1e-3 --optim.learning_rate=1e-2
expect 2 'a sweep over a run of others' $sweep
says 'a sweep over a run of others' 'adopted/learning_rate=1e-3 holds a run already'
grep -q learning_rate adopted/sweep.json 2>/dev/null && fail 'a sweep over a run of others: it is in its record'
expect 2 'a sweep that would go on with a run of others' $sweep --resume
says 'a sweep that would go on with a run of others' 'adopted/learning_rate=1e-3 was run with other settings'
rm -r adopted/learning_rate=1e-3
"$rope" prepare text.txt --out other --vocab 300 --validation 0.3 --quiet || fail 'other data'
cp data/tokenizer.model other.model && "$rope" prepare text.txt --out other --tokenizer other.model --validation 0.3 --quiet ||
    fail 'other data of the same tokenizer'
expect 0 'a run on other data' $train --data.dir=other --train.out=adopted/learning_rate=1e-3 --optim.learning_rate=1e-3
expect 2 'a sweep that would go on with a run on other data' $sweep --resume
says 'a sweep that would go on with a run on other data' 'adopted/learning_rate=1e-3 was run on other data'
rm -r adopted/learning_rate=1e-3
expect 0 'a run like one of the sweep' $train --data.dir=data --train.out=adopted/learning_rate=1e-3 --optim.learning_rate=1e-3
expect 0 'a sweep that takes it' $sweep --resume --json
[ "$("$get" complete <out) $("$get" rows 0 state <out)" = 'true finished' ] || fail 'a sweep that takes a run: its row'
ok 'runs that are in the place of a sweep'

# Weights that are written over while the first run trains are not what the second one starts from.
expect 0 'weights to start from' $train --data.dir=data --train.out=weights
expect 0 'other weights' $train --data.dir=data --train.out=other_weights --train.seed=9
$train --data.dir=data --train.init=weights --train.out=started --sweep train.steps=3000,2 >out 2>err & pid=$!
wait_for started/steps=3000/metrics.jsonl $pid
cp other_weights/latest/* weights/latest/
wait $pid
[ $? -eq 2 ] || fail 'weights that are written over: exit code'
says 'weights that are written over' 'weights/step_00000030 has not the weights of weights/step_00000030 that others here started from'
[ ! -e started/steps=2/latest ] || fail 'weights that are written over: the second run started from them'
ok 'weights to start from that are written over'

# Method auto chooses by costs that are measured: for all runs of a sweep once, and of a run that goes on when it began.
costs() { grep cost_ "$1/config.ini"; }
auto="--data.dir=data --attention.method=auto --attention.logit_bound=1"
expect 0 'a sweep of auto' $train $auto --train.out=autos --sweep train.keep=1,2
costs autos/keep=1 >costs && grep -q 'cost_exact = 0$' costs && fail 'a sweep of auto: no costs'
costs autos/keep=2 | cmp -s - costs || fail 'a sweep of auto: its runs have costs of their own'
expect 0 'a sweep of auto, a run more' $train $auto --train.out=autos --sweep train.keep=1,2,3 --resume
costs autos/keep=3 | cmp -s - costs || fail 'a sweep of auto, a run more: its costs'
sed '/^cost_/d' autos/keep=1/config.ini >uncosted.ini
expect 0 'a run of auto goes on with another file' "$rope" train --resume autos/keep=1 --config uncosted.ini --train.steps=33
costs autos/keep=1 | cmp -s - costs || fail 'a run of auto goes on with another file: its costs'
expect 0 'a sweep of auto over heads of other sizes' $train $auto --train.out=shapes --sweep model.qk_size=8,16
costs shapes/qk_size=8 >costs
costs shapes/qk_size=16 | cmp -s - costs && fail 'a sweep of auto over heads of other sizes: their costs'
ok 'costs of auto are measured once'

# A run is measured by itself, whatever its process has done before. Sanitizers keep what was freed.
if [ -w /proc/self/clear_refs ] && ! grep -qE '__(asan|tsan)_init' "$rope"; then
    expect 0 'a large run and a small one' $train --data.dir=data --train.out=sizes --sweep model.width=512,16
    peaks=$(sed -n 's/.*peak memory \([0-9]*\) MiB.*/\1/p' err | tr '\n' ' ')
    read -r large small <<<"$peaks"
    [ "$small" -lt $((large - 20)) ] || fail "peaks of a large run and a small one: $peaks"
    ok 'peak memory of the runs of a sweep'
    # Nor does it count what was there before the program.
    (filler=$(head -c 200000000 /dev/zero | tr '\0' x) && $train --data.dir=data --train.out=inherited >out 2>err)
    peak=$(sed -n 's/.*peak memory \([0-9]*\) MiB.*/\1/p' err)
    [ "$peak" -lt 150 ] || fail "peak memory of a run: $peak MiB"
    ok 'peak memory of a run that a large program has started'
fi

# The best so far is gone: the next evaluation finds the best anew, and no link says otherwise.
expect 0 'a run with a best' $train --data.dir=data --train.out=best --train.save_every=10 --train.eval_every=10 --train.keep=2
[ "$(readlink best/best)" = step_00000030 ] || fail 'a run with a best: it is another'
expect 0 'a run that gets worse' "$rope" train --resume best --train.steps=40 --optim.learning_rate=3
[ "$(readlink best/best)" = step_00000030 ] || fail 'a run that gets worse: the best is another'
rm -r best/step_00000030
expect 0 'a run whose best is gone' "$rope" train --resume best --train.steps=45
says 'a run whose best is gone' 'best/step_00000030, the best so far, is gone'
grep -q 'held out at step 45: .*, the best so far' err || fail 'a run whose best is gone: the next is not the best'
[ "$(readlink best/best)" = step_00000045 ] || fail "a run whose best is gone: the best is $(readlink best/best)"
ok 'a best that is gone'

# A directory that is removed is made again, but not in something else's place; one in a path that leads through a file by
# now is found where it is.
long="$train --data.dir=data --train.steps=100000 --train.save_every=0 --train.eval_every=0"
$long --train.out=taken >out 2>err & pid=$!
wait_for taken/metrics.jsonl $pid
rm -r taken && mkdir taken && echo precious | tee taken/metrics.jsonl >taken/config.ini
kill -TERM $pid
wait $pid
[ $? -eq 2 ] || fail 'a run whose place is taken by files: exit code'
says 'a run whose place is taken by files' 'taken was removed, and something else is there now'
[ "$(cat taken/metrics.jsonl taken/config.ini)" = "$(printf 'precious\nprecious')" ] || fail 'a run whose place is taken by files: they changed'
mkdir through
$long --train.out=through/run --json >out 2>err & pid=$!
wait_for through/run/metrics.jsonl $pid
mv through away && echo >through
kill -TERM $pid
wait $pid || fail 'a run whose path leads through a file'
[ -e away/run/latest/state.json ] && [ "$("$get" out <out)" = "$PWD/away/run" ] || fail 'a run whose path leads through a file: where it is'
ok 'directories whose place is taken'

# Settings written by hand, with comments.
mkdir commented && printf '; mine\n[train]\nsteps = 2\n' >commented/config.ini
expect 2 'settings with comments' "$rope" train --resume commented --data.dir=data
says 'settings with comments' 'commented/config.ini would be written over, with the comments in it'
[ "$(head -n 1 commented/config.ini)" = '; mine' ] || fail 'settings with comments: they are gone'
ok 'settings with comments'

# What was judged last, and when.
$train --data.dir=data --train.out=judged --train.steps=100000 --train.eval_every=7 --train.save_every=0 --json >out 2>err & pid=$!
wait_for judged/latest $pid
kill -TERM $pid
wait $pid || fail 'a run that is stopped'
step=$("$get" held_out_step <out)
[ $((step % 7)) -eq 0 ] && [ "$step" -le "$("$get" step <out)" ] && grep -qF "held out at step $step:" err || fail "a run that is stopped: judged at step $step"
ok 'the step of the last evaluation'

echo "$checks checks passed"
