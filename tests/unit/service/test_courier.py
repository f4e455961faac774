"""The courier on a clock that is moved by hand, and receivers that do as told."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service.adapters.sql import make_engine, migrate
from service.adapters.webhook_sender import retry_after_s
from service.domain.errors import ArrowQuantError
from service.domain.webhooks import (
    Delivery,
    DeliveryState,
    Disabled,
    Endpoint,
    Errand,
    HookEvent,
    Outcome,
    Schedule,
)
from service.usecases.courier import Courier
from service.usecases.webhooks import check_url
from tests.contracts.hooks import Hooks
from tests.contracts.ledgers import HandClock

Answer = Callable[[Errand], Outcome]


class Receivers:
    """`Sender`: what each endpoint answers, and what it was sent."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.seen: list[Errand] = []
        self.secrets: list[Sequence[str]] = []
        self.of: dict[str, Answer] = {}

    def send(self, errand: Errand, secrets: Sequence[str]) -> Outcome:
        self.seen.append(errand)
        self.secrets.append(secrets)
        return self.of.get(errand.endpoint_id, self.status(200))(errand)

    def status(self, status: int | None, **values: object) -> Answer:
        return lambda _: Outcome(self.clock.now(), 1, status, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("courier") / "empty.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def engine(template: Path, tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{shutil.copy(template, tmp_path / 'a.db')}")
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def hooks(engine: Engine, clock: HandClock) -> Hooks:
    return Hooks(engine, clock)


@pytest.fixture
def receivers(clock: HandClock) -> Receivers:
    return Receivers(clock)


@pytest.fixture
def courier(hooks: Hooks, receivers: Receivers) -> Courier:
    return make(hooks, receivers)


def make(hooks: Hooks, receivers: Receivers, **options: object) -> Courier:
    def opened(errand: Errand) -> list[str]:
        return [secret.decode() for secret in errand.secrets]

    values = {"chance": lambda: 0.5} | options
    return Courier(hooks.outbox, receivers, opened, hooks.clock, Schedule(), **values)  # type: ignore[arg-type]


def ping(hooks: Hooks, endpoint: Endpoint) -> str:
    return hooks.webhooks.queue("acme", endpoint.id, HookEvent.PING, {}).id


def read(hooks: Hooks, delivery: str) -> Delivery:
    return hooks.webhooks.delivery("acme", delivery)


def test_a_receiver_that_comes_back_after_two_days(
    hooks: Hooks, receivers: Receivers, courier: Courier
) -> None:
    endpoint = hooks.endpoint()
    made = ping(hooks, endpoint)
    back = hooks.clock.now() + timedelta(days=2)

    def flaps(errand: Errand) -> Outcome:
        up = hooks.clock.now() >= back
        return receivers.status(204 if up else None, error=None if up else "connection")(errand)

    receivers.of[endpoint.id] = flaps
    while (when := read(hooks, made).next_time) is not None:
        hooks.clock.moment = when
        courier.carry_all()
    done = read(hooks, made)
    assert done.state is DeliveryState.DELIVERED
    assert {(errand.id, errand.body) for errand in receivers.seen} == {
        (made, receivers.seen[0].body)
    }
    assert [attempt.error for attempt in done.attempts[:-1]] == ["connection"] * (
        len(receivers.seen) - 1
    )
    assert receivers.secrets[-1] == ["new"]


def test_a_receiver_that_never_comes_back_is_turned_off(
    hooks: Hooks, receivers: Receivers, courier: Courier
) -> None:
    endpoint = hooks.endpoint()
    receivers.of[endpoint.id] = receivers.status(500)
    for _ in range(2 * 7):
        if hooks.webhooks.get("acme", endpoint.id).disabled:
            break
        ping(hooks, endpoint)
        courier.carry_all()
        hooks.clock.move(12 * 3600)
    else:
        pytest.fail("never turned off")
    assert hooks.webhooks.get("acme", endpoint.id).disabled is Disabled.FAILING
    assert hooks.clock.now() - receivers.seen[0].since >= timedelta(days=5)


def test_retry_after_is_followed_within_bounds(
    hooks: Hooks, receivers: Receivers, courier: Courier
) -> None:
    def pause(status: int, wish: float) -> float:
        endpoint = hooks.endpoint()
        receivers.of[endpoint.id] = receivers.status(status, retry_after_s=wish)
        made = ping(hooks, endpoint)
        courier.carry_all()
        when = read(hooks, made).next_time
        assert when is not None
        return (when - hooks.clock.now()).total_seconds()

    assert pause(429, 120) == pause(503, 120) == 120
    assert pause(503, 0) == 10  # never sooner than our own pause
    assert pause(503, 1e9) == 86400  # nor later than a day
    assert pause(500, 120) == 10  # said with nothing else


