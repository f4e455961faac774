"""Where compiled kernels are kept between processes.

Numba checks only the file a function stands in, not the files it calls, so the folder is named after
all sources of `kernels` together. It must be chosen before numba is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def choose(data_dir: Path) -> Path:
    """Set the variable: below what an operator has set it to, else below the data directory."""
    base = Path(os.environ.get(VARIABLE) or data_dir / "numba")
    digest = _sources_digest()
    folder = base if base.name == digest else base / digest
    os.environ[VARIABLE] = str(folder)
    return folder


def warm(folder: Path) -> bool:
    """Whether kernels were compiled into this folder before."""
    return any(folder.rglob("*.nbi"))


def _sources_digest() -> str:
    spec = importlib.util.find_spec("kernels")
    digest = hashlib.sha256()
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
