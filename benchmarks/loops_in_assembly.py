"""Counts of instructions in the inner loops of the kernels, from the compiler's own assembly.

A guard against slow kernels that needs no clock and no quiet machine. Seconds, and ratios of seconds,
depend on who else is at work; counting instructions as they run needs counters that virtual machines
seldom offer. What the compiler wrote for one fixed processor (x86-64 with AVX2, whatever this one is)
is the same on every run, and every way in which these kernels have become slow so far shows in it: a
loop no longer vectorized, narrower registers, work moved into the loop, calls and bounds checks.

    python -m benchmarks.loops_in_assembly     prints the loops as JSON
    python -m benchmarks loops                 keeps what they cost per weight
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.results import Result

ROOT = Path(__file__).parents[1]
TARGET = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse4.2",
}
_LABEL = re.compile(r"^(\.L\w+):")
_PART = re.compile(r"(\d+)")
_JUMP = re.compile(r"^\tj[a-z]+\t(\.L\w+)")


@dataclass(frozen=True, slots=True)
class Loop:
    """An innermost loop: one block that ends in a jump to its own start."""

    function: str
    instructions: int
    wide: int  # instructions on 256-bit registers
    calls: int
    words: str  # the mnemonics, in order


def find(assembly: str) -> list[Loop]:
    """The innermost loops of an assembly listing, function by function."""
    found: list[Loop] = []
    function, label, block = "", "", list[str]()
    for line in assembly.splitlines():
        if line.startswith("_ZN") and ":" in line:
            function, label, block = _name(line), "", []
        elif match := _LABEL.match(line):
            label, block = match[1], []
        elif line.startswith("\t") and not line.startswith("\t."):
            block.append(line)
            jump = _JUMP.match(line)
            if jump and jump[1] == label:
                found.append(_loop(function, block))
            if jump:
                label = label if jump[1] != label else ""
    return found


def _loop(function: str, block: list[str]) -> Loop:
    words = [line.split()[0] for line in block]
    return Loop(
        function,
        len(block),
        sum("ymm" in line for line in block),
        sum(word.startswith("call") for word in words),
        " ".join(words),
    )


def _name(line: str) -> str:
    """`kernels.encode.encode_row` from its mangled form."""
    parts, rest = [], line[3:]
    while match := _PART.match(rest):
        size = int(match[1])
        start = match.end()
        parts.append(rest[start : start + size])
        rest = rest[start + size :]
    return ".".join(parts)


@dataclass(frozen=True, slots=True)
class Phase:
    """What a loop is for, and how it is told from others of its function.

    work    an instruction that does its part on some weights; counting it gives the weights of a turn
    beside  how one begins that is in the same loop
    absent  one that is not
    lanes   weights that the first one works on
    """

    name: str
    function: str
    work: str
    beside: str
    absent: str = ""
    lanes: int = 8

    def cost(self, loops: list[Loop]) -> tuple[float, Loop] | None:
        """Instructions per weight in the leanest such loop on 256-bit registers, and that loop."""
        costs = []
        for loop in loops:
            words = loop.words.split()
            if (
                loop.function == self.function
                and loop.wide
                and self.work in words
                and self.absent not in words
                and any(word.startswith(self.beside) for word in words)
            ):
                costs.append((loop.instructions / (self.lanes * words.count(self.work)), loop))
        return min(costs, key=lambda pair: pair[0], default=None)


ROWS = "kernels.rows.quantize_each"
SEARCH = "kernels.lsq.refine_row"
FIT = "kernels.lsq.fit_row"
NEAREST = "kernels.nearest._nearest_row"
SUPER = "kernels.superfit._search"
SUPER_CODES = "kernels.superencode.quantize_block"
SUPER_VALUES = "kernels.superrows.decode_row"
SUPER_SUMS = "kernels.superrows.measure_row"
UNPACK = "kernels.bitpack.unpack_row"
VITERBI = "kernels.viterbi.sweep"
SETTLE = "kernels.hqqfit.settle_row"
EDGES = "kernels.codebookrows.search_group"
PHASES = (
    Phase("widen BF16", ROWS, "vpslld", "vpmovzxwd"),
    Phase("range of a group", ROWS, "vpminsd", "vpmaxsd"),
    Phase("codes and error sums", ROWS, "vmulps", "vfmadd"),
    Phase("lsq: one candidate", FIT, "vcvttps2dq", "vfmadd", absent="vsubps"),
    Phase("lsq: error of a fit", SEARCH, "vmulps", "vfmadd213", absent="vcvttps2dq"),
    Phase("nearest: range of a group", NEAREST, "vpmaxuw", "vpmaxsw", lanes=16),
    Phase("nearest: codes and error sums", NEAREST, "vmulps", "vfmadd"),
    Phase("superblock: one candidate", SUPER, "vcvtdq2ps", "vfmadd"),
    Phase("superblock: one candidate of 2 bits", SUPER, "vcmpleps", "vfmadd", absent="vcvtdq2ps"),
    Phase("superblock: codes", SUPER_CODES, "vcvtdq2ps", "vfmadd"),
    Phase("superblock: error sums", SUPER_SUMS, "vcvtps2pd", "vsubpd", lanes=2),
    Phase("trellis: one node of a step", VITERBI, "vpminuw", "vpmulhw", absent="vpmaxsw", lanes=16),
    Phase("hqq: one move of a zero point", SETTLE, "vcvtdq2ps", "vmaxps"),
    Phase("codebook: one edge", EDGES, "vcmpleps", "vpsubd"),
    Phase("decode: values of a superblock", SUPER_VALUES, "vcvtdq2ps", "vfmadd"),
    Phase("decode: 4 bits to bytes", UNPACK, "vpsrlw", "vpunpck", lanes=32),
)


def compiled() -> list[Loop]:
    """The loops of the kernels, compiled in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loops_in_assembly"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [Loop(**fields) for fields in json.loads(done.stdout)]


