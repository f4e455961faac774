"""The constants of calibration files, version 1 (docs/calibration-format.md), and the reader's limits."""

from __future__ import annotations

from typing import Any, Final

FORMAT_VERSION: Final = 1
METADATA_KEY: Final = b"arrowquant.calibration"
INDEX_KEY: Final = b"arrowquant.index"

MOMENTS: Final = ("none", "block", "full")
DOMAINS: Final = ("none", "timestep", "sigma", "mask_ratio")
PRIVACY: Final = ("aggregate", "samples")

# What a batch holds.
STATS: Final = "stats"
MOMENT: Final = "moment"
SAMPLES: Final = "samples"

#: Bytes of source that one digest of a weight covers.
CHUNK_BYTES: Final = 4 * 2**20
#: Bytes of second moments in one batch, at most (one row of a full matrix if that is more).
PANEL_BYTES: Final = 32 * 2**20

# A calibration file is untrusted input: these bound what is believed before it was checked.
MAX_INDEX_BYTES: Final = 48 * 2**20
MAX_INPUTS: Final = 100_000
MAX_WEIGHTS: Final = 200_000
MAX_CHANNELS: Final = 2**20
MAX_BINS: Final = 64
MAX_BRANCHES: Final = 4
MAX_SAMPLES: Final = 65_536
MAX_SAMPLE_BYTES: Final = 512 * 2**20
MAX_NAME_CHARS: Final = 1024
MAX_META: Final = 64
MAX_META_CHARS: Final = 4096
MAX_COUNT: Final = 2**53

COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    ("input", "string"),
    ("kind", "string"),
    ("branch", "string"),
    ("bin", "int32"),
    ("count", "int64"),
    ("sum", "large_list<double>"),
    ("sum_sq", "large_list<double>"),
    ("abs_max", "large_list<float>"),
    ("min", "float"),
    ("max", "float"),
    ("hist", "large_list<int64>"),
    ("row_start", "int64"),
    ("rows", "int64"),
    ("col_start", "int64"),
    ("cols", "int64"),
    ("data", "large_binary"),
    ("sample_bin", "large_list<int32>"),
    ("sample_key", "large_list<uint64>"),
)


def arrow_schema(index: bytes) -> Any:
    """The schema of a file with this index."""
    import pyarrow as pa

    kinds = {
        "string": pa.utf8(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float": pa.float32(),
        "large_binary": pa.large_binary(),
        "large_list<double>": pa.large_list(pa.float64()),
        "large_list<float>": pa.large_list(pa.float32()),
        "large_list<int64>": pa.large_list(pa.int64()),
        "large_list<int32>": pa.large_list(pa.int32()),
        "large_list<uint64>": pa.large_list(pa.uint64()),
    }
    metadata = {METADATA_KEY: str(FORMAT_VERSION).encode(), INDEX_KEY: index}
    return pa.schema([(name, kinds[kind]) for name, kind in COLUMNS], metadata=metadata)


def panels(n: int, moment: str, block: int) -> list[tuple[int, int, int, int]]:
    """(row_start, rows, col_start, cols) of every batch of second moments, in order.

    A block-diagonal matrix has a square for each block; a full one is cut into runs of rows.
    """
    if moment == "none":
        return []
    if moment == "block":
        return [(s, min(block, n - s), s, min(block, n - s)) for s in range(0, n, block)]
    rows = max(1, PANEL_BYTES // (4 * n))
    return [(s, min(rows, n - s), 0, n) for s in range(0, n, rows)]
