"""Our own methods, as the benchmarks run them. A new method is a new line in METHODS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels


@dataclass(frozen=True, slots=True)
class Method:
    """A way to quantize and the settings it is measured at.

    quantize  (x, dtype=, bits=, group_size=, symmetric=, threads=) -> arrays and `errors`
    """

    name: str
    quantize: Callable[..., Any]
    bits: tuple[int, ...] = (8, 4, 3, 2)
    groups: tuple[int, ...] = (32, 64, 128)
    symmetric: tuple[bool, ...] = (False, True)
    reuses: bool = False  # whether an earlier result can be given as `out`


METHODS = (
    Method("minmax", partial(kernels.quantize, method="minmax"), reuses=True),
    Method("lsq", partial(kernels.quantize, method="lsq"), reuses=True),
)
BY_NAME = {method.name: method for method in METHODS}


@dataclass(frozen=True, slots=True)
class Setting:
    """One method at one setting."""

    method: Method
    bits: int
    group: int
    symmetric: bool

    @property
    def labels(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "bits": self.bits,
            "group": self.group,
            "symmetric": self.symmetric,
        }

    @property
    def name(self) -> str:
        shape = "symmetric" if self.symmetric else "asymmetric"
        return f"{self.method.name} {self.bits} bits G{self.group} {shape}"

    def run(self, x: npt.NDArray[np.generic], dtype: str, threads: int, earlier: Any = None) -> Any:
        """What the method makes of a matrix of bit patterns, in place of an earlier result if it can."""
        options = {"out": earlier} if self.method.reuses and earlier is not None else {}
        return self.method.quantize(
            x,
            dtype=dtype,
            bits=self.bits,
            group_size=self.group,
            symmetric=self.symmetric,
            threads=threads,
            **options,
        )


def settings(bits: tuple[int, ...] | None = None) -> Iterator[Setting]:
    """Every setting, or those of some widths."""
    for method in METHODS:
        for width in method.bits:
            if bits and width not in bits:
                continue
            for symmetric in method.symmetric:
                for group in method.groups:
                    yield Setting(method, width, group, symmetric)


def stored_bytes(encoded: Any) -> int:
    """What would be written: all the arrays of a result."""
    values = (getattr(encoded, field.name) for field in dataclasses.fields(encoded))
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))
