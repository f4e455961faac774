"""The one message there is: a ring that says "there is work". It carries nothing; the work, its
order and its state are in the ledger, so rings may be lost, repeated or reordered."""

from __future__ import annotations

from typing import Final

RING_TASK: Final = "arrowquant.work"
QUEUE: Final = "arrowquant"
