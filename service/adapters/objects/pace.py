"""How many ranges a read is cut into.

Where the time goes with a store is latency, the share of one connection, or the store as a whole,
and which it is differs from place to place and from hour to hour. So it is found by trying: a read
cut into twice as many ranges must have been clearly faster to be cut that way again, as each range
costs both ends a request.
"""

from __future__ import annotations

import threading
from typing import Final

MIN_RANGE: Final = 2**20

# Of every so many reads one tries the neighbouring way.
_TRY_EACH: Final = 8
_WORTH: Final = 1.1
# How much of what is known the newest read replaces.
_NEWS: Final = 0.3


class Pace:
    """Shared by the threads that read from one store. `most` is a power of two."""

    def __init__(self, most: int, first: int = 1) -> None:
        self._ways = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
        self._at = self._ways.index(first)
        self._rates: dict[int, float] = {}
        self._reads = 0
        self._lock = threading.Lock()

    def ranges(self, nbytes: int) -> int:
        """Into how many ranges to cut the next read of so many bytes."""
        with self._lock:
            self._reads += 1
            at = self._at
            if self._reads % _TRY_EACH == 0:
                # Above and below in turn.
                step = 1 if self._reads // _TRY_EACH % 2 else -1
                at = min(max(at + step, 0), len(self._ways) - 1)
            return max(1, min(self._ways[at], nbytes // MIN_RANGE))

    def took(self, ranges: int, nbytes: int, seconds: float) -> None:
        """How long a read took that was cut into so many ranges. Small ones tell nothing."""
        if 2 * nbytes < MIN_RANGE * self._ways[-1] or ranges not in self._ways or seconds <= 0:
            return
        with self._lock:
            rate = nbytes / seconds
            known = self._rates.get(ranges, rate)
            self._rates[ranges] = known + _NEWS * (rate - known)
            self._settle()

    def _settle(self) -> None:
        """Move a step where what is known says so: up only for a clear gain, down without a loss."""
        here = self._rates.get(self._ways[self._at])
        if here is None:
            return
        above, below = (
            self._rates.get(self._ways[at]) if 0 <= at < len(self._ways) else None
            for at in (self._at + 1, self._at - 1)
        )
        if above is not None and above > _WORTH * here:
            self._at += 1
        elif below is not None and here < _WORTH * below:
            self._at -= 1
