#!/bin/bash
# rope ab: an arm against itself, interruption and resuming to the same numbers, seeds, losses that are not finite, models
# of different shapes, mistakes. $BUILD is the build directory. Prints "NAME: ok".
set -u
cd "$(dirname "$0")/.." && . tests/script.sh || exit 2
# Timings of tiny steps mean something only if threads do not wait for one another.
export OMP_NUM_THREADS=1
value() { # value FILE KEY...: what a JSON file holds there
    local file=$1
    shift
    "$get" "$@" <"$file" || fail "$file: no $*"
}
same() { # same A B KEY...: both JSON files hold the same there
    local a=$1 b=$2
    shift 2
    [ "$(value "$a" "$@")" = "$(value "$b" "$@")" ] || fail "$a and $b differ in $*"
}
holds() { # holds TEXT CONDITION: awk's arithmetic
    awk "BEGIN { exit !($2) }" || fail "$1: $2"
}

cat >tiny.ini <<'INI'
[model]
layers = 2
width = 16
heads = 2
tokens = 32
token_shift = true
[attention]
near = 8
[optim]
learning_rate = 3e-3
[data]
task = mqar
pairs = 4
[train]
steps = 40
batch = 4
eval_every = 10
eval_batches = 2
INI
ab="$rope ab --config tiny.ini"

expect 0 'dry run' $ab --out dry --dry-run
[ ! -s out ] || fail 'a dry run without --json wrote to standard output'
expect 0 'dry run, JSON' $ab --out dry --dry-run --control --seeds 2 --json
[ "$(value out out) $(value out seeds) $(value out steps)" = 'dry 2 40' ] || fail 'dry run, JSON'
for arm in '0 arm=a' '1 arm=b' '2 arm=control' '0 name=exact' '1 name=lowrank' '2 name=window'; do
    [ "$(value out arms ${arm%=*})" = "${arm#*=}" ] || fail "dry run, JSON: $arm"
done
for arm in 0 1 2; do
    holds 'dry run, JSON' "$(value out arms $arm estimate total_bytes) > 0 && $(value out arms $arm estimate step_seconds) > 0"
done
"$get" arms 3 <out >value 2>/dev/null && fail 'dry run, JSON: a fourth arm'
[ ! -e dry ] || fail 'a dry run left files'

expect 0 'a against itself' $ab --out same --resume --b attention.method=exact --b attention.bound=none --json
says 'resuming nothing' 'same has no comparison to resume; starting at step 0'
cp out same.json
for key in loss evaluations; do
    value same.json a curves 0 $key | sed 's/"seconds":[^,}]*//g' >a.value
    value same.json b curves 0 $key | sed 's/"seconds":[^,}]*//g' >b.value
    cmp -s a.value b.value || fail "a against itself: $key differ"
done
low=$(value same.json ratio_interval 0) high=$(value same.json ratio_interval 1) ratio=$(value same.json ratio)
# An interval of 95 % may miss now and then: not by much.
holds 'a against itself' "$low <= $ratio && $ratio <= $high && 0.8 * $low <= 1 && 1 <= 1.25 * $high"
[ "$(value same.json fidelity gradients 3 difference)" = 0.0 ] || fail 'a against itself: gradients differ'
sum=$(value same.json b phases | tr -d '{}' | tr ',' '\n' | awk -F: '{ sum += $2 } END { print sum }')
holds 'phases of the median step' "$sum > 0 && ($sum / $(value same.json b step_ms) - 1) ^ 2 < 1e-6"
says 'a against itself' 'held out'
ok "a against itself: the same losses, ratio $ratio within [$low, $high]"

