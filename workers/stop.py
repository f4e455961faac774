"""The wish to stop, as a signal brings it."""

from __future__ import annotations

import math
import time


class Stop:
    """Whether a signal has asked to stop. Not an Event: its lock may be held by the very thread
    that the handler interrupts, which would then wait for itself."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self, *_: object) -> None:
        """The signal handler."""
        self._asked = True

    @property
    def asked(self) -> bool:
        """Whether it was asked."""
        return self._asked

    def wait(self, seconds: float = math.inf) -> bool:
        """Until asked, or for so long; whether it was asked."""
        end = time.monotonic() + seconds
        while not self._asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self._asked
