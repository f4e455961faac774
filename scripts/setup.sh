#!/usr/bin/env bash
# Create the virtual environment and install the locked packages and both distributions into it.
#   scripts/setup.sh [VENV]       PYTHON=python3.12 chooses the interpreter
# Doing nothing when nothing changed is the Makefile's part: it compares this run's stamp file.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
python=${PYTHON:-python3}

die() {
    echo "setup: $*" >&2
    exit 1
}

supported='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
command -v "$python" >/dev/null || die "no '$python' found: install Python 3.11, 3.12 or 3.13"
"$python" -c "$supported" ||
    die "$("$python" --version) is not supported: give one of 3.11 to 3.13, e.g. make setup PYTHON=python3.12"

# Debian and its relatives ship Python without what `python -m venv` needs.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    scripts/apt.sh python3-venv || die "'$python -m venv' needs the system package python3-venv"
    "$python" -c 'import ensurepip, venv' || die "'$python' still lacks ensurepip"
fi

if ! "$venv/bin/python" -c "$supported" 2>/dev/null; then
    "$python" -m venv --clear "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install)

# uv installs the lock file about ten times faster than pip, and comes out of the same lock file.
# It does not read pip's configuration: where it cannot reach an index, pip does the work.
bootstrap=$(mktemp)
trap 'rm -f "$bootstrap"' EXIT
awk '/^uv==/ { on = 1 } on { print } on && !/\\$/ { exit }' requirements.lock >"$bootstrap"
"${pip[@]}" --no-deps --require-hashes --requirement "$bootstrap"
if ! "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --compile-bytecode \
    --require-hashes --requirement requirements.lock; then
    echo 'setup: uv could not install the lock file, trying pip' >&2
    "${pip[@]}" --require-hashes --requirement requirements.lock
fi

# The build tools are in the lock, so nothing is fetched without a hash.
"${pip[@]}" --no-deps --no-build-isolation --editable client --editable .
