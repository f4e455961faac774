"""Attacks through webhooks: receivers that lead into our network, or hold a courier up."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from service.adapters.egress import Guard
from service.adapters.system_clock import SystemClock
from service.adapters.webhook_sender import HttpSender
from service.domain.errors import ArrowQuantError
from service.domain.ports import Clock
from service.domain.webhooks import Errand, HookEvent, Outcome
from service.usecases.webhooks import check_url
from tests.receiver import Answer, Receiver, drip, endless_body, flood, plain
from tests.security.exits import LOOPBACK, Names, guard

SECRET = "whsec_" + "QUJD" * 8
PUBLIC = "93.184.216.34"


def errand(url: str) -> Errand:
    return Errand(
        id="msg_1",
        endpoint_id="wh_1",
        tenant="acme",
        event=HookEvent.PING,
        url=url,
        body=b'{"type":"ping"}',
        secrets=(b"",),
        attempt=1,
        tries=1,
        fence=1,
        since=datetime.now(UTC),
        failing=False,
    )


def send(url: str, by: Guard, timeout_s: float = 30.0, clock: Clock | None = None) -> Outcome:
    return HttpSender(by, clock or SystemClock(), timeout_s).send(errand(url), [SECRET])


def to_receiver(answer: Answer, timeout_s: float = 30.0) -> tuple[Outcome, Receiver, float]:
    """What comes of an attempt at a receiver on this machine, which is listed."""
    with Receiver(answer) as receiver:
        began = time.monotonic()
        outcome = send(receiver.url, guard(f"{LOOPBACK}/32"), timeout_s)
        return outcome, receiver, time.monotonic() - began


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0",
        "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::]", "169.254.169.254",
        "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "10.0.0.1", "192.168.1.1", "100.64.0.1",
    ],
)  # fmt: skip
def test_no_spelling_of_an_inner_address_is_called(host: str) -> None:
    with Receiver() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        for scheme in ("http", "https"):
            outcome = send(f"{scheme}://{host}:{port}/hook", guard())
            # Some spellings are not even taken for a URL.
            assert (outcome.status, outcome.error in ("address_refused", "protocol")) == (
                None,
                True,
            )
            with pytest.raises(ArrowQuantError, match=r"^endpoint_not_allowed"):
                guard().check(f"{scheme}://{host}:{port}/hook")
        assert receiver.got == []


def test_a_name_that_turns_inward_after_it_was_accepted_is_not_called() -> None:
    """DNS rebinding: public when the endpoint is made, ours when the message goes out."""
    with Receiver() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        names = Names(evil_example=[PUBLIC, LOOPBACK])
        rebound = guard(names=names)
        url = f"https://evil.example:{port}/hook"
        rebound.check(url)
        assert send(url, rebound).error == "address_refused"
        assert receiver.got == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_leads_nowhere(status: int) -> None:
    with Receiver() as inner:
        outcome, receiver, _ = to_receiver(plain(status, Location=inner.url))
        assert (outcome.status, outcome.ok) == (status, False)
        assert len(receiver.got) == 1
        assert inner.got == []


def test_a_redirect_to_the_metadata_of_the_machine() -> None:
    outcome, receiver, _ = to_receiver(plain(302, Location="http://169.254.169.254/latest/"))
    assert (outcome.status, outcome.ok, len(receiver.got)) == (302, False, 1)


def test_a_receiver_that_drips_is_left_in_time() -> None:
    outcome, _, took = to_receiver(drip, timeout_s=1.0)
    assert (outcome.status, outcome.error) == (None, "timeout")
    assert took < 20


def test_headers_without_end_are_cut_off() -> None:
    outcome, _, took = to_receiver(flood)
    assert (outcome.status, outcome.ok) == (None, False)
    assert took < 20


def test_the_body_of_an_answer_is_not_read() -> None:
    """Not kept, not measured, not waited for: a body tells a prober nothing and costs nothing."""
    outcome, _, took = to_receiver(endless_body)
    assert (outcome.status, outcome.ok) == (200, True)
    assert took < 20


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        outcome, receiver, _ = to_receiver(plain(204))
        assert (outcome.status, len(receiver.got), proxy.got) == (204, 1, [])


def test_nothing_is_added_to_a_request_by_its_url() -> None:
    for url in (
        "https://host.example/\r\nX-Injected: 1",
        "https://host.example/ HTTP/1.1\r\nHost: inner",
        "https://host.example\r\n\r\nGET /",
        "https://host.example/%0d%0a\n",
        "https://host.example\\@127.0.0.1/",
        "https://user@127.0.0.1/",
    ):
        with pytest.raises(ArrowQuantError, match=r"^invalid_spec"):
            check_url(url)
        assert send(url, guard()).status is None


def test_what_failed_says_nothing_of_our_network() -> None:
    """A closed port, an unknown name and a refused address look the same to whoever asks."""
    words = {"timeout", "connection", "tls", "protocol", "address_refused"}
    closed = send("http://127.0.0.1:9/", guard(f"{LOOPBACK}/32"))
    unknown = send("https://nowhere.invalid/", guard(names=Names()))
    refused = send("https://10.0.0.1/", guard())
    assert {closed.error, unknown.error, refused.error} <= words
    assert unknown.error == refused.error == "address_refused"


def test_every_attempt_is_signed_anew() -> None:
    """The timestamp is the attempt's, so that a message that is days late is no replay."""
    with Receiver() as receiver:
        listed = guard(f"{LOOPBACK}/32")
        for _ in range(2):
            assert send(receiver.url, listed).ok
        for got in receiver.got:
            Webhook(SECRET).verify(got.body, got.headers)
        assert {got.id for got in receiver.got} == {"msg_1"}
        assert {got.body for got in receiver.got} == {b'{"type":"ping"}'}
