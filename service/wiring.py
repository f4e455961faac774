"""The only place that picks adapters: settings in, ports out."""

from __future__ import annotations

from dataclasses import dataclass

from service.adapters.celery_bell import CeleryBell
from service.adapters.objects.connections import ConfiguredStores
from service.adapters.sql import SqlIdempotencyStore, SqlKeyRing, SqlLedger
from service.adapters.sql.engine import create_engine, migrate
from service.adapters.system_clock import SystemClock
from service.domain.ports import (
    Bell,
    Clock,
    IdempotencyStore,
    KeyRing,
    Ledger,
    ObjectStores,
)
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Deps:
    """Everything the API and the workers reach the outside through."""

    settings: Settings
    ledger: Ledger
    keys: KeyRing
    idempotency: IdempotencyStore
    stores: ObjectStores
    bell: Bell
    clock: Clock


def wire(settings: Settings) -> Deps:
    """Bring the database to the present schema and build every adapter. Opens no store yet."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    migrate(settings.resolved_database_url)
    engine = create_engine(settings.resolved_database_url)
    clock = SystemClock()
    return Deps(
        settings=settings,
        ledger=SqlLedger(engine, clock, lease_s=settings.lease_s),
        keys=SqlKeyRing(engine, clock),
        idempotency=SqlIdempotencyStore(engine, clock),
        stores=ConfiguredStores(settings.connections),
        bell=CeleryBell(broker_url(settings), settings.data_dir),
        clock=clock,
    )


def broker_url(settings: Settings) -> str:
    """The broker's address; with none configured, files in the data folder are the doorbell."""
    return settings.broker_url or "filesystem://"
