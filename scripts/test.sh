#!/bin/sh
# Set up and run the tests; arguments go to pytest, such as -m slow for the slow ones.
set -eu
cd "$(dirname "$0")/.."
extra=dev
. scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
