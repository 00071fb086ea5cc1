#!/bin/sh
# Planted bugs: builds the program with each edit of tests/mutants/*.txt, one by one, and demands that the test named
# there fails: a program, of it one test (PROGRAM:TEST), or a script (NAME.sh). Without arguments all of them, else those with the given names; after --texts only looks whether the edits
# can be made. $BUILD is a build directory below this one; its objects are copied, so that a mutant costs one object, one
# link and one test.
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build}
case $BUILD in
/*) echo "mutants: BUILD=$BUILD must be a path below the project" >&2; exit 2 ;;
esac
MAKE=${MAKE:-make}
texts=no
if [ "$1" = --texts ]; then
    texts=yes
    shift
fi
root=$PWD/$BUILD/mutants.$$
tree=$root/tree
trap 'rm -rf "$root"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$tree/$BUILD" "$root/list" || exit 2

# One directory for each mutant: the files `file`, `test`, `old`, `new`.
awk -v list="$root/list" '
    function fail(text) { printf "%s:%d: %s\n", FILENAME, FNR, text > "/dev/stderr"; exit bad = 1 }
    function put(name, text) { printf "%s", text > (to "/" name); close(to "/" name) }
    function finish() {
        if (to == "") return
        if (old == "" || new == "") fail("the mutant above has no old or no new text")
        put("old", old); put("new", new); to = old = new = ""
    }
    /^#/ || /^$/ { finish(); next }
    /^@ / {
        finish()
        if (NF != 4) fail("this should be: @ NAME TEST FILE")
        to = list "/" sprintf("%03d", ++count) "." $2
        if (system("mkdir -p " to) != 0 || seen[$2]++) fail($2 " is there twice")
        put("test", $3); put("file", $4); next
    }
    /^[-+]/ && to != "" {
        text = substr($0, 3)
        if (/^-/) old = old (old == "" ? "" : "\n") text
        else new = new (new == "" ? "" : "\n") text
        next
    }
    { fail("this line is none of: @ NAME TEST FILE, - OLD, + NEW, # comment") }
    END { if (!bad) finish(); exit bad }' tests/mutants/*.txt || exit 2

chosen=
for mutant in "$root"/list/*; do
    name=${mutant##*/*.}
    [ $# -eq 0 ] && chosen="$chosen $mutant"
    for wanted in "$@"; do [ "$wanted" = "$name" ] && chosen="$chosen $mutant"; done
done
[ -n "$chosen" ] || { echo "mutants: none of these names: $*" >&2; exit 2; }

# replace FILE OLD NEW: the text of the file OLD must stand in FILE exactly once.
replace() {
    awk -v old="$2" -v new="$3" '
        function slurp(file,   text, line, first) {
            first = 1
            while ((getline line < file) > 0) { text = text (first ? "" : "\n") line; first = 0 }
            close(file)
            return text
        }
        BEGIN {
            RS = "\n"
            text = slurp(ARGV[1]); from = slurp(old); to = slurp(new)
            at = index(text, from)
            if (!at) exit 3
            rest = substr(text, at + length(from))
            if (index(rest, from)) exit 4
            printf "%s%s%s\n", substr(text, 1, at - 1), to, rest
        }' "$1" >"$root/mutated"
}

# Only whether every text still stands in its file.
if [ $texts = yes ]; then
    broken=0
    for mutant in $chosen; do
        file=$(cat "$mutant/file")
        replace "$file" "$mutant/old" "$mutant/new" && continue
        echo "${mutant##*/*.}: BROKEN, its text does not stand in $file exactly once"
        broken=$((broken + 1))
    done
    echo "$(echo $chosen | wc -w) planted bugs, $broken broken"
    [ $broken -eq 0 ]
    exit
fi

tar cf - Makefile $(ls -d tests/*.mk 2>/dev/null) core attention model optim data train configs tests | tar xf - -C "$tree" || exit 2
for flavour in float double; do
    [ -d "$BUILD/$flavour" ] && cp -pR "$BUILD/$flavour" "$tree/$BUILD/"
done

# build PROGRAM|SCRIPT [MAKE ARGUMENTS...]
build() {
    case $1 in
    *.sh) targets="$BUILD/rope $BUILD/tests/json_get $BUILD/tests/page_check" ;;
    *) targets=$BUILD/tests/$1 ;;
    esac
    shift
    (cd "$tree" && "$MAKE" --no-print-directory -s -j1 BUILD="$BUILD" "$@" $targets) >"$root/log" 2>&1
}
# check PROGRAM[:TEST]|SCRIPT. Threads wait asleep: on a busy machine spinning ones would take many times as long.
check() {
    filter='*'
    case $1 in
    *.sh) command="bash tests/$1" ;;
    *:*) filter=${1#*:} command=$BUILD/tests/${1%%:*} ;;
    *) command=$BUILD/tests/$1 ;;
    esac
    (cd "$tree" && BUILD=$BUILD TEST_FILTER=$filter OMP_WAIT_POLICY=passive timeout 300 $command) >"$root/log" 2>&1 </dev/null
}
# Kernels are changed for the instruction set that runs; the others stay as they are.
isa=portable
grep -qw avx2 /proc/cpuinfo && isa=avx2
grep -qw avx512vl /proc/cpuinfo && isa=avx512

# Nothing is shown by a test that fails anyway.
useless=" "
for program in $(for mutant in $chosen; do cat "$mutant/test"; echo; done | sort -u); do
    build "${program%%:*}" && check "$program" && continue
    echo "$program fails without any planted bug:"
    sed 's/^/    /' "$root/log"
    useless="$useless$program "
done

objects_now() {
    (cd "$tree/$BUILD" && find . -name '*.o' -exec cksum {} + | sort)
}
objects_now >"$root/objects"
caught=0 missed=0 broken=0
for mutant in $chosen; do
    name=${mutant##*/*.}
    file=$(cat "$mutant/file") test=$(cat "$mutant/test")
    case $useless in
    *" $test "*) echo "$name: BROKEN, $test fails without it"; broken=$((broken + 1)); continue ;;
    esac
    replace "$tree/$file" "$mutant/old" "$mutant/new"
    case $? in
    0) ;;
    4) echo "$name: BROKEN, its text stands in $file more than once"; broken=$((broken + 1)); continue ;;
    *) echo "$name: BROKEN, its text is not in $file"; broken=$((broken + 1)); continue ;;
    esac
    others=
    for other in portable avx2 avx512; do
        for flavour in float double; do
            [ $other = $isa ] || others="$others -o $BUILD/$flavour/${file%.*}.$other.o"
        done
    done
    # A header is in many objects: what is made of it must not be left behind for the planted bugs that follow.
    objects=$(cd "$tree" && find "$BUILD" -name '*.d' -exec grep -lF -- "$file" {} + | sed 's/\.d$/.o/')
    rm -rf "$root/kept"
    mkdir -p "$root/kept"
    (cd "$tree" && cp -p --parents "$file" $objects "$root/kept") || exit 2
    cat "$root/mutated" >"$tree/$file"
    if ! build "${test%%:*}" OPTIMIZE=-O1 $others; then
        echo "$name: BROKEN, does not compile"
        sed 's/^/    /' "$root/log"
        broken=$((broken + 1))
    elif check "$test"; then
        echo "$name: MISSED by $test"
        missed=$((missed + 1))
    else
        echo "$name: caught"
        caught=$((caught + 1))
    fi
    (cd "$root/kept" && cp -p --parents "$file" $objects "$tree") || exit 2
done
objects_now | diff "$root/objects" - >"$root/log" || {
    echo 'mutants: planted bugs were left in these objects, so that those after them show nothing:'
    sed -n 's/^> /    /p' "$root/log"
    exit 2
}
echo "$caught of $((caught + missed + broken)) planted bugs caught, $missed missed, $broken broken"
[ $((missed + broken)) -eq 0 ]
