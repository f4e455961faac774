"""Which locked packages go into which image. Needs nothing but Python, so it runs in a build.

    python packages.py select api       the entries of requirements.lock for packages/api.txt
    python packages.py write            write packages/*.txt again, from what is installed here

The lock has everything, the tools of development too; an image takes the entries whose names stand
in its list, with their hashes. `packages/worker.txt` holds what a worker needs beyond the API, and
`packages/build.txt` what makes our own distributions. A test holds the lists to pyproject.toml.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
LISTS = HERE / "packages"
# What only workers import: kernels, Arrow, and our client, which reads artifacts.
WORKERS_ONLY = frozenset({"arrowquant", "numba", "numpy", "pyarrow"})
# Comes from this repository, never from the lock.
OURS = frozenset({"arrowquant", "arrowquant-server"})


def canonical(name: str) -> str:
    """The one spelling under which an index knows a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(image: str) -> list[str]:
    """What a list says."""
    lines = (LISTS / f"{image}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def select(image: str, lock: str) -> str:
    """The entries of a lock for an image, hashes included. Raises KeyError for one not locked."""
    entries: dict[str, list[str]] = {}
    for entry in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE | re.IGNORECASE)[1:]:
        name = canonical(re.split(r"[=\s;\[]", entry, maxsplit=1)[0])
        entries.setdefault(name, []).append(entry)
    return "".join(entry for name in names(image) for entry in entries[name])


def needed(root: Path) -> dict[str, list[str]]:
    """What the lists should say, from pyproject.toml and the metadata of installed packages."""
    import tomllib

    from packaging.requirements import Requirement

    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    direct = [Requirement(text) for text in table["project"]["dependencies"]]
    everything = set(_closure(map(str, direct))) - OURS
    api = set(_closure(str(r) for r in direct if canonical(r.name) not in WORKERS_ONLY))
    build = {canonical(Requirement(text).name) for text in table["build-system"]["requires"]}
    return {"api": sorted(api), "worker": sorted(everything - api), "build": sorted(build)}


def _closure(roots: Iterable[str]) -> Iterator[str]:
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    waiting = [Requirement(text) for text in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        name = canonical(one.name)
        if (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        yield name
        for text in requires(name) or []:
            further = Requirement(text)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in {"", *one.extras}
            ):
                waiting.append(further)


def main(arguments: list[str]) -> None:
    """See the top of the file."""
    match arguments:
        case ["select", image]:
            lock = HERE.parent / "requirements.lock"
            sys.stdout.write(select(image, lock.read_text(encoding="utf-8")))
        case ["write"]:
            for image, found in needed(HERE.parent).items():
                (LISTS / f"{image}.txt").write_text("".join(f"{name}\n" for name in found))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
