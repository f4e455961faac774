"""The only place that picks adapters: settings in, ports out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.adapters.celery_bell import CeleryBell
from service.adapters.egress import Guard
from service.adapters.objects.connections import ConfiguredStores
from service.adapters.objects.named import NamedStores
from service.adapters.sql import SqlBatches, SqlIdempotencyStore, SqlJobLog, SqlKeyRing, SqlLedger
from service.adapters.sql.audit import SqlAuditLog
from service.adapters.sql.connections import SqlConnections
from service.adapters.sql.engine import make_engine, migrate
from service.adapters.sql.figures import SqlFigures
from service.adapters.sql.fleet import SqlFleet
from service.adapters.sql.outbox import SqlOutbox
from service.adapters.sql.quotas import SqlQuotas
from service.adapters.sql.recipes import SqlRecipeBook
from service.adapters.sql.secrets import SqlSecrets
from service.adapters.sql.webhooks import SqlWebhooks
from service.adapters.system_clock import SystemClock
from service.adapters.vault import AesGcmVault
from service.adapters.webhook_sender import HttpSender
from service.domain.access import KeyRing, TokenVerifier
from service.domain.audit import AuditLog
from service.domain.batch import BatchLedger
from service.domain.connections import ConnectionBook
from service.domain.egress import Egress, EgressPolicy
from service.domain.figures import FigureSource
from service.domain.fleet import Fleet
from service.domain.job_log import JobLog
from service.domain.ports import (
    Bell,
    Clock,
    IdempotencyStore,
    Ledger,
    ObjectStores,
)
from service.domain.quotas import Quotas
from service.domain.recipe_book import RecipeBook
from service.domain.vault import Sealed, Vault
from service.domain.webhooks import Outbox, Sender, Webhooks
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Deps:
    """Everything the API and the workers reach the outside through.

    tokens    who tokens of an identity provider belong to, if one is configured
    cleanups  to call when the process ends, last one first
    """

    settings: Settings
    ledger: Ledger
    batches: BatchLedger
    keys: KeyRing
    quotas: Quotas
    recipes: RecipeBook
    audit: AuditLog
    idempotency: IdempotencyStore
    stores: ObjectStores
    bell: Bell
    clock: Clock
    figures: FigureSource
    vault: Vault
    egress: Egress
    fleet: Fleet
    job_log: JobLog
    webhooks: Webhooks
    outbox: Outbox
    sender: Sender
    connections: ConnectionBook
    sealed: Sealed
    tokens: TokenVerifier | None = None
    cleanups: tuple[Callable[[], None], ...] = ()

    def close(self) -> None:
        """Let go of connections."""
        for cleanup in reversed(self.cleanups):
            cleanup()


def wire(settings: Settings) -> Deps:
    """Bring the database to the present schema and build every adapter. Opens no store yet."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    migrate(settings.resolved_database_url)
    engine = make_engine(settings.resolved_database_url, settings.database_timeout_s)
    clock = SystemClock()
    bell = CeleryBell(settings.resolved_broker_url, settings.data_dir)
    vault = AesGcmVault(settings.secret_keys)
    guard = Guard(EgressPolicy.of(settings.egress_allow))
    book = SqlConnections(engine)
    configured = ConfiguredStores(settings.connections)
    ledger = SqlLedger(
        engine,
        clock,
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        keep_days=settings.keep_days,
        quota=settings.quota,
    )
    return Deps(
        settings=settings,
        ledger=ledger,
        batches=SqlBatches(engine, clock, ledger),
        recipes=SqlRecipeBook(engine, clock),
        quotas=SqlQuotas(engine, clock, settings.quota),
        audit=SqlAuditLog(engine, clock, settings.audit_keep),
        tokens=_tokens(settings),
        keys=SqlKeyRing(engine, clock),
        idempotency=SqlIdempotencyStore(engine, clock),
        stores=NamedStores(configured, book, vault, guard, settings.credentials),
        bell=bell,
        clock=clock,
        job_log=SqlJobLog(engine),
        figures=SqlFigures(engine, clock, settings.lease_s),
        webhooks=SqlWebhooks(engine, clock),
        outbox=SqlOutbox(
            engine,
            clock,
            # An attempt, the lookup of the name before it, and the report after it.
            lease_s=2 * settings.webhook_timeout_s + 2,
            disable_s=settings.webhook_disable_hours * 3600.0,
        ),
        sender=HttpSender(guard, clock, settings.webhook_timeout_s),
        fleet=SqlFleet(engine, clock, settings.lease_s),
        vault=vault,
        egress=guard,
        connections=book,
        sealed=SqlSecrets(engine, vault),
        cleanups=(engine.dispose, bell.close),
    )


def _tokens(settings: Settings) -> TokenVerifier | None:
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    # Imported where it is needed: few services have an identity provider.
    from service.adapters.oidc import OidcVerifier, Provider

    return OidcVerifier(
        Provider(
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            jwks_url=settings.oidc_jwks_url,
            tenant_claim=settings.oidc_tenant_claim,
            scopes_claim=settings.oidc_scopes_claim,
            scopes=settings.oidc_scopes,
        )
    )
