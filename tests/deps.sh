#!/bin/sh
# Installs the Debian packages that are missing, naming them; elsewhere prints the list and stops. Arguments: more of them.
packages='gcc g++ make libopenblas-openmp-dev libfftw3-dev libsentencepiece-dev libinih-dev libjansson-dev
librandom123-dev libcmocka-dev zlib1g-dev bible-kjv-text bible-kjv'
packages="$packages $*"

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "rope.c needs these Debian packages, or what your system calls them:" >&2
    echo $packages | fmt -w 78 | sed 's/^/    /' >&2
    echo "Install them, then run make with DEPS=skip, or just \`make\`." >&2
    exit 1
fi

missing=
for package in $packages; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "Missing packages:$missing" >&2
        echo "There is no sudo here: as root, run  apt-get install$missing" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "Installing$missing"

# env: sudo drops variables that it is not told to keep
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}
# The package lists may be absent or out of date (a fresh container): fetch them only then.
if ! apt-cache show $missing >/dev/null 2>&1 || ! install; then
    $as_root apt-get update -qq && install || {
        echo "Could not install:$missing" >&2
        exit 1
    }
fi
