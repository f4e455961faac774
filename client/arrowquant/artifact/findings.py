"""What a verification found, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from arrowquant.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    code: str
    detail: str
    where: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        place = ", ".join(f"{key} {value}" for key, value in self.where.items())
        return f"{self.code}: {self.detail}" + (f" ({place})" if place else "")


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """What was found for one tensor. The errors are None when no source was given."""

    name: str
    codec: str
    bits: int
    elements: int
    relmse: float | None = None
    sqnr_db: float | None = None  #: None also when the tensor is exact
    cosine: float | None = None
    max_abs_error: float | None = None
    exact: bool | None = None


@dataclass
class Verification:
    """The outcome. `ok` when there is no problem."""

    problems: list[Problem] = field(default_factory=list)
    tensors: list[TensorCheck] = field(default_factory=list)
    parts: int = 0
    part_bytes: int = 0
    tiles: int = 0
    weights: int = 0
    compared: bool = False

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"ok": self.ok} | asdict(self)

    def raise_for_problems(self) -> None:
        """Raise the first problem as an ArtifactError."""
        if self.problems:
            first = self.problems[0]
            more = f" and {len(self.problems) - 1} more problems" if len(self.problems) > 1 else ""
            raise ArtifactError(first.code, first.detail + more, where=first.where)
