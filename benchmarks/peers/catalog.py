"""Whom we are measured against. A new peer is a line here and a module that speaks the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import Environment

HERE = Path(__file__).parent

OURS = Environment("ours")
LLAMA = Environment("ggml", ("numpy==2.4.6", "llama-cpp-python==0.3.36"))
GGUF = Environment("gguf", ("numpy==2.4.6", "gguf==0.19.0"))
ONNX = Environment("onnxruntime", ("numpy==2.4.6", "onnxruntime==1.31.1"))
MLX = Environment("mlx", ("numpy==2.4.6", "mlx[cpu]"))
TORCH = Environment(
    "torch",
    ("numpy==2.4.6", "torch==2.13.0"),
    (
        "hqq==0.2.8.post1",
        "torchao==0.18.0",
        "optimum-quanto==0.2.7",
        "bitsandbytes==0.50.2",
        "ninja",
    ),
)


@dataclass(frozen=True, slots=True)
class Contender:
    """A peer at one setting, and which of our methods, at which width, it is set against."""

    peer: str
    setting: str
    bits: int
    environment: Environment
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    against: str = "minmax"
    group: int = 64  # of ours

    @property
    def name(self) -> str:
        return f"{self.peer} {self.setting}"

    @property
    def path(self) -> Path:
        return HERE / self.module


def _grouped(
    peer: str, environment: Environment, module: str, widths: tuple[int, ...], **options: Any
) -> tuple[Contender, ...]:
    return tuple(
        Contender(
            peer, f"{bits} bits G64", bits, environment, module,
            {**options, "bits": bits, "group": 64},
        )
        for bits in widths
    )  # fmt: skip


def _formats(
    peer: str, environment: Environment, module: str, names: dict[str, int]
) -> tuple[Contender, ...]:
    return tuple(
        Contender(peer, name, bits, environment, module, {"name": name})
        for name, bits in names.items()
    )


def _searching(*contenders: Contender) -> tuple[Contender, ...]:
    """Peers that search for a better fit, against our method that does."""
    return tuple(replace(contender, against="lsq") for contender in contenders)


CONTENDERS = (
    *_grouped("NumPy", OURS, "loops.py", (8, 4, 2), kind="numpy"),
    Contender(
        "NumPy", "4 bits G64, whole matrix", 4, OURS, "loops.py",
        {"kind": "numpy", "bits": 4, "group": 64, "rows": 0},
    ),
    *_grouped("Python loop", OURS, "loops.py", (4,), kind="python"),
    *_grouped("Numba loop", OURS, "loops.py", (8, 4, 2), kind="numba"),
    *_formats("ggml (C)", LLAMA, "ggml.py", {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4}),
    *(
        Contender("ggml (C)", name, bits, LLAMA, "ggml.py", {"name": name}, "superblock", group)
        for name, bits, group in (("Q4_K", 4, 32), ("Q2_K", 2, 16), ("IQ2_XS", 2, 32))
    ),
    *_formats("gguf (NumPy)", GGUF, "gguf_numpy.py", {"Q8_0": 8, "Q4_0": 4}),
    *_grouped("ONNX Runtime", ONNX, "onnx_runtime.py", (8, 4, 2)),
    *_grouped("MLX", MLX, "mlx_cpu.py", (8, 4, 2)),
    *_searching(*_grouped("hqq", TORCH, "torch_peers.py", (8, 4, 2), library="hqq")),
    Contender(
        "hqq", "4 bits G64 without search", 4, TORCH, "torch_peers.py",
        {"library": "hqq", "bits": 4, "group": 64, "optimize": False},
    ),
    Contender(
        "torchao", "int8 per row", 8, TORCH, "torch_peers.py", {"library": "torchao", "bits": 8}
    ),
    *_grouped("torchao", TORCH, "torch_peers.py", (4, 2), library="torchao"),
    Contender("quanto", "int8 per row", 8, TORCH, "torch_peers.py", {"library": "quanto", "bits": 8}),
    *_grouped("quanto", TORCH, "torch_peers.py", (4, 2), library="quanto"),
    *(
        Contender(
            "bitsandbytes", f"{kind} blocks of {block}", bits, TORCH, "torch_peers.py",
            {"library": "bitsandbytes", "kind": kind},
        )
        for kind, bits, block in (("int8", 8, 256), ("nf4", 4, 64), ("fp4", 4, 64))
    ),
)  # fmt: skip
