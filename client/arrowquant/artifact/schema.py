"""The constants of the format (docs/artifact-format.md) and the limits a reader imposes."""

from __future__ import annotations

from typing import Any, Final

FORMAT: Final = "arrowquant"
FORMAT_VERSION: Final = 2
READABLE: Final = (1, 2)  #: versions that this package reads
MANIFEST: Final = "manifest.json"
REPORT: Final = "report.json"
ACTIVATIONS: Final = "activations.arrow"
METADATA_KEY: Final = b"arrowquant.format"

BIT_ORDER: Final = "lsb0_dense_row"
PER_ROW: Final = 0  #: group_size: one group per row
PER_TENSOR: Final = -1  #: group_size: one scale for the whole tensor

# An artifact is untrusted input: these bound what is believed before it was checked.
MAX_MANIFEST_BYTES: Final = 256 * 2**20
MAX_REPORT_BYTES: Final = 256 * 2**20
MAX_PARTS: Final = 100_000
MAX_TENSORS: Final = 200_000
MAX_RANK: Final = 16
MAX_DIM: Final = 2**48
MAX_NAME_CHARS: Final = 1024
MAX_BATCHES: Final = 1_000_000

# Bits of one element, and the NumPy form of its raw bytes ("" where NumPy has none).
DTYPE_BITS: Final[dict[str, int]] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
NUMPY_DTYPE: Final[dict[str, str]] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "C64": "<c8", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})

_COLUMNS_1: Final[tuple[tuple[str, str], ...]] = (
    ("tensor", "string"),
    ("tile_index", "int32"),
    ("row_start", "int64"),
    ("rows", "int64"),
    ("cols", "int64"),
    ("shape", "list<int64>"),
    ("orig_dtype", "string"),
    ("role", "string"),
    ("codec", "string"),
    ("bits", "int16"),
    ("group_size", "int32"),
    ("bit_order", "string"),
    ("row_stride_bytes", "int64"),
    ("codes", "large_binary"),
    ("scales", "large_list<halffloat>"),
    ("mins", "large_list<halffloat>"),
    ("relmse", "float"),
    ("crc32c", "uint32"),
)
COLUMNS: Final[dict[int, tuple[tuple[str, str], ...]]] = {
    1: _COLUMNS_1,
    2: (
        *_COLUMNS_1,
        ("scale_bits", "int16"),
        ("scale_codes", "large_binary"),
        ("min_codes", "large_binary"),
        ("codebook", "list<float>"),
        ("rotation", "struct<kind: string, block: int32, seed: int64>"),
        ("col_scale", "large_list<float>"),
        ("bias_correction", "large_list<float>"),
        ("rho", "float"),
    ),
}
MAX_COLUMNS: Final = max(map(len, COLUMNS.values()))
#: Columns that stay in the file and are seen through views.
LARGE: Final = frozenset(
    {"codes", "scales", "mins", "scale_codes", "min_codes", "codebook"}
    | {"col_scale", "bias_correction"}
)
NULLABLE: Final = (LARGE - {"codes"}) | {"relmse", "scale_bits", "rotation", "rho"}


def type_name(kind: Any) -> str:
    """An Arrow type as COLUMNS writes it: names of list items do not count, nor whether parts of a
    struct may be null."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return f"list<{kind.value_type}>"
    if pa.types.is_large_list(kind):
        return f"large_list<{kind.value_type}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {field.type}' for field in kind)}>"
    return str(kind)
