"""`arrowquant` with one of its parts switched off: `python -m benchmarks.without PART ARGUMENTS...`

overlap   one buffer for tiles: nothing is read while a tile is quantized or written
parallel  one read at a time, whatever the store gains from more
"""

from __future__ import annotations

import sys
from typing import Any

from arrowquant.cli import main
from service.adapters.objects import FolderStore, S3Store
from workers import pipeline
from workers.stages.fetch import Prefetcher


def overlap() -> None:
    """Every tile waits until the one before is written."""
    whole = Prefetcher

    def alone(*arguments: Any) -> Any:
        store, catalog, tiles, _, buffer_bytes, stages = arguments
        return whole(store, catalog, tiles, 1, buffer_bytes, stages)

    module: Any = pipeline
    module.Prefetcher = alone


def parallel() -> None:
    """Stores are read by one thread."""
    one = property(lambda _: 1)
    stores: tuple[Any, ...] = FolderStore, S3Store
    for store in stores:
        store.reads_at_once = one


PARTS = {"overlap": overlap, "parallel": parallel}


if __name__ == "__main__":
    PARTS[sys.argv[1]]()
    sys.argv[0:3] = ["arrowquant", *sys.argv[2:3]]
    main()
