"""Jobs, API keys and stored answers in SQL."""

from service.adapters.sql.engine import make_engine, migrate
from service.adapters.sql.idempotency import SqlIdempotencyStore
from service.adapters.sql.keys import SqlKeyRing
from service.adapters.sql.ledger import SqlLedger

__all__ = [
    "SqlIdempotencyStore",
    "SqlKeyRing",
    "SqlLedger",
    "make_engine",
    "migrate",
]
