"""The lock files: complete, hashed, in step with both projects, and free of addresses."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PYTHONS = ("3.11.2", "3.12.0", "3.13.0")
PIN = re.compile(r"^(?P<requirement>[^\s#-][^\\]*?)\s*\\$", re.MULTILINE)


def canonical(name: str) -> str:
    """The one spelling under which an index knows a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> list[Requirement]:
    return [Requirement(match["requirement"]) for match in PIN.finditer(lock.read_text())]


def requirements(root: Path) -> Iterator[Requirement]:
    """What both distributions ask for, with every extra that is locked."""
    for path in (root / "pyproject.toml", root / "client" / "pyproject.toml"):
        table = tomllib.loads(path.read_text())
        listed = [
            *table["project"]["dependencies"],
            *table["build-system"]["requires"],
            *(
                item
                for extra, items in table["project"].get("optional-dependencies", {}).items()
                if extra != "torch"
                for item in items
            ),
        ]
        for text in listed:
            requirement = Requirement(text)
            if requirement.name != "arrowquant":
                yield requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_meets_every_requirement(root: Path, python: str) -> None:
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }

    def applies(requirement: Requirement) -> bool:
        return requirement.marker is None or requirement.marker.evaluate(environment)

    locked: dict[str, str] = {}
    for pin in filter(applies, pins(root / "requirements.lock")):
        name = canonical(pin.name)
        assert name not in locked, f"{name} is pinned twice for Python {python}"
        locked[name] = str(pin.specifier).removeprefix("==")

    unmet = [
        str(requirement)
        for requirement in filter(applies, requirements(root))
        if not requirement.specifier.contains(
            locked.get(canonical(requirement.name), "0"), prereleases=True
        )
    ]
    assert unmet == [], "run `make lock`"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-demo.lock"])
def test_the_lock_is_hashed_and_holds_no_address(root: Path, name: str) -> None:
    text = (root / name).read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE), "options belong to the caller"
    assert pins(root / name)
    for entry in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_lock_leaves_out_our_own_client_and_torch(root: Path) -> None:
    names = {canonical(pin.name) for pin in pins(root / "requirements.lock")}
    assert names.isdisjoint({"arrowquant", "arrowquant-server", "torch"})


def test_both_distributions_have_one_version(root: Path) -> None:
    server = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    client = tomllib.loads((root / "client" / "pyproject.toml").read_text())["project"]
    assert server["version"] == client["version"]
    assert f"arrowquant=={client['version']}" in server["dependencies"]
    assert SpecifierSet(server["requires-python"]).contains("3.11")
    assert SpecifierSet(client["requires-python"]).contains("3.11")
