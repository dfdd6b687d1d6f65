#!/bin/sh
# Run the tests with the lowest versions that pyproject.toml allows, in .venv-lowest; arguments go to pytest.
# Needs uv (pip install uv), which knows how to choose them.
set -eu
cd "$(dirname "$0")/.."
venv=.venv-lowest
[ -x $venv/bin/python ] || uv venv --python 3.11 $venv
uv pip install --python $venv/bin/python --resolution lowest-direct --editable ".[dev]"
# Old versions of some packages use what newer versions of others deprecate, which is not ours to mend.
exec $venv/bin/python -m pytest -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning "$@"
