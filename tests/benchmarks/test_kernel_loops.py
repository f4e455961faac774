"""A guard against slow kernels that asks no clock: see benchmarks/loops_in_assembly.py for why.

What one turn of an inner loop costs is counted in the assembly for a fixed processor. A kernel that is
no longer vectorized, uses narrower registers or does more per weight goes over its bound. Who makes a
kernel better lowers the bound; who must raise one says why in the commit.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.loops_in_assembly import Loop, find

ROOT = Path(__file__).parents[2]

# An x86-64 compiler is needed; the code is for one processor of that family, whatever runs the test.
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="counts x86-64 instructions")

# function, an instruction that does its work on eight weights, another one that must be in the
# same loop, and the most instructions per weight; measured values are about a tenth lower
BOUNDS = [
    ("kernels.widen.widen_row", "vpslld", "vpmovzxwd", 0.55),
    ("kernels.ranges.group_ranges", "vpminsd", "vpmaxsd", 0.95),
    ("kernels.encode.encode_row", "vcvttps2dq", "vcvtdq2ps", 8.5),
    ("kernels.lsq.refine_row", "vcvttps2dq", "vpmulld", 2.1),
    ("kernels.lsq.refine_row", "vcvttps2dq", "vcvtdq2ps", 3.5),
]


@pytest.fixture(scope="module")
def loops() -> list[Loop]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loops_in_assembly"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Loop(**fields) for fields in json.loads(done.stdout)]


@pytest.mark.parametrize(("function", "work", "beside", "most"), BOUNDS)
def test_an_inner_loop_costs_no_more_instructions_per_weight(
    loops: list[Loop], function: str, work: str, beside: str, most: float
) -> None:
    costs = {
        loop.instructions / (8 * words.count(work)): loop
        for loop in loops
        if loop.function == function
        and {work, beside} <= set(words := loop.words.split())
        and loop.wide
    }
    assert costs, f"no loop of {function} with {work} and {beside} on 256-bit registers"
    least = min(costs)
    print(f"{function}: {least:.2f} instructions per weight, at most {most}")
    assert costs[least].calls == 0
    assert least <= most


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
