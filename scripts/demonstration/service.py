"""`arrowquant serve` as a person would start it, with the store's buckets as its connections."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import arrowquant
from scripts.demonstration.processes import HOST, Failed, Program, free_port
from scripts.demonstration.store import BUCKETS, REGION, Store

# The server says it once, at its first start.
KEY = re.compile(r"ARROWQUANT_API_KEY=(\S+)")


class Service:
    """The server's address and first key. `program` runs it.

    compiles  whether the first job has to compile the kernels, which the next run finds
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self._store = folder, store
        self._kernels = Path(os.environ.get("NUMBA_CACHE_DIR") or folder.with_name("numba"))
        self.compiles = not any(self._kernels.rglob("*.nbc"))
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.key = ""

    def program(self, logs: Path) -> Program:
        """The process, not yet started. Ready once it says so and has named a key."""
        command = Path(sys.executable).with_name("arrowquant")
        if not command.exists():
            raise Failed(f"{command} is not there: run `make setup`")
        arguments = [str(command), "serve", "--host", HOST, "--port", str(self.port)]
        env = {
            "ARROWQUANT_CONNECTIONS": json.dumps(
                {name: self._connection(name) for name in BUCKETS}
            ),
            "ARROWQUANT_LOG_FORMAT": "console",
            "DEMO_ACCESS_KEY_ID": self._store.access_key,
            "DEMO_SECRET_ACCESS_KEY": self._store.secret_key,
            # Beside the data, so that a second run begins with compiled kernels.
            "NUMBA_CACHE_DIR": str(self._kernels),
            "COLUMNS": "200",
        }
        log = logs / "server.log"
        return Program(
            "server",
            [*arguments, "--data", str(self.folder)],
            logs,
            env,
            lambda: self._ask(log),
        )

    def client(self) -> arrowquant.Client:
        """A client with the first key; the caller closes it."""
        return arrowquant.Client(self.url, self.key)

    def _connection(self, bucket: str) -> dict[str, str]:
        return {
            "kind": "s3",
            "bucket": bucket,
            "endpoint_url": self._store.url,
            "region": REGION,
            "access_key_id_env": "DEMO_ACCESS_KEY_ID",
            "secret_access_key_env": "DEMO_SECRET_ACCESS_KEY",
        }

    def _ask(self, log: Path) -> None:
        found = KEY.search(log.read_text(errors="replace"))
        if found is None:
            raise Failed("it has not named its first key")
        self.key = found[1]
        with arrowquant.Client(self.url, self.key, retries=0) as client:
            status = client.ready()["status"]
        if status != "ready":
            raise Failed(f"it says that it is {status}")
