"""Finding what can be folded in a model, from names and shapes alone.

A **group** is a vector inside the model: the rows that make it and the columns that read it. For any positive s
of as many channels, dividing the one and multiplying the other leaves what the model does:

    rows     w_j / s_j, b_j / s_j; the bias of an adaLN scale, which acts as 1 + b: b_j / s_j + (1 / s_j - 1)
    columns  w_:j * s_j

(The adaLN form is the offline re-parameterisation of PTQ4DiT, Wu et al. 2024.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from service.domain.architectures import (
    FAMILIES,
    Affine,
    Carried,
    Family,
    Modulated,
    Part,
    Unfolded,
)

Shapes = Mapping[str, tuple[int, ...]]
NO_MAP: Final = "no map of this architecture says what makes its input"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows [start, start + channels) of a matrix, or elements of a vector, that are divided by s.

    plus_one  it acts as 1 + b
    """

    tensor: str
    start: int = 0
    plus_one: bool = False


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns from `start` on that are multiplied by s.

    heads     how many heads read each channel: columns are as many times the channels
    head_dim  channels of a head; 0 where heads is 1
    """

    tensor: str
    start: int = 0
    heads: int = 1
    head_dim: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """One vector: `kind` is affine, modulated or carried; `name` that of what makes it."""

    name: str
    family: str
    kind: str
    channels: int
    rows: tuple[Rows, ...]
    columns: tuple[Columns, ...]


@dataclass(frozen=True, slots=True)
class Folds:
    """What was found. `explicit`: matrices whose input cannot be scaled by weights before it, and why; a
    factor for their columns has to be stored and the input divided while the model runs."""

    groups: tuple[Group, ...]
    explicit: Mapping[str, str] = field(default_factory=dict)

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(group.family for group in self.groups))


def find(shapes: Shapes, *, head_dim: int | None = None, model_class: str | None = None) -> Folds:
    """The groups of a model.

    shapes       of every tensor that can be rewritten, by name
    head_dim     channels of an attention head, for grouped-query attention; None: not known, nothing is folded
                 through it
    model_class  what the model's configuration calls it; None: it does not say, names decide
    """
    groups: list[Group] = []
    reasons: dict[str, str] = {}
    known: set[str] = set()
    for family in FAMILIES:
        if model_class is not None and model_class.lower() not in family.classes:
            continue
        for block in _blocks(family, shapes):
            if block and block in known:
                continue
            known.add(block)
            prefix = f"{block}." if block else ""
            for part in family.parts:
                if isinstance(part, Unfolded):
                    reasons |= {f"{prefix}{n.rstrip('?')}.weight": part.why for n in part.to}
                else:
                    groups += _group(part, prefix, family, shapes, head_dim)
    groups = _without_overlaps(groups)
    read = {columns.tensor for group in groups for columns in group.columns}
    explicit = {
        name: reasons.get(name, NO_MAP)
        for name, shape in shapes.items()
        if len(shape) >= 2 and name not in read
    }
    return Folds(tuple(groups), explicit)


def _blocks(family: Family, shapes: Shapes) -> Iterator[str]:
    """Names of the blocks that are of this family."""
    if not family.block:
        blocks = [""]
    else:
        pattern = re.compile(rf"({family.block})\.")
        blocks = list(dict.fromkeys(m[1] for name in shapes if (m := pattern.match(name))))
    owned: dict[str, list[str]] = {}
    if family.never and blocks:
        pattern = re.compile(rf"({family.block})\.")
        for name in shapes:
            if match := pattern.match(name):
                owned.setdefault(match[1], []).append(name[match.end() :])
    for block in blocks:
        prefix = f"{block}." if block else ""
        has = all(prefix + name in shapes for name in family.needs)
        barred = any(
            name == never or name.startswith(f"{never}.")
            for name in owned.get(block, ())
            for never in family.never
        )
        if has and not barred:
            yield block


def _group(
    part: Affine | Modulated | Carried,
    prefix: str,
    family: Family,
    shapes: Shapes,
    head_dim: int | None,
) -> list[Group]:
    """The group that a part of a map is in this block; none where something is missing or does not fit."""
    readers = _present(part.to, prefix, shapes)
    if not readers:
        return []
    if isinstance(part, Affine):
        made = _affine(part, prefix, shapes)
    elif isinstance(part, Modulated):
        made = _modulated(part, prefix, shapes, _cols(shapes[readers[0]]))
    else:
        made = _carried(part, prefix, shapes)
    if made is None:
        return []
    name, channels, rows = made
    columns = [_columns(part, reader, shapes, channels, head_dim) for reader in readers]
    fitting = tuple(found for found in columns if found is not None)
    if len(fitting) < len(columns):
        return []
    kind = type(part).__name__.lower()
    return [Group(f"{prefix}{name}", family.name, kind, channels, rows, fitting)]


def _present(names: tuple[str, ...], prefix: str, shapes: Shapes) -> list[str]:
    """The weights of modules; none if one is missing that must not be."""
    found = []
    for name in names:
        weight = f"{prefix}{name.rstrip('?')}.weight"
        if weight in shapes and len(shapes[weight]) >= 2:
            found.append(weight)
        elif not name.endswith("?"):
            return []
    return found


_Made = tuple[str, int, tuple[Rows, ...]] | None


def _affine(part: Affine, prefix: str, shapes: Shapes) -> _Made:
    names = [f"{prefix}{part.norm}.{what}" for what in ("weight", "bias")]
    rows = tuple(Rows(name) for name in names if name in shapes)
    sizes = {shapes[each.tensor] for each in rows}
    if names[0] not in shapes or len(sizes) != 1 or len(shapes[names[0]]) != 1:
        return None
    return part.norm, shapes[names[0]][0], rows


def _modulated(part: Modulated, prefix: str, shapes: Shapes, channels: int) -> _Made:
    weight, bias = f"{prefix}{part.linear}.weight", f"{prefix}{part.linear}.bias"
    # Without a bias there is nowhere to put 1 / s - 1.
    if weight not in shapes or shapes.get(bias) != (part.chunks * channels,):
        return None
    if shapes[weight][0] != part.chunks * channels:
        return None
    shift, scale = part.shift * channels, part.scale * channels
    rows = (
        Rows(weight, shift), Rows(bias, shift), Rows(weight, scale), Rows(bias, scale, plus_one=True),
    )  # fmt: skip
    return f"{part.linear}[{part.shift},{part.scale}]", channels, rows


def _carried(part: Carried, prefix: str, shapes: Shapes) -> _Made:
    makers = _present(part.by, prefix, shapes)
    number, parts = part.rows
    sizes = {shapes[name][0] for name in makers}
    if not makers or len(sizes) != 1 or min(sizes) % parts:
        return None
    channels = min(sizes) // parts
    rows = [Rows(name, number * channels) for name in makers]
    for name in makers:
        bias = name.removesuffix("weight") + "bias"
        if bias in shapes:
            if shapes[bias] != (parts * channels,):
                return None
            rows.append(Rows(bias, number * channels))
    return ",".join(part.by), channels, tuple(rows)


def _columns(
    part: Part, reader: str, shapes: Shapes, channels: int, head_dim: int | None
) -> Columns | None:
    cols = _cols(shapes[reader])
    if cols == channels or (isinstance(part, Carried) and part.first and cols > channels):
        return Columns(reader)
    grouped = isinstance(part, Carried) and part.grouped
    if grouped and head_dim and cols % channels == 0 and channels % head_dim == 0:
        return Columns(reader, 0, cols // channels, head_dim)
    return None


def _cols(shape: tuple[int, ...]) -> int:
    """Input channels, of convolutions of one element too; others fit no group."""
    cols = 1
    for size in shape[1:]:
        cols *= size
    return cols


def _without_overlaps(groups: list[Group]) -> list[Group]:
    """Each row and each column belongs to one group: a later one that wants it too is left out."""
    taken: set[tuple[str, str, int]] = set()
    kept = []
    for group in groups:
        wanted = {("rows", rows.tensor, rows.start) for rows in group.rows}
        wanted |= {("columns", columns.tensor, columns.start) for columns in group.columns}
        if not wanted & taken:
            taken |= wanted
            kept.append(group)
    return kept
