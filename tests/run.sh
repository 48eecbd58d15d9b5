#!/bin/sh
# All that CI checks, the quickest first; stops at the first that fails, with its name. Run `sh setup.sh dev` before.
set -eu
CDPATH= cd -- "$(dirname -- "$0")/.."
[ -x .venv/bin/pytest ] || { echo "tests/run.sh: run this first: sh setup.sh dev" >&2; exit 2; }
PATH=$(pwd)/.venv/bin:$PATH
# What a shell may have set for Python is no part of what is checked
unset PYTHONUNBUFFERED PYTHONPATH PYTHONHOME PYTHONWARNINGS 2>/dev/null || true

check() {
    name=$1
    shift
    "$@" || { echo "tests/run.sh: failed: $name" >&2; exit 1; }
}

check format ruff format --check --quiet
check lint ruff check --quiet
check types mypy
# Last, so that its summary is the last line, passed or failed
exec python -m pytest -n 2 --quiet --cov --cov-report=term-missing
