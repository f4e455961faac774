#!/usr/bin/env bash
# Install Debian packages as root or through sudo, or say what has to be run by hand.
#   scripts/apt.sh PACKAGE...
set -euo pipefail

if ! command -v apt-get >/dev/null; then
    echo "this is not a Debian system: please install the equivalent of: $*" >&2
    exit 1
fi
if [[ $(id -u) == 0 ]]; then
    as_root=()
elif sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "please run: sudo apt-get install --no-install-recommends $*" >&2
    exit 1
fi

install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet
    --no-install-recommends "$@")
# The package lists of a fresh machine are empty and those of an old one are stale; they are
# fetched only when the first attempt shows it.
if ! "${as_root[@]}" "${install[@]}" >/dev/null 2>&1; then
    "${as_root[@]}" apt-get update --quiet --quiet
    "${as_root[@]}" "${install[@]}" >/dev/null
fi
