"""What a recipe may say of a calibration file, and what planning knows of one.

Planning reads the index alone: which weights the file is of, how many channels their inputs have and
how many digests bind them. The bytes are held against the digests by the workers, while they pass.
The form of the file is in docs/calibration-format.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from service.domain import location
from service.domain.errors import ArrowQuantError
from service.domain.wire import Wire

MAX_INDEX_BYTES: Final = 48 * 2**20
CHUNK_BYTES: Final = 4 * 2**20  #: of a weight, for each digest
FEWEST_SAMPLES: Final = 32
FORMAT_KEY: Final = b"arrowquant.calibration"
INDEX_KEY: Final = b"arrowquant.index"
FORMAT: Final = b"1"

_Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Calibration(Wire):
    """A calibration file of these very weights: an object in a named connection.

    method     `weights`: errors count by E[x^2] of their channel. `awq`: channels that matter are also made larger
               before rounding, and smaller after. `gptq`: what rounding one weight does to the output is made
               up for by those after it, by second moments in blocks of `block` channels or `full`
    act_order  gptq: channels that matter first
    damp       gptq: share of the mean of the diagonal that is added to it
    shrinkage  gptq: how much of the moments beside the diagonal is left out; null: 0.2 where a block was seen
               in fewer than four times as many vectors as it has channels, else nothing
    bias_correction  store what the layer's mean output lost, to be added to its bias
    weighting  how time bins count: as often as they were `captured`, or each the same (`uniform`); the
               file's omega, if it has one, goes on top
    """

    connection: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    key: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    method: Literal["weights", "awq", "gptq", "awq_gptq"] = "weights"
    block: Literal[512, 1024, "full"] = 512
    act_order: bool = False
    damp: Annotated[float, Field(gt=0, le=1)] = 0.01
    shrinkage: Annotated[float, Field(ge=0, le=1)] | None = None
    bias_correction: bool = False
    weighting: Literal["captured", "uniform"] = "captured"

    @field_validator("key")
    @classmethod
    def _clean(cls, value: str) -> str:
        if value.endswith("/"):
            raise ValueError("a calibration file is one object: leave out the '/' at the end")
        return location.clean_prefix(value).rstrip("/")


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Input(_Read):
    id: _Name
    n: Annotated[int, Field(ge=1, le=2**20)]
    moment: Literal["none", "block", "full"]
    block: Annotated[int, Field(ge=0, le=2**20)] = 0
    means: bool = False


class _Weight(_Read):
    input: _Name
    sha256: tuple[_Digest, ...]
    sensitivity: tuple[_Positive, Annotated[int, Field(ge=1)]] | None = None


class _Index(_Read):
    inputs: Annotated[tuple[_Input, ...], Field(max_length=100_000)]
    weights: Annotated[dict[_Name, _Weight], Field(max_length=200_000)]
    samples: Annotated[int, Field(ge=0)]
    domain: Literal["none", "timestep", "sigma", "mask_ratio"] = "none"
    edges: Annotated[tuple[_Finite, ...], Field(max_length=65)] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What a file has of one weight: channels of its input, digests, second moments beside the diagonal
    (none, block or full) with the channels of a block, whether it has means, and how much the model's
    output changes with the layer's."""

    n: int
    digests: int
    moment: str
    block: int = 0
    means: bool = False
    sensitivity: float | None = None

    def usable_block(self, asked: int | str) -> int | None:
        """Channels of the blocks that second moments can be used in, 0 for all at once; None: there
        are none. Never more than was measured."""
        if self.moment == "none":
            return None
        if self.moment == "full":
            return 0 if asked == "full" or int(asked) >= self.n else int(asked)
        wide = asked == "full" or int(asked) > self.block or self.block % int(asked)
        return self.block if wide else int(asked)


@dataclass(frozen=True, slots=True)
class CalibrationIndex:
    """A file that was looked into. `samples`: model inputs that were run; 0 if it does not say.

    key, size, etag  the object
    domain, edges    of its time bins; () where there is but one
    """

    key: str
    size: int
    etag: str
    weights: Mapping[str, Measured]
    samples: int
    domain: str = "none"
    edges: tuple[float, ...] = ()

    @property
    def tells_times(self) -> bool:
        """Whether inputs were measured at several times apart."""
        return len(self.edges) > 2


def parse_index(data: bytes | None, key: str, size: int, etag: str) -> CalibrationIndex:
    """Read the index's JSON; None if the file has none. Raises invalid_calibration."""
    if data is None:
        raise invalid("the object is no calibration file", key)
    try:
        found = _Index.model_validate_json(data)
        inputs = {entry.id: entry for entry in found.inputs}
        weights = {name: _measured(inputs[w.input], w) for name, w in found.weights.items()}
    except (ValidationError, RecursionError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        place = ".".join(str(part)[:80] for part in first["loc"]) if first else ""
        raise invalid(f"its index is not as it should be: {place or 'no JSON'}", key) from None
    except KeyError:
        raise invalid("a weight's input is not in the file", key) from None
    return CalibrationIndex(key, size, etag, weights, found.samples, found.domain, found.edges)


def _measured(entry: _Input, weight: _Weight) -> Measured:
    told = weight.sensitivity
    return Measured(
        entry.n, len(weight.sha256), entry.moment, entry.block, entry.means, told and told[0]
    )


def invalid(detail: str, key: str) -> ArrowQuantError:
    """An `invalid_calibration` error."""
    return ArrowQuantError(
        "invalid_calibration",
        detail,
        "Make it with arrowquant.torch.capture or `arrowquant calibration import`; "
        "`arrowquant calibration info` says what is wrong.",
        {"object": key},
    )


def mismatch(detail: str, **where: Any) -> ArrowQuantError:
    """A `calibration_mismatch` error."""
    return ArrowQuantError(
        "calibration_mismatch",
        detail,
        "A calibration file goes with the very weights that were run: capture these.",
        where,
    )


def check_fit(index: CalibrationIndex, matrices: Mapping[str, tuple[int, int]]) -> None:
    """Hold a file against a source, as far as sizes go.

    matrices  of every tensor of the source, its bytes and the columns of its matrix

    Raises calibration_mismatch for a file of other weights, or one that is bound to none.
    """
    shared = index.weights.keys() & matrices.keys()
    if not shared:
        raise mismatch(
            f"none of the {len(index.weights)} weights in the file is in the source",
            object=index.key,
        )
    for name in sorted(shared):
        measured, (nbytes, cols) = index.weights[name], matrices[name]
        where = {"object": index.key, "tensor": name}
        if not measured.digests:
            raise mismatch("the file does not say which bytes this weight had", **where)
        if measured.n != cols:
            raise mismatch(f"{measured.n} channels were measured, it has {cols} columns", **where)
        if measured.digests != -(-nbytes // CHUNK_BYTES):
            raise mismatch("the weight that was measured had another size", **where)
