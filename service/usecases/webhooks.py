"""Webhook endpoints: made and changed by their owner, with secrets that are shown once."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from service.domain.egress import Egress
from service.domain.errors import ArrowQuantError, FieldError
from service.domain.ids import new_id
from service.domain.ports import Clock
from service.domain.vault import Vault
from service.domain.webhooks import (
    Delivery,
    DeliveryQuery,
    DeliveryState,
    Endpoint,
    Errand,
    HookEvent,
    Webhooks,
)
from service.usecases.paging import page_position, page_size, page_token
from service.usecases.plan import pointed

SECRET_BYTES: Final = 32
MAX_URL_CHARS: Final = 2048
# No space, no control character, nothing beyond ASCII: what an URL may be made of.
_URL_CHARS: Final = re.compile(r"[!-~]+\Z")


@dataclass(frozen=True, slots=True)
class WebhookDesk:
    """What the owner of webhooks asks for."""

    webhooks: Webhooks
    vault: Vault
    egress: Egress
    clock: Clock

    def create(
        self, tenant: str, url: str, description: str, events: Sequence[HookEvent]
    ) -> tuple[Endpoint, str]:
        """A new endpoint and its secret, which is never shown again."""
        self._check(url)
        now = self.clock.now()
        secret = _new_secret()
        endpoint_id = new_id("wh")
        endpoint = Endpoint(
            id=endpoint_id,
            tenant=tenant,
            url=url,
            description=description,
            events=_in_order(events),
            disabled=None,
            secret=self.vault.seal(_context(tenant, endpoint_id), secret.encode()),
            old_secret=None,
            old_secret_until=None,
            failing_since=None,
            create_time=now,
            update_time=now,
        )
        self.webhooks.create(endpoint)
        return endpoint, secret

    def change(self, tenant: str, endpoint_id: str, **values: Any) -> Endpoint:
        """Set some of `url`, `description`, `events`, `disabled`."""
        if "url" in values:
            self._check(values["url"])
        if "events" in values:
            values["events"] = _in_order(values["events"])
        return self.webhooks.change(tenant, endpoint_id, **values)

    def rotate(self, tenant: str, endpoint_id: str, overlap_s: int) -> tuple[Endpoint, str]:
        """A new secret; the present one signs beside it for the overlap."""
        self.webhooks.get(tenant, endpoint_id)
        secret = _new_secret()
        sealed = self.vault.seal(_context(tenant, endpoint_id), secret.encode())
        until = self.clock.now() + timedelta(seconds=overlap_s)
        return self.webhooks.rotate(tenant, endpoint_id, sealed, until), secret

    def ping(self, tenant: str, endpoint_id: str) -> Delivery:
        """Queue a test message."""
        data = {"webhook_endpoint": endpoint_id}
        return self.webhooks.queue(tenant, endpoint_id, HookEvent.PING, data)

    def deliveries(
        self,
        tenant: str,
        endpoint_id: str,
        state: DeliveryState | None,
        event: HookEvent | None,
        size: int | None,
        token: str | None,
    ) -> tuple[Sequence[Delivery], str | None]:
        """A page of an endpoint's deliveries, newest first, and the token of the next one."""
        filters = {"endpoint": endpoint_id, "state": state, "event": event}
        limit = page_size(size)
        before = page_position(token, filters, str) if token else None
        query = DeliveryQuery(endpoint_id, state, event, before, limit + 1)
        found = self.webhooks.deliveries(tenant, query)
        if len(found) <= limit:
            return found, None
        return found[:limit], page_token(found[limit - 1].id, filters)

    def open_secrets(self, errand: Errand) -> list[str]:
        """What to sign an errand with."""
        context = _context(errand.tenant, errand.endpoint_id)
        return [self.vault.open(context, sealed).decode() for sealed in errand.secrets]

    def _check(self, url: str) -> None:
        check_url(url)
        try:
            # Judged again at every attempt: this is only so that a mistake is seen at once.
            self.egress.check(url)
        except ArrowQuantError as error:
            raise pointed(error, "/url") from None


def check_url(url: str) -> None:
    """Raises invalid_spec for what is not a plain http(s) address of a receiver."""
    problem = _problem(url)
    if problem is not None:
        raise ArrowQuantError(
            "invalid_spec",
            problem,
            "A receiver's address is https://host[:port]/path.",
            errors=(FieldError("/url", problem),),
        )


def _problem(url: str) -> str | None:
    if len(url) > MAX_URL_CHARS or not _URL_CHARS.match(url) or "\\" in url:
        return f"the URL must be at most {MAX_URL_CHARS} printable ASCII characters without spaces"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the URL cannot be read"
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        return "the URL must be https://host[:port]/path"
    if "@" in parts.netloc:
        return "the URL must not carry credentials; messages are signed instead"
    if parts.fragment:
        return "the URL must not have a fragment"
    return None


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _context(tenant: str, endpoint_id: str) -> tuple[str, ...]:
    return ("webhook", tenant, endpoint_id)


def _in_order(events: Sequence[HookEvent]) -> tuple[HookEvent, ...]:
    return tuple(event for event in HookEvent if event in events)
