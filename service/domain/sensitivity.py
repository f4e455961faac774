"""How much a tensor's relative error costs the model: one constant for each, a prior from its role,
its place in the block and its depth.

The loss of an allocation is  sum_l a_l * t_l  with t_l = |W - W'|^2 / |W|^2: to first order the
model's own loss grows so, with one constant per layer (the linearity theorem of HIGGS,
arXiv:2411.17525). t_l is relative to a layer's number of weights and to their energy already. What
a_l is only a measurement of the model can tell; without one these priors stand in. They are round
numbers that say what the literature agrees on (outputs of a block's branches and values cost more
than queries, keys and gates; ends of the stack more than its middle; what conditions every step most)
and are fitted to no model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from service.domain.profiles import Bits, Role

ROLE_PRIORS: Final[Mapping[Role, float]] = {
    Role.EMBEDDING: 2.0,
    Role.TIME_EMBEDDER: 4.0,
    Role.PATCH_EMBEDDER: 8.0,
    Role.ADALN: 4.0,
    Role.FINAL_LAYER: 8.0,
}
# Under a budget roles are protected by their priors; these widths none of them goes below.
BUDGET_FLOORS: Final[Mapping[Role, Bits]] = {
    Role.EMBEDDING: 3,
    Role.TIME_EMBEDDER: 4,
    Role.PATCH_EMBEDDER: 4,
    Role.ADALN: 3,
    Role.FINAL_LAYER: 4,
}
WRITES_PRIOR: Final = 2.0  # what writes to the residual stream, and values, which pass through
ENDS_PRIOR: Final = 2.0  # the first and the last block of a stack

_WRITES: Final = re.compile(
    r"(^|[._])(v|o|value|out|down)_?proj|(^|[._])to_(v|out|add_out)\b|(^|\.)to_out\.|add_v_proj|(^|\.)wo\.|(^|\.)w2\."
    r"|(^|\.)(fc2|c_proj|dense_4h_to_h|ff_out|out_proj|proj_out|linear2)\.|ff(_context)?\.net\.2\.|(attn|attention)\.proj\."
    r"|(mlp|ffn?)\.(2|down|out)\b|attention\.self\.value\.|output\.dense\.",
    re.IGNORECASE,
)  # fmt: skip
_BLOCK: Final = re.compile(r"^(?P<stack>[^0-9]*?[._])(?P<number>[0-9]{1,4})[._]")


def priors(tensors: Sequence[tuple[str, Role]]) -> list[float]:
    """a_l of each tensor, from all names and roles of the model."""
    last = _ends(name for name, _ in tensors)
    return [_prior(name, role, last) for name, role in tensors]


def sensitivities(
    tensors: Sequence[tuple[str, Role]], measured: Mapping[str, float]
) -> list[float]:
    """a_l of each tensor: measured where it was, else its prior, in the units of what was measured
    (by the geometric mean of measured over prior)."""
    guessed = priors(tensors)
    pairs = [
        (measured[name], prior)
        for (name, _), prior in zip(tensors, guessed, strict=True)
        if name in measured
    ]
    if not pairs:
        return guessed
    unit = math.exp(math.fsum(math.log(a / prior) for a, prior in pairs) / len(pairs))
    return [
        measured.get(name, prior * unit) for (name, _), prior in zip(tensors, guessed, strict=True)
    ]


def _prior(name: str, role: Role, last: Mapping[str, int]) -> float:
    if role in ROLE_PRIORS:
        return ROLE_PRIORS[role]
    prior = WRITES_PRIOR if _WRITES.search(name) else 1.0
    block = _BLOCK.match(name)
    if block is not None and int(block["number"]) in (0, last[block["stack"]]):
        prior *= ENDS_PRIOR
    return prior


def _ends(names: Iterable[str]) -> dict[str, int]:
    """The highest number in each stack of blocks."""
    last: dict[str, int] = {}
    for name in names:
        block = _BLOCK.match(name)
        if block is not None:
            last[block["stack"]] = max(last.get(block["stack"], 0), int(block["number"]))
    return last
