"""The product as processes, with folders for stores and one small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests import weights
from tests.e2e.deployment import Api, Worker, make_key

RECIPE = {"bits": 4, "group_size": 64}


class Service:
    """API and worker on a PostgreSQL and a Redis of their own, and folders for models."""

    def __init__(self, folder: Path, database: str, broker: str, **more: str) -> None:
        for name in ("models", "artifacts"):
            (folder / name).mkdir()
        places = ", ".join(
            f'"{name}": {{"kind": "folder", "path": "{folder / name}"}}'
            for name in ("models", "artifacts")
        )
        self.environment = {
            "ARROWQUANT_DATA_DIR": str(folder / "data"),
            "ARROWQUANT_DATABASE_URL": database,
            "ARROWQUANT_DATABASE_TIMEOUT_S": "2",
            "ARROWQUANT_BROKER_URL": broker,
            "ARROWQUANT_CONNECTIONS": f"{{{places}}}",
            "ARROWQUANT_LOG_FORMAT": "json",
        } | more
        weights.write(
            folder / "models" / "in" / "model.safetensors",
            {"a.weight": weights.bfloat16(weights.gaussian((1024, 512), 1))},
        )
        self.key = make_key(self.environment)
        self.api, self.worker = Api(self.environment), Worker(self.environment)
        self._outputs = 0

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.api.url, headers=headers, timeout=60)

    def body(self) -> dict[str, Any]:
        self._outputs += 1
        return {
            "source": {"connection": "models", "prefix": "in/"},
            "output": {"connection": "artifacts", "prefix": f"out{self._outputs}/"},
            "recipe": RECIPE,
        }
