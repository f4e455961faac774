"""Imports go one way, and the contracts that say so really bite."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# What a kernel may import: arrays, the compiler, threads, and parts of the language that only compute.
KERNEL_IMPORTS = {
    "__future__",
    "collections",
    "concurrent",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "kernels",
    "llvmlite",
    "math",
    "numba",
    "numpy",
    "os",
    "statistics",
    "threading",
    "typing",
}


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(tree), str(tree / "client")))
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_import_contracts_are_kept(root: Path) -> None:
    linted = lint_imports(root)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("kernels", "import boto3", "Kernels are arrays in, arrays out"),
        ("kernels", "import time", "Kernels are arrays in, arrays out"),
        ("service/domain", "import sqlalchemy", "The domain and the use cases know no framework"),
        ("service/domain", "import service.adapters", "Imports go one way"),
        ("service/web", "import workers", "The service enqueues by task name"),
        ("workers", "import service.web", "Imports go one way"),
        ("client/arrowquant", "import service.domain", "The client stands alone"),
        ("client/arrowquant", "import numba", "The client stands alone"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(
    copy_tree: Callable[[Path], Path], tmp_path: Path, module: str, line: str, contract: str
) -> None:
    tree = copy_tree(tmp_path)
    (tree / module / "trespasser.py").write_text(line + "\n")
    linted = lint_imports(tree)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    assert f"{contract} BROKEN" in linted.stdout


def test_kernels_import_arrays_and_the_compiler_only(root: Path, sources: list[Path]) -> None:
    foreign = [
        f"{path}: {name}"
        for path in sources
        if path.parts[0] == "kernels" and path.suffix == ".py"
        for name in _top_level_imports(root / path)
        if name not in KERNEL_IMPORTS
    ]
    assert foreign == []


def _top_level_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_celerys_parent_brings_no_threads_or_sockets(root: Path, tmp_path: Path) -> None:
    """It forks: numerics, Arrow, storage and database clients belong to the child."""
    heavy = "{'numba', 'pyarrow', 'boto3', 'sqlalchemy', 'kernels'}"
    script = f"""
import sys
from workers.celery_app import app
app.loader.import_default_modules()
assert 'arrowquant.work' in app.tasks
loaded = {heavy} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={**os.environ, "ARROWQUANT_DATA_DIR": str(tmp_path)},
        check=True,
    )
