# Sourced by demo.sh and test.sh: makes .venv beside the scripts' parent and installs outfinder into it.
# The caller stands in the repository's root; it sets extra=NAME for one of the extras of pyproject.toml.
set -eu
extra=${extra:-}

for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "${python:-}" ]; then
    echo "outfinder needs Python 3.11 or newer; install it, or name one: PYTHON=/path/to/python3 sh $0" >&2
    exit 2
fi

venv=.venv
stamp=$venv/installed-${extra:-run}
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ scripts/requirements.txt -nt "$stamp" ]; then
    echo "Setting up in $venv (the first time this downloads PyTorch, some minutes) ..." >&2
    [ -x $venv/bin/python ] || "$python" -m venv $venv || {
        echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv" >&2
        exit 2
    }
    if ! $venv/bin/python -c 'import hnswlib' 2>/dev/null && ! command -v "${CXX:-c++}" >/dev/null 2>&1 &&
        ! command -v g++ >/dev/null 2>&1; then
        echo "hnswlib comes as source and needs a C++ compiler, and there is none here." >&2
        echo "Install one first: apt-get install g++ python3-dev (Debian, Ubuntu), xcode-select --install (macOS)." >&2
        exit 2
    fi
    # The versions and hashes of requirements.txt; the newest versions where those do not exist for this machine.
    locked=scripts/requirements${extra:+-$extra}.txt
    if $venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $locked \
        2>$venv/install.log; then
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    elif grep -q "DO NOT MATCH THE HASHES" $venv/install.log; then
        cat $venv/install.log >&2
        echo "A download is not the file that $locked names, so setting up stops." >&2
        exit 2
    else
        tail -n 5 $venv/install.log >&2
        echo "The versions of $locked cannot be installed here; installing the newest that pyproject.toml allows." >&2
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
    fi
    # opencv-python needs the system's libGL; the headless build of the same version does not.
    if ! $venv/bin/python -c 'import cv2' 2>/dev/null; then
        echo "opencv-python does not load here (no libGL); taking opencv-python-headless in its place" >&2
        $venv/bin/python -m pip uninstall --quiet --yes opencv-python
        $venv/bin/python -m pip install --quiet --disable-pip-version-check opencv-python-headless
    fi
    touch "$stamp"
fi
