#!/bin/sh
# Set up and build the documentation into build/docs, warnings being errors; arguments go to mkdocs build.
set -eu
cd "$(dirname "$0")/.."
extra=docs
. scripts/setup.sh
export NO_MKDOCS_2_WARNING=1 # a notice about the successor of mkdocs-material
exec .venv/bin/python -m mkdocs build --strict "$@"
