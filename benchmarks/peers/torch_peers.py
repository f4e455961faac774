"""The quantizers that live on torch: hqq, torchao, optimum-quanto, bitsandbytes. From BF16, on the CPU."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt


def _installed() -> tuple[str, ...]:
    found = []
    for name in ("torch", "hqq", "torchao", "optimum-quanto", "bitsandbytes"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


PACKAGES = _installed()


def _tensors(value: Any) -> list[Any]:
    """The plain tensors that something is made of."""
    torch = importlib.import_module("torch")
    if isinstance(value, dict):
        return [t for entry in value.values() for t in _tensors(entry)]
    if isinstance(value, list | tuple):
        return [t for entry in value for t in _tensors(entry)]
    if isinstance(value, torch.Tensor):
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            return [value]
        return [t for name in value.__tensor_flatten__()[0] for t in _tensors(getattr(value, name))]
    return []


class Job:
    """What the four have in common; subclasses quantize into self._out."""

    input = "bf16"

    def __init__(self, patterns: npt.NDArray[np.uint16], threads: int) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.w = self.torch.from_numpy(patterns.view(np.int16)).view(self.torch.bfloat16)
        self.out: Any = None

    def run(self) -> None:
        with self.torch.no_grad():
            self.out = self.quantize()

    def quantize(self) -> Any:
        raise NotImplementedError

    def decoded(self) -> Any:
        raise NotImplementedError

    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in _tensors(self.out))

    def decode(self) -> npt.NDArray[np.float32]:
        with self.torch.no_grad():
            values: npt.NDArray[np.float32] = self.decoded().float().cpu().numpy()
        return values.reshape(tuple(self.w.shape))


class Hqq(Job):
    """Half-quadratic: 20 iterations, or none."""

    def __init__(self, patterns: npt.NDArray[np.uint16], threads: int, **options: Any) -> None:
        super().__init__(patterns, threads)
        self._quantizer = importlib.import_module("hqq.core.quantize").Quantizer
        self._options = {
            "nbits": options["bits"],
            "group_size": options["group"],
            "optimize": options.get("optimize", True),
        }

    def quantize(self) -> Any:
        return self._quantizer.quantize(
            self.w,
            channel_wise=True,
            round_zero=False,
            axis=1,
            device="cpu",
            compute_dtype=self.torch.float32,
            **self._options,
        )

    def nbytes(self) -> int:
        codes, meta = self.out
        # Scales and zeros are kept as float32 here and as halves when saved; counted as halves.
        return int(codes.numel() * codes.element_size() + 2 * meta["scale"].numel() * 2)

    def decoded(self) -> Any:
        return self._quantizer.dequantize(*self.out)


class TorchAo(Job):
    """Weight-only: one int8 scale a row, or groups of narrow codes in int8 storage."""

    def __init__(self, patterns: npt.NDArray[np.uint16], threads: int, **options: Any) -> None:
        super().__init__(patterns, threads)
        self._api = importlib.import_module("torchao.quantization")
        if "group" in options:
            self._config = self._api.IntxWeightOnlyConfig(
                weight_dtype=getattr(self.torch, f"int{options['bits']}"),
                granularity=self._api.PerGroup(options["group"]),
                mapping_type=self._api.MappingType.ASYMMETRIC,
            )
        else:
            self._config = self._api.Int8WeightOnlyConfig()

    def quantize(self) -> Any:
        rows, cols = self.w.shape
        layer = self.torch.nn.Linear(cols, rows, bias=False, device="meta")
        layer.weight = self.torch.nn.Parameter(self.w, requires_grad=False)
        self._api.quantize_(layer, self._config)
        return layer.weight

    def decoded(self) -> Any:
        return self.out.dequantize()


class Quanto(Job):
    """Symmetric int8 a row, or groups at 4 and 2 bits."""

    def __init__(self, patterns: npt.NDArray[np.uint16], threads: int, **options: Any) -> None:
        super().__init__(patterns, threads)
        self._api = importlib.import_module("optimum.quanto")
        bits = options["bits"]
        self._type = getattr(self._api, f"qint{bits}")
        self._group = options.get("group")
        name = "AbsmaxOptimizer" if bits == 8 else "MaxOptimizer"
        self._optimizer = getattr(self._api, name)()

    def quantize(self) -> Any:
        if self._group is None:
            scale = self._optimizer(self.w, self._type, 0)
            return self._api.quantize_weight(self.w, self._type, 0, scale)
        scale, shift = self._optimizer(self.w, self._type, 0, self._group)
        return self._api.quantize_weight(self.w, self._type, 0, scale, shift, self._group)

    def decoded(self) -> Any:
        return self.out.dequantize()


class BitsAndBytes(Job):
    """Blocks along the flattened tensor: int8, nf4 or fp4."""

    def __init__(self, patterns: npt.NDArray[np.uint16], threads: int, **options: Any) -> None:
        super().__init__(patterns, threads)
        self._api = importlib.import_module("bitsandbytes.functional")
        self._kind = options["kind"]

    def quantize(self) -> Any:
        if self._kind == "int8":
            return self._api.quantize_blockwise(self.w, blocksize=256)
        return self._api.quantize_4bit(self.w, blocksize=64, quant_type=self._kind)

    def nbytes(self) -> int:
        codes, state = self.out
        return sum(t.numel() * t.element_size() for t in (codes, state.absmax))

    def decoded(self) -> Any:
        if self._kind == "int8":
            return self._api.dequantize_blockwise(*self.out)
        return self._api.dequantize_4bit(*self.out)


KINDS = {"hqq": Hqq, "torchao": TorchAo, "quanto": Quanto, "bitsandbytes": BitsAndBytes}


def prepare(weights: Any, threads: int, *, library: str, **options: Any) -> Job:
    job: Job = KINDS[library](weights.bf16, threads, **options)
    return job
