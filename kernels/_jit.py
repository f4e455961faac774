"""The one decorator of every kernel, and why its flags are what they are.

nogil       Blocks of rows run on ordinary threads (see blocks), so a kernel must let go of the
            interpreter. Kernels are serial: Numba's own parallel loops would bring a second thread
            pool, slower first calls and trouble with fork.
cache       A new process loads machine code instead of compiling it. This only works for functions
            at module level; a function made inside another one that captures an intrinsic misses.
            The folder is the caller's choice (NUMBA_CACHE_DIR). Numba looks at the file a function
            is in, not at those it calls: the folder must be new for every version of the sources.
error_model Division by zero gives Inf or NaN as in NumPy instead of raising, so loops with a
            division can be vectorised.
fastmath    Off, always. No operation may be reordered, and NaN and Inf keep their meaning. Sums that
            must be fast are taken in explicit lanes; only sums of squared errors are fused, where
            the processor can (see vectors). The bytes written are the same on every processor that
            has such operations; on others two fits that are equal to six digits may be told apart
            differently, and sums differ by at most that.

Inner loops get slices and count from 0: with a start that is not known to be positive the compiler
must allow for negative indices in every access, and does not vectorise (1.5 to 5 times slower).
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit

F = TypeVar("F", bound=Callable[..., object])

Integer: TypeAlias = int | np.integer[Any]
Real: TypeAlias = float | np.floating[Any]


def kernel(function: F) -> F:
    """Compile a function when it is first called; its Python signature stays visible to mypy."""
    return cast("F", njit(nogil=True, cache=True, error_model="numpy")(function))


# Numba's own name for leaving out reference counts; its type hints do not know it.
_UNCOUNTED: dict[str, Any] = {"_nrt": False}


def uncounted(function: F) -> F:
    """Like kernel, for a function that makes no arrays: references to those it gets are not counted.

    Every slice otherwise costs two calls with an atomic addition, about a hundred of them for each
    row, which is as much as encoding some thousand weights.
    """
    return cast("F", njit(nogil=True, cache=True, error_model="numpy", **_UNCOUNTED)(function))


def inlined(function: F) -> F:
    """Like uncounted, for a function of inner loops: copied into its callers.

    A call that is not inlined passes every field of every array on the stack, which costs as much
    as encoding a group of 32 weights. Not cached: its code is part of the callers that are.
    """
    decorate = njit(nogil=True, error_model="numpy", forceinline=True, **_UNCOUNTED)
    return cast("F", decorate(function))
