"""How many batches may come in at once: each holds a connection to the database while it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from service.domain.errors import ArrowQuantError

IN_ALL: Final = 8
OF_A_TENANT: Final = 2


class Uploads:
    """Counts uploads of this process; used by its event loop alone."""

    def __init__(self, in_all: int = IN_ALL, of_a_tenant: int = OF_A_TENANT) -> None:
        self._in_all, self._of_a_tenant = in_all, of_a_tenant
        self._open: Counter[str] = Counter()

    @contextmanager
    def slot(self, tenant: str) -> Iterator[None]:
        """One of the places, for as long as the context. Raises too_many_uploads."""
        if self._open[tenant] >= self._of_a_tenant or self._open.total() >= self._in_all:
            raise ArrowQuantError(
                "too_many_uploads",
                "as many batches are being uploaded as may be at once",
                "Send it again in a few seconds.",
            )
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]
