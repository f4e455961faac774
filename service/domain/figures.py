"""What the ledger can say about the whole service at once, for those who watch over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts and ages at one moment. Keys of `queued`, `oldest_queued_s` and `claimable` are the
    priorities of jobs.

    jobs              jobs by state
    failed            FAILED jobs by error code: what somebody should look at
    queued            QUEUED jobs
    oldest_queued_s   how long the oldest of them has waited
    claimable         units that a worker could take now
    delayed           units that were given back and wait for their next try
    leased            units in the hands of a worker
    lease_age_s       longest time since a holder of a unit was heard of
    overdue           leases that have run out and that nobody has taken over
    rss_max_bytes     the largest process that works on a unit, as last heard
    bytes_per_s       source bytes, summed over running jobs
    tensors_per_s     finished tensors, summed over running jobs
    webhooks_pending  messages of webhooks that are still to be delivered
    webhook_age_s     how long the oldest of them has been due
    """

    jobs: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    queued: dict[int, int] = field(default_factory=dict)
    oldest_queued_s: dict[int, float] = field(default_factory=dict)
    claimable: dict[int, int] = field(default_factory=dict)
    delayed: int = 0
    leased: int = 0
    lease_age_s: float = 0.0
    overdue: int = 0
    rss_max_bytes: int = 0
    bytes_per_s: float = 0.0
    tensors_per_s: float = 0.0
    webhooks_pending: int = 0
    webhook_age_s: float = 0.0


class FigureSource(Protocol):
    """Reads figures."""

    def read(self) -> Figures:
        """A few cheap queries. Raises database_unavailable."""