# With a learning rate of nothing the arms are what they began with, under both seeds.
expect 0 'a run to begin with' "$rope" train --config tiny.ini --train.out=begun --train.steps=30
still='--train.steps=2 --optim.learning_rate=1e-30 --optim.weight_decay=0 --optim.warmup=0 --train.init=begun'
expect 0 'init' $ab --out init --seeds 2 --json $still --b attention.method=exact --b attention.bound=none
tensors begun/latest/model.safetensors >a.value
for run in init/seed_1/a init/seed_1/b init/seed_2/a init/seed_2/b; do
    tensors $run/latest/model.safetensors >b.value && cmp -s a.value b.value || fail "train.init: $run has other weights"
done
expect 2 'init of another shape' $ab --out other $still --b model.ffn=8
says 'init of another shape' 'Arm b: train.init: begun/step_00000030 holds a model of another shape'
# The run may go on meanwhile: seeds that are added later begin with what the first one did.
tensors begun/latest/model.safetensors >a.value
expect 0 'the run goes on' "$rope" train --resume begun --train.steps=40 --train.keep=9
more="$ab --out init --resume --json $still --b attention.method=exact --b attention.bound=none"
expect 0 'init, a seed more' $more --seeds 3
for arm in a b; do
    tensors init/seed_3/$arm/latest/model.safetensors | cmp -s a.value - || fail "train.init: seed 3 of $arm has other weights"
done
mv begun/step_00000030 begun_away
expect 2 'init that is gone' $more --seeds 4
says 'init that is gone' 'Arm a: train.init: begun/step_00000040 has not the weights of begun/step_00000030'
expect 0 'init that is gone, nothing to begin' $more --seeds 3
mv begun_away begun/step_00000030
ok 'train.init: all arms and seeds begin with the weights of a run'

expect 0 'seeds and control' $ab --out whole --control --seeds 2 --json
cp out whole.json
same whole.json whole/report.json
for key in name settings held_out_loss step_ms tokens_per_s peak_bytes accuracy; do
    for arm in a b control; do value whole.json $arm $key >value; done
done
for key in verdict report distances differences by_seed; do value whole.json $key >value; done
"$get" a perplexity <whole.json >value 2>/dev/null && fail 'a task has no perplexity'
[ "$(value whole.json b curves 0 loss)" != "$(value whole.json b curves 1 loss)" ] || fail 'both seeds trained alike'
# 2 seeds, 4 evaluations, 2 layers, 2 heads, 4 quantities
[ "$(value whole.json fidelity certificates_checked)" = 128 ] || fail 'certificates were left out'
[ "$(value whole.json fidelity certificates_violated)" = 0 ] || fail 'a certificate was exceeded'
for quantity in output dq dk dv; do
    grep -q "$quantity certificate</li>" whole/report.html || fail "the chart of certificates has no $quantity"
done
ok 'three arms, two seeds: JSON, certificates'

# Alternating, evaluating and lending weights for fidelity leave no trace in an arm.
expect 0 'an arm on its own' "$rope" train --config tiny.ini --attention.method=lowrank --train.out=alone
cmp -s alone/latest/model.safetensors whole/seed_1/b/latest/model.safetensors || fail 'rope train trains another model than arm b'
expect 0 'the other arm' "$rope" train --config tiny.ini --attention.method=exact --attention.bound=none --train.out=other
cmp -s other/latest/model.safetensors whole/seed_1/a/latest/model.safetensors || fail 'rope train trains another model than arm a'
ok 'arms train as rope train does, to the bit'

expect 0 'one seed' $ab --out more --control --json
expect 2 'a comparison is there' $ab --out more --control
says 'a comparison is there' '--resume'
expect 0 'a seed more' $ab --out more --control --seeds 2 --resume --json
expect 2 'other settings' $ab --out more --control --seeds 2 --resume --b attention.degree=3
says 'other settings' 'other settings'
cp more/progress.json whole.json
for damage in 's/"layer":1/"layer":9/' 's/"head":1/"head":0/' 's/"eval_step":\[10/"eval_step":[50/' 's/"eval_step"/"eval_left"/'; do
    sed "$damage" whole.json >more/progress.json
    expect 1 "a damaged record: $damage" $ab --out more --control --seeds 2 --resume
    says "a damaged record: $damage" 'is incomplete'
