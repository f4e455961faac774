"""What a calibration file says of itself: the inputs it measured and the weights they feed.

The index is JSON in the schema's metadata. It lies in the footer, so that one ranged read tells
where everything else is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from arrowquant.calibration import layout
from arrowquant.errors import CalibrationError

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def invalid(detail: str, hint: str = "", **where: Any) -> CalibrationError:
    """An `invalid_calibration` error."""
    return CalibrationError("invalid_calibration", detail, hint, where)


@dataclass(frozen=True, slots=True)
class Input:
    """What goes into some layers: a vector of `n` channels, measured many times.

    moment   second moments kept beside the diagonal: none, block or full
    block    channels of a block; 0 unless `moment` is block
    rows     pairs of time bin and branch in its statistics
    kept     rows of activations kept as samples
    means    whether the sums of the channels are there too, not only their squares
    """

    id: str
    n: int
    rows: int = 1
    moment: str = "none"
    block: int = 0
    kept: int = 0
    means: bool = True

    def batches(self) -> int:
        """Record batches of this input: statistics, second moments, samples."""
        return 1 + len(layout.panels(self.n, self.moment, self.block)) + (self.kept > 0)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much the model's output changes with a layer's: relative squared change for each relative squared
    error of the layer's own output, the mean of `runs` measurements."""

    value: float
    runs: int

    def __add__(self, other: Sensitivity) -> Sensitivity:
        """The mean of both, each by its runs."""
        runs = self.runs + other.runs
        return Sensitivity((self.value * self.runs + other.value * other.runs) / runs, runs)


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight that an input feeds.

    sha256       of each 4 MiB of its bytes as they stand in the safetensors file; () if it is not bound
    sensitivity  None unless it was measured
    """

    name: str
    input: str
    sha256: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None


@dataclass(frozen=True)
class Index:
    """Everything but the numbers.

    edges    of the time bins, ascending in `domain`; () for a single bin
    omega    how much each bin matters beside its share; () for all the same
    samples  how many model inputs were run
    keep     rows of activations to keep of every input, at most
    meta     what else the maker says: sampler, steps, guidance, seeds, licence, ...
    """

    inputs: tuple[Input, ...]
    weights: Mapping[str, Weight]
    model: str = ""
    revision: str = ""
    tool: str = ""
    domain: str = "none"
    edges: tuple[float, ...] = ()
    omega: tuple[float, ...] = ()
    branches: tuple[str, ...] = ("",)
    samples: int = 0
    keep: int = 0
    privacy: str = "aggregate"
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def bins(self) -> int:
        """Time bins."""
        return max(1, len(self.edges) - 1)

    @cached_property
    def by_id(self) -> dict[str, Input]:
        return {entry.id: entry for entry in self.inputs}

    @cached_property
    def first_batch(self) -> dict[str, int]:
        """The number of each input's first batch."""
        found, number = {}, 0
        for entry in self.inputs:
            found[entry.id] = number
            number += entry.batches()
        return found

    def batches(self) -> int:
        return sum(entry.batches() for entry in self.inputs)

    def dump(self) -> bytes:
        """The JSON form: equal indexes give equal bytes."""
        value = {
            "model": self.model,
            "revision": self.revision,
            "tool": self.tool,
            "domain": self.domain,
            "edges": list(self.edges),
            "omega": list(self.omega),
            "branches": list(self.branches),
            "samples": self.samples,
            "keep": self.keep,
            "privacy": self.privacy,
            "meta": dict(sorted(self.meta.items())),
            "inputs": [
                {"id": i.id, "n": i.n, "rows": i.rows, "moment": i.moment, "block": i.block}
                | {"kept": i.kept, "means": i.means}
                for i in self.inputs
            ],
            "weights": {
                name: {"input": w.input, "sha256": list(w.sha256)} | _told(w.sensitivity)
                for name, w in sorted(self.weights.items())
            },
        }
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def parse(data: bytes) -> Index:
    """Check and read an index. Raises invalid_calibration, naming the field."""
    if len(data) > layout.MAX_INDEX_BYTES:
        raise invalid(f"its index has {len(data)} bytes, at most {layout.MAX_INDEX_BYTES}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise invalid(f"its index is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise invalid("its index is not a JSON object")
    edges = _numbers(value, "edges", layout.MAX_BINS + 1)
    index = Index(
        inputs=_inputs(value.get("inputs")),
        weights=_weights(value.get("weights")),
        model=_text(value, "model"),
        revision=_text(value, "revision"),
        tool=_text(value, "tool"),
        domain=_one_of(value, "domain", layout.DOMAINS),
        edges=edges,
        omega=_numbers(value, "omega", layout.MAX_BINS),
        branches=_branches(value.get("branches")),
        samples=_natural(value, "samples", layout.MAX_COUNT),
        keep=_natural(value, "keep", layout.MAX_SAMPLES),
        privacy=_one_of(value, "privacy", layout.PRIVACY),
        meta=_meta(value.get("meta")),
    )
    check(index)
    return index


def check(index: Index) -> None:
    """Whether the parts of an index fit each other. Raises invalid_calibration."""
    edges, omega = index.edges, index.omega
    if len(edges) == 1 or any(not a < b for a, b in pairwise(edges)):
        raise invalid("the edges of its time bins do not ascend", field="edges")
    if index.bins > layout.MAX_BINS:
        raise invalid(f"{index.bins} time bins, at most {layout.MAX_BINS}", field="edges")
    if omega and (len(omega) != index.bins or min(omega) < 0 or max(omega) <= 0):
        raise invalid(
            f"omega needs {index.bins} numbers, none negative, not all zero", field="omega"
        )
    if len(index.by_id) != len(index.inputs):
        raise invalid("two inputs have one id", field="inputs")
    for weight in index.weights.values():
        if weight.input not in index.by_id:
            raise invalid("its input is not in the file", tensor=weight.name[:200])
    most = index.bins * len(index.branches)
    for entry in index.inputs:
        if entry.rows > most:
            raise invalid(f"{entry.rows} rows of statistics, at most {most}", input=entry.id[:200])
        if entry.kept > index.keep:
            raise invalid(f"{entry.kept} samples kept, at most {index.keep}", input=entry.id[:200])


def _inputs(value: Any) -> tuple[Input, ...]:
    if not isinstance(value, list) or len(value) > layout.MAX_INPUTS:
        raise invalid(f"inputs is no list of at most {layout.MAX_INPUTS}", field="inputs")
    return tuple(_input(entry) for entry in value)


def _input(entry: Any) -> Input:
    if not isinstance(entry, dict):
        raise invalid("an input is no JSON object", field="inputs")
    name = _name(entry.get("id"), "inputs")
    moment = _one_of(entry, "moment", layout.MOMENTS)
    found = Input(
        name,
        _natural(entry, "n", layout.MAX_CHANNELS),
        _natural(entry, "rows", layout.MAX_BINS * layout.MAX_BRANCHES),
        moment,
        _natural(entry, "block", layout.MAX_CHANNELS),
        _natural(entry, "kept", layout.MAX_SAMPLES),
        entry.get("means") is True,
    )
    if found.n < 1 or found.rows < 1 or (found.block > 0) != (moment == "block"):
        raise invalid("n, rows and block do not fit", input=name[:200])
    if 2 * found.n * found.kept > layout.MAX_SAMPLE_BYTES:
        raise invalid(f"more than {layout.MAX_SAMPLE_BYTES} bytes of samples", input=name[:200])
    return found


def _weights(value: Any) -> dict[str, Weight]:
    if not isinstance(value, dict) or len(value) > layout.MAX_WEIGHTS:
        raise invalid(f"weights is no object of at most {layout.MAX_WEIGHTS}", field="weights")
    found = {}
    for name, entry in value.items():
        _name(name, "weights")
        if not isinstance(entry, dict):
            raise invalid("a weight is no JSON object", tensor=name[:200])
        digests = entry.get("sha256")
        if not isinstance(digests, list) or not all(
            isinstance(d, str) and _SHA256.match(d) for d in digests
        ):
            raise invalid("sha256 is no list of SHA-256 in hexadecimal", tensor=name[:200])
        fed = _name(entry.get("input"), "weights")
        found[name] = Weight(name, fed, tuple(digests), _sensitivity(entry, name))
    return found


def _told(found: Sensitivity | None) -> dict[str, Any]:
    return {} if found is None else {"sensitivity": [found.value, found.runs]}


def _sensitivity(entry: dict[str, Any], name: str) -> Sensitivity | None:
    found = entry.get("sensitivity")
    if found is None:
        return None
    if not isinstance(found, list) or [type(v) for v in found] not in ([float, int], [int, int]):
        raise invalid("its sensitivity is no number and count of runs", tensor=name[:200])
    value, runs = float(found[0]), found[1]
    if not 0 < value < math.inf or not 1 <= runs <= layout.MAX_COUNT:
        raise invalid("its sensitivity is not above 0 and finite", tensor=name[:200])
    return Sensitivity(value, runs)


def _branches(value: Any) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= layout.MAX_BRANCHES
        or not all(isinstance(v, str) and len(v) <= 64 for v in value)
        or len(set(value)) != len(value)
    ):
        raise invalid(f"branches is no list of 1 to {layout.MAX_BRANCHES} names", field="branches")
    return tuple(value)


