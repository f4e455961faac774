"""The readers on the format page, taken from it and run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import arrowquant
from tests.client import fixtures, naive

DOCS = Path(__file__).parents[2] / "docs"

RUN_JS = """
import fs from "node:fs";
import { tiles, decode } from "./reader.mjs";
const folder = process.argv[2];
const out = [];
for (const name of fs.readdirSync(folder).filter((n) => n.endsWith(".arrow"))) {
  for (const tile of tiles(new Uint8Array(fs.readFileSync(`${folder}/${name}`)))) {
    const v = decode(tile);
    const hex = Buffer.from(v.buffer, v.byteOffset, v.byteLength).toString("hex");
    out.push([tile.tensor, tile.tile_index, hex]);
  }
}
console.log(JSON.stringify(out));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page") / "out"
    return fixtures.write_artifact(place, fixtures.sample_tensors(), parts=3, tied=fixtures.TIES)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, timeout=120
    )


def snippet(language: str) -> str:
    page = (DOCS / "artifact-format.md").read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


def check(folder: Path, decoded: dict[str, list[tuple[int, bytes]]]) -> None:
    """The bytes of the tiles, put together, are those that the package's reader gives."""
    model = arrowquant.open(folder)
    assert set(decoded) == {name for name in model if model[name].tied_to is None}
    for name, tiles in decoded.items():
        joined = b"".join(data for _, data in sorted(tiles))
        tensor = model[name]
        if tensor.codec == "raw":
            want = b"".join(codes.tobytes() for _, codes, _, _ in tensor.tiles())
        else:
            want = tensor.dequantize(np.float32).tobytes()
        assert joined == want, name


def test_the_python_reader(folder: Path) -> None:
    space: dict[str, Any] = {}
    exec(compile(snippet("python"), "artifact-format.md", "exec"), space)
    decoded: dict[str, list[tuple[int, bytes]]] = {}
    for tile in space["tiles"](folder):
        values: NDArray[Any] = space["decode"](tile)
        assert tile["codec"] == "raw" or values.dtype == np.float32
        decoded.setdefault(tile["tensor"], []).append((tile["tile_index"], values.tobytes()))
    check(folder, decoded)


def test_the_javascript_reader(folder: Path, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.fail("this test needs node and npm on PATH: the JavaScript reader was not checked")
    install = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "apache-arrow@^21"]
    (tmp_path / "package.json").write_text('{"private": true}')
    done = run(install, tmp_path)
    if done.returncode:
        pytest.fail(f"npm cannot install apache-arrow: {done.stderr[-2000:]}")
    shutil.copy(DOCS / "reader.js", tmp_path / "reader.mjs")
    (tmp_path / "run.mjs").write_text(RUN_JS)
    command = [node, "run.mjs", str(folder)]
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    decoded: dict[str, list[tuple[int, bytes]]] = {}
    for name, index, data in json.loads(done.stdout):
        decoded.setdefault(name, []).append((index, bytes.fromhex(data)))
    check(folder, decoded)


def test_the_page_shows_the_javascript_file() -> None:
    assert snippet("js") == (DOCS / "reader.js").read_text(encoding="utf-8")


def test_the_page_lists_the_columns() -> None:
    page = (DOCS / "artifact-format.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \| ([\w&;:, ]+) \|", page, re.MULTILINE)
    names = [name for name, _ in table[: len(naive.SCHEMA)]]
    assert names == naive.SCHEMA.names
