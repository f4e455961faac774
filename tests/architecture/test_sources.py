"""Rules about the files themselves."""

from __future__ import annotations

import re
from pathlib import Path

MAX_LINES = 400

# Where packages are fetched from is each machine's own matter. The names are spelt in pieces so
# that this file passes its own test.
REGISTRY = re.compile(
    "|".join(
        (
            r"\bpy" + r"pi\.(org|io)\b",
            r"\bpython" + r"hosted\.org\b",
            r"\bregistry\.(npm" + r"js\.org|yarn" + r"pkg\.com)\b",
            r"\bdeb\.deb" + r"ian\.org\b",
            r"--(extra-)?index" + r"-url\b",
            r"\bindex" + r"-url\s*=",
            r'"resolved"\s*:\s*"https?:',
            r"https?://\S+/simple\b",
        )
    ),
    re.IGNORECASE,
)


def test_no_file_says_where_packages_are_fetched_from(root: Path, sources: list[Path]) -> None:
    found = [
        f"{path}:{number}: {match.group()}"
        for path in sources
        for number, line in _lines(root / path)
        if (match := REGISTRY.search(line))
    ]
    assert found == []


def test_no_module_is_a_drawer_for_everything(sources: list[Path]) -> None:
    drawer = re.compile(r"_?(utils?|helpers?|misc)", re.IGNORECASE)
    found = [
        str(path)
        for path in sources
        if path.suffix in {".py", ".ts", ".js"}
        and any(drawer.fullmatch(part.partition(".")[0]) for part in path.parts)
    ]
    assert found == []


def test_modules_are_short(root: Path, sources: list[Path]) -> None:
    long = {
        str(path): lines
        for path in sources
        if path.suffix == ".py" and (lines := sum(1 for _ in _lines(root / path))) > MAX_LINES
    }
    assert long == {}


def test_folders_that_hold_no_package_do_not_look_like_one(sources: list[Path]) -> None:
    """With an `__init__.py` a folder of ours would hide an installed package of its name."""
    folders = {"benchmarks", "docker", "docs", "helm", "scripts", "tests"}
    found = [
        str(path) for path in sources if path.name == "__init__.py" and path.parts[0] in folders
    ]
    assert found == []


def _lines(path: Path) -> list[tuple[int, str]]:
    """The numbered lines of a text file; nothing of a binary one."""
    data = path.read_bytes()
    if b"\0" in data:
        return []
    return list(enumerate(data.decode("utf-8", "replace").splitlines(), start=1))
