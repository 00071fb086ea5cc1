#!/bin/bash
# The pages of rope ab and rope profile, made with tiny settings, in headless Chromium: rendered at the width of a desk and
# of a phone, nothing on the console, nothing from a network, and every number that of the JSON. $BUILD is the build
# directory. Prints "NAME: ok"; exits 77 after what can be checked without a browser if there is none.
set -u
cd "$(dirname "$0")/.." && . tests/script.sh || exit 2
page_check=$BUILD/tests/page_check
export OMP_NUM_THREADS=1
limit=300

# A text, so that its bits per byte are in the page; a task in the profile.
awk 'BEGIN { for (i = 0; i < 4000; i++) printf "%s ", substr("the king of the hill and his sons", i * 7 % 29 + 1, 4) }' >text.txt
expect 0 prepare "$rope" prepare text.txt --out data --vocab 300
small='--model.layers=2 --model.width=16 --model.heads=2 --train.batch=2'
expect 0 ab "$rope" ab $small --model.tokens=64 --attention.near=8 --data.dir=data --train.steps=12 --train.eval_every=4 \
    --train.eval_batches=2 --control --seeds 2 --out ab --b 'attention.degree=3' --json
cmp -s <("$get" <out) <("$get" <ab/report.json) || fail 'ab: report.json is not what --json prints'
numbers=$("$page_check" ab/report.html ab/report.json 2>err) || fail 'the page of ab'
ok "ab: the $numbers numbers in tables are those of the JSON"

expect 0 'profile, out of the box' "$rope" profile $small --model.vocabulary=64 --tokens 128,256,512 --limit 20 --out profile --json
cmp -s <("$get" <out) <("$get" <profile/profile.json) || fail 'profile: profile.json is not what --json prints'
numbers=$("$page_check" profile/profile.html profile/profile.json 2>err) || fail 'the page of profile'
for i in 0 1 2 3 4 5; do
    "$get" rows $i phase_sum_share <out && "$get" rows $i measuring_share <out || fail "profile: row $i"
done >shares
awk 'NR % 2 == 1 { bad += $1 < 0.97 || $1 > 1.03 } NR % 2 == 0 { bad += $1 > 0.05 } END { exit bad != 0 || NR != 12 }' shares ||
    fail "profile: phases add up to $(tr '\n' ' ' <shares)of the step"
[ "$("$get" rows 4 tokens <out)" = 512 ] && "$get" rows 4 bytes activations <out >value || fail 'profile: bytes by arena'
ok "profile: the $numbers numbers in tables are those of the JSON; phases add up to the step"

expect 0 'longer than the data' "$rope" profile $small --data.dir=data --tokens 64,1048576 --limit 20 --out short --json
says 'longer than the data' 'stops before T=1048576'
grep -q '"left_out": "\(data\|memory\|time\)"' out || fail 'longer than the data: left_out'
expect 2 'all longer than the data' "$rope" profile $small --data.dir=data --tokens 64K --limit 1e6 --out short
says 'all longer than the data' 'the longest train shard has'
expect 0 'no time' "$rope" profile $small --model.vocabulary=64 --tokens 32,8K --limit 0.05 --out short
says 'no time' '--limit 0.05'
# From 32 tokens to 8192 a step of lowrank grows some hundred times; as T² it would be 65,536 times.
expect 0 'time enough' "$rope" profile $small --model.vocabulary=64 --methods lowrank --tokens 32,8K --limit 10 --out short --json
[ "$("$get" rows 1 tokens <out)" = 8192 ] && "$get" rows 1 step_ms <out >value || fail 'time enough: no step at 8K'
# A step has --batch sequences, whatever the settings accumulate.
expect 0 'profile of one batch' "$rope" profile $small --model.vocabulary=64 --methods exact --tokens 32 --out short --json
"$get" rows 0 bytes batches <out >once
expect 0 'profile, accumulate' "$rope" profile $small --train.accumulate=5 --model.vocabulary=64 --methods exact --tokens 32 --out short --json
"$get" rows 0 bytes batches <out | cmp -s once || fail 'profile: a step of more sequences than it says'
ok 'profile: lengths beyond the data and the limit are left out with a sentence'

if ! chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome); then
    echo "skipped: there is no Chromium to look at the pages with ($checks checks passed)"
    exit 77
fi
browse() { # browse URL: the page as the browser has it in `dom`, its console in `console`
    timeout 120 "$chromium" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$work/browser" \
        --allow-file-access-from-files --host-resolver-rules='MAP * ~NOTFOUND' --enable-logging=stderr --v=0 \
        --virtual-time-budget=2000 --dump-dom "$1" >dom 2>log </dev/null || fail "Chromium on $1"
    grep CONSOLE log >console
}

# First pages with faults: they are found.
echo '<script>undefined_function()</script><img src="http://example.invalid/x.png">' >faulty.html
browse "file://$work/faulty.html"
grep -q undefined_function console || fail 'a faulty page: nothing on the console'
"$page_check" faulty.html ab/report.json >value 2>err && fail 'a faulty page passes'
sed 's/\(data-value="[0-9]*\.[0-9]\)/\17/' ab/report.html >wrong.html
cmp -s ab/report.html wrong.html && fail 'no number was changed'
"$page_check" wrong.html ab/report.json >value 2>err && fail 'a page with a wrong number passes'
ok 'a faulty page is noticed'

# A frame of the given width around the page reports on what it came to: what is wider than the page, what has no size.
cat >look.html <<'HTML'
<body><iframe id="frame" style="border:0;height:800px"></iframe><p id="findings"></p><script>
const [page, width] = location.hash.slice(1).split(',');
const frame = document.getElementById('frame');
frame.style.width = width + 'px';
frame.onload = () => {
    const inside = frame.contentDocument, view = frame.contentWindow, findings = [];
    if (inside.documentElement.scrollWidth > +width) findings.push('wider than ' + width + ' px');
    const svgs = inside.querySelectorAll('svg');
    for (const svg of svgs) {
        const box = svg.getBoundingClientRect();
        if (box.width < 0.7 * width || box.height < 40) findings.push('a drawing of ' + box.width + ' x ' + box.height);
        for (const text of svg.querySelectorAll('text')) {
            const own = text.getBoundingClientRect();
            if (!own.width) continue;
            if (own.left < -1 || own.right > +width + 1) findings.push('out of sight: ' + text.textContent);
            if (parseFloat(view.getComputedStyle(text).fontSize) * box.width / svg.viewBox.baseVal.width < 9)
                findings.push('too small: ' + text.textContent);
        }
    }
    if (svgs.length < 3) findings.push(svgs.length + ' drawings');
    if (!inside.querySelector('.lead').getBoundingClientRect().height) findings.push('no verdict');
    document.getElementById('findings').textContent = findings.length ? findings.join('; ') : 'rendered ' + svgs.length;
};
frame.src = page;
</script>
HTML
for page in ab/report profile/profile; do
    browse "file://$work/$page.html"
    [ -s console ] && fail "$page: the console says something"
    numbers=$("$page_check" dom $page.json 2>err) || fail "$page, as the browser has it"
    ok "$page: in the browser, $numbers numbers, a quiet console"
    for width in 1000 390; do
        browse "file://$work/look.html#$page.html,$width"
        [ -s console ] && fail "$page at $width px: the console says something"
        findings=$(sed -n 's/.*<p id="findings">\([^<]*\)<.*/\1/p' dom)
        case $findings in rendered*) ;; *) fail "$page at $width px: $findings" ;; esac
    done
    ok "$page: $findings drawings at 1000 and 390 px"
done
echo "$checks checks passed"
