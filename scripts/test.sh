#!/bin/sh
# Set up and run the tests; arguments go to pytest, such as -m slow for the slow ones.
set -eu
cd "$(dirname "$0")/.."
extra=dev
. scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
if [ $# -eq 0 ]; then # the whole suite: two processes, each with one thread, since more would compete for two cores
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    set -- -n 2
fi
exec .venv/bin/python -m pytest "$@"
