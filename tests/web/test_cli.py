"""The command line against the real application: every command, for people and as JSON."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import structlog
from typer.testing import CliRunner, Result

from arrowquant.cli import app as application
from service.domain.access import Scope
from service.domain.job import JobState
from service.domain.ports import JobQuery
from service.wiring import Deps
from tests.web.conftest import MiniWorker
from workers.workshop import Workshop

Run = Callable[..., Result]
# Commands whose lines are copied: they are never folded.
COPIED = {"fetch", "events", "logs", "keys", "webhooks"}
SUBMIT = ("submit", "models:tiny/", "artifacts:out/")


@pytest.fixture
def quiet() -> Iterator[None]:
    """The server is in this process: what it logs is not what the command prints."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


@pytest.fixture
def run(quiet: None, live: str, deps: Deps, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command with a key that may do everything."""
    key = deps.keys.create("acme", "everything", frozenset(Scope))[1]
    monkeypatch.setenv("ARROWQUANT_URL", live)
    monkeypatch.setenv("ARROWQUANT_API_KEY", key)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def command(*words: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(application.app, [str(word) for word in words])
        assert result.exit_code == code, result.output + repr(result.exception)
        assert "Traceback" not in result.output
        if "--json" not in words and words[0] not in COPIED:
            assert max(map(len, result.stdout.splitlines()), default=0) <= 80
        return result

    return command


def answer(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_job_from_submission_to_deletion(run: Run, worker: MiniWorker, tmp_path: Path) -> None:
    job = answer(run(*SUBMIT, "--bits", "4", "--json"))["id"]
    assert "QUEUED" in run("status", job).stdout
    threading.Thread(target=worker.finish, args=(job,)).start()
    assert "SUCCEEDED" in run("watch", job).stdout
    assert "SUCCEEDED" in run("list").stdout
    assert [row["id"] for row in answer(run("list", "--json"))] == [job]
    assert "state" in run("events", job).stdout
    run("logs", job, "--follow")
    run("logs", job, "--json", "--level", "warning", "--tensor", "x")
    run("fetch", job, tmp_path / "got")
    assert (tmp_path / "got" / "manifest.json").exists()
    assert "error[job_terminal]" in run("cancel", job, code=2).stderr
    assert "is deleted" in run("delete", job, "--artifacts", "--yes").stdout
    assert "error[not_found]" in run("status", job, code=2).stderr


def test_deleting_an_artifact_asks_first(run: Run, worker: MiniWorker) -> None:
    job = answer(run(*SUBMIT, "--json"))["id"]
    run("cancel", job)
    run("delete", job, "--artifacts", code=1)
    assert "CANCELLED" in run("status", job).stdout
    assert answer(run("delete", job, "--json")) == {"deleted": job}


def test_keys(run: Run) -> None:
    made = answer(
        run("keys", "create", "nightly", "--scope", "jobs:read", "--expires", "90d", "--json")
    )
    assert made["secret"].startswith("aq_")
    assert "nightly" in run("keys", "list").stdout
    assert made["id"] in {key["id"] for key in answer(run("keys", "list", "--json"))}
    assert "jobs:read" in run("keys", "show", made["id"]).stdout
    turned = run("keys", "rotate", made["id"], "--grace", "60")
    assert "export ARROWQUANT_API_KEY=aq_" in turned.stdout
    assert "shown this once" in turned.stderr
    assert made["secret"] not in turned.output
    assert "is revoked" in run("keys", "revoke", made["id"]).stdout
    assert "revoked" in run("keys", "show", made["id"]).stdout
    assert (
        "error[usage]"
        in run("keys", "create", "x", "--scope", "admin", "--expires", "soon", code=2).stderr
    )


def test_connections(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("connections", "list").stdout
    assert "models" in text
    assert "operator" in text
    assert {row["name"] for row in answer(run("connections", "list", "--json"))} == {
        *("models", "artifacts"),
    }
    add = ("connections", "add", "mine", "--bucket", "b", "--prefix", "models/")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert "AWS_ACCESS_KEY_ID is not set" in run(*add, code=2).stderr
    assert "exclude each other" in run(*add, "--env", "x", "--ambient", code=2).stderr
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    refused = run(*add, "--endpoint", "http://127.0.0.1:9000", code=2)
    assert "very-secret" not in refused.output
    for command in ("show", "test", "remove"):
        assert "error[not_found]" in run("connections", command, "nobody", code=2).stderr


def test_webhooks(run: Run) -> None:
    assert run("webhooks", "list").stdout == "no endpoints\n"
    assert answer(run("webhooks", "list", "--json")) == []
    made = run("webhooks", "add", "https://127.0.0.1/hook", "--event", "job.failed")
    assert "secret whsec_" in made.stdout
    assert "shown this once" in made.stderr
    (endpoint,) = answer(run("webhooks", "list", "--json"))
    id_ = endpoint["id"]
    assert id_ in run("webhooks", "list").stdout
    assert "job.failed" in run("webhooks", "show", id_).stdout
    sent = answer(run("webhooks", "test", id_, "--json"))["id"]
    assert "ping" in run("webhooks", "deliveries", id_).stdout
    assert [row["id"] for row in answer(run("webhooks", "deliveries", id_, "--json"))] == [sent]
    run("webhooks", "delivery", sent)
    assert answer(run("webhooks", "delivery", sent, "--json"))["id"] == sent
    assert "secret whsec_" in run("webhooks", "rotate", id_, "--grace", "60").stdout
    assert "disabled" in run("webhooks", "disable", id_).stdout
    assert "enabled" in run("webhooks", "enable", id_).stdout
    assert "is removed" in run("webhooks", "remove", id_).stdout
    for command in ("show", "test", "deliveries", "rotate", "enable", "disable", "remove"):
        assert "error[not_found]" in run("webhooks", command, "wh_0", code=2).stderr
    for command in ("delivery", "redeliver"):
        assert "error[not_found]" in run("webhooks", command, "msg_0", code=2).stderr


def test_recipes(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('bits = 4\nprofile = "edge"')
    assert run("recipes", "add", "mine", file).stdout == "mine@1 is kept\n"
    assert "mine@1" in run("recipes", "list").stdout
    assert "mine@1" in {row["ref"] for row in answer(run("recipes", "list", "--json"))}
    for ref in ("mine", "mine@1"):
        assert answer(run("recipes", "show", ref)).items() >= {"bits": 4, "profile": "edge"}.items()
    assert "error[" in run("recipes", "show", "nobody", code=2).stderr


@pytest.fixture
def working(deps: Deps) -> Iterator[None]:
    """A real worker in a thread."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            Workshop(deps).run()
            over.wait(0.1)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


def test_an_artifact_made_again(run: Run, working: None, tmp_path: Path) -> None:
    job = answer(run(*SUBMIT, "--bits", "8", "--json"))["id"]
    run("watch", job)
    same = run("replay", job)
    assert same.stdout == "identical\n"
    assert "replay job_" in same.stderr
    by_place = ("replay", "artifacts:out/", "models:tiny/")
    assert answer(run(*by_place, "--json"))["result"]["verdict"] == "identical"
    _spoil(tmp_path / "artifacts" / "out" / "part-00000.arrow")
    shown = run(*by_place, "--watch", code=1)
    assert shown.stdout.startswith("differs\n")
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["part-00000.arrow", "stored", "part", "is", "not", "the", "manifest", "s"] in rows
    assert any(row[1:] == ["0", "codes", "(1", "byte", "of", "codes)"] for row in rows)
    assert "succeeded 100.0 %" in shown.stderr
    found = answer(run("replay", job, "--json", code=1))
    assert (found["result"]["verdict"], found["result"]["tiles_differing"]) == ("differs", 1)


def _spoil(part: Path) -> None:
    """Turn a byte of the codes of the first tile, wherever they are in the file."""
    data = bytearray(part.read_bytes())
    whole = pa.py_buffer(bytes(data))
    with pa.ipc.open_file(pa.BufferReader(whole)) as file:
        codes = file.get_batch(0).column("codes").buffers()[-1]
    data[codes.address - whole.address] ^= 0xFF
    part.write_bytes(data)


def test_replays_that_cannot_be(run: Run, worker: MiniWorker) -> None:
    assert "error[not_found]" in run("replay", "job_0", code=2).stderr
    for words in (("out:x/",), ("job_0", "models:tiny/"), ("a:b/", "models", "--output", "x")):
        assert "error[usage]" in run("replay", *words, code=2).stderr
    job = answer(run(*SUBMIT, "--json"))["id"]
    worker.finish(job)
    over = threading.Thread(target=_cancel_next_replay, args=(worker,))
    over.start()
    assert "error[" in run("replay", job, code=1).stderr
    over.join()


def _cancel_next_replay(worker: MiniWorker) -> None:
    waiting = JobQuery("acme", states=(JobState.QUEUED,))
    while not (found := worker.ledger.list_jobs(waiting)):
        time.sleep(0.05)
    worker.ledger.cancel_job(found[0].id)


def test_the_audit_log(run: Run) -> None:
    made = answer(run("keys", "create", "nightly", "--scope", "jobs:read", "--json"))
    assert "create_api_key" in run("audit").stdout
    (event,) = answer(run("audit", "--action", "create_api_key", "--json"))
    assert (event["resource"], event["status"]) == (f"/v1/api_keys/{made['id']}", 201)
    assert run("audit", "--after", "2999-01-01T00:00:00Z").stdout == "nothing was changed\n"
    assert "error[" in run("audit", "--after", "soon", code=2).stderr


def test_the_quota_of_a_tenant(run: Run) -> None:
    quota = ("quota", "--tenant", "beta")
    assert "own" not in run(*quota).stdout
    text = run(*quota, "--set", "running_jobs=3", "--set", "bytes_per_day=none").stdout
    assert "own" in text
    more = answer(run(*quota, "--set", "queued_jobs=9", "--json"))
    assert more["overrides"] == {"running_jobs": 3, "bytes_per_day": None, "queued_jobs": 9}
    less = answer(run(*quota, "--set", "running_jobs=default", "--json"))
    assert less["overrides"] == {"bytes_per_day": None, "queued_jobs": 9}
    for words in (("--set", "jobs=1"), ("--set", "running_jobs=many"), ("--set", "running_jobs")):
        assert "error[usage]" in run(*quota, *words, code=2).stderr
    assert "error[usage]" in run("quota", "--set", "running_jobs=1", code=2).stderr


@pytest.mark.parametrize("command", ["quota", "usage", "queues", "workers list"])
def test_what_there_is_to_use(run: Run, command: str) -> None:
    assert run(*command.split()).stdout
    answer(run(*command.split(), "--json"))


def test_draining_a_worker_that_is_not_there(run: Run) -> None:
    assert "error[not_found]" in run("workers", "drain", "nobody", code=2).stderr


@pytest.mark.parametrize("group", ["keys", "connections", "webhooks", "workers", "recipes"])
def test_groups_explain_themselves(run: Run, group: str) -> None:
    text = CliRunner().invoke(application.app, [group, "--help"]).stdout
    assert "list" in text
