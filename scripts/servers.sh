#!/usr/bin/env bash
# Install the servers that the tests start: Redis and PostgreSQL. The tests run their own instances
# on free ports and in temporary folders; whatever the system packages run is left alone.
# (The third one, an S3 server, comes with the locked Python packages.)
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
if ! command -v initdb >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    missing+=(postgresql)
fi
if ((${#missing[@]})); then
    echo "servers: installing ${missing[*]}"
    scripts/apt.sh "${missing[@]}"
fi
