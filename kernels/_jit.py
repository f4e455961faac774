"""The one decorator of every kernel, and why its flags are what they are.

nogil       Blocks of rows run on ordinary threads (see engine), so a kernel must let go of the
            interpreter. Kernels are serial: Numba's own parallel loops would bring a second thread
            pool, slower first calls and trouble with fork.
cache       A new process loads machine code instead of compiling it. This only works for functions
            at module level; a function made inside another one that captures an intrinsic misses.
            The folder is the caller's choice (NUMBA_CACHE_DIR).
error_model Division by zero gives Inf or NaN as in NumPy instead of raising, so loops with a
            division can be vectorised.
fastmath    Off, always. No operation may be reordered or fused, and NaN and Inf keep their meaning.
            Reductions that must be fast are written over integers (exact in any order) or over
            explicit lanes, so the bytes written are the same on every processor.
"""

from collections.abc import Callable
from typing import TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a function when it is first called; its Python signature stays visible to mypy."""
    return njit(nogil=True, cache=True, error_model="numpy")(function)  # type: ignore[no-any-return]
