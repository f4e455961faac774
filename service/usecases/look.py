"""What kind of model a source is: its configuration, read beside the weights, under bounds.

Configuration is a hint and never a need: what is absent, too large or no JSON is passed over, and
said in the evidence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from service.domain.catalog import Catalog, ObjectInfo
from service.domain.errors import ArrowQuantError
from service.domain.modality import Detection, detect
from service.domain.ports import ObjectStore

CONFIGS: Final = ("config.json", "model_index.json")
MAX_CONFIG_BYTES: Final = 2**20
# A place that is not there, or that this connection may not see, has no configuration.
_ABSENT: Final = frozenset({"source_not_found", "source_access_denied"})


def look(
    store: ObjectStore, found: Mapping[str, ObjectInfo], metadata: Mapping[str, str], catalog: Catalog
) -> Detection:  # fmt: skip
    """Judge a catalog by everything that is known.

    found     objects beside the weights, by plain name
    metadata  of the first header
    """
    configs = {name: _read(store, found[name]) for name in CONFIGS if name in found}
    return detect(configs, metadata, (tensor.name for tensor in catalog.tensors))


def beside(store: ObjectStore, key: str) -> dict[str, ObjectInfo]:
    """The configuration in the folder of an object."""
    folder = key[: key.rfind("/") + 1]
    found = {}
    for name in CONFIGS:
        try:
            found[name] = store.stat(folder + name)
        except ArrowQuantError as error:
            if error.code not in _ABSENT:
                raise
    return found


def _read(store: ObjectStore, info: ObjectInfo) -> Any:
    if not info.size or info.size > MAX_CONFIG_BYTES:
        return None
    try:
        return json.loads(store.read(info.key, 0, info.size, info.etag).decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        return None
