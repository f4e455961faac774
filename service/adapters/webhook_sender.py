"""One attempt to deliver a webhook: signed as Standard Webhooks says, sent over HTTP, judged by its
status alone."""

from __future__ import annotations

import email.utils
import functools
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import httpx
from standardwebhooks import Webhook

from service.adapters.egress import Guard, guarded_client
from service.domain.errors import ArrowQuantError
from service.domain.ports import Clock
from service.domain.webhooks import Errand, Outcome

USER_AGENT: Final = f"ArrowQuant/{version('arrowquant-server')} (webhooks)"
# A status and its headers; what follows is not waited for.
MAX_BYTES: Final = 64 * 2**10
_MAX_RETRY_AFTER_CHARS: Final = 64


class HttpSender:
    """`Sender`. Follows no redirect, asks no proxy, reads no body.

    guard      judges what is connected to, at every attempt
    timeout_s  for the whole of an attempt, however slowly the receiver speaks
    """

    def __init__(self, guard: Guard, clock: Clock, timeout_s: float = 15.0) -> None:
        self._guard, self._clock, self._timeout_s = guard, clock, timeout_s

    def send(self, errand: Errand, secrets: Sequence[str]) -> Outcome:
        now = self._clock.now()
        began = time.monotonic()
        status, error, wish = None, None, None
        headers = signed(errand, secrets, now)
        try:
            with (
                self._client() as client,
                client.stream("POST", errand.url, headers=headers, content=errand.body) as response,
            ):
                # The body is not read: it would be of use only to who probes our network.
                status = response.status_code
                wish = retry_after_s(response.headers.get("retry-after"), now)
        except (httpx.HTTPError, httpx.InvalidURL, ArrowQuantError, OSError) as raised:
            # What was answered before the connection broke stands.
            error = _named(raised) if status is None else None
        ms = round(1000 * (time.monotonic() - began))
        return Outcome(now, ms, status, error, wish)

    def _client(self) -> httpx.Client:
        return guarded_client(
            self._guard, total_s=self._timeout_s, max_bytes=MAX_BYTES, verify=_certificates()
        )


@functools.cache
def _certificates() -> ssl.SSLContext:
    # Reading the list of authorities takes longer than most attempts.
    return httpx.create_ssl_context(trust_env=False)


def signed(errand: Errand, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """The headers of an attempt. Receivers accept any one signature of the list."""
    body = errand.body.decode()
    signatures = [Webhook(secret).sign(errand.id, now, body) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": errand.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def retry_after_s(text: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After asks for, given as a number or as a date; None if it says nothing
    that can be understood."""
    if text is None or len(text) > _MAX_RETRY_AFTER_CHARS:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _named(raised: Exception) -> str:
    """What kept the receiver from answering, in a word that says nothing of our network."""
    if isinstance(raised, ArrowQuantError):
        return "address_refused"
    if isinstance(raised, httpx.TimeoutException | TimeoutError):
        return "timeout"
    if _caused_by(raised, ssl.SSLError):
        return "tls"
    if isinstance(raised, httpx.ProtocolError | httpx.InvalidURL):
        return "protocol"
    return "connection"


def _caused_by(raised: BaseException | None, kind: type[BaseException]) -> bool:
    while raised is not None:
        if isinstance(raised, kind):
            return True
        raised = raised.__cause__ or raised.__context__
    return False
