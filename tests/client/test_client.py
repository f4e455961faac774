"""`arrowquant.Client` against a server in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import arrowquant
from arrowquant import ApiError, ArrowQuantError, AsyncClient, Client, JobFailed
from arrowquant.errors import Conflict, InvalidRequest, NotFound, ServerFailed
from arrowquant.http import sse
from arrowquant.http.calls import Call
from arrowquant.http.core import Policy
from arrowquant.http.types import Event
from tests.client import fixtures, naive
from tests.client.awaited import Awaited
from tests.client.fake_server import KEY, URL, FakeServer, problem


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    tensors = [naive.quantized("w", (64, 200), "affine_u", 4, 32, tile_rows=16)]
    return FakeServer(fixtures.write_artifact(tmp_path / "stored", tensors, parts=3))


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture(params=[Client, AsyncClient])
def make(request: pytest.FixtureRequest, server: FakeServer, pauses: list[float]) -> Any:
    """Makes a client of the kind under test; all of it but the network is real."""

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    def client(url: str = URL, *, patient: bool = False, **options: Any) -> Any:
        if request.param is Client:
            options |= {} if patient else {"sleep": pauses.append}
            return Client(url, KEY, transport=httpx.MockTransport(server), **options)
        options |= {} if patient else {"sleep": pause}
        return Awaited(AsyncClient(url, KEY, transport=httpx.MockTransport(server), **options))

    return client


@pytest.fixture
def client(make: Any) -> Iterator[Any]:
    with make() as client:
        yield client


def test_a_job_from_submission_to_files(client: Any, server: FakeServer, tmp_path: Path) -> None:
    job = client.submit({"name": "tiny", "source": {}, "output": {}})
    assert job["state"] == "QUEUED"
    seen: list[dict[str, Any]] = []
    assert client.wait(job["id"], on_event=seen.append)["state"] == "SUCCEEDED"
    assert [event["seq"] for event in seen] == [1, 2, 3, 4, 5]
    assert seen[2]["data"]["message"] == "larger than\u2028planned"
    folder = client.download(job["id"], tmp_path / "got")
    assert arrowquant.verify(folder).ok
    assert client.report(job["id"]) == {"summary": {}}
    assert [t["name"] for t in client.tensors(job["id"])] == ["w"]
    assert client.plan({"source": {}})["totals"] == {"units": 1}
    assert [e["type"] for e in client.events(job["id"], after=3)] == ["state", "done"]


def test_a_repeated_submission_makes_one_job(
    client: Any, server: FakeServer, pauses: list[float]
) -> None:
    server.fail = [
        httpx.ConnectError("refused"),
        problem(503, "database_unavailable", detail="away"),
        httpx.Response(503, headers={"retry-after": "7"}),
        httpx.ReadTimeout("slow"),
    ]
    client.submit({"name": "x"})
    keys = {r.headers["idempotency-key"] for r in server.requests}
    assert len(keys) == 1
    assert len(server.jobs) == 1
    assert pauses[2] == 7.0
    client.submit({"name": "x"})
    assert len(server.jobs) == 2
    client.submit({"name": "x"}, idempotency_key="mine")
    client.submit({"name": "x"}, idempotency_key="mine")
    assert len(server.jobs) == 3


def test_it_gives_up_in_the_end(client: Any, server: FakeServer, pauses: list[float]) -> None:
    server.fail = [httpx.ConnectError("refused")] * 99
    with pytest.raises(ApiError, match="ARROWQUANT_URL") as failure:
        client.get("job_0")
    assert (failure.value.code, failure.value.status) == ("server_unreachable", 0)
    assert len(server.requests) == 6
    assert pauses == sorted(pauses, key=lambda s: round(s, 0)) or max(pauses) <= 15


def test_problem_details_become_errors(client: Any, server: FakeServer) -> None:
    with pytest.raises(ApiError) as failure:
        client.submit({"recipe": {"bits": 5}})
    error = failure.value
    assert (error.code, error.status, error.request_id) == ("invalid_spec", 422, "req_1")
    assert error.errors == ({"pointer": "/recipe/bits", "detail": "must be 2, 3, 4 or 8"},)
    with pytest.raises(ApiError, match="no such job") as failure:
        client.get("job_9")
    assert failure.value.where == {"job": "job_9"}
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((500, {"text": "<html>oops"}), "http_500"),
        ((200, {"text": "<html>a portal"}), "invalid_response"),
        ((200, {"json": []}), "invalid_response"),
        ((404, {"json": ["not", "a", "problem"]}), "http_404"),
        ((302, {"headers": {"location": "http://evil.test/"}}), "http_302"),
    ],
)
def test_answers_that_are_none(
    client: Any, server: FakeServer, answer: tuple[int, Any], code: str
) -> None:
    server.fail = [httpx.Response(answer[0], **answer[1])]
    with pytest.raises(ApiError) as failure:
        client.get("job_0")
    assert failure.value.code == code


def test_an_address_that_is_none(make: Any) -> None:
    for url in ("quant.test", "ftp://quant.test", "http://"):
        with pytest.raises(ApiError) as failure:
            make(url, retries=0).get("job_0")
        assert failure.value.code == "invalid_url"


def test_lists_go_through_all_pages(client: Any, server: FakeServer) -> None:
    for _ in range(5):
        server.add()
    assert len(list(client.list())) == 5
    assert len(list(client.list(limit=3))) == 3
    assert list(client.list(state="FAILED", label="team=a=b")) == []
    assert server.requests[-1].url.params["label"] == "team:a=b"


def test_a_broken_stream_goes_on_where_it_was(client: Any, server: FakeServer) -> None:
    job = server.add()
    server.break_stream_after = [2, 0, 1]
    assert [event["seq"] for event in client.watch(job["id"])] == [1, 2, 3, 4, 5]
    resumed = [r.headers["last-event-id"] for r in server.requests if "last-event-id" in r.headers]
    assert resumed == ["2", "2", "3"]


def test_a_watch_past_the_end_gives_nothing(client: Any, server: FakeServer) -> None:
    job = server.add()
    assert list(client.watch(job["id"], after=5)) == []


def test_without_streams_it_polls(client: Any, server: FakeServer) -> None:
    server.streams = False
    job = server.add()
    assert [event["seq"] for event in client.watch(job["id"])] == [1, 2, 3, 4, 5]


def test_a_watch_goes_past_the_end_of_an_earlier_attempt(client: Any, server: FakeServer) -> None:
    job = server.add()
    server.events[job["id"]].insert(
        1, {"seq": 0, "type": "done", "time": "", "data": {"state": "FAILED", "attempt": 0}}
    )
    for number, event in enumerate(server.events[job["id"]], 1):
        event["seq"] = number
    kinds = [event["type"] for event in client.watch(job["id"])]
    assert kinds == ["state", "done", "progress", "warning", "state", "done"]


def test_a_failed_job_raises(client: Any, server: FakeServer) -> None:
    server.end_state = "FAILED"
    job = server.add()
    with pytest.raises(JobFailed, match="source_changed: the object changed") as failure:
        client.wait(job["id"])
    assert failure.value.job["state"] == "FAILED"
    assert failure.value.hint == "Submit anew."


def test_waiting_has_an_end(make: Any, server: FakeServer) -> None:
    job = server.add()
    server.streams = False
    server.events[job["id"]] = []
    server.finish = lambda job: None  # type: ignore[method-assign]
    with make(patient=True) as client:
        start = time.monotonic()
        with pytest.raises(ArrowQuantError, match="wait_timeout"):
            client.wait(job["id"], timeout=0.3)
        assert time.monotonic() - start < 5


def test_downloads_resume_and_are_checked(client: Any, server: FakeServer, tmp_path: Path) -> None:
    job = server.add()
    server.cut_downloads = 3
    counted: list[int] = []
    folder = client.download(job["id"], tmp_path / "got", counted.append)
    assert arrowquant.verify(folder).ok
    assert sum(counted) == sum(row["bytes"] for row in server.files())
    ranges = [r.headers["range"] for r in server.requests if "range" in r.headers]
    assert len(ranges) == 3
    assert not list(folder.glob(".*"))
    before = len(server.requests)
    client.download(job["id"], folder)
    assert len(server.requests) == before + 1  # only the list: nothing is fetched twice


def test_what_was_left_of_another_file_is_not_kept(
    client: Any, server: FakeServer, tmp_path: Path
) -> None:
    job = server.add()
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / ".part-00000.arrow.partial").write_bytes(b"another artifact")
    assert arrowquant.verify(client.download(job["id"], tmp_path / "got")).ok


def test_bytes_that_differ_are_refused(
    client: Any, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = server.add()
    rows = server.files()
    rows[1]["sha256"] = "0" * 64
    monkeypatch.setattr(server, "files", lambda: rows)
    with pytest.raises(ApiError, match="digest_mismatch"):
        client.download(job["id"], tmp_path / "got")
    assert not (tmp_path / "got" / rows[1]["name"]).exists()
    assert not (tmp_path / "got" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", ".hidden", "a/b", "", "a\\b", "c:d"])
def test_names_that_leave_the_folder_are_refused(
    client: Any,
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    job = server.add()
    rows = [{"name": name, "bytes": 1, "sha256": "0" * 64}]
    monkeypatch.setattr(server, "files", lambda: rows)
    with pytest.raises(ApiError, match="plain name"):
        client.download(job["id"], tmp_path / "got")


def test_the_key_stays_with_the_server(client: Any, server: FakeServer, tmp_path: Path) -> None:
    job = server.add()
    server.redirect_to = "http://bucket.test/prefix"
    client.download(job["id"], tmp_path / "got")
    outside = [r for r in server.requests if r.url.host == "bucket.test"]
    assert outside
    assert all("authorization" not in r.headers for r in outside)


def test_an_answer_that_is_lost_makes_no_second_job(client: Any, server: FakeServer) -> None:
    server.lose = 3
    job = client.submit({"name": "x"})
    assert list(server.jobs) == [job["id"]]
    assert len(server.requests) == 4


def test_what_was_deleted_before_the_answer_was_lost_is_deleted(
    client: Any, server: FakeServer
) -> None:
    job = server.add()
    server.lose = 1
    client.delete_job(job["id"])
    assert server.jobs == {}
    with pytest.raises(NotFound):
        client.delete_job(job["id"])


def test_pauses_grow_and_differ_and_end(make: Any, server: FakeServer, pauses: list[float]) -> None:
    drawn = iter([0.0, 1.0, 0.5] * 9)
    policy = Policy(retries=6, first_s=1, longest_s=10, random=lambda: next(drawn))
    server.fail = [problem(503, "database_unavailable")] * 7
    with make(policy=policy) as client, pytest.raises(ServerFailed):
        client.get("job_0")
    assert pauses == [1.0, 1.0, 3.0, 8.0, 5.0, 7.5]


def test_a_server_that_asks_for_patience_gets_it(
    client: Any, server: FakeServer, pauses: list[float]
) -> None:
    job = server.add()
    limited = problem(429, "quota_exceeded")
    limited.headers["retry-after"] = "3600"
    server.fail = [limited]
    assert client.get(job["id"])["id"] == job["id"]
    assert pauses == [120.0]


@pytest.mark.parametrize("code", ["invalid_spec", "not_found", "quota_exceeded"])
def test_what_is_wrong_is_not_sent_again(client: Any, server: FakeServer, code: str) -> None:
    status, kind = {
        "invalid_spec": (422, InvalidRequest),
        "not_found": (404, NotFound),
        "quota_exceeded": (409, Conflict),
    }[code]
    server.fail = [problem(status, code)]
    with pytest.raises(kind) as failure:
        client.submit({})
    assert failure.value.code == code
    assert len(server.requests) == 1


def test_a_body_may_be_a_file_and_is_read_anew_for_every_attempt(
    client: Any, server: FakeServer, tmp_path: Path
) -> None:
    lines = tmp_path / "batch.jsonl"
    lines.write_bytes(b"{}\n" * 50_000)
    server.fail = [httpx.ConnectError("refused")]
    call = Call[Any]("POST", "/v1/plans", content=lines, content_type="application/jsonl")
    assert client._send(call)["totals"] == {"units": 1}
    sent = server.requests[-1]
    assert sent.content == lines.read_bytes()
    assert sent.headers["content-type"] == "application/jsonl"


def test_a_watch_that_is_given_up_lets_go_of_its_stream(server: FakeServer) -> None:
    job = server.add()
    server.hang_after = 2

    async def watch(client: AsyncClient, seen: list[int], both: asyncio.Event) -> None:
        async for event in client.watch(job["id"]):
            seen.append(event["seq"])
            if len(seen) == 2:
                both.set()

    async def run() -> None:
        async with AsyncClient(URL, KEY, transport=httpx.MockTransport(server)) as client:
            seen: list[int] = []
            both = asyncio.Event()
            task = asyncio.create_task(watch(client, seen, both))
            await asyncio.wait_for(both.wait(), 30)
            assert server.open_streams == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert seen == [1, 2]
            assert server.open_streams == 0

    asyncio.run(run())


def test_a_loop_over_a_watch_may_be_left(client: Any, server: FakeServer) -> None:
    job = server.add()
    events = client.watch(job["id"])
    assert next(events)["seq"] == 1
    assert server.open_streams == 1
    events.close()
    assert server.open_streams == 0


def test_a_handler_of_events_may_be_a_coroutine(server: FakeServer) -> None:
    job = server.add()
    seen: list[int] = []

    async def note(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event["seq"])

    async def run() -> None:
        async with AsyncClient(URL, KEY, transport=httpx.MockTransport(server)) as client:
            await client.wait(job["id"], on_event=note)

    asyncio.run(run())
    assert seen == [1, 2, 3, 4, 5]


@given(st.lists(st.integers(1, 9), max_size=30), st.sampled_from(["\n", "\r", "\r\n"]))
def test_events_do_not_depend_on_the_cut(cuts: list[int], end: str) -> None:
    lines = [": hi", "id: 4", "event: tensor", "data: {", 'data: "a":"\u2028"}', "", "data: x", ""]
    stream = end.join([*lines, "data: unfinished"]).encode()
    pieces = []
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    parser = sse.Parser()
    messages = [m for piece in [*pieces, stream] for m in parser.feed(piece)]
    found = [m for m in messages if not m.comment]
    assert found == [
        sse.Message("4", "tensor", '{\n"a":"\u2028"}'),
        sse.Message("4", "message", "x"),
    ]
    assert sse.as_event(found[0]) == {"seq": 4, "type": "tensor", "data": {"a": "\u2028"}}
    assert sse.as_event(found[1])["data"] == {"text": "x"}
