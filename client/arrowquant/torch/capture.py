"""Capturing what enters the linear layers and convolutions of a model, by forward hooks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from arrowquant import __version__
from arrowquant.calibration import digests, layout
from arrowquant.calibration.accumulate import Accumulator
from arrowquant.calibration.bins import bin_of
from arrowquant.calibration.index import Index, Sensitivity, Weight
from arrowquant.calibration.writer import CalibrationWriter
from arrowquant.errors import CalibrationError
from arrowquant.torch import patches, sensitivity

Time = Any  #: a number, or one number for each input of the batch (sequence, array or tensor)
When = Callable[..., Any]

# Inputs of the last layers, to tell that the next one gets the very same tensor.
_REMEMBERED = 8


def capture(model: torch.nn.Module, **options: Any) -> Capture:
    """Watch a model; see Capture for the options."""
    return Capture(model, **options)


class Capture:
    """Sums over what enters each linear layer and convolution, while used as a context.

    model    in eval mode, on any device, in any dtype; sums are float64 on the processor
    moments  second moments beside the diagonal: none, block or full
    block    channels of a block
    edges    of at most 64 time bins, ascending, in `domain`: timestep, sigma or mask_ratio
    when     called with the arguments of each call of the model; returns its time, or the time and
             the branch of guidance. A time is a number, or one for each input of the batch; so is a
             branch. Without it, `at` says the same before a call
    omega    how much each bin matters beside its share of the vectors
    keep     vectors to keep of each input, drawn at random: they are part of somebody's data
    seed     of that draw; shards of one capture need different ones
    only     globs of module names (`blocks.*.attn.*`); skip: globs of names to leave out
    weights  the safetensors the model was loaded from, for the digests. Without it they are taken
             of the parameters, which are then the file's if they were loaded in its dtype
    rename   from a parameter's name to the name in the safetensors
    share    keep what is fed by one tensor (q, k and v) as one input
    name, revision, meta   what else the file says

    skipped  layers that were not captured, and why; known only after a call of the model
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        moments: Literal["none", "block", "full"] = "none",
        block: int = 512,
        edges: Sequence[float] = (),
        domain: Literal["none", "timestep", "sigma", "mask_ratio"] = "none",
        when: When | None = None,
        omega: Sequence[float] = (),
        keep: int = 0,
        seed: int = 0,
        only: Sequence[str] = (),
        skip: Sequence[str] = (),
        weights: str | os.PathLike[str] | None = None,
        rename: Callable[[str], str] = lambda name: name,
        share: bool = True,
        name: str = "",
        revision: str = "",
        meta: Mapping[str, str] | None = None,
    ) -> None:
        if moments not in layout.MOMENTS:
            raise ValueError(f"moments is one of {', '.join(layout.MOMENTS)}")
        self._edges = tuple(float(edge) for edge in edges)
        if len(self._edges) - 1 > layout.MAX_BINS:
            raise ValueError(f"at most {layout.MAX_BINS} time bins")
        if (domain == "none") != (len(self._edges) < 2):
            raise ValueError("edges go with a domain: timestep, sigma or mask_ratio")
        self._model, self._when, self._share, self._rename = model, when, share, rename
        self._moments, self._block, self._keep, self._seed = moments, block, keep, seed
        self._only, self._skip, self._weights = tuple(only), tuple(skip), weights
        self._facts = {"model": name, "revision": revision, "domain": domain}
        self._omega, self._meta = tuple(float(w) for w in omega), dict(meta or {})
        self._time: NDArray[np.float64] | None = None
        self._branch: tuple[str, ...] = ("",)
        self._branches: set[str] = set()
        self._recent: list[tuple[Any, int, str]] = []
        self._input_of: dict[str, str] = {}
        self._held: dict[str, Accumulator] = {}
        self._layers: dict[str, Any] = {}
        self._hooks: list[Any] = []
        self._paused = False
        self._sensitive: dict[str, Sensitivity] = {}
        self.samples = 0
        self.skipped: dict[str, str] = {}

    def __enter__(self) -> Self:
        before: dict[str, Any] = {"with_kwargs": True}
        self._hooks.append(self._model.register_forward_pre_hook(self._called, **before))
        for name, layer in self._model.named_modules():
            why = self._left_out(name, layer)
            if why is None:
                self._layers[name] = layer
                hook = self._hook(name)
                self._hooks.append(layer.register_forward_pre_hook(hook, **before))
            elif why:
                self.skipped[name] = why
        if not self._layers:
            raise ValueError("the model has no linear layer or convolution that is asked for")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._recent.clear()
        for name in self._layers.keys() - self._input_of.keys():
            self.skipped[name] = "the model never called it"

    def at(self, time: Time, branch: str | Sequence[str] = "") -> None:
        """The time and branch of what follows: of all inputs, or one for each of the batch."""
        if isinstance(time, torch.Tensor):
            time = time.detach().to("cpu", torch.float64).numpy()
        self._time = np.atleast_1d(np.asarray(time, np.float64)).reshape(-1)
        self._branch = (branch,) if isinstance(branch, str) else tuple(branch)

    def sensitivities(
        self,
        run: Callable[[Any], Any],
        batches: Iterable[Any],
        *,
        size: float = 0.1,
        draws: int = 2,
        seed: int = 0,
    ) -> dict[str, float]:
        """Measure how much the model's output changes with that of each layer that was captured, for the file;
        by the weight's name. A budget chooses widths by it. Runs the model twice for each layer, batch and draw.

        run      runs the model on a batch and returns its output, which is a tensor or has one first; the same every
                 time, so noise and time belong to the batch
        batches  of a few inputs each, at times as they are met in use
        size     of the noise given to a layer's weights, relative to their mean size

        Weights are as they were afterwards. Nothing that is run here is captured.
        """
        layers = {name: self._layers[name] for name in self._input_of}
        if not layers:
            raise ValueError("capture first: sensitivities are of the layers that were called")
        self._paused = True
        try:
            found = sensitivity.measure(
                layers, run, list(batches), size=size, draws=draws, seed=seed
            )
        finally:
            self._paused = False
        self._sensitive |= {self._rename(f"{name}.weight"): a for name, a in found.items()}
        return {name: a.value for name, a in self._sensitive.items()}

    def save(self, path: str | os.PathLike[str]) -> Index:
        """Write the calibration file. Raises calibration_mismatch for weights that `weights` lacks."""
        inputs = {name: held for name, held in self._held.items() if held.seen}
        index = Index(
            inputs=tuple(held.entry() for held in inputs.values()),
            weights={w.name: w for w in self._bound()},
            tool=f"arrowquant {__version__}, torch {torch.__version__}",
            edges=self._edges,
            omega=self._omega,
            branches=tuple(sorted(self._branches)) or ("",),
            samples=self.samples,
            keep=self._keep,
            privacy="samples" if self._keep else "aggregate",
            meta={"seed": str(self._seed)} | self._meta,
            **self._facts,
        )
        with CalibrationWriter(path, index) as writer:
            for held in inputs.values():
                writer.write(held.stats(), held.panels(), held.samples())
        return index

    def _left_out(self, name: str, layer: Any) -> str | None:
        """Why a layer is not captured; '' for what is no layer of interest, None to capture it."""
        if isinstance(layer, patches.OTHERS):
            return f"{type(layer).__name__} is not captured"
        if not isinstance(layer, patches.LINEAR + patches.CONVOLUTIONS):
            return ""
        if "weight" not in layer._parameters:
            return "its weight is made from other parameters"
        if self._only and not any(fnmatchcase(name, glob) for glob in self._only):
            return ""
        if any(fnmatchcase(name, glob) for glob in self._skip):
            return "asked to leave it out"
        return None

    def _called(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each call of the model: its time, and how many inputs it has."""
        if self._paused:
            return
        self._recent.clear()
        if self._when is not None:
            found = self._when(*args, **kwargs)
            self.at(*found) if isinstance(found, tuple) else self.at(found)
        if self._edges and self._time is None:
            raise ValueError("time bins need a time: give `when`, or call `at` before the model")
        first = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)), None)
        self.samples += 1 if first is None or not first.ndim else int(first.shape[0])

    def _hook(self, name: str) -> Callable[..., None]:
        def before(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._paused:
                return
            x = args[0] if args else kwargs["input"]
            source = self._shared(name, x)
            if source == name:
                self._add(name, layer, x)

        return before

    def _shared(self, name: str, x: Any) -> str:
        """The layer whose input this is: the first that got this very tensor in this call."""
        version = 0 if x.is_inference() else x._version
        same = [n for seen, v, n in self._recent if seen is x and v == version]
        fitting = [n for n in same if patches.channels(self._layers[n]) == self._width(name)]
        linear = isinstance(self._layers[name], patches.LINEAR)
        source = fitting[0] if self._share and linear and fitting else name
        known = self._input_of.setdefault(name, source)
        if known != source:
            raise CalibrationError(
                "calibration_mismatch",
                f"{name} and {known} got one tensor before, and now different ones",
                "Capture them apart: share=False.",
                {"layer": name},
            )
        if source == name and linear:
            self._recent = [(x, version, name), *self._recent[: _REMEMBERED - 1]]
        return source

    def _width(self, name: str) -> int:
        return patches.channels(self._layers[name])

    def _add(self, name: str, layer: Any, x: Any) -> None:
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = Accumulator(
                f"{self._rename(name)}#in",
                patches.channels(layer),
                self._moments,
                self._block,
                self._keep,
                self._seed,
            )
        if self._meta.get("dtype") is None:
            self._meta["dtype"] = str(x.dtype).removeprefix("torch.")
        entries = int(x.shape[0]) if x.ndim > 1 else 1
        times = _each(self._time, entries) if self._edges else None
        branches = _each(np.array(self._branch, object), entries)
        self._branches.update(str(branch) for branch in branches)
        for number, rows in patches.vectors(layer, x):
            place = 0 if times is None else int(bin_of(times[number : number + 1], self._edges)[0])
            held.add(rows, np.full(len(rows), place, np.int32), str(branches[number]))

    def _bound(self) -> list[Weight]:
        """The weights of all layers that were called, with their digests."""
        names = {name: self._rename(f"{name}.weight") for name in self._input_of}
        if self._weights is not None:
            found = digests.of_source(self._weights, names.values())
            missing = sorted(set(names.values()) - found.keys())
            if missing:
                raise CalibrationError(
                    "calibration_mismatch",
                    f"{len(missing)} of the model's weights are not in the safetensors",
                    "Name the files the model was loaded from, and `rename` where names differ.",
                    {"tensor": missing[0]},
                )
        else:
            found = {names[name]: _digests(self._layers[name].weight) for name in names}
        return [
            Weight(
                names[name],
                f"{self._rename(source)}#in",
                found[names[name]],
                self._sensitive.get(names[name]),
            )
            for name, source in self._input_of.items()
            if self._held[source].seen
        ]


def _each(values: NDArray[Any] | None, entries: int) -> NDArray[Any]:
    """One value for each entry: the same for all, or repeated where entries were multiplied."""
    assert values is not None
    if entries % len(values):
        raise ValueError(f"{len(values)} times or branches for a batch of {entries}")
    return np.repeat(values, entries // len(values))


def _digests(weight: Any) -> tuple[str, ...]:
    """Of a parameter's bytes as safetensors would write them."""
    plain = weight.detach().to("cpu").contiguous().reshape(-1)
    return digests.digests(plain.view(torch.uint8).numpy().data)
