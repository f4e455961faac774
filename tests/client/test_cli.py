"""The command line: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from arrowquant.cli import app as application
from arrowquant.cli import inspection, render, request, session
from arrowquant.errors import ArrowQuantError
from arrowquant.http.client import Client
from tests.client import fixtures, naive
from tests.client.fake_server import KEY, URL, FakeServer


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    tensors = [naive.quantized("w", (64, 200), "affine_u", 4, 32, tile_rows=16)]
    return FakeServer(fixtures.write_artifact(tmp_path / "stored", tensors, parts=2))


@pytest.fixture(autouse=True)
def connection(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(url: str, key: str) -> Client:
        transport = httpx.MockTransport(server)
        return Client(url, key, retries=2, transport=transport, sleep=lambda _: None)

    monkeypatch.setattr(session, "connect", connect)
    monkeypatch.setenv("ARROWQUANT_URL", URL)
    monkeypatch.setenv("ARROWQUANT_API_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(application.app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


def test_submit_sends_what_was_asked(server: FakeServer) -> None:
    result = run(
        "submit", "models:dream/", "out:dream-4", "--bits", "4", "--method", "lsq",
        "--group-size", "64", "--symmetric", "--rule", "*.norm.*=keep", "--rule", "a=b=8",
        "--name", "dream", "--label", "team=x", "--replace",
    )  # fmt: skip
    assert json.loads(server.requests[0].content) == {
        "name": "dream",
        "labels": {"team": "x"},
        "priority": "normal",
        "source": {"connection": "models", "prefix": "dream/"},
        "output": {"connection": "out", "prefix": "dream-4", "if_exists": "replace"},
        "recipe": {
            "bits": 4,
            "method": "lsq",
            "group_size": 64,
            "symmetric": True,
            "rules": [{"match": "*.norm.*", "action": "keep"}, {"match": "a=b", "bits": 8}],
        },
    }
    assert "job_0" in result.stdout
    assert "arrowquant watch job_0" in result.stdout


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_recipe_from_a_file(server: FakeServer, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"recipe.{suffix}"
    text = {"json": '{"bits": 2, "profile": "edge"}', "toml": 'bits = 2\nprofile = "edge"'}[suffix]
    file.write_text(text)
    run("submit", "a:b", "c:d", "--recipe", file, "--bits", "8")
    assert json.loads(server.requests[0].content)["recipe"] == {"bits": 8, "profile": "edge"}


def test_submit_and_watch(server: FakeServer) -> None:
    result = run("submit", "a:b", "c:d", "--watch")
    assert "SUCCEEDED" in result.stdout
    assert "quantizing" in result.stderr
    assert "warning: larger than" in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.endswith(" %")]
    assert lines[-1] == "succeeded 100.0 %"


def test_a_failed_job_exits_with_1(server: FakeServer) -> None:
    server.end_state = "FAILED"
    result = run("submit", "a:b", "c:d", "--watch", code=1)
    assert "error[source_changed]: the object changed (job job_0, object a.safetensors)" in (
        result.stderr
    )
    assert "hint: Submit anew." in result.stderr
    assert "FAILED" in run("status", "job_0").stdout
    assert run("watch", "job_0", "--json", code=1).stdout.count("\n") == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit", "/data/model", "c:d"], "error[usage]: SRC '/data/model' is not of the form"),
        (["submit", "s3://bucket/x", "c:d"], "connection:prefix"),
        (["submit", "a:b", "c:d", "--rule", "x"], "hint: Write 'GLOB=keep'"),
        (["submit", "a:b", "c:d", "--rule", "x=wide"], "after '=' comes 'keep'"),
        (["submit", "a:b", "c:d", "--label", "x"], "key=value"),
        (["submit", "a:b", "c:d", "--recipe", "none.json"], "cannot be read"),
        (["submit", "a:b", "c:d", "--bits", "5"], "/recipe/bits must be 2, 3, 4 or 8"),
        (["submit", "a:b"], "Missing argument"),
        (["status", "job_9"], "error[not_found]: there is no such job (job job_9)"),
        (["list", "--key", "wrong"], "error[unauthorized]"),
        (["retry", "job_0"], "error[job_active]"),
        (["inspect", "/nowhere"], "error[artifact_not_found]"),
        (["verify", "/nowhere"], "error[artifact_not_found]"),
        (["nonsense"], "No such command"),
    ],
)
def test_what_is_asked_wrongly_exits_with_2(
    server: FakeServer, words: list[str], message: str
) -> None:
    server.add()
    result = run(*words, code=2)
    assert message in result.stderr
    assert result.stdout == ""


def test_no_server(server: FakeServer) -> None:
    server.fail = [httpx.ConnectError("refused")] * 9
    result = run("list", code=1)
    assert "error[server_unreachable]" in result.stderr
    assert "hint: Is it running?" in result.stderr


def test_json_everywhere(server: FakeServer, tmp_path: Path) -> None:
    job = json.loads(run("submit", "a:b", "c:d", "--json").stdout)
    assert job["id"] == "job_0"
    assert json.loads(run("status", "job_0", "--json").stdout)["id"] == "job_0"
    assert len(json.loads(run("list", "--json").stdout)) == 1
    assert json.loads(run("cancel", "job_0", "--json").stdout)["state"] == "CANCELLED"
    lines = run("events", "job_0", "--json").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4, 5]
    got = json.loads(run("fetch", "job_0", tmp_path / "got", "--json").stdout)
    assert got["bytes"] > 0
    assert "arrowquant" in json.loads(run("version", "--json").stdout)


def test_lists_and_events(server: FakeServer) -> None:
    assert "no jobs" in run("list").stdout
    server.add("first")
    text = run("list").stdout
    assert re.search(r"job_0\s+first\s+QUEUED\s+0 %\s+2026-01-0", text)
    assert re.search(r"2 .* progress .*percent 50.0", run("events", "job_0").stdout)


def test_fetch_then_inspect(server: FakeServer, tmp_path: Path) -> None:
    server.add()
    text = run("fetch", "job_0", tmp_path / "got").stdout
    assert f"{tmp_path / 'got'}, every digest right\n" in text
    assert "4 bits" in run("inspect", tmp_path / "got").stdout


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return fixtures.write_artifact(
        tmp_path / "art", fixtures.sample_tensors(), parts=2, tied=fixtures.TIES
    )


def test_inspect(artifact: Path) -> None:
    text = run("inspect", artifact).stdout
    for part in (
        "tiny",
        "bits per weight",
        "SQNR mean",
        "furthest from the source",
        "conv",
        "tied",
    ):
        assert part in text
    listed = run("inspect", artifact, "--tensors").stdout
    for stored in fixtures.sample_tensors():
        assert stored.name in listed
    found = json.loads(run("inspect", artifact, "--json").stdout)
    assert found["states"] == {"DONE": 22, "KEPT": 8, "TIED": 1}
    assert sum(row["tensors"] for row in found["roles"]) == 31
    assert found["tensors"][0]["sqnr_db"] > 10


def test_inspect_fits_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has to give way, no figure does."""
    monkeypatch.setenv("COLUMNS", "80")
    row = {
        "role": "time_embedder",
        "stored_as": "raw F8_E4M3FNUZ",
        "tensors": 10000,
        "source_bytes": 1023.9 * 2**20,
        "stored_bytes": 1023.9 * 2**20,
        "mean_sqnr_db": 123.45,
        "min_sqnr_db": 121.99,
    }
    console = render.stdout()
    with console.capture() as captured:
        console.print(inspection._by_role([row]))
    head, first = captured.get().splitlines()[:2]
    assert head.rstrip().endswith("worst dB")
    assert first.rstrip().endswith("1023.9 MiB  1023.9 MiB   123.45    121.99")


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    tensor = naive.quantized("\x1b[2Jevil[red]", (4, 40), "affine_u", 4, 32)
    folder = fixtures.write_artifact(tmp_path / "art", [tensor], name="\x1b]0;evil\x07[bold]")
    text = run("inspect", folder, "--tensors").stdout
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "evil[red]" in text


