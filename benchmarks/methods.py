"""Our own methods, as the benchmarks run them. A new method is a new line in METHODS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

import kernels
from service.domain.methods import METHODS as PRODUCT

Matrix = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to quantize and the settings it is measured at.

    quantize    (x, dtype=, bits=, group_size=, symmetric=, threads=) -> arrays and `errors`; with
                `scale_bits=` where there are scale_bits
    decode      (encoded, bits=, cols=, group_size=, scale_bits=) -> float32 values
    groups      sizes of groups; 0: a scale for each row
    scale_bits  widths of scale codes to measure by width of codes, the usual one first
    core        whether it is measured everywhere and at every setting; others are measured for
                quality, and at one setting of each width for speed
    reuses      whether an earlier result can be given as `out`
    """

    name: str
    quantize: Callable[..., Any]
    decode: Callable[..., Matrix]
    bits: tuple[int, ...] = (8, 4, 3, 2)
    groups: tuple[int, ...] = (32, 64, 128)
    symmetric: tuple[bool, ...] = (False, True)
    scale_bits: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    core: bool = True
    reuses: bool = False

    def usual(self, bits: int, group: int | None = None) -> Setting:
        """The setting to measure where there is time for one: the product's where it has its own."""
        scale_bits = self.scale_bits.get(bits, (None,))[0]
        if group is None:
            facts = PRODUCT.get(cast("Any", self.name))
            middle = self.groups[len(self.groups) // 2]
            group = facts.groups.get(bits, middle) if facts else middle
        return Setting(self, bits, group, symmetric=False, scale_bits=scale_bits)


def _superblock(x: Matrix, *, symmetric: bool, **options: Any) -> kernels.EncodedSuper:
    assert not symmetric
    return kernels.quantize_superblock(x, **options)


def _hqq(x: Matrix, *, symmetric: bool, **options: Any) -> kernels.Encoded:
    assert not symmetric
    return kernels.quantize_hqq(x, **options)


def _codebook(
    levels: Callable[[int], npt.NDArray[np.float32]],
    x: Matrix,
    *,
    bits: int,
    symmetric: bool,
    **options: Any,
) -> kernels.EncodedCodebook:
    assert not symmetric
    return kernels.quantize_codebook(x, levels=levels(bits), **options)


def _trellis(
    x: Matrix, *, dtype: Any, bits: int, group_size: int, symmetric: bool, threads: int
) -> kernels.EncodedTrellis:
    assert not symmetric
    assert not group_size
    return kernels.quantize_trellis(x, dtype=dtype, bits=bits, threads=threads)


def _rotated_trellis(
    x: Matrix, *, dtype: Any, bits: int, group_size: int, symmetric: bool, threads: int
) -> kernels.EncodedTrellis:
    """As jobs make them. A rotation changes no length, so errors are those of the weights."""
    assert not symmetric
    assert not group_size
    turned = kernels.widen(x, dtype=dtype)
    kernels.rotate(turned, seed=1, block=kernels.rotation_block(x.shape[1]), threads=threads)
    return kernels.quantize_trellis(turned, dtype="F32", bits=bits, threads=threads)


def _decode(
    encoded: kernels.Encoded, *, bits: int, cols: int, group_size: int, scale_bits: int | None
) -> Matrix:
    return kernels.dequantize(
        encoded.codes, encoded.scales, encoded.mins, bits=bits, cols=cols, group_size=group_size
    )


def _decode_superblock(
    encoded: kernels.EncodedSuper, *, bits: int, cols: int, group_size: int, scale_bits: int
) -> Matrix:
    stored = encoded.codes, encoded.scale_codes, encoded.min_codes, encoded.d, encoded.dm
    return kernels.dequantize_superblock(
        *stored, bits=bits, cols=cols, group_size=group_size, scale_bits=scale_bits
    )


def _decode_codebook(
    encoded: kernels.EncodedCodebook, *, bits: int, cols: int, group_size: int, scale_bits: None
) -> Matrix:
    return kernels.dequantize_codebook(
        encoded.codes, encoded.scales, encoded.levels, cols=cols, group_size=group_size
    )


def _decode_trellis(
    encoded: kernels.EncodedTrellis, *, bits: int, cols: int, group_size: int, scale_bits: None
) -> Matrix:
    """Of rotated weights, the rotated ones."""
    return kernels.dequantize_trellis(encoded.codes, encoded.scales, bits=bits, cols=cols)


_SOME = (64, 128)
_ONE = (False,)
_NF4 = partial(_codebook, lambda _: kernels.nf4_levels())
_LLOYD_MAX = partial(_codebook, kernels.lloyd_max_levels)

METHODS = (
    Method("minmax", partial(kernels.quantize, method="minmax"), _decode, reuses=True),
    Method("lsq", partial(kernels.quantize, method="lsq"), _decode, reuses=True),
    Method(
        "superblock", _superblock, _decode_superblock, (4, 3, 2), (16, 32), _ONE,
        {2: (4, 6), 3: (6, 4), 4: (6, 4)},
    ),
    Method("hqq", _hqq, _decode, (8, 4, 3, 2), _SOME, _ONE, core=False),
    Method("NF4", _NF4, _decode_codebook, (4,), _SOME, _ONE, core=False),
    Method("Lloyd-Max", _LLOYD_MAX, _decode_codebook, (4, 3, 2), _SOME, _ONE, core=False),
    Method("trellis", _trellis, _decode_trellis, (4, 3, 2), (0,), _ONE, core=False),
    Method("rotated trellis", _rotated_trellis, _decode_trellis, (4, 3, 2), (0,), _ONE, core=False),
)  # fmt: skip
BY_NAME = {method.name: method for method in METHODS}
CORE = tuple(method for method in METHODS if method.core)


@dataclass(frozen=True, slots=True)
class Setting:
    """One method at one setting."""

    method: Method
    bits: int
    group: int
    symmetric: bool
    scale_bits: int | None = None

    @property
    def labels(self) -> dict[str, Any]:
        found = {
            "method": self.method.name,
            "bits": self.bits,
            "group": self.group,
            "symmetric": self.symmetric,
        }
        return found if self.scale_bits is None else {**found, "scale_bits": self.scale_bits}

    @property
    def name(self) -> str:
        group = f" G{self.group}" if self.group else ""
        shape = "symmetric" if self.symmetric else "asymmetric"
        if len(self.method.symmetric) == 1:
            shape = "" if self.scale_bits is None else f"{self.scale_bits}-bit scales"
        return f"{self.method.name} {self.bits} bits{group} {shape}".rstrip()

    def run(self, x: npt.NDArray[np.generic], dtype: str, threads: int, earlier: Any = None) -> Any:
        """What the method makes of a matrix of bit patterns, in place of an earlier result if it can."""
        options = {"out": earlier} if self.method.reuses and earlier is not None else {}
        if self.scale_bits is not None:
            options["scale_bits"] = self.scale_bits
        return self.method.quantize(
            x,
            dtype=dtype,
            bits=self.bits,
            group_size=self.group,
            symmetric=self.symmetric,
            threads=threads,
            **options,
        )

    def decode(self, encoded: Any, cols: int) -> Matrix:
        """The values that a result stands for."""
        return self.method.decode(
            encoded, bits=self.bits, cols=cols, group_size=self.group, scale_bits=self.scale_bits
        )


def settings(bits: tuple[int, ...] | None = None) -> Iterator[Setting]:
    """Every setting, or those of some widths."""
    for method in METHODS:
        for width in method.bits:
            if bits and width not in bits:
                continue
            for symmetric in method.symmetric:
                for scale_bits in method.scale_bits.get(width, (None,)):
                    for group in method.groups:
                        yield Setting(method, width, group, symmetric, scale_bits)


def speed_matters(setting: Setting) -> bool:
    """Whether speed is measured at a setting; that of trellis codes is a benchmark of its own."""
    return setting.method.core or setting.group == 64


def arrays(encoded: Any) -> list[npt.NDArray[Any]]:
    """All the arrays of a result."""
    values = (getattr(encoded, each.name) for each in dataclasses.fields(encoded))
    return [value for value in values if isinstance(value, np.ndarray)]


def stored_bytes(encoded: Any) -> int:
    """What would be written."""
    return sum(value.nbytes for value in arrays(encoded))
