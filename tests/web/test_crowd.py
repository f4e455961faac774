"""Slow clients, many clients, and the end of the service, over real sockets."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from service.settings import Settings
from service.web.app import create_app
from service.web.server import Server, make_server
from service.wiring import Deps
from tests.processes import HOST, free_port
from tests.web.conftest import MiniWorker, job_body

HEAD = b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n"


class Running:
    """The production server in a thread, ended as by a signal."""

    def __init__(self, settings: Settings, deps: Deps) -> None:
        self.port = free_port()
        self.app = create_app(settings, lambda _: dataclasses.replace(deps, settings=settings))
        self.server: Server = make_server(self.app, settings, host=HOST, port=self.port)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.url = f"http://{HOST}:{self.port}"
        self.connections: list[socket.socket] = []

    def stop(self) -> None:
        self.server.should_exit = True

    def connect(self) -> socket.socket:
        made = socket.create_connection((HOST, self.port), timeout=30)
        self.connections.append(made)
        return made


@contextmanager
def running(settings: Settings, deps: Deps, **changes: object) -> Iterator[Running]:
    made = Running(settings.model_copy(update={"auth": False} | changes), deps)
    made.thread.start()
    end = time.monotonic() + 30
    while not made.server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    try:
        yield made
    finally:
        for connection in made.connections:
            connection.close()
        made.stop()
        made.thread.join(30)
    assert not made.thread.is_alive()


def closed_after(connection: socket.socket) -> float:
    """Seconds until the server closes the connection."""
    began = time.monotonic()
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began


class TestSlowClients:
    def test_a_head_that_never_ends(self, settings: Settings, deps: Deps) -> None:
        """Slow loris: also one that sends a little now and then."""
        with running(settings, deps, client_timeout_s=1.0) as service:
            silent, slow = service.connect(), service.connect()
            slow.sendall(HEAD)
            dripping = threading.Event()

            def send_on() -> None:
                number = 0
                while not dripping.wait(0.1):
                    number += 1
                    try:
                        slow.sendall(f"X-{number}: y\r\n".encode())
                    except OSError:
                        return

            thread = threading.Thread(target=send_on)
            thread.start()
            try:
                assert closed_after(slow) < 20
                assert closed_after(silent) < 20
            finally:
                dripping.set()
                thread.join()
            assert httpx.get(f"{service.url}/healthz").status_code == 200

    def test_a_second_head_on_a_connection(self, settings: Settings, deps: Deps) -> None:
        with running(settings, deps, client_timeout_s=1.0) as service:
            connection = service.connect()
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.sendall(HEAD)
            assert closed_after(connection) < 14  # sooner than idle connections are closed

    def test_a_body_that_never_ends(self, settings: Settings, deps: Deps) -> None:
        with running(settings, deps, client_timeout_s=1.0) as service:
            connection = service.connect()
            connection.sendall(
                b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000\r\n\r\n{"
            )
            answer = connection.recv(65536)
            while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
                answer += connection.recv(65536)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408")
            problem = json.loads(body)
            assert (problem["code"], problem["retryable"]) == ("request_timeout", True)

    def test_an_answer_that_nobody_reads(
        self, settings: Settings, deps: Deps, worker: MiniWorker
    ) -> None:
        with running(settings, deps, client_timeout_s=1.0) as service:
            job = httpx.post(
                f"{service.url}/v1/jobs", json=job_body(labels={"x": "y" * 200})
            ).json()
            connection = service.connect()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # More answers than any buffer holds, asked for in one go and never read.
            one = f"GET /v1/jobs/{job['id']} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            connection.settimeout(30)
            ask = iter(lambda: connection.sendall(one * 100), object())
            with pytest.raises(OSError, match=r"reset|Broken"):
                deque(ask, maxlen=0)
            assert httpx.get(f"{service.url}/healthz").status_code == 200


class TestManyClients:
    def test_streams_are_counted_by_tenant(self, settings: Settings, deps: Deps) -> None:
        with running(settings, deps, max_streams_per_tenant=2) as service:
            job = httpx.post(f"{service.url}/v1/jobs", json=job_body()).json()
            url = f"{service.url}{job['links']['events']}"
            stream = {"Accept": "text/event-stream"}
            with httpx.stream("GET", url, headers=stream), httpx.stream("GET", url, headers=stream):
                third = httpx.get(url, headers=stream)
                assert (third.status_code, third.json()["code"]) == (429, "too_many_streams")
                assert "retry-after" in third.headers
                assert httpx.get(url).status_code == 200  # a page is no stream
            end = time.monotonic() + 30
            while True:  # a place is free as soon as the server has noticed
                with httpx.stream("GET", url, headers=stream) as again:
                    if again.status_code == 200:
                        break
                assert time.monotonic() < end

    def test_more_requests_than_it_may_take(self, settings: Settings, deps: Deps) -> None:
        with running(settings, deps, max_requests=1) as service:
            job = httpx.post(f"{service.url}/v1/jobs", json=job_body()).json()
            url = f"{service.url}{job['links']['events']}"
            with httpx.stream("GET", url, headers={"Accept": "text/event-stream"}):
                refused = httpx.get(f"{service.url}/v1/jobs")
                assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
                assert "retry-after" in refused.headers
                assert httpx.get(f"{service.url}/healthz").status_code == 200


class TestTheEnd:
    def test_streams_say_goodbye_and_waiting_requests_are_answered(
        self, settings: Settings, deps: Deps
    ) -> None:
        with running(settings, deps) as service:
            job = httpx.post(f"{service.url}/v1/jobs", json=job_body()).json()
            polled: list[httpx.Response] = []

            def poll() -> None:
                polled.append(httpx.get(f"{service.url}/v1/jobs/{job['id']}?wait=30", timeout=40))

            poller = threading.Thread(target=poll)
            events = f"{service.url}{job['links']['events']}"
            with httpx.stream("GET", events, headers={"Accept": "text/event-stream"}) as stream:
                lines = stream.iter_lines()
                while not next(lines).startswith("id: 1"):
                    pass
                poller.start()
                watch = service.app.state.context.watch
                _until(lambda: len(watch._waiting.get(job["id"], ())) == 2)
                began = time.monotonic()
                service.stop()
                rest = list(lines)
            poller.join(30)
            service.thread.join(30)
            assert not service.thread.is_alive()
            assert time.monotonic() - began < 9  # before anybody would be cut off
            assert ": the server ends, connect again" in rest
            assert "retry: 500" in rest
            [answer] = polled
            assert (answer.status_code, answer.json()["state"]) == (200, "QUEUED")
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{service.url}/healthz")


def _until(condition: object) -> None:
    end = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)
