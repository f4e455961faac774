"""Jobs, API keys and stored answers in SQL."""

# All tables are known to whoever knows one: the schema is compared and emptied as a whole.
from service.adapters.sql import (  # noqa: F401
    access_tables,
    batch_tables,
    connection_tables,
    fleet_tables,
    log_tables,
    recipes,
    webhook_tables,
)
from service.adapters.sql.batches import SqlBatches
from service.adapters.sql.engine import make_engine, migrate
from service.adapters.sql.idempotency import SqlIdempotencyStore
from service.adapters.sql.job_log import SqlJobLog
from service.adapters.sql.keys import SqlKeyRing
from service.adapters.sql.ledger import SqlLedger
from service.adapters.sql.outbox import SqlOutbox
from service.adapters.sql.webhooks import SqlWebhooks

__all__ = [
    "SqlBatches",
    "SqlIdempotencyStore",
    "SqlJobLog",
    "SqlKeyRing",
    "SqlLedger",
    "SqlOutbox",
    "SqlWebhooks",
    "make_engine",
    "migrate",
]