def run(context: Context) -> Result:
    """What every phase costs per weight."""
    result = context.result("loops")
    loops = compiled()
    for phase in PHASES:
        found = phase.cost(loops)
        if found is None:
            result.fail(phase.name, f"no loop of {phase.function} on 256-bit registers")
            continue
        cost, loop = found
        labels = {"function": phase.function}
        result.add(phase.name, labels, instructions_per_weight=cost, loop=asdict(loop))
    return result


def main() -> None:
    """Compile the kernels for the fixed processor and print its loops."""
    if os.environ.get("NUMBA_CPU_NAME") != TARGET["NUMBA_CPU_NAME"]:
        with tempfile.TemporaryDirectory(prefix="arrowquant-assembly-") as folder:
            environment = os.environ | TARGET | {"NUMBA_CACHE_DIR": folder}
            command = [sys.executable, "-m", "benchmarks.loops_in_assembly"]
            sys.exit(os.spawnvpe(os.P_WAIT, sys.executable, command, environment))
    import numpy as np

    import kernels
    from kernels.affine import dequantize_rows
    from kernels.codebookrows import quantize_codebook_rows
    from kernels.hqq import quantize_hqq_rows
    from kernels.nearest import quantize_rows_nearest
    from kernels.rows import quantize_rows
    from kernels.superrows import dequantize_super_rows, quantize_super_rows
    from kernels.trellisrows import dequantize_trellis_rows, quantize_trellis_rows

    x = np.full((2, 256), 0x3C00, np.uint16)
    for method in ("minmax", "lsq"):
        made = kernels.quantize(
            x, dtype="BF16", bits=4, group_size=64, symmetric=False, method=method
        )
    kernels.dequantize(made.codes, made.scales, made.mins, bits=4, cols=256, group_size=64)
    fine = kernels.quantize_superblock(x, dtype="BF16", bits=4, group_size=32, scale_bits=6)
    arrays = fine.codes, fine.scale_codes, fine.min_codes, fine.d, fine.dm
    kernels.dequantize_superblock(*arrays, bits=4, cols=256, group_size=32, scale_bits=6)
    kernels.quantize_hqq(x, dtype="BF16", bits=4, group_size=64)
    kernels.quantize_codebook(x, dtype="BF16", levels=kernels.nf4_levels(), group_size=64)
    path = kernels.quantize_trellis(x, dtype="BF16", bits=2)
    kernels.dequantize_trellis(path.codes, path.scales, bits=2, cols=256)
    loops = []
    entries: tuple[Any, ...] = (
        quantize_rows_nearest,
        quantize_rows,
        dequantize_rows,
        quantize_super_rows,
        dequantize_super_rows,
        quantize_hqq_rows,
        quantize_codebook_rows,
        quantize_trellis_rows,
        dequantize_trellis_rows,
    )
    for entry in entries:
        (assembly,) = entry.inspect_asm().values()
        loops += [asdict(loop) for loop in find(assembly)]
    print(json.dumps(loops))


if __name__ == "__main__":
    main()
