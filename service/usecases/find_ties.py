"""Find tensors of a source that hold the very same bytes, reading as little as possible.

Input and output embeddings are the usual case. A tie only saves space: where a bound below cuts the
search short, the second copy is simply stored too. The bounds are constants, so the same source
gives the same ties everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor

from service.domain.catalog import Catalog, SourceTensor
from service.domain.ports import ObjectStore

MIN_BYTES = 64 * 2**10
SAMPLE_BYTES = 4 * 2**10
MAX_CANDIDATES = 4096
MAX_HASHED_BYTES = 16 * 2**30
HASH_CHUNK = 8 * 2**20
REQUESTS_AT_ONCE = 8

Group = list[SourceTensor]


def find_ties(store: ObjectStore, catalog: Catalog) -> dict[str, str]:
    """Name of a tensor -> name of the tensor before it that has the same dtype, shape and bytes."""
    groups = _candidates(catalog)
    with ThreadPoolExecutor(REQUESTS_AT_ONCE, "ties") as pool:

        def sampled(at: int) -> Callable[[Group], Iterable[Hashable]]:
            return lambda group: pool.map(lambda t: _sample(store, catalog, t, at), group)

        # One sample tells nearly all apart; three more are read of what is left.
        for sixth in (3, 1, 5, 0):
            groups = _split(groups, sampled(sixth))
    buffer = bytearray(HASH_CHUNK) if groups else bytearray()
    groups = _split(
        _affordable(groups), lambda group: [_digest(store, catalog, t, buffer) for t in group]
    )
    return {later.name: group[0].name for group in groups for later in group[1:]}


def _candidates(catalog: Catalog) -> list[Group]:
    """Tensors of one dtype and shape, small groups first: a tie is rarely one of many layers."""
    alike: dict[tuple[str, tuple[int, ...]], Group] = {}
    for tensor in catalog.tensors:
        if tensor.nbytes >= MIN_BYTES:
            alike.setdefault((tensor.dtype, tensor.shape), []).append(tensor)
    chosen, count = [], 0
    for group in sorted(alike.values(), key=lambda group: (len(group), -group[0].nbytes)):
        if len(group) > 1 and count + len(group) <= MAX_CANDIDATES:
            chosen.append(group)
            count += len(group)
    return chosen


def _split(groups: list[Group], marks: Callable[[Group], Iterable[Hashable]]) -> list[Group]:
    """Part each group by a mark of its members; what stands alone is dropped."""
    parted: list[Group] = []
    for group in groups:
        buckets: dict[Hashable, Group] = {}
        for tensor, mark in zip(group, marks(group), strict=True):
            buckets.setdefault(mark, []).append(tensor)
        parted += [bucket for bucket in buckets.values() if len(bucket) > 1]
    return parted


def _affordable(groups: list[Group]) -> list[Group]:
    chosen, total = [], 0
    for group in groups:
        nbytes = sum(tensor.nbytes for tensor in group)
        if total + nbytes <= MAX_HASHED_BYTES:
            chosen.append(group)
            total += nbytes
    return chosen


def _sample(store: ObjectStore, catalog: Catalog, tensor: SourceTensor, sixth: int) -> bytes:
    info = catalog.objects[tensor.object]
    start = tensor.start + tensor.nbytes * sixth // 6
    data = store.read(info.key, start, start + SAMPLE_BYTES, info.etag)
    return hashlib.sha256(data).digest()


def _digest(store: ObjectStore, catalog: Catalog, tensor: SourceTensor, buffer: bytearray) -> bytes:
    info = catalog.objects[tensor.object]
    digest = hashlib.sha256()
    view = memoryview(buffer)
    for start in range(0, tensor.nbytes, HASH_CHUNK):
        part = view[: min(HASH_CHUNK, tensor.nbytes - start)]
        store.readinto(info.key, tensor.start + start, part, info.etag)
        digest.update(part)
    return digest.digest()
