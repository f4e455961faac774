"""Attacks on the way out over HTTP: what receivers of webhooks are reached through."""

from __future__ import annotations

import gzip
import socket
from pathlib import Path

import httpx
import pytest

from service.adapters.egress import Guard, guarded_client
from service.domain.errors import ArrowQuantError
from tests.security.exits import LOOPBACK, Listener, Names, certificate, guard, reply, says

PUBLIC = "93.184.216.34"


def _refused(guard_: Guard, url: str) -> None:
    with pytest.raises(ArrowQuantError) as caught, guarded_client(guard_, total_s=5) as client:
        client.post(url, content=b"{}")
    assert caught.value.code == "endpoint_not_allowed"


def test_the_service_does_not_talk_to_itself() -> None:
    with Listener(reply("200 OK")) as server:
        for host in (LOOPBACK, "localhost", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0"):
            _refused(guard(), f"http://{host}:{server.port}/")
            _refused(guard(), f"https://{host}:{server.port}/")
        assert server.connections == 0


def test_a_listed_place_is_reached_and_only_there() -> None:
    with Listener(reply("200 OK", b"yes")) as server, Listener(reply("200 OK")) as other:
        listed = guard(f"{LOOPBACK}:{server.port}")
        with guarded_client(listed) as client:
            assert client.get(f"http://{LOOPBACK}:{server.port}/").text == "yes"
        _refused(listed, f"http://{LOOPBACK}:{other.port}/")
        assert other.connections == 0


def test_a_name_that_changes_its_address_is_judged_at_every_connection() -> None:
    """DNS rebinding: first a public address, then ours."""
    with Listener(reply("200 OK")) as server:
        names = Names(evil_de=[PUBLIC, LOOPBACK])
        rebound = guard(names=names)
        rebound.check(f"https://evil.de:{server.port}/")  # as when it was created
        _refused(rebound, f"https://evil.de:{server.port}/")
        assert names.asked == ["evil.de", "evil.de"]
        # Asked once per connection: what was judged is what is dialled.
        once = Names(ours_de=[LOOPBACK, PUBLIC])
        with guarded_client(guard("ours.de", names=once)) as client:
            assert client.get(f"http://ours.de:{server.port}/").status_code == 200
        assert once.asked == ["ours.de"]
        assert server.connections == 1


def test_one_private_address_among_public_ones_is_enough() -> None:
    with Listener(reply("200 OK")) as server:
        names = Names(evil_de=[f"{PUBLIC} {LOOPBACK}"])
        _refused(guard(names=names), f"https://evil.de:{server.port}/")
        assert server.connections == 0


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_redirects_are_not_followed(status: str) -> None:
    with Listener(reply("200 OK")) as inner:
        there = f"Location: http://{LOOPBACK}:{inner.port}/secret"
        with Listener(reply(status, b"", there)) as server:
            listed = guard(f"{LOOPBACK}:{server.port}", f"{LOOPBACK}:{inner.port}")
            with guarded_client(listed) as client:
                answer = client.post(f"http://{LOOPBACK}:{server.port}/", content=b"x")
            assert answer.status_code == int(status[:3])
            assert inner.connections == 0


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener(reply("200 OK")) as proxy, Listener(reply("200 OK")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{LOOPBACK}:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with guarded_client(guard("hook.de", names=Names(hook_de=[LOOPBACK]))) as client:
            client.get(f"http://hook.de:{server.port}/")
        assert (proxy.connections, server.connections) == (0, 1)


def test_the_name_stays_in_the_request_and_in_the_certificate(tmp_path: Path) -> None:
    names = Names(hook_de=[LOOPBACK], other_de=[LOOPBACK])
    listed = guard("hook.de", "other.de", names=names)
    with certificate(tmp_path, "hook.de") as (own, trusted):
        asked: list[str | None] = []
        own.sni_callback = lambda _s, name, _c: asked.append(name)
        with Listener(reply("200 OK", b"ok"), own) as server:
            with guarded_client(listed, verify=trusted) as client:
                assert client.get(f"https://hook.de:{server.port}/").text == "ok"
                assert asked == ["hook.de"]
                assert f"host: hook.de:{server.port}".encode() in server.requests[0].lower()
                with pytest.raises(httpx.ConnectError, match="certificate"):
                    client.get(f"https://other.de:{server.port}/")
            with guarded_client(listed) as client, pytest.raises(httpx.ConnectError):
                client.get(f"https://hook.de:{server.port}/")  # nobody vouches for it
            assert len(server.requests) == 1


def test_an_answer_without_end_is_cut_off() -> None:
    def flood(made: socket.socket) -> None:
        made.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            made.sendall(b"x" * 65536)

    def headers(made: socket.socket) -> None:
        made.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            made.sendall(b"X-A: " + b"x" * 1000 + b"\r\n")

    for answer in (flood, headers):
        with (
            Listener(answer) as server,
            guarded_client(guard(LOOPBACK)) as client,
            pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)),
        ):
            client.get(f"http://{LOOPBACK}:{server.port}/")


def test_an_answer_that_drips_is_cut_off() -> None:
    """Each byte comes in time; all of them together do not."""

    def body(made: socket.socket) -> None:
        made.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not server.done.wait(0.05):
            made.sendall(b"x")

    def head(made: socket.socket) -> None:
        while not server.done.wait(0.05):
            made.sendall(b"H")

    for answer in (body, head):
        with (
            Listener(answer) as server,
            guarded_client(guard(LOOPBACK), total_s=0.5) as client,
            pytest.raises(httpx.TransportError),
        ):
            client.get(f"http://{LOOPBACK}:{server.port}/")


def test_nothing_is_unpacked() -> None:
    bomb = gzip.compress(bytes(10**7))
    with Listener(reply("200 OK", bomb, "Content-Encoding: gzip")) as server:
        with guarded_client(guard(LOOPBACK)) as client:
            assert client.get(f"http://{LOOPBACK}:{server.port}/").content == bomb
        assert b"accept-encoding: identity" in server.requests[0].lower()


def test_other_schemes_lead_nowhere() -> None:
    with guarded_client(guard(LOOPBACK)) as client:
        for url in ("ftp://x/", "file:///etc/passwd", "gopher://x/"):
            with pytest.raises(httpx.UnsupportedProtocol):
                client.get(url)


def test_an_unknown_name_is_answered_like_a_private_one() -> None:
    texts = set()
    for url in ("https://no-such-name.invalid/", "https://private.de/"):
        with pytest.raises(ArrowQuantError) as caught:
            guard(names=Names(private_de=["10.0.0.1"])).check(url)
        texts.add((caught.value.detail, caught.value.hint))
    assert len(texts) == 1


def test_a_server_that_answers_with_nonsense_is_an_error() -> None:
    with (
        Listener(says(b"SSH-2.0-OpenSSH\r\n")) as server,
        guarded_client(guard(LOOPBACK)) as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        client.get(f"http://{LOOPBACK}:{server.port}/")