done
for key in a b control; do for seed in 0 1; do same whole/report.json more/report.json $key curves $seed loss; done; done
for key in by_seed positions distances fidelity; do same whole/report.json more/report.json $key; done
ok 'a seed added later gives what two at once give'

long="$ab --train.steps=400 --train.eval_every=50 --seeds 2"
expect 0 long $long --out long
for signal in INT TERM KILL; do
    rm -rf cut
    $long --out cut >out 2>err & pid=$!
    for _ in $(seq 1500); do
        [ -e cut/progress.json ] || ! kill -0 $pid 2>/dev/null && break
        sleep 0.02
    done
    kill -$signal $pid
    wait $pid 2>/dev/null
    code=$?
    if [ $signal = KILL ]; then [ $code -eq 137 ] || fail "kill: exit code $code"
    else
        [ $code -eq 0 ] || fail "SIG$signal: exit code $code"
        says "SIG$signal" '--resume'
        [ "$(value cut/report.json complete)" = false ] || fail "SIG$signal: it had already ended"
    fi
    expect 0 resume $long --out cut --resume
    says resume 'resuming cut'
    for arm in a b; do for seed in 0 1; do same long/report.json cut/report.json $arm curves $seed loss; done; done
    for key in by_seed positions distances fidelity complete; do same long/report.json cut/report.json $key; done
    ok "SIG$signal, then --resume: the same numbers"
done

# What ends a comparison is followed by what is safe and how to go on. A folder stands where the record is written first.
mkdir -p ended/progress.json.tmp
expect 1 'nothing saved' $ab --out ended
says 'nothing saved' 'No evaluation was saved yet'
rmdir ended/progress.json.tmp
expect 0 'nothing saved, again' $ab --out ended
mkdir ended/progress.json.tmp
expect 1 'one seed saved' $ab --out ended --seeds 2 --resume
grep -A 1 'progress.json.tmp' err | grep -qxF 'rope: Safe is ended up to seed 1, step 40. Go on with the same command and --resume.' ||
    fail 'one seed saved: what is safe'
rmdir ended/progress.json.tmp
expect 0 'one seed saved, resumed' $ab --out ended --seeds 2 --resume
for arm in a b; do for seed in 0 1; do same whole/report.json ended/report.json $arm curves $seed loss; done; done
ok 'a comparison that fails says what is safe, and goes on from there'

expect 0 'not finite' $ab --out nan --b attention.logit_scale=1e300 --json
[ "$(value out b held_out_loss)" = null ] && [ "$(value out b curves 0 loss 3)" = null ] || fail 'losses that are not finite'
says 'not finite' 'the held-out loss of B is not finite'
expect 0 'not finite, resumed' $ab --out nan --b attention.logit_scale=1e300 --resume --json
[ "$(value out b curves 0 loss 3)" = null ] || fail 'losses that are not finite, resumed'
ok 'losses that are not finite are null'

expect 0 'another shape' $ab --out shape --b model.width=32 --train.steps=10 --json
says 'another shape' 'differ in the shapes of their weights'
value out fidelity skipped >value
expect 0 'another length' $ab --out length --b model.tokens=64 --train.steps=10
says 'another length' 'per token'
# As many examples are held out for an arm of other batches: with the same weights its loss is the same.
expect 0 'other batches' $ab --out batches $still --json --b attention.method=exact --b attention.bound=none \
    --b train.batch=2 --b train.accumulate=2
holds 'other batches' "($(value out b held_out_loss) / $(value out a held_out_loss) - 1) ^ 2 < 1e-12"
expect 0 'more layers' $ab --out deep --b model.layers=16 --train.steps=100 --json # many, for a busy machine
says 'more layers' 'times slower per step than A'
holds 'more layers' "$(value out ratio) < 0.7"
ok 'arms of different shapes; eight times the layers are slower'

