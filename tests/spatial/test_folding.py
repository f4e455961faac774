"""Folding changes weights and nothing that a model does: every family, block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.domain import architectures
from service.domain.folding import Folds, find
from tests.spatial.blocks import BLOCKS, DIT, DREAM, LLADA, PIXART, SINGLE, UNET, Block
from tests.spatial.layers import HEADS
from workers.spatial.apply import Changes

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}
every = pytest.mark.parametrize("name", BLOCKS)


def found(block: Block) -> Folds:
    return find(block.shapes, head_dim=block.head_dim)


def folded(block: Block, tensors: dict[str, Any], folds: Folds, seed: int = 1) -> dict[str, Any]:
    """Every group folded by random scales between an eighth and eight."""
    rng = np.random.default_rng(seed)
    changes = Changes({n: (s[0], int(np.prod(s[1:], dtype=int))) for n, s in block.shapes.items()})
    for group in folds.groups:
        changes.fold(group, np.exp2(rng.uniform(-3, 3, group.channels)))
    result = dict(tensors)
    for name, change in changes.by_name.items():
        w = tensors[name]
        matrix = w.reshape(len(w), -1).astype(np.float64)
        result[name] = change.apply(matrix).reshape(w.shape).astype(w.dtype)
    return result


def distance(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> float:
    return max(float(np.abs(x - y).max() / np.abs(x).max()) for x, y in zip(a, b, strict=True))


@every
def test_the_map_finds_the_groups(name: str) -> None:
    block = BLOCKS[name]
    folds = found(block)
    assert sorted(group.name for group in folds.groups) == sorted(block.folds)
    read = {columns.tensor for group in folds.groups for columns in group.columns}
    matrices = {n for n, shape in block.shapes.items() if len(shape) > 1}
    assert read | folds.explicit.keys() == matrices
    assert not read & folds.explicit.keys()


@every
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_folded_block_does_the_same(name: str, dtype: Any) -> None:
    block = BLOCKS[name]
    tensors = block.tensors(dtype)
    changed = folded(block, tensors, found(block))
    before, after = block.run(tensors), block.run(changed)
    assert all(out.dtype == dtype for out in after)
    assert distance(before, after) < TOLERANCE[dtype]
    for group in found(block).groups:
        for part in (*group.rows, *group.columns):
            assert not np.allclose(tensors[part.tensor], changed[part.tensor])


@every
def test_every_part_of_a_group_is_needed(name: str) -> None:
    """Leaving out any rows or columns changes the output: the test above can fail."""
    block = BLOCKS[name]
    tensors, folds = block.tensors(np.float64), found(block)
    before = block.run(tensors)
    for group in folds.groups:
        partial = [
            replace(group, rows=group.rows[:n] + group.rows[n + 1 :])
            for n in range(len(group.rows))
        ]
        partial += [
            replace(group, columns=group.columns[:n] + group.columns[n + 1 :])
            for n, columns in enumerate(group.columns)
            # What the text asks in SD3's last block is dropped.
            if (name, columns.tensor.rsplit(".", 2)[-2]) != ("SD3, last", "add_q_proj")
        ]
        for broken in partial:
            after = block.run(folded(block, tensors, Folds((broken,))))
            assert distance(before, after) > 1e-3, broken


@pytest.mark.parametrize("name", ["DiT", "DiT, fused", "SD3 and FLUX, joint", "FLUX, single"])
def test_the_scale_of_a_modulation_acts_as_one_more(name: str) -> None:
    block = BLOCKS[name]
    tensors = block.tensors(np.float64)
    for group in found(block).groups:
        if group.kind != "modulated":
            continue
        assert [rows.plus_one for rows in group.rows] == [False, False, False, True]
        plain = replace(group, rows=tuple(replace(r, plus_one=False) for r in group.rows))
        swapped = replace(
            group,
            rows=tuple(
                replace(r, plus_one="bias" in r.tensor and not r.plus_one) for r in group.rows
            ),
        )
        for wrong in (plain, swapped):
            after = block.run(folded(block, tensors, Folds((wrong,))))
            assert distance(block.run(tensors), after) > 1e-3


def test_values_are_tied_over_the_heads_that_share_them() -> None:
    folds = found(DREAM)
    (group,) = [g for g in folds.groups if g.name.endswith("v_proj")]
    assert (group.columns[0].heads, group.columns[0].head_dim) == (2, 16 // HEADS)
    # In the order of a plain repetition, or not knowing the size of heads, it would be wrong.
    unknown = find(DREAM.shapes)
    assert unknown.explicit["model.layers.27.self_attn.o_proj.weight"]
    tensors = DREAM.tensors(np.float64)
    wrong = replace(group, columns=(replace(group.columns[0], head_dim=1),))
    after = DREAM.run(folded(DREAM, tensors, Folds((wrong,))))
    assert distance(DREAM.run(tensors), after) > 1e-3
    assert [g.name for g in find(LLADA.shapes).groups] == list(LLADA.folds)


def test_pixart_has_explicit_factors_where_the_modulation_is_shared() -> None:
    folds = found(PIXART)
    for layer in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "ff.net.0.proj"):
        reason = folds.explicit[f"transformer_blocks.11.{layer}.weight"]
        assert reason == architectures.SHARED


def test_what_is_between_layers_that_cannot_be_folded() -> None:
    gelu = found(DIT).explicit["transformer_blocks.3.ff.net.2.weight"]
    assert gelu == architectures.GELU
    text = found(UNET).explicit
    prefix = "down_blocks.1.attentions.0.transformer_blocks.0"
    assert text[f"{prefix}.attn2.to_k.weight"] == architectures.ENCODED


def test_only_the_half_of_attention_is_folded_in_flux() -> None:
    group = found(SINGLE).groups[-1]
    assert (group.channels, group.columns[0].start) == (16, 0)


def test_what_no_map_knows_is_explicit() -> None:
    folds = find({"encoder.1.fc.weight": (8, 8), "encoder.1.fc.bias": (8,)})
    assert not folds.groups
    assert folds.explicit == {
        "encoder.1.fc.weight": "no map of this architecture says what makes its input"
    }


@pytest.mark.parametrize(
    ("added", "why"),
    [
        ("mlp.gate.weight", "a router reads the norm too"),
        ("mlp.experts.0.up_proj.weight", "experts do"),
        ("pre_feedforward_layernorm.weight", "norms after attention feed something else"),
    ],
)
def test_a_block_that_has_more_is_another(added: str, why: str) -> None:
    assert not find(DREAM.shapes | {f"model.layers.27.{added}": (4, 16)}, head_dim=4).groups, why


def test_a_block_that_has_less_is_another() -> None:
    """Where one norm feeds attention and feed-forward, it cannot be divided for one of them."""
    gone = "model.layers.27.post_attention_layernorm.weight"
    assert not find({n: s for n, s in DREAM.shapes.items() if n != gone}, head_dim=4).groups
    no_k = {n: s for n, s in DREAM.shapes.items() if "k_proj" not in n}
    names = {g.name for g in find(no_k, head_dim=4).groups}
    assert "model.layers.27.input_layernorm" not in names
    no_bias = {n: s for n, s in DIT.shapes.items() if n != "transformer_blocks.3.norm1.linear.bias"}
    assert "transformer_blocks.3.norm1.linear[0,1]" not in {g.name for g in find(no_bias).groups}


def test_the_configuration_has_the_last_word() -> None:
    assert find(DREAM.shapes, head_dim=4, model_class="Dream").groups
    assert not find(DREAM.shapes, head_dim=4, model_class="gemma").groups  # its norms act as 1 + w
    assert not find(DIT.shapes, model_class="AnimateDiff").groups
