"""The generated modules: one of operations and one of types for each tag of the document."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.client_code.operations import Operation, methods, operations
from scripts.client_code.schemas import Names, closure, definition, references

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = Path("client/arrowquant/http")
API, ASYNC_API, TYPES = PACKAGE / "api", PACKAGE / "async_api", PACKAGE / "types"
TARGETS: Final = (API, ASYNC_API, TYPES)
MADE: Final = "Made from openapi.yaml by `make client`; not to be edited."
_HEAD: Final = "from __future__ import annotations\n\n"

Files = dict[Path, str]


def from_openapi(path: Path = ROOT / "openapi.yaml") -> Files:
    """The modules for a document, as they are to be on disk."""
    return _formatted(generate(yaml.safe_load(path.read_text(encoding="utf-8"))))


def up_to_date(made: Files) -> bool:
    """Whether the files on disk are these, and no others."""
    there = {path.relative_to(ROOT) for target in TARGETS for path in (ROOT / target).glob("*.py")}
    return there == made.keys() and all(
        (ROOT / path).read_text(encoding="utf-8") == text for path, text in made.items()
    )


def write(made: Files) -> None:
    """Replace what is on disk."""
    for target in TARGETS:
        shutil.rmtree(ROOT / target, ignore_errors=True)
    for path, text in made.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")


def generate(document: Mapping[str, Any]) -> Files:
    """The modules, not formatted yet."""
    schemas = document["components"]["schemas"]
    names = Names(schemas)
    offered = list(operations(document, names))
    tags = sorted({operation.tag for operation in offered})
    called = {names.of(name) for name in schemas}
    files: Files = {}
    for package, kind in ((API, _BLOCKING), (ASYNC_API, _AWAITED)):
        files[package / "__init__.py"] = _api_package(package, tags, kind)
        for tag in tags:
            of_tag = [operation for operation in offered if operation.tag == tag]
            files[package / f"{_module(tag)}.py"] = _api_module(tag, of_tag, called, kind)
    homes = _homes(document, offered)
    for home in sorted(set(homes.values())):
        here = [name for name in schemas if homes.get(name) == home]
        files[TYPES / f"{home}.py"] = _types_module(home, here, homes, schemas, names)
    files[TYPES / "__init__.py"] = _types_package(homes, names)
    return files


def _homes(document: Mapping[str, Any], offered: Iterable[Operation]) -> dict[str, str]:
    """Where each schema is defined: with the only tag that uses it, or with what is shared."""
    schemas, uses = document["components"]["schemas"], Counter[str]()
    last: dict[str, str] = {}
    by_tag: dict[str, set[str]] = {}
    for operation in offered:
        described = document["paths"][operation.path][operation.method.lower()]
        good = [r for status, r in described["responses"].items() if status.startswith("2")]
        parts = [good, described.get("parameters", []), described.get("requestBody", {})]
        by_tag.setdefault(_module(operation.tag), set()).update(references(parts))
    for tag, used in by_tag.items():
        for name in closure(used, schemas):
            uses[name] += 1
            last[name] = tag
    return {name: last[name] if count == 1 else "shared" for name, count in sorted(uses.items())}


def _types_module(
    home: str, here: list[str], homes: Mapping[str, str], schemas: Mapping[str, Any], names: Names
) -> str:
    bodies = [definition(name, schemas[name], names) for name in here]
    bodies.sort(key=lambda body: "TypeAlias" not in body)
    text = "\n\n".join(bodies)
    shared = [names.of(n) for n in homes if homes[n] == "shared"] if home != "shared" else []
    needed = _used(shared, text)
    about = "several resources" if home == "shared" else home.replace("_", " ")
    imports = [f"from typing import {', '.join(_used(_TYPING, text))}"]
    if needed:
        imports.append(f"\nfrom arrowquant.http.types.shared import {', '.join(needed)}")
    return f'"""Types of {about}.\n\n{MADE}\n"""\n\n{_HEAD}' + "\n".join(imports) + f"\n\n{text}"


_TYPING: Final = ("Any", "Literal", "NotRequired", "TypeAlias", "TypedDict")


def _types_package(homes: Mapping[str, str], names: Names) -> str:
    lines = [f'"""What the API takes and gives, as types.\n\n{MADE}\n"""\n\n{_HEAD}']
    for home in sorted(set(homes.values())):
        here = sorted(names.of(name) for name, place in homes.items() if place == home)
        lines.append(f"from arrowquant.http.types.{home} import {', '.join(here)}\n")
    listed = ", ".join(f'"{name}"' for name in sorted(names.of(name) for name in homes))
    return "".join(lines) + f"\n__all__ = [{listed},]\n"


@dataclass(frozen=True)
class _Kind:
    """One of the two clients."""

    asynchronous: bool
    prefix: str
    shell: str
    home: str
    said: str


_BLOCKING: Final = _Kind(False, "", "SyncShell", "sync", "")
_AWAITED: Final = _Kind(True, "Async", "AsyncShell", "aio", ", to be awaited")


def _api_module(tag: str, here: list[Operation], types: set[str], kind: _Kind) -> str:
    name = f"{kind.prefix}{_class(tag)}Api"
    text = f'\n\nclass {name}({kind.shell}):\n    """The operations of `{tag}`{kind.said}."""\n\n'
    text += "\n".join(methods(operation, asynchronous=kind.asynchronous) for operation in here)
    iterators = _used(("AsyncIterator", "Iterator"), text)
    imports = [f"from collections.abc import {', '.join(iterators)}\n"] if iterators else []
    imports += ["from pathlib import Path\n"] if _used(("Path",), text) else []
    plain = _used(("Any", "Literal"), text)
    imports += [f"from typing import {', '.join(plain)}\n"] if plain else []
    calls = ", ".join(["Call", *(["at"] if "at(" in text else [])])
    imports += [
        f"\nfrom arrowquant.http.calls import {calls}\n",
        f"from arrowquant.http.{kind.home} import {kind.shell}\n",
    ]
    needed = _used(types, text)
    imports += [f"from arrowquant.http.types import {', '.join(needed)}\n"] if needed else []
    head = f'"""Operations of `{tag}`{kind.said}.\n\n{MADE}\n"""\n\n{_HEAD}'
    return head + "".join(imports) + text


def _api_package(package: Path, tags: list[str], kind: _Kind) -> str:
    names = {tag: f"{kind.prefix}{_class(tag)}Api" for tag in tags}
    imports = "".join(
        f"from arrowquant.http.{package.name}.{_module(tag)} import {names[tag]}\n" for tag in tags
    )
    return (
        f'"""Every operation of the API as a method{kind.said}.\n\n{MADE}\n"""\n\n{_HEAD}{imports}'
        f"\n\nclass {kind.prefix}Api({', '.join(names.values())},):\n"
        f'    """Every operation{kind.said}."""\n'
    )


def _used(candidates: Iterable[str], text: str) -> list[str]:
    words = set(re.findall(r"\w+", re.sub(r'"""[\s\S]*?"""', "", text)))
    return sorted(words & set(candidates))


def _module(tag: str) -> str:
    return re.sub(r"\W+", "_", tag).lower()


def _class(tag: str) -> str:
    return "".join(part.capitalize() for part in re.split(r"[\W_]+", tag))


def _formatted(made: Files) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path, text in made.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        ruff = [str(Path(sys.executable).with_name("ruff"))]
        options = ["--no-cache", "--quiet", "--config", str(ROOT / "pyproject.toml"), folder]
        subprocess.run([*ruff, "check", "--select", "I", "--fix", *options], check=True)
        subprocess.run([*ruff, "format", *options], check=True)
        return {path: (root / path).read_text(encoding="utf-8") for path in made}
