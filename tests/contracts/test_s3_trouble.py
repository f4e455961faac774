"""What an object store says when it cannot, each with a name of its own; and all may be tried again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.adapters.objects import S3Store
from service.adapters.objects.connections import s3_clients
from service.domain.errors import CODES, Fault
from service.settings import S3Connection
from tests.contracts.objects import code_of, noise
from tests.security.exits import LOOPBACK, Answer, Listener, reply
from tests.servers import S3Server

MIB = 2**20
pytestmark = pytest.mark.usefixtures("s3_credentials")


@contextmanager
def at(endpoint_url: str) -> Iterator[S3Store]:
    connection = S3Connection(
        kind="s3",
        bucket="bucket",
        endpoint_url=endpoint_url,
        access_key_id_env="TEST_S3_ID",
        secret_access_key_env="TEST_S3_SECRET",
    )
    make = s3_clients(connection, connect_timeout_s=0.5, read_timeout_s=0.5, attempts=1)
    store = S3Store(make, connection.bucket, "", "bucket")
    yield store
    store.close()


@contextmanager
def answering(answer: Answer) -> Iterator[S3Store]:
    with Listener(answer) as server, at(f"http://{LOOPBACK}:{server.port}") as store:
        yield store


def said(status: str, code: str) -> Answer:
    return reply(status, f"<Error><Code>{code}</Code></Error>".encode())


def codes(store: S3Store) -> set[str]:
    """Of every kind of request."""
    return {
        code_of(lambda: store.stat("x")),
        code_of(lambda: list(store.list(""))),
        code_of(lambda: store.read("x", 0, 8)),
        code_of(lambda: store.put("x", b"y")),
        code_of(lambda: store.create("x").write(noise(9 * MIB))),
    }


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("503 Slow Down", "SlowDown"),
        ("503 Service Unavailable", ""),
        ("429 Too Many Requests", "TooManyRequests"),
        ("400 Bad Request", "RequestLimitExceeded"),
    ],
)
def test_a_store_that_asks_for_fewer_requests(status: str, code: str) -> None:
    with answering(said(status, code)) as store:
        found = codes(store)
    # An answer to HEAD has no body, so of a 400 only the status is heard.
    assert found - {"source_access_denied"} == {"storage_throttled"}
    assert ("source_access_denied" in found) is status.startswith("400")


def test_a_store_that_does_not_answer_in_time() -> None:
    over = threading.Event()

    def nothing(_: socket.socket) -> None:
        over.wait(60)

    with answering(nothing) as store:
        assert codes(store) == {"storage_timeout"}
        over.set()
    with answering(said("400 Bad Request", "RequestTimeout")) as store:
        assert code_of(lambda: store.put("x", b"y")) == "storage_timeout"


def test_a_store_that_takes_no_connections() -> None:
    """Its queue is full: the connection is neither made nor refused."""
    with socket.create_server((LOOPBACK, 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex((LOOPBACK, port))
        with at(f"http://{LOOPBACK}:{port}") as store:
            assert code_of(lambda: store.stat("x")) == "storage_timeout"
        for one in waiting:
            one.close()


def test_a_store_that_loses_an_upload(s3: S3Store, s3_server: S3Server, s3_bucket: str) -> None:
    upload = s3.create("x")
    upload.write(noise(17 * MIB))
    client = s3_server.client()
    [begun] = client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]
    client.abort_multipart_upload(Bucket=s3_bucket, Key=begun["Key"], UploadId=begun["UploadId"])
    client.close()
    assert code_of(upload.complete) == "multipart_failed"
    upload.abort()
    assert list(s3.uploads("")) == []
    assert list(s3.list("")) == []


@pytest.mark.parametrize("code", ["InvalidPart", "InvalidPartOrder", "EntityTooSmall"])
def test_a_store_that_refuses_to_complete_an_upload(code: str) -> None:
    begun = reply(
        "200 OK",
        b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
    )
    sent, refused = reply("200 OK", b"", 'ETag: "e"'), said("400 Bad Request", code)

    def answer(made: socket.socket) -> None:
        head = server.requests[-1]
        if head.startswith(b"PUT"):
            rest = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            rest -= len(head.partition(b"\r\n\r\n")[2])
            while rest > 0:
                rest -= len(made.recv(rest))
            sent(made)
        else:
            (begun if b"?uploads" in head.split(b" ")[1] else refused)(made)

    with Listener(answer) as server, at(f"http://{LOOPBACK}:{server.port}") as store:
        upload = store.create("x")
        upload.write(noise(9 * MIB)[: 8 * MIB + 1])
        assert code_of(upload.complete) == "multipart_failed"


def test_all_of_them_may_be_tried_again() -> None:
    for name in ("storage_throttled", "storage_timeout", "multipart_failed", "storage_unavailable"):
        assert (CODES[name].fault, CODES[name].retryable) == (Fault.STORAGE, True)
