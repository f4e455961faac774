"""The protocol with peers: a real one at work, and ones that fail."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import speed
from benchmarks.context import Context
from benchmarks.peers.catalog import CONTENDERS, HERE, OURS, Contender
from benchmarks.peers.client import Peer
from benchmarks.peers.environments import Environment, PeerFailed
from benchmarks.synthetic import llm_like, widened
from benchmarks.timing import clean

NUMPY = next(c for c in CONTENDERS if c.name == "NumPy 4 bits G64")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("peers") / "matrix.npy"
    np.save(file, llm_like(64, 256, seed=3))
    return file


def test_numpy_quantizes_as_well_as_our_own_kernel(matrix: Path) -> None:
    import kernels

    with Peer(Path(sys.executable), NUMPY.path) as peer:
        given = peer.prepare(matrix, 32, 1, NUMPY.options)
        seconds = peer.run()
        measured = peer.measure()
        assert "numpy" in peer.versions()
    weights = 32 * 256
    assert given == {"input": "f32", "input_bytes": 4 * weights}
    assert 0 < seconds < 60
    assert measured["bytes"] == weights // 2 + 2 * 2 * weights // 64
    x = np.load(matrix)[:32]
    ours = kernels.quantize(
        x, dtype="BF16", bits=4, group_size=64, symmetric=False, method="minmax"
    )
    assert measured["sqnr_db"] == pytest.approx(ours.errors.sqnr_db, abs=0.05)


@pytest.mark.parametrize("kind", ["numpy", "python", "numba"])
@pytest.mark.parametrize("bits", [2, 8])
def test_the_plain_loops_agree(kind: str, bits: int) -> None:
    from benchmarks.peers import loops

    w = widened(llm_like(2, 128, seed=4))
    job, first = (loops.Job(w, name, bits, 64, 1) for name in (kind, "numpy"))
    job.run()
    first.run()
    assert job.nbytes() == first.nbytes()
    # They round the minimum at other moments: a code may differ by a step.
    step = (w.reshape(2, -1, 64).max(-1) - w.reshape(2, -1, 64).min(-1)).max() / ((1 << bits) - 1)
    assert np.abs(job.decode() - first.decode()).max() <= 1.01 * step


def _failing(path: Path, source: str) -> Contender:
    path.write_text(source)
    return replace(NUMPY, peer="broken", environment=OURS, module=str(path))


FAILURES = {
    "at import": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "when prepared": ("def prepare(w, threads, **o): raise ValueError('no')", "ValueError: no"),
    "by dying": ("import os\nos._exit(3)", "ended with status 3"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failing_peer_is_kept_and_printed_as_failed(
    how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, words = FAILURES[how]
    context = Context(tmp_path, quick=True, rounds=1, cores=(1,))
    small = replace_rows(context)
    result = speed.run_peers(small, (_failing(tmp_path / "broken.py", source),))
    assert result.records == []
    (failure,) = result.failures
    assert words in failure["error"]
    assert f"FAILED {failure['name']}" in capfd.readouterr().err


def replace_rows(context: Context) -> Context:
    """The same context with a matrix of a few rows."""

    class Small(Context):
        @property
        def rows(self) -> int:
            return 4

    return Small(context.output, quick=True, rounds=1, cores=(1,))


def test_what_cannot_be_installed_is_a_failed_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.peers import environments

    monkeypatch.setattr(environments, "FOLDER", tmp_path)

    def refuse(command: list[str], what: str) -> None:
        raise PeerFailed(f"{what}: no matching distribution")

    monkeypatch.setattr(environments, "_run", refuse)
    with pytest.raises(PeerFailed, match="no matching distribution"):
        Environment("absent", ("no-such-distribution==1",)).python()


def test_every_contender_has_a_module() -> None:
    for contender in CONTENDERS:
        assert contender.path.is_file()
        assert contender.path.parent == HERE
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)


def test_messages_that_are_kept_name_no_place_of_this_machine() -> None:
    message = "cannot open '/home/somebody/.venv/lib/x.so': see https://host.example/page"
    assert clean(message) == "cannot open 'x.so': see <address>"
    assert len(clean("word " * 1000)) <= 400
