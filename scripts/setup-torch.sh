#!/usr/bin/env bash
# Create an environment with torch on top of the locked one, which it sees but does not change.
#   scripts/setup-torch.sh VENV
# torch stays out of the lock file: its build for processors only is not the one most indexes offer
# first, and has other hashes. Where a machine's pip would take a much larger build, point pip's own
# configuration at the small one.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
torch=$(sed -n 's/^torch = \["\(.*\)"\]$/\1/p' pyproject.toml)
[[ -n $torch ]] || { echo 'setup-torch: pyproject.toml names no torch' >&2; exit 1; }

.venv/bin/python -m venv --clear "$venv"
below=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
above=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# addsitedir, unlike a bare path, also reads the .pth files of the editable distributions.
printf 'import site; site.addsitedir(%s)\n' "'$below'" >"$above/locked.pth"

"$venv/bin/python" -m pip --disable-pip-version-check --quiet install "$torch"
