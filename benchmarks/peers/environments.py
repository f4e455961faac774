"""Environments of the peers, each of its own, made on first use with what `pip` finds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv-bench"
INSTALL_SECONDS = 3600


class PeerFailed(RuntimeError):
    """A peer could not be installed, started or run; the text says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Packages that a peer needs. With none, the peer runs in our own environment."""

    name: str
    packages: tuple[str, ...] = ()
    then: tuple[str, ...] = ()  # in a second step, for packages built against the first

    def python(self) -> Path:
        """Its interpreter; installs what is missing. Raises PeerFailed."""
        if not self.packages:
            return Path(sys.executable)
        folder = FOLDER / self.name
        stamp, wanted = folder / "installed", "\n".join(self.packages + self.then)
        python = folder / "bin" / "python"
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)], f"venv {self.name}")
            for packages in filter(None, (self.packages, self.then)):
                install = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
                _run([*install, "--quiet", *packages], f"pip install {' '.join(packages)}")
            stamp.write_text(wanted)
        return python


def _run(command: list[str], what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
            env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"{what}: not done after {INSTALL_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "rror" in line]
        raise PeerFailed(f"{what}: {' '.join(lines[-2:]) or 'failed without a message'}")
