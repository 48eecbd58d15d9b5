#!/bin/sh
# Makes .venv from a lock whose files are pinned by their hashes, and installs this checkout into it (editable).
# Nothing is written outside .venv; done again it is done at once; a set-up that was cut short is made anew.
#
#   sh setup.sh local    the command with its embedded model
#   sh setup.sh dev      that, and all that the tests use
set -eu

say() { printf 'setup.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# Runs quietly; tells what was said only where it fails
quietly() { said=$("$@" 2>&1 </dev/null) || { printf '%s\n' "$said" | tail -n 20 >&2; return 1; }; }

find_python() {
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && return
    done
    fail "needs Python 3.11 to 3.14, found $(python3 --version 2>/dev/null || echo none): install one of them"
}

# Debian splits the standard library: without python3-venv there is no ensurepip, hence no pip in a new environment
find_pip() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null && pip=own && return
    "$python" -c 'import sys, pip, venv; sys.exit(int(pip.__version__.split(".")[0]) < 23)' 2>/dev/null \
        && pip=system && return
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root='sudo -n'
    if command -v apt-get >/dev/null && { [ -z "$as_root" ] || sudo -n true 2>/dev/null; }; then
        say "installing the Debian package $package, which holds this Python's pip"
        { quietly $as_root apt-get update && quietly $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends "$package"; } || true
        "$python" -c 'import ensurepip, venv' 2>/dev/null && pip=own && return
    fi
    fail "this Python has no pip for a new environment: install $package (apt-get install $package), then run this again"
}

run_pip() {
    if [ "$pip" = own ]; then set -- .venv/bin/python -m pip "$@"; else set -- "$python" -m pip --python .venv/bin/python "$@"; fi
    quietly env PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 "$@"
}

# What .venv holds once it is finished: it depends on where it stands, since its scripts name their interpreter by path
stamp() { printf '%s %s' "$1" "$(cat "requirements/$1.txt" pyproject.toml setup.sh | cksum) $(pwd)"; }

is_finished() { [ "$(cat "$mark" 2>/dev/null)" = "$(stamp "$1")" ] && .venv/bin/python -c '' 2>/dev/null; }

CDPATH= cd -- "$(dirname -- "$0")"
kind=${1:-}
mark=.venv/made-by-setup.sh
case $kind in
    local) if is_finished local || is_finished dev; then exit; fi ;; # dev holds all of local, at the same versions
    dev) if is_finished dev; then exit; fi ;;
    *) say "expected local or dev, as in: sh setup.sh local"; exit 2 ;;
esac

find_python
find_pip
if [ -e .venv ] && [ ! -f "$mark" ] && ! rmdir .venv 2>/dev/null; then
    fail ".venv is there and was not made by setup.sh: move it away, then run this again"
fi
rm -rf .venv
mkdir .venv
echo unfinished >"$mark"
say "making .venv with $("$python" --version), installing requirements/$kind.txt (about half a minute)"
if [ "$pip" = own ]; then quietly "$python" -m venv .venv; else quietly "$python" -m venv --without-pip .venv; fi \
    || fail "the environment could not be made (see above)"
# --no-compile: most of what is installed is never imported, and what is compiles itself
run_pip install --no-compile --require-hashes --requirement "requirements/$kind.txt" \
    || fail "requirements/$kind.txt could not be installed (see above); run this again to go on"
run_pip install --no-deps --no-build-isolation --editable . \
    || fail "the project itself could not be installed (see above)"
stamp "$kind" >"$mark"
