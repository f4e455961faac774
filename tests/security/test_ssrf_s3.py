"""Attacks by whoever may name an S3 endpoint, and by the store that answers there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.adapters.egress import Guard
from service.adapters.egress import s3 as guarded
from service.adapters.objects.connections import Credentials, s3_clients
from service.adapters.objects.s3 import S3Store
from service.domain.errors import ArrowQuantError
from service.settings import S3Connection
from tests.security.exits import LOOPBACK, Listener, Names, certificate, guard, reply, says
from tests.servers import S3Server

PUBLIC = "93.184.216.34"
KEYS = Credentials("AKIATEST", "hunter2-hunter2")


@contextmanager
def opened(
    guard_: Guard, endpoint: str | None, keys: Credentials | None = KEYS, **changes: Any
) -> Iterator[S3Store]:
    fields = {"kind": "s3", "bucket": "bucket", "region": "us-east-1", "allow_http": True}
    connection = S3Connection(**fields | {"endpoint_url": endpoint} | changes)
    make = s3_clients(
        connection,
        connect_timeout_s=2,
        read_timeout_s=2,
        attempts=1,
        credentials=lambda: keys,
        guard=guard_,
    )
    store = S3Store(make, connection.bucket)
    yield store
    store.close()


@contextmanager
def served(answer: Callable[[socket.socket], None]) -> Iterator[tuple[Listener, S3Store]]:
    """A store behind a listener that is allowed."""
    with ExitStack() as stack:
        server = stack.enter_context(Listener(answer))
        endpoint = f"http://{LOOPBACK}:{server.port}"
        yield server, stack.enter_context(opened(guard(LOOPBACK), endpoint))


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ArrowQuantError) as caught:
        call()
    return caught.value.code


def _every_call(store: S3Store) -> list[Callable[[], object]]:
    return [
        lambda: store.stat("x"),
        lambda: list(store.list("")),
        lambda: store.read("x", 0, 1),
        lambda: store.readinto("x", 0, memoryview(bytearray(8)), "etag"),
        lambda: store.put("x", b"y"),
        lambda: store.delete("x"),
        lambda: list(store.uploads("")),
        lambda: next(store.stream("x")),
    ]


def _refused(store: S3Store, code: str = "endpoint_not_allowed") -> None:
    for call in _every_call(store):
        with pytest.raises(ArrowQuantError) as caught:
            call()
        assert caught.value.code == code


def test_the_service_does_not_talk_to_itself() -> None:
    with Listener(reply("200 OK")) as server:
        for host in (LOOPBACK, "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"):
            for scheme in ("http", "https"):
                with opened(guard(), f"{scheme}://{host}:{server.port}") as store:
                    _refused(store)
        assert server.connections == 0


def test_the_metadata_service_is_out_of_reach() -> None:
    names = Names(store_internal=["169.254.169.254"], v6_internal=["fd00:ec2::254"])
    listed = guard("store.internal", "v6.internal", names=names)
    for host in ("169.254.169.254", "store.internal", "v6.internal", "100.100.100.200"):
        with opened(listed, f"http://{host}") as store:
            _refused(store)


def test_a_name_that_changes_its_address_is_judged_at_every_connection() -> None:
    with Listener(reply("200 OK")) as server:
        names = Names(evil_de=[PUBLIC, LOOPBACK])
        rebound = guard(names=names)
        rebound.check(f"https://evil.de:{server.port}")
        with opened(rebound, f"https://evil.de:{server.port}") as store:
            _refused(store)
        assert server.connections == 0


def test_what_was_judged_is_what_is_dialled(s3_server: S3Server, s3_bucket: str) -> None:
    """One question to the resolver for one connection: the second answer would lead elsewhere."""
    port = s3_server.endpoint_url.rpartition(":")[2]
    names = Names(store_de=[LOOPBACK, PUBLIC])
    keys = Credentials(s3_server.access_key, s3_server.secret_key)
    with opened(
        guard("store.de", names=names), f"http://store.de:{port}", keys, bucket=s3_bucket
    ) as store:
        store.put("x", b"hello")
        assert store.read("x", 0, 5) == b"hello"
        assert [info.key for info in store.list("")] == ["x"]
    assert names.asked == ["store.de"]


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy resolves names by itself: whom it dials nobody has judged."""
    with Listener(reply("200 OK")) as proxy, Listener(reply("404 Not Found")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{LOOPBACK}:{proxy.port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        names = Names(store_de=[LOOPBACK])
        with opened(guard("store.de", names=names), f"http://store.de:{server.port}") as store:
            assert code_of(lambda: store.stat("x")) == "source_not_found"
        assert (proxy.connections, server.connections) == (0, 1)


@pytest.mark.parametrize("region", ["eu-west-1", "x#.evil.de/", "evil.de/?", "a@evil.de"])
@pytest.mark.parametrize("status", [301, 307, 400])
def test_a_store_cannot_send_us_elsewhere(status: int, region: str) -> None:
    """boto3 follows a bucket to another region, and takes the region's name from the answer."""
    with Listener(reply("200 OK", b"secret")) as inner:
        there = f"http://{LOOPBACK}:{inner.port}/bucket/x"
        error = f"<Error><Code>PermanentRedirect</Code><Endpoint>{LOOPBACK}:{inner.port}</Endpoint>"
        headers = (f"Location: {there}", f"x-amz-bucket-region: {region}")
        with Listener(reply(f"{status} X", error.encode() + b"</Error>", *headers)) as server:
            listed = guard(f"{LOOPBACK}:{server.port}", f"{LOOPBACK}:{inner.port}")
            with opened(listed, f"http://{LOOPBACK}:{server.port}") as store:
                for call in _every_call(store):
                    with pytest.raises(ArrowQuantError):
                        call()
            assert inner.connections == 0
            for head in server.requests:
                assert f"\r\nHost: {LOOPBACK}:{server.port}\r\n".encode() in head


def test_aws_itself_cannot_be_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither by a redirect to another region nor by variables of the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://evil.de")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://evil.de")
    aws = "bucket.s3.eu-west-1.amazonaws.com"
    names = Names(**{aws.replace(".", "_"): [LOOPBACK]})
    moved = reply("301 Moved", b"", "x-amz-bucket-region: us-west-2")
    with certificate(tmp_path, aws) as (own, _):
        (tmp_path / "ca.pem").write_bytes((tmp_path / "server.pem").read_bytes())
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        with Listener(moved, own) as server:
            leads_to = guard(aws, names=names)
            real = leads_to.dial
            ports: list[int] = []

            def dial(target: Any, timeout_s: float | None, options: Any = ()) -> socket.socket:
                ports.append(target.port)
                return real(
                    type(target)(target.scheme, target.host, server.port), timeout_s, options
                )

            monkeypatch.setattr(leads_to, "dial", dial)
            with opened(leads_to, None, region="eu-west-1") as store:
                assert code_of(lambda: store.stat("x")) == "endpoint_not_allowed"
            assert len(server.requests) == 1  # asked, and told to go elsewhere
            assert set(ports) == {443}
            assert {*names.asked} == {aws}


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "MAX_ANSWER_BYTES", 2**20)

    def flood(status: str) -> Callable[[socket.socket], None]:
        def answer(made: socket.socket) -> None:
            made.sendall(f"HTTP/1.1 {status}\r\n\r\n<ListBucketResult>".encode())
            while True:
                made.sendall(b"<Contents><Key>x</Key></Contents>" * 1000)

        return answer

    with served(flood("200 OK")) as (_, store):
        assert code_of(lambda: list(store.list(""))) == "storage_unavailable"
    with served(flood("404 Not Found")) as (_, store):  # errors are read whole too
        assert code_of(lambda: store.read("x", 0, 8)) == "storage_unavailable"


def test_an_answer_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time; all of them together do not."""
    monkeypatch.setattr(guarded, "READ_S", 0.5)

    over = threading.Event()

    def head(made: socket.socket) -> None:
        while not over.wait(0.05):
            made.sendall(b"H")

    def body(made: socket.socket) -> None:
        made.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not over.wait(0.05):
            made.sendall(b" ")

    with served(head) as (_, store):
        assert code_of(lambda: list(store.list(""))) == "storage_unavailable"
    with served(body) as (_, store):
        assert code_of(lambda: list(store.list(""))) == "storage_unavailable"
    over.set()


def test_entities_do_not_multiply() -> None:
    """Billion laughs: a small document that becomes gigabytes."""
    entities = '<!ENTITY a0 "aaaaaaaaaa">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
    )
    bomb = f"<!DOCTYPE x [{entities}]><ListBucketResult><Name>&a9;</Name></ListBucketResult>"
    with served(reply("200 OK", bomb.encode())) as (_, store):
        assert code_of(lambda: list(store.list(""))) == "storage_unavailable"


def test_files_of_this_machine_are_not_included() -> None:
    xml = (
        b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
        b"<ListBucketResult><Contents><Key>&f;</Key><Size>1</Size><ETag>e</ETag></Contents>"
        b"</ListBucketResult>"
    )
    with served(reply("200 OK", xml)) as (_, store):
        assert code_of(lambda: list(store.list(""))) == "storage_unavailable"


def test_what_a_store_says_is_not_passed_on() -> None:
    """Whoever can make us ask may be after what an internal service answers."""
    told = "INTERNAL-SECRET-41"
    body = f"<Error><Code>{told}</Code><Message>{told}</Message></Error>".encode()
    answers = [
        reply(status, body, f"x-told: {told}")
        for status in ("400 X", "403 X", "404 X", "409 X", "500 X", "200 OK")
    ]
    answers.append(says(f"SSH-2.0-{told}\r\n".encode()))
    for answer in answers:
        with served(answer) as (_, store):
            for call in _every_call(store):
                assert told not in _all_that_is_said(call)


def _all_that_is_said(call: Callable[[], object]) -> str:
    try:
        return repr(call())
    except ArrowQuantError as error:
        return repr(error) + str(error) + str(error.as_dict()) + repr(error.__cause__)


def test_keys_of_objects_that_climb_are_not_followed() -> None:
    xml = (
        b"<ListBucketResult><Contents><Key>../../etc/passwd</Key><Size>1</Size><ETag>e</ETag>"
        b"</Contents></ListBucketResult>"
    )
    with served(reply("200 OK", xml)) as (_, store):
        (info,) = store.list("")
        assert code_of(lambda: store.read(info.key, 0, 1)) == "location_not_allowed"


def test_only_the_granted_prefixes_are_reached(s3_server: S3Server, s3_bucket: str) -> None:
    client = s3_server.client()
    for key in ("models/x", "models-secret/x", "other/x"):
        client.put_object(Bucket=s3_bucket, Key=key, Body=b"x")
    client.create_multipart_upload(Bucket=s3_bucket, Key="other/upload")
    connection = S3Connection(
        kind="s3", bucket=s3_bucket, endpoint_url=s3_server.endpoint_url, region="us-east-1"
    )
    keys = Credentials(s3_server.access_key, s3_server.secret_key)
    make = s3_clients(connection, credentials=lambda: keys, guard=guard(LOOPBACK))
    store = S3Store(make, s3_bucket, within=("models/", "out/"))
    assert store.read("models/x", 0, 1) == b"x"
    assert [info.key for info in store.list("models/")] == ["models/x"]
    store.put("out/x", b"y")
    for outside in ("", "m", "models", "models-secret/", "other/", "models/../other/"):
        for attack in _attacks(store, outside):
            assert code_of(attack) == "location_not_allowed"
    assert "Uploads" in client.list_multipart_uploads(Bucket=s3_bucket)
    store.close()
    client.close()


def _attacks(store: S3Store, outside: str) -> list[Callable[[], object]]:
    return [
        lambda: list(store.list(outside)),
        lambda: store.read(outside + "x", 0, 1),
        lambda: store.put(outside + "x", b""),
        lambda: store.create(outside + "x"),
        lambda: store.delete(outside + "x"),
        lambda: store.stat(outside + "x"),
        lambda: store.presign(outside + "x", 60),
        lambda: store.uploads(outside),
        lambda: store.abort_uploads(outside),
    ]
