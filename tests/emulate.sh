#!/bin/sh
# The test programs of the kernels (or those named) on an emulated CPU that has AVX-512: bochs boots Debian's kernel with
# the programs and their libraries as the whole file system. All is hundreds of times slower there: what takes longest is
# made small or left out. Prints a line for each program, then "N passed, N failed".
cd "$(dirname "$0")/.." || exit 2
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 2
work=$BUILD/avx512
root=$work/root
disc=$work/disc
limit=${AVX512_SECONDS:-14400}
[ $# -gt 0 ] || set -- test_cpu test_layer_kernels test_vector test_bf16 test_blas test_attention_parts test_lowrank \
    test_optim test_toeplitz test_attention double_attention_parts double_papers double_optim double_attention

# The smallest of Debian's kernels, unpacked here and not installed.
fetch_kernel() {
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package") &&
        dpkg-deb --fsys-tarfile "$work/$package"_*.deb | tar -x -O --wildcards './boot/vmlinuz-*' >"$work/vmlinuz"
}

# The first program of the emulated machine, and the last.
write_init() {
    cat <<'END'
#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs devices /dev
stty -F /dev/ttyS0 -onlcr
run() {
    name=$1
    shift
    echo "avx512: start $name"
    env ROPE_ISA=avx512 OMP_WAIT_POLICY=passive "$@" "/tests/$name" 2>&1 </dev/null
    echo "avx512: end $name $?"
}
END
    for name; do
        case $name in # there is one CPU, so nothing about threads
        test_vector) settings=TEST_SHARE=100 ;;
        # Not test_rates, nor test_products: bochs 2.7 takes vgatherdps and vscatterdps, as OpenBLAS has them for small
        # products of transposes, for invalid when their index is one of zmm16 to zmm31.
        test_blas) settings='"TEST_FILTER=*_*_*"' ;;
        test_lowrank) settings='LOWRANK_CASES=100 TEST_SKIP=test_threads' ;;
        test_toeplitz) settings=TEST_SKIP=test_certificates ;;
        *_attention) settings='TEST_SHARE=7 "TEST_SKIP=*d*s"' ;; # test_threads, test_sampled_rows, test_finite_differences
        *) settings=TEST_SKIP=test_threads ;;
        esac
        echo "run $name $settings"
    done
    echo 'sleep .1; echo o >/proc/sysrq-trigger; sleep 1000' # off, when the serial port has sent all
}

make_disc() {
    rm -rf "$root" "$disc"
    mkdir -p "$root/tests" "$root/dev" "$root/proc" "$root/tmp" "$disc" &&
        (cd "$BUILD/tests" && cp -t "$root/tests" "$@") &&
        cp -L --parents -t "$root" /bin/sh /bin/mount /bin/stty /bin/env /bin/sleep /bin/mkdir /bin/rm ||
        return
    ldd "$root"/bin/* "$root"/tests/* | awk '/\/.*\(0x/ { print $(NF - 1) }' | sort -u |
        xargs cp -L --parents -t "$root"
    write_init "$@" >"$root/init" && chmod +x "$root/init"
    (cd "$root" && find . | cpio --quiet -o -H newc) >"$disc/initrd" || return
    cp "$work/vmlinuz" /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$disc" || return
    # Without xsavec and xsaves, on whose layout bochs and Linux disagree: Linux would leave all of AVX off.
    echo default vmlinuz initrd=initrd console=ttyS0 loglevel=1 clearcpuid=xsavec,xsaves mitigations=off nokaslr \
        nowatchdog tsc=reliable no_timer_check cryptomgr.notests >"$disc/isolinux.cfg"
    xorriso -as mkisofs -quiet -o "$work/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
        -boot-info-table "$disc" 2>"$work/xorriso.log" || { cat "$work/xorriso.log" && false; }
}

# Prints what the serial port says.
boot() {
    cat >"$work/bochsrc" <<END
cpu: model=corei7_skylake_x, ips=50000000
memory: guest=2048, host=2048
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path="$work/disc.iso", status=inserted
boot: cdrom
display_library: term
sound: driver=dummy
com1: enabled=1, mode=file, dev=/dev/fd/3
log: "$work/bochs.log"
error: action=ignore
panic: action=fatal
END
    echo continue >"$work/commands" # Debian's bochs starts in its debugger
    TERM=vt100 timeout --foreground -s KILL "$limit" bochs-bin -q -f "$work/bochsrc" -rc "$work/commands" \
        3>&1 >"$work/screen" 2>&1 </dev/null
}

# Times are this machine's: the emulated one's clock means nothing.
report() {
    wanted=$# passed=0 failed=0 log=$work/log name=
    : >"$log"
    while IFS= read -r line; do
        case $line in
        'avx512: start '*)
            name=${line##* } start=$(date +%s)
            : >"$log"
            ;;
        "avx512: end $name 0")
            passed=$((passed + 1))
            printf 'ok      %-24s %6d s\n' "$name" $(($(date +%s) - start))
            ;;
        "avx512: end $name "*)
            failed=$((failed + 1))
            printf 'FAILED  %-24s %6d s, exit status %d\n' "$name" $(($(date +%s) - start)) "${line##* }"
            sed 's/^/    /' "$log"
            ;;
        *'this CPU has no avx512'*) echo "$line" && break ;;
        *) echo "$line" >>"$log" ;;
        esac
    done
    if [ $((passed + failed)) -lt $wanted ]; then
        echo "FAILED  the machine stopped${name:+ in $name}, or its $limit s ran out (AVX512_SECONDS)."
        echo 'It and bochs said last:'
        (tail -n 20 "$log" && tail -n 4 "$work/screen") | sed 's/^/    /'
        failed=$((wanted - passed))
    fi
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
}

mkdir -p "$work"
[ -s "$work/vmlinuz" ] || fetch_kernel || {
    echo "Debian's package linux-image-cloud-amd64 could not be fetched: try apt-get update." >&2
    exit 1
}
make_disc "$@" && boot | report "$@"