def test_verify(artifact: Path, tmp_path: Path) -> None:
    assert "whole" in run("verify", artifact).stdout
    assert json.loads(run("verify", artifact, "--json").stdout)["ok"] is True
    part = artifact / "part-00001.arrow"
    data = bytearray(part.read_bytes())
    data[data.find(fixtures.sample_tensors()[0].rows[1]["codes"])] ^= 1
    part.write_bytes(data)
    result = run("verify", artifact, code=1)
    assert "2 problems" in result.stdout
    assert "error[digest_mismatch]: the SHA-256 is not the one in the manifest" in result.stderr
    assert json.loads(run("verify", artifact, "--json", code=1).stdout)["ok"] is False
    save_file(load_file_of(artifact, tmp_path), tmp_path / "x.safetensors")
    run("verify", artifact, "--against", tmp_path / "x.safetensors", code=1)
    run("verify", artifact, "--against", tmp_path / "none.safetensors", code=2)


def load_file_of(artifact: Path, tmp_path: Path) -> dict[str, Any]:
    import arrowquant

    return {"a.q4": arrowquant.open(artifact)["a.q4"].dequantize()}


def test_dequantize(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "back.safetensors"
    assert str(out) in run("dequantize", artifact, out).stdout.replace("\n", "")
    assert "output_exists" in run("dequantize", artifact, out, code=2).stderr
    written = json.loads(run("dequantize", artifact, out, "--overwrite", "--json").stdout)
    assert written["files"] == [str(out)]
    small = fixtures.write_artifact(tmp_path / "small", fixtures.sample_tensors()[:1])
    run("dequantize", small, tmp_path / "folder")
    assert set(load_file(tmp_path / "folder" / "model.safetensors")) == {"a.q4"}


def test_commands_of_the_server_are_explained_when_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = typer.Typer(cls=application.Commands)
    monkeypatch.setattr(application, "app", fresh)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
    application._register_server_commands()
    for name in application.SERVER_COMMANDS:
        result = CliRunner().invoke(fresh, [name, "--bits", "4", "a", "b"])
        assert result.exit_code == 2
        assert "error[usage]" in result.stderr
        assert "arrowquant-server" in result.stderr


def test_places() -> None:
    assert request.place("models:", "SRC") == {"connection": "models", "prefix": ""}
    assert request.place("m:a:b/", "SRC") == {"connection": "m", "prefix": "a:b/"}
    for text in ("", "models", "C:\\x", ":x", "S3:x", "s3://x/y"):
        with pytest.raises(ArrowQuantError):
            request.place(text, "SRC")