# What ran exact has no certificate to exceed, and its time is not lowrank's.
expect 0 'fallbacks' $ab --out fallbacks --json --train.steps=8 --model.tokens=256 --b attention.bound=none \
    --b attention.degree=1 --b attention.logit_bound=0.01
says 'fallbacks' 'though all of its heads fell back to exact'
[ "$(value out fidelity certificates_checked)" = 0 ] && [ "$(value out fidelity fell_back)" = 16.0 ] ||
    fail 'fallbacks: they are counted, and not checked'
ok 'heads that fell back to exact are said and not certified'

# One timed step tells nothing of speed; other data nothing of losses; "none" in an exact run's file is not lowrank's.
expect 0 'three steps' $ab --out three --train.steps=3 --json
says 'three steps' 'too few timed steps to tell which is faster'
[ "$(value out ratio_interval 0)" = null ] && value out ratio >value || fail 'three steps: an interval of one pair'
for other in data.pairs=3 data.task=copy; do
    expect 2 "arms with $other" $ab --out other_data --b $other
    says "arms with $other" 'losses on different data cannot be compared'
done
expect 0 'settings of an exact run' "$rope" ab --config other/config.ini --out of_exact --train.steps=8 --json
[ "$(value out a settings attention.bound)" = none ] && [ "$(value out b settings attention.bound)" = ball ] ||
    fail 'settings of an exact run: the bound of b'
expect 0 'settings of an exact run, and a method' "$rope" ab --config other/config.ini --attention.method=lowrank \
    --out of_exact_2 --train.steps=8 --json
[ "$(value out a settings attention.bound)" = none ] && [ "$(value out b settings attention.bound)" = ball ] ||
    fail 'settings of an exact run, and a method: the bound of b'
expect 0 'a method for a' $ab --out no_exact --a attention.method=lowrank --b attention.degree=2 --train.steps=8 --json
[ "$(value out a settings attention.bound)" = ball ] && [ "$(value out b settings attention.bound)" = ball ] ||
    fail 'a method for a: its bound'
expect 0 'a method for b' $ab --out toeplitz --attention.method=toeplitz --attention.logit_bound=1 --train.steps=8 --json
[ "$(value out a name)" = exact ] && [ "$(value out b name)" = toeplitz ] || fail 'a method for b: it is not taken'
ok 'few steps, other data, the settings of an exact run, a method given'

# Method auto chooses by costs that are measured once: measured again, they never are the same to the last digit.
auto="$ab --out auto --b attention.method=auto --b attention.logit_bound=1 --train.steps=4 --json"
costs() { for i in 0 1; do "$get" costs 1 $i <auto/progress.json; done; }
expect 0 auto $auto
costs >costs
expect 0 'auto, another seed' $auto --resume --seeds 2
costs | cmp -s - costs && [ "$("$get" step <auto/progress.json)" = 4 ] && [ "$("$get" seed <auto/progress.json)" = 1 ] ||
    fail "auto, resumed: its costs were $(cat costs)"
ok 'auto: costs are kept with the comparison'

mistake() { # mistake TEXT ARGUMENT...
    local text=$1
    shift
    expect 2 "$*" $ab --out mistake "$@"
    says "$*" "$text"
    mistakes=$((mistakes + 1))
}
mistakes=0
mistake 'Arm a: ' --a model.widht=3
mistake 'did you mean model.width' --a model.widht=3
mistake 'Arm b: ' --b model.width=x
mistake 'Arm b: ' --b model.width=31
mistake 'set them once' --b train.steps=3
mistake 'set them once' --b train.eval_batches=3
mistake 'set them once' --a train.threads=2
mistake 'goes with lowrank' --control --b attention.method=exact
mistake 'There are no data' --data.task=
mistake 'train.seed = 9000000000000000 leaves no room for 2 seeds' --train.seed=9000000000000000 --seeds 2
[ ! -e mistake/report.json ] || fail 'a mistake left a report'
ok "$mistakes mistakes: exit code 2, the arm, the remedy"

echo "$checks checks passed"