def test_a_receiver_that_hangs_holds_up_nobody(hooks: Hooks, receivers: Receivers) -> None:
    """Eight dead receivers with much to send, and one that is well, share eight places."""
    release, hung = threading.Event(), threading.Semaphore(0)
    dead = [hooks.endpoint() for _ in range(8)]
    well = hooks.endpoint()

    def hang(errand: Errand) -> Outcome:
        hung.release()
        assert release.wait(60)
        return receivers.status(None, error="timeout")(errand)

    for endpoint in dead:
        receivers.of[endpoint.id] = receivers.status(500)
        ping(hooks, endpoint)
    courier = make(hooks, receivers, at_once=8, period_s=0.01)
    courier.carry_all()  # now they are known to fail
    for endpoint in dead:
        receivers.of[endpoint.id] = hang
        for _ in range(5):
            ping(hooks, endpoint)
    got = threading.Semaphore(0)

    def fine(errand: Errand) -> Outcome:
        got.release()
        return receivers.status(200)(errand)

    receivers.of[well.id] = fine
    courier.start()
    assert all(hung.acquire(timeout=60) for _ in range(4))
    for _ in range(10):
        ping(hooks, well)
    assert all(got.acquire(timeout=60) for _ in range(10))
    assert not hung.acquire(blocking=False)
    release.set()
    courier.stop()


def test_stopping_gives_back_what_is_under_way(
    hooks: Hooks, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.usecases.courier.GRACE_S", 0.05)
    endpoint = hooks.endpoint()
    release, begun = threading.Event(), threading.Event()

    def hang(errand: Errand) -> Outcome:
        begun.set()
        assert release.wait(60)
        return receivers.status(200)(errand)

    receivers.of[endpoint.id] = hang
    made = ping(hooks, endpoint)
    first = make(hooks, receivers, period_s=0.01)
    first.start()
    assert begun.wait(60)
    first.stop()
    assert read(hooks, made).attempt_count == 0
    receivers.of[endpoint.id] = receivers.status(204)
    make(hooks, receivers).carry_all()
    release.set()
    done = read(hooks, made)
    assert (done.state, done.attempt_count) == (DeliveryState.DELIVERED, 1)
    assert len(receivers.seen) == 2


def test_a_database_that_is_away_stops_nothing(
    hooks: Hooks, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = hooks.endpoint()
    made = ping(hooks, endpoint)
    claim = hooks.outbox.claim
    failures = iter([True, True])

    def sometimes(limit: int, *, failing: bool = True) -> Sequence[Errand]:
        if next(failures, False):
            raise ArrowQuantError("database_unavailable", "away")
        return claim(limit, failing=failing)

    sent = threading.Event()

    def answer(errand: Errand) -> Outcome:
        sent.set()
        return receivers.status(200)(errand)

    receivers.of[endpoint.id] = answer
    monkeypatch.setattr(hooks.outbox, "claim", sometimes)
    courier = make(hooks, receivers, period_s=0.01)
    courier.start()
    assert sent.wait(60)
    courier.stop()
    assert read(hooks, made).state is DeliveryState.DELIVERED


def test_a_secret_that_cannot_be_opened_is_a_failed_attempt(
    hooks: Hooks, receivers: Receivers
) -> None:
    def broken(_: Errand) -> list[str]:
        raise ArrowQuantError("internal", "another key sealed it")

    made = ping(hooks, hooks.endpoint())
    Courier(hooks.outbox, receivers, broken, hooks.clock, Schedule()).carry_all()
    (attempt,) = read(hooks, made).attempts
    assert (attempt.error, receivers.seen) == ("secret_unreadable", [])


def test_the_log_is_forgotten_after_its_time(hooks: Hooks, receivers: Receivers) -> None:
    made = ping(hooks, hooks.endpoint())
    make(hooks, receivers).carry_all()
    hooks.days(31)
    courier = make(hooks, receivers, period_s=0.01)
    courier.start()
    courier.stop()
    with pytest.raises(ArrowQuantError, match=r"^not_found"):
        read(hooks, made)


def test_the_schedule_as_documented() -> None:
    schedule = Schedule()
    now = HandClock().now()
    pauses = []
    since = now
    for tries in itertools.count(1):
        when = schedule.next_time(now, since, tries, 0.5)
        if when is None:
            break
        pauses.append((when - now).total_seconds())
        now = when
    assert pauses == [
        10, 30, 90, 270, 810, 2430, 7290, 21870, 43200, 43200, 43200, 43200, 43200,
    ]  # fmt: skip
    for tries in range(1, 200):
        base = min(43200, 10 * 3.0 ** (tries - 1))
        for chance in (0.0, 0.3, 1.0):
            when = schedule.next_time(now, now, tries, chance)
            assert when is not None
            seconds = (when - now).total_seconds()
            assert 0.799 * base <= seconds <= 1.201 * base


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("Tue, 01 Jan 2030 12:01:00 GMT", 60.0),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0.0),
        (None, None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("9" * 1000, None),
        ("²", None),
    ],
)
def test_what_a_retry_after_says(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, HandClock().now()) == seconds


@pytest.mark.parametrize(
    "url",
    [
        "https://host", "https://host:8443/a/b?c=d", "https://[2001:db8::1]/x", "http://host/",
    ],
)  # fmt: skip
def test_urls_that_can_be_receivers(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "host/path", "ftp://host/", "file:///etc/passwd", "https://", "https:///path",
        "https://user@host/", "https://user:secret@host/", "https://host/#x", "https://host:0/",
        "https://host:99999/", "https://host:x/", "https://host/\r\nX-Injected: 1",
        "https://host/a b", "https://h\u00f6st/", "https://host\\@evil/", "https://[::1/",
        "https://host/\x00", "https://host/" + "a" * 2048, "gopher://host/", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_urls_that_cannot(url: str) -> None:
    with pytest.raises(ArrowQuantError, match=r"^invalid_spec") as raised:
        check_url(url)
    assert raised.value.errors[0].pointer == "/url"
    assert "secret" not in str(raised.value)
