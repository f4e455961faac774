"""`arrowquant batch`: what it sends, prints and ends with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from arrowquant.cli import app as application
from arrowquant.cli import session
from arrowquant.http.client import Client

COUNTS = dict.fromkeys(("queued", "running", "succeeded", "failed", "cancelled", "expired"), 0)


class Server:
    """Answers as the API does, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.body = b""
        self.counts = [COUNTS | {"total": 2, "queued": 2}]
        self.refuse: dict[str, Any] | None = None

    def __call__(self, asked: httpx.Request) -> httpx.Response:
        self.asked.append((asked.method, asked.url.path, asked.url.query.decode()))
        if asked.url.path.endswith(("/results", "/errors")):
            kind = asked.url.path.rpartition("/")[2]
            return httpx.Response(
                200, text=f'{{"{kind}": 1}}\n', headers={"content-type": "application/jsonl"}
            )
        if asked.url.path == "/v1/batches":
            self.body = asked.read()
            assert asked.headers["content-type"] == "application/jsonl"
            assert asked.headers["idempotency-key"]
            if self.refuse:
                headers = {"content-type": "application/problem+json"}
                return httpx.Response(422, content=json.dumps(self.refuse), headers=headers)
        counts = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        active = counts["queued"] + counts["running"]
        return httpx.Response(
            202, json=self.batch(counts, "IN_PROGRESS" if active else "COMPLETED")
        )

    @staticmethod
    def batch(counts: dict[str, int], state: str) -> dict[str, Any]:
        return {
            "id": "batch_1", "name": "night", "labels": {"team": "x"}, "state": state,
            "counts": counts, "create_time": "2026-01-02T03:04:05Z", "expire_time": None,
            "end_time": None,
        }  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()

    def connect(url: str, key: str) -> Client:
        return Client(url, key, transport=httpx.MockTransport(made), sleep=lambda _: None)

    monkeypatch.setattr(session, "connect", connect)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"custom_id": "a", "body": {}}\n{"custom_id": "b", "body": {}}\n')
    return path


def run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(application.app, ["batch", *map(str, words)])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


def test_a_file_is_sent_as_it_is(server: Server, file: Path) -> None:
    result = run(file, "--name", "night", "--label", "team=x", "--window", "24h")
    assert server.body == file.read_bytes()
    [(method, path, query)] = server.asked
    assert (method, path) == ("POST", "/v1/batches")
    assert set(query.split("&")) == {"name=night", "label=team%3Ax", "completion_window=24h"}
    assert "2 queued of 2" in result.stdout
    assert "arrowquant batch batch_1 --watch" in result.stdout


def test_bad_lines_are_listed_and_end_with_2(server: Server, file: Path) -> None:
    server.refuse = {
        "code": "invalid_batch", "detail": "line 2: not JSON (and 1 more bad lines)",
        "hint": "Nothing was queued.", "where": {"bad_lines": 2, "lines": 9},
        "errors": [
            {"line": 2, "code": "invalid_spec", "pointer": "", "detail": "not JSON"},
            {"line": 7, "code": "source_not_found", "pointer": "/body/source", "detail": "gone"},
        ],
    }  # fmt: skip
    result = run(file, code=2)
    assert "line 2 [invalid_spec] not JSON" in result.stderr
    assert "line 7 at /body/source [source_not_found] gone" in result.stderr
    assert "bad_lines 2" in result.stderr


def test_watching_until_the_end(server: Server, file: Path, tmp_path: Path) -> None:
    server.counts = [
        COUNTS | {"total": 2, "queued": 2},
        COUNTS | {"total": 2, "running": 1, "succeeded": 1},
        COUNTS | {"total": 2, "succeeded": 1, "failed": 1},
    ]
    out, bad = tmp_path / "results.jsonl", tmp_path / "errors.jsonl"
    result = run(file, "--watch", "--results", out, "--errors", bad, code=1)
    assert "COMPLETED" in result.stdout
    assert "1 running, 1 succeeded of 2" in result.stderr
    assert (out.read_text(), bad.read_text()) == ('{"results": 1}\n', '{"errors": 1}\n')


def test_all_well_ends_with_0(server: Server, file: Path) -> None:
    server.counts = [COUNTS | {"total": 2, "succeeded": 2}]
    answer = json.loads(run(file, "--watch", "--json").stdout)
    assert answer["counts"]["succeeded"] == 2


@pytest.mark.parametrize(("option", "verb"), [("--retry-failed", "retry"), ("--cancel", "cancel")])
def test_steering_one_that_is_there(server: Server, option: str, verb: str) -> None:
    run("batch_1", option)
    assert server.asked == [("POST", f"/v1/batches/batch_1/{verb}", "")]


def test_looking_at_one(server: Server) -> None:
    run("batch_1")
    assert server.asked == [("GET", "/v1/batches/batch_1", "")]


@pytest.mark.parametrize("words", [["nowhere.jsonl"], ["nowhere.jsonl", "--retry-failed"]])
def test_what_is_neither_file_nor_batch(server: Server, words: list[str]) -> None:
    run(*words, code=2)
    assert server.asked == []
