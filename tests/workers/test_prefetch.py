"""Reading ahead: in order, bounded by its buffers, held back by whoever does not give them back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from service.adapters.objects.folder import FolderStore
from service.domain.catalog import Catalog
from service.domain.errors import ArrowQuantError
from service.domain.ports import ObjectStore
from service.domain.treatment import TensorPlan
from service.domain.units import TILE_BYTES, Tile
from workers.stages.buffers import SPARE, SpareBuffers
from workers.stages.clock import FETCH, Stages
from workers.stages.fetch import Prefetcher

ROW = 1024
TILES = 12
WAIT_S = 60.0


class Gated(FolderStore):
    """A folder whose reads wait for a word, and are counted while they do."""

    def __init__(self, root: Path, lanes: int) -> None:
        super().__init__(root)
        self.lanes, self.begun, self.now, self.most = lanes, 0, 0, 0
        self.go = threading.Semaphore(0)
        self.changed = threading.Condition()

    @property
    def reads_at_once(self) -> int:
        return self.lanes

    def readinto(self, key: str, start: int, buffer: memoryview, etag: str) -> None:
        with self.changed:
            self.begun, self.now = self.begun + 1, self.now + 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
        assert self.go.acquire(timeout=WAIT_S)
        super().readinto(key, start, buffer, etag)
        with self.changed:
            self.now -= 1
            self.changed.notify_all()

    def wait_for(self, begun: int, now: int) -> None:
        with self.changed:
            found = self.changed.wait_for(
                lambda: (self.begun, self.now) == (begun, now), timeout=WAIT_S
            )
        assert found, (self.begun, self.now)


@dataclass
class World:
    store: Gated
    prefetcher: Prefetcher
    stages: Stages


def _world(tmp_path: Path, lanes: int, buffers: int) -> World:
    data = np.repeat(np.arange(TILES, dtype=np.uint8), ROW)
    (tmp_path / "x").write_bytes(data.tobytes())
    store, stages = Gated(tmp_path, lanes), Stages()
    info = store.stat("x")
    tensor = SimpleNamespace(
        row_bytes=ROW, cols=ROW, source=SimpleNamespace(object=0, start=0, dtype="U8")
    )
    tiles = [(cast(TensorPlan, tensor), Tile(0, number, number, 1)) for number in range(TILES)]
    catalog = cast(Catalog, SimpleNamespace(objects=[info]))
    ahead = Prefetcher(cast(ObjectStore, store), catalog, tiles, buffers, ROW, stages)
    return World(store, ahead, stages)


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Any]:
    made: list[World] = []

    def make(lanes: int, buffers: int) -> World:
        made.append(_world(tmp_path, lanes, buffers))
        return made[-1]

    yield make
    for world in made:
        world.store.go.release(TILES)
        world.prefetcher.close()


@pytest.mark.parametrize(("lanes", "buffers"), [(1, 3), (2, 4), (2, 1), (3, 3)])
def test_tiles_come_in_order_and_never_more_reads_at_once(
    worlds: Any, lanes: int, buffers: int
) -> None:
    world = worlds(lanes, buffers)
    world.store.go.release(TILES)
    seen = []
    for fetched in world.prefetcher:
        assert set(fetched.data.tolist()) == {fetched.tile.tile_index}
        seen.append(fetched.tile.tile_index)
        world.prefetcher.release(fetched)
    assert seen == list(range(TILES))
    assert world.store.most <= max(1, min(lanes, buffers - 1))
    assert world.stages.times[FETCH].nbytes == TILES * ROW


def test_a_slow_sink_holds_the_reader_back(worlds: Any) -> None:
    """Nothing is read before a buffer is given back: the buffers are all there is."""
    world = worlds(2, 4)
    world.store.wait_for(begun=2, now=2)  # both at once, and no third
    world.store.go.release(TILES)
    world.store.wait_for(begun=4, now=0)
    tiles = iter(world.prefetcher)
    first = next(tiles)
    world.store.wait_for(begun=4, now=0)  # taken is not given back
    world.prefetcher.release(first)
    world.store.wait_for(begun=5, now=0)


def test_what_a_read_raises_comes_in_its_place(tmp_path: Path, worlds: Any) -> None:
    """The source shrinks under the reader: what came before is still delivered."""
    world = worlds(1, 3)
    world.store.go.release()
    first = next(iter(world.prefetcher))
    world.store.wait_for(begun=2, now=1)
    (tmp_path / "x").write_bytes(b"other")
    world.store.go.release(TILES)
    world.prefetcher.release(first)
    with pytest.raises(ArrowQuantError) as caught:
        list(world.prefetcher)
    assert caught.value.code == "source_changed"


def test_closing_waits_for_reads_and_keeps_the_memory(worlds: Any) -> None:
    SPARE.take(4, 1)
    world = worlds(2, 4)
    world.store.wait_for(begun=2, now=2)
    world.store.go.release(TILES)
    world.prefetcher.close()
    assert world.store.now == 0
    assert SPARE.nbytes == 4 * TILE_BYTES


def test_larger_tiles_take_the_place_of_what_is_spare() -> None:
    spare = SpareBuffers(2)
    spare.give(spare.take(3, 10))
    assert spare.nbytes == 2 * TILE_BYTES
    [large] = spare.take(1, TILE_BYTES + 1)
    assert (large.nbytes, spare.nbytes) == (TILE_BYTES + 1, 0)
    spare.give([large])
    assert spare.nbytes == 0
