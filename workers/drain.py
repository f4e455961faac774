"""Stopping without losing work: a worker that is told to end finishes the unit in its hands.

Celery's warm shutdown waits for the running task, and ours may go on for hours. The parent therefore
raises a flag in memory it shares with its pool process, which looks at it between units; whatever is
left is rung for by the API's sweeper.
"""

from __future__ import annotations

from multiprocessing import Value

# Made before the pool forks, so that parent and children see the same byte.
_flag = Value("b", 0, lock=False)


def ask() -> None:
    """No further unit is to be begun by this worker."""
    _flag.value = 1


def asked() -> bool:
    """Whether to stop."""
    return bool(_flag.value)
