#!/bin/sh
# make oracle: Python packages into a virtual environment below build/, then compare.py. Arguments: the two dump
# programs and a working directory. Not part of `make test`: it needs Python and, once, PyPI.
set -u
float=$1 double=$2 work=$3
venv=${ORACLE_VENV:-$work/venv}
here=$(dirname "$0")
packages='numpy safetensors torch transformers gguf accelerate'

missing() { # the packages that cannot be imported
    for package in $packages; do
        "$venv/bin/python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$package') is None)" \
            2>/dev/null || printf '%s ' "$package"
    done
}

if ! command -v python3 >/dev/null; then
    echo 'oracle: python3 is missing; nothing was compared. Install python3 and python3-venv.' >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ] && ! python3 -m venv "$venv"; then
    echo 'oracle: python3 cannot make a virtual environment; nothing was compared. Install python3-venv.' >&2
    exit 1
fi
wanted=$(missing)
if [ -n "$wanted" ]; then
    echo "oracle: installing $wanted into $venv (once; PyTorch is several GB) ..." >&2
    # shellcheck disable=SC2086 # a list of words
    "$venv/bin/pip" install --quiet --disable-pip-version-check --retries 1 $wanted >&2
    wanted=$(missing)
fi
if [ -n "$wanted" ]; then
    echo "oracle: PyPI did not give us: $wanted; nothing was compared. Install them into $venv, or set ORACLE_VENV" \
        'to a virtual environment that has them.' >&2
    exit 1
fi
exec "$venv/bin/python" "$here/compare.py" "$float" "$double" "$work/cases"
