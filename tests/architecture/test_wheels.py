"""What the two distributions install, and that the client needs nothing of the server."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from service.domain.job import JobState
from tests import weights
from tests.workers.runs import begin, close_all, finish

# Our packages bear plain words as names; these two are taken by other distributions as well.
PACKAGES = {"kernels", "service", "workers"}
SERVER_ONLY = {"boto3", "celery", "fastapi", "llvmlite", "numba", "redis", "sqlalchemy"}


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(
    copy_tree: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Both wheels, built from a copy: a build in place would pick up what an older one left."""
    tree = copy_tree(tmp_path_factory.mktemp("tree"))
    target = tmp_path_factory.mktemp("wheels")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", target, tree, tree / "client")
    return {wheel.name.partition("-")[0]: wheel for wheel in target.glob("*.whl")}


def contents(wheel: Path) -> set[Path]:
    with zipfile.ZipFile(wheel) as archive:
        return {Path(name) for name in archive.namelist() if not name.endswith("/")}


def installed(wheel: Path) -> set[Path]:
    return {path for path in contents(wheel) if not path.parts[0].endswith(".dist-info")}


@pytest.mark.parametrize(
    ("name", "packages"), [("arrowquant", {"arrowquant"}), ("arrowquant_server", PACKAGES)]
)
def test_a_wheel_holds_its_packages_and_nothing_else(
    wheels: dict[str, Path], name: str, packages: set[str]
) -> None:
    assert {path.parts[0] for path in installed(wheels[name])} == packages


def test_the_wheels_hold_every_file_of_their_packages(
    wheels: dict[str, Path], sources: list[Path]
) -> None:
    client = {
        path.relative_to("client") for path in sources if path.parts[:2] == ("client", "arrowquant")
    }
    server = {path for path in sources if path.parts[0] in PACKAGES}
    assert client - installed(wheels["arrowquant"]) == set()
    assert server - installed(wheels["arrowquant_server"]) == set()


def test_the_names_of_our_packages_are_taken_by_nobody_else() -> None:
    """A foreign `kernels` or `workers` beside ours would be overwritten, or win the import."""
    owners = importlib.metadata.packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, [])) <= {"arrowquant-server"}


def test_neither_wheel_may_be_uploaded(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            assert b"Classifier: Private :: Do Not Upload" in archive.read(name)


@pytest.fixture(scope="module")
def consumer(wheels: dict[str, Path], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that has the client and what it asks for."""
    folder = tmp_path_factory.mktemp("consumer")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    constraints = folder / "constraints.txt"
    constraints.write_text(
        "\n".join(re.findall(r"^[^\s#][^\\]*?(?=\s*\\$)", locked(root), re.MULTILINE))
    )
    wheel = wheels["arrowquant"]
    uv = Path(sys.executable).with_name("uv")
    install = ("install", "--quiet", "--constraint", constraints, wheel)
    fast = subprocess.run([uv, "pip", *install, "--python", python], check=False)
    if fast.returncode != 0:  # it reads no pip configuration, and may reach no index
        run(sys.executable, "-m", "pip", "--python", python, *install)
    return python


def locked(root: Path) -> str:
    return (root / "requirements.lock").read_text()


def test_the_client_works_without_the_server(consumer: Path) -> None:
    program = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert run(consumer, "-I", "-c", "import arrowquant; print(arrowquant.__name__)").strip()
    assert run(consumer, "-I", "-c", program, *sorted(SERVER_ONLY | PACKAGES)).strip() == "[]"


def test_the_client_alone_opens_an_artifact(consumer: Path, tmp_path: Path) -> None:
    """What the whole product made, read where nothing but the client is installed."""
    model = {"a.weight": weights.bfloat16(weights.gaussian((64, 96), 1))}
    source = weights.write(tmp_path / "m.safetensors", model)
    assert finish(begin(tmp_path, source, tmp_path / "out", bits=8)).state is JobState.SUCCEEDED
    close_all()
    program = "import arrowquant, sys; t = arrowquant.open(sys.argv[1])['a.weight']"
    program += "; print(t.bits, t.codec, float(abs(t.dequantize()).sum()))"
    bits, codec, total = run(consumer, "-I", "-c", program, tmp_path / "out").split()
    assert (bits, codec) == ("8", "affine_u")
    expected = float(abs(weights.widened(model["a.weight"])).sum())
    assert float(total) == pytest.approx(expected, rel=1e-3)
    run(consumer.with_name("arrowquant"), "verify", tmp_path / "out", "--against", source)


def test_the_client_brings_its_command(consumer: Path) -> None:
    assert "Usage" in run(consumer.with_name("arrowquant"), "--help")


def test_the_client_asks_for_nothing_of_the_server(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["arrowquant"]) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        asked = re.findall(r"^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    assert {Requirement(text).name for text in asked}.isdisjoint(SERVER_ONLY)