def _meta(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > layout.MAX_META:
        raise invalid(f"meta is no object of at most {layout.MAX_META} entries", field="meta")
    for key, text in value.items():
        if not isinstance(text, str) or len(text) > layout.MAX_META_CHARS or len(key) > 64:
            raise invalid("an entry of meta is no short text", field="meta")
    return dict(value)


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= layout.MAX_NAME_CHARS:
        raise invalid(f"a name of 1 to {layout.MAX_NAME_CHARS} characters is missing", field=where)
    return value


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str) or len(value) > layout.MAX_META_CHARS:
        raise invalid(f"{key} is no short text", field=key)
    return value


def _one_of(entry: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = entry.get(key)
    if value not in allowed:
        raise invalid(f"{key} is {value!r:.40}, not one of {', '.join(allowed)}", field=key)
    return str(value)


def _natural(entry: dict[str, Any], key: str, most: int) -> int:
    value = entry.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise invalid(f"{key} is {value!r:.40}, not a number from 0 to {most}", field=key)
    return value


def _numbers(entry: dict[str, Any], key: str, most: int) -> tuple[float, ...]:
    value = entry.get(key)
    if (
        not isinstance(value, list)
        or len(value) > most
        or not all(type(v) in (int, float) and math.isfinite(v) for v in value)
    ):
        raise invalid(f"{key} is no list of at most {most} finite numbers", field=key)
    return tuple(float(v) for v in value)
