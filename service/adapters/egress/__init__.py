"""The way out to addresses that users gave: resolved, judged and dialled in one step."""

from service.adapters.egress.guard import Guard
from service.adapters.egress.http import guarded_client

__all__ = ["Guard", "guarded_client"]
