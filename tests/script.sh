# What the shell tests stand on: a working directory of their own, checks with names, exit codes and messages. A script
# changes to the checkout and reads this: `cd "$(dirname "$0")/.." && . tests/script.sh`. $BUILD is the build directory.
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 2
rope=$BUILD/rope
get=$BUILD/tests/json_get
work=$(mktemp -d) || exit 2
end() { # a run in the background, which a check that failed left behind, would train for hours
    local running
    running=$(jobs -p)
    [ -z "$running" ] || kill -KILL $running 2>/dev/null
    rm -rf "$work"
}
trap end EXIT
cd "$work" || exit 2
checks=0

fail() { # with what the last command printed, if it left anything
    printf 'FAILED: %s\n' "$1"
    for file in out err console; do
        [ -s $file ] && tail -n 20 $file | sed "s/^/    $file: /"
    done
    exit 1
}
ok() {
    checks=$((checks + 1))
    printf '%s: ok\n' "$1"
}
# expect CODE NAME COMMAND...: the exit code, with what was printed left in out and err
expect() {
    local code=$1 name=$2
    shift 2
    timeout "${limit:-120}" "$@" >out 2>err </dev/null
    local got=$?
    [ $got -eq "$code" ] || fail "$name: exit code $got instead of $code"
}
# wait_for FILE PID: until that program, in the background, has written something there
wait_for() {
    for _ in $(seq 3000); do
        [ -s "$1" ] && return
        kill -0 "$2" 2>/dev/null || fail "waiting for $1: the run ended"
        sleep 0.02
    done
    fail "waiting for $1: it does not come"
}
# says NAME TEXT: standard error holds it
says() { grep -qF -- "$2" err || fail "$1: no \"$2\" in what it said"; }
# tensors FILE: what follows the header of a .safetensors
tensors() { tail -c +$((9 + $(od -An -t u8 -N 8 "$1"))) "$1"; }
# small_run: data/ and run/ of a tiny model, with $train to make more of its kind
small_run() {
    for i in $(seq 400); do
        echo "the king of hill $((i * i % 97)) went up to see what no man had seen before"
    done >text.txt
    expect 0 prepare "$rope" prepare text.txt --out data --vocab 300
    train="$rope train --model.layers=1 --model.width=32 --model.heads=2 --model.tokens=32 --train.steps=30 --train.batch=2
        --train.threads=1 --train.eval_batches=2 --train.log_every=3"
    expect 0 train $train --data.dir=data --train.out=run
}
