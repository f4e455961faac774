"""A guard against slow kernels that asks no clock: see benchmarks/loops_in_assembly.py for why.

What one turn of an inner loop costs is counted in the assembly for a fixed processor. A kernel that is
no longer vectorized, uses narrower registers or does more per weight goes over its bound. Who makes a
kernel better lowers the bound; who must raise one says why in the commit.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.loops_in_assembly import PHASES, Loop, Phase, compiled, find

# An x86-64 compiler is needed; the code is for one processor of that family, whatever runs the test.
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="counts x86-64 instructions")

# The most instructions per weight; what is measured is about a tenth lower.
BOUNDS = {
    "widen BF16": 0.55,
    "range of a group": 1.05,
    "codes and error sums": 4.4,
    "lsq: one candidate": 1.75,
    "lsq: error of a fit": 1.75,
    "nearest: range of a group": 0.3,
    "nearest: codes and error sums": 2.3,
    "superblock: one candidate": 4.8,
    "superblock: one candidate of 2 bits": 3.5,
    "superblock: codes": 7.6,
    "superblock: error sums": 4.0,
    "trellis: one node of a step": 0.6,
    "hqq: one move of a zero point": 1.9,
    "codebook: one edge": 0.8,
    "decode: values of a superblock": 1.6,
    "decode: 4 bits to bytes": 0.32,
}


@pytest.fixture(scope="module")
def loops() -> list[Loop]:
    """Compiling takes seconds: kept beside the kernels' cache, whose folder is new for new sources."""
    versions = f"{version('numba')}-{version('llvmlite')}"
    kept = Path(os.environ["NUMBA_CACHE_DIR"]) / f"loops-{versions}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f"{kept.name}.{os.getpid()}")
        fresh.write_text(json.dumps([asdict(loop) for loop in compiled()]))
        fresh.replace(kept)
    return [Loop(**fields) for fields in json.loads(kept.read_text())]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_an_inner_loop_costs_no_more_instructions_per_weight(
    loops: list[Loop], phase: Phase
) -> None:
    found = phase.cost(loops)
    assert found, f"no loop of {phase.function} works on 256-bit registers any more"
    cost, loop = found
    print(f"{phase.name}: {cost:.2f} instructions per weight")
    assert loop.calls == 0
    assert cost <= BOUNDS[phase.name]


LISTING = """
_ZN7kernels6encode10encode_rowB3v58B42c8:
\tmovq\t%rdi, %rax
.LBB0_1:
\tvmovups\t(%rax), %ymm0
\taddq\t$32, %rax
\tcmpq\t%rax, %rcx
\tjne\t.LBB0_1
.LBB0_2:
\tmovss\t(%rax), %xmm0
\tje\t.LBB0_1
\tjmp\t.LBB0_3
"""


def test_loops_are_found_in_a_listing() -> None:
    (loop,) = find(LISTING)
    assert loop.function == "kernels.encode.encode_row"
    assert (loop.instructions, loop.wide, loop.calls) == (4, 1, 0)
    assert loop.words == "vmovups addq cmpq jne"
