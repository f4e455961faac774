"""The servers of the tests themselves: each starts, answers, breaks as asked and comes back."""

from __future__ import annotations

import contextlib
import socket

import psycopg
import pytest
import redis
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from sqlalchemy import create_engine, text
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests import servers
from tests.processes import HOST, free_port
from tests.servers import PostgresServer, RedisServer, S3Server


def test_redis_round_trip(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("key", b"value")
        assert client.get("key") == b"value"


def test_redis_keeps_what_it_accepted_through_a_crash(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.rpush("queue", "a", "b")
    own_redis.kill()
    with own_redis.client() as client, pytest.raises(redis.exceptions.ConnectionError):
        client.ping()
    own_redis.start()
    with own_redis.client() as client:
        assert client.lrange("queue", 0, -1) == [b"a", b"b"]


def test_postgres_gives_each_test_an_empty_database(
    postgres_database: str, postgres_server: PostgresServer
) -> None:
    other = postgres_server.create_database()
    for url in (postgres_database, other):
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE job (id integer PRIMARY KEY)"))
            connection.execute(text("INSERT INTO job VALUES (7)"))
            assert connection.execute(text("SELECT id FROM job")).scalar_one() == 7
        engine.dispose()
    postgres_server.drop_database(other)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(other.replace("+psycopg", ""))


def test_postgres_keeps_what_it_committed_through_a_crash(own_postgres: PostgresServer) -> None:
    url = own_postgres.url().replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE job (id integer)")
    own_postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    own_postgres.start()
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM job").fetchone()
    assert row == (0,)


def test_s3_round_trip(s3_server: S3Server, s3_bucket: str) -> None:
    with contextlib.closing(s3_server.client()) as client:
        client.put_object(Bucket=s3_bucket, Key="a/b", Body=b"0123456789")
        part = client.get_object(Bucket=s3_bucket, Key="a/b", Range="bytes=2-4")
        assert part["Body"].read() == b"234"
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
        with pytest.raises(ClientError, match="PreconditionFailed"):
            client.put_object(Bucket=s3_bucket, Key="a/b", Body=b"", IfNoneMatch="*")


def test_s3_refuses_a_wrong_secret(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_server, "secret_key", "wrong")
    with (
        contextlib.closing(s3_server.client()) as client,
        pytest.raises(ClientError, match="SignatureDoesNotMatch"),
    ):
        client.list_buckets()


def test_s3_freezes_and_crashes_and_comes_back(own_s3: S3Server) -> None:
    bucket = own_s3.make_bucket()
    with contextlib.closing(own_s3.client(timeout=1, attempts=1)) as client:
        client.put_object(Bucket=bucket, Key="kept", Body=b"x" * 100_000)
        own_s3.pause()
        with pytest.raises(ReadTimeoutError):
            client.list_buckets()
        own_s3.resume()
        assert [b["Name"] for b in client.list_buckets()["Buckets"]] == [bucket]
        own_s3.kill()
        with pytest.raises(EndpointConnectionError):
            client.list_buckets()
        own_s3.start()
    # It answers before its volumes are mounted again, and says InternalError meanwhile.
    mounted = Retrying(
        retry=retry_if_exception_type(ClientError),
        stop=stop_after_delay(60),
        wait=wait_fixed(0.25),
        reraise=True,
    )
    with contextlib.closing(own_s3.client(attempts=1)) as client:
        kept = mounted(client.get_object, Bucket=bucket, Key="kept")
        assert kept["Body"].read() == b"x" * 100_000


def test_discard_leaves_nothing() -> None:
    with RedisServer() as server:
        directory, port = server.directory, server.port
        assert directory.exists()
    assert not server.running
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=1)


def test_a_missing_program_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers.shutil, "which", lambda _: None)
    monkeypatch.setattr(servers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(servers.ServerMissing, match="make servers"):
        RedisServer()


def test_ports_are_not_given_out_twice() -> None:
    ports = [free_port((0, 10_000)) for _ in range(50)]
    assert len(set(ports)) == 50
