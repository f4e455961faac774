"""What is planned: every byte once, cut the same way everywhere, as large as announced."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import rules as planning
from service.domain.catalog import Catalog, ObjectInfo, SourceTensor
from service.domain.errors import ArrowQuantError
from service.domain.plan import Plan, make_plan
from service.domain.profiles import Action
from service.domain.safetensors import DTYPE_BITS
from service.domain.spec import MAX_PATTERN_CHARS, Recipe, Rule, resolve
from service.domain.units import (
    MAX_UNIT_BYTES,
    MIN_UNIT_BYTES,
    TILE_BYTES,
    rows_per_tile,
    unit_bytes,
)

MIB = 2**20


def catalog_of(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], ties: dict[str, str] | None = None
) -> Catalog:
    position, sources = 1000, []
    for name, dtype, shape in tensors:
        nbytes = math.prod(shape) * DTYPE_BITS[dtype] // 8
        sources.append(SourceTensor(name, 0, dtype, shape, position, nbytes))
        position += nbytes
    info = ObjectInfo("m/model.safetensors", position, "etag")
    return Catalog((info,), tuple(sources), ties or {})


def plan_of(*tensors: tuple[str, str, tuple[int, ...]], **recipe: Any) -> Plan:
    return make_plan(catalog_of(tensors), resolve(Recipe.model_validate(recipe)))


def linear(rows: int, cols: int, name: str = "layer.weight") -> tuple[str, str, tuple[int, ...]]:
    return name, "BF16", (rows, cols)


# -- what becomes of each tensor -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "why"),
    [
        ("layer.weight", "I64", (64, 64), "dtype I64"),
        ("layer.weight", "F8_E4M3", (64, 64), "dtype F8_E4M3"),
        ("layer.weight", "F64", (64, 64), "dtype F64"),
        ("layer.weight", "F32", (0, 64), "no elements"),
        ("layer.weight", "F32", (64, 0), "no elements"),
        ("layer.weight", "F32", (), "one-dimensional"),
        ("layer.bias", "F32", (4096,), "one-dimensional"),
        ("layer.weight", "F32", (16, 16), "256 elements"),
        ("layer.weight", "F32", (1, 64 * MIB), "one row has"),
        ("embeddings.position_embeddings.weight", "F32", (512, 384), "position embedding"),
    ],
)
def test_what_is_kept_and_why(name: str, dtype: str, shape: tuple[int, ...], why: str) -> None:
    (tensor,) = plan_of((name, dtype, shape)).tensors
    assert tensor.treatment.action is Action.KEEP
    assert why in tensor.treatment.reason
    assert tensor.treatment.codec == "raw"


@pytest.mark.parametrize(
    ("name", "recipe", "bits"),
    [
        ("layer.weight", {"bits": 2}, 2),
        ("layer.weight", {"profile": "edge"}, 2),
        ("layer.weight", {}, 4),
        ("lm_head.weight", {"bits": 2}, 8),
        ("model.embed_tokens.weight", {"bits": 2}, 4),
        ("model.embed_tokens.weight", {"bits": 8}, 8),
        ("lm_head.weight", {"bits": 2, "rules": [{"match": "lm_head.*", "bits": 2}]}, 2),
        ("lm_head.weight", {"bits": 2, "rules": [{"match": "*", "symmetric": True}]}, 8),
    ],
)
def test_widths(name: str, recipe: dict[str, Any], bits: int) -> None:
    (tensor,) = plan_of((name, "F16", (128, 128)), **recipe).tensors
    assert (tensor.treatment.action, tensor.treatment.bits) == (Action.QUANTIZE, bits)
    assert tensor.treatment.reason


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        {"match": "re:b\\d", "action": "keep"},
        {"match": "b*", "bits": 8, "group_size": 32, "method": "minmax"},
        {"match": "*", "bits": 3},
    ]
    plan = plan_of(linear(64, 64, "b1"), linear(64, 64, "bx"), linear(64, 64, "c"), rules=rules)
    kept, eight, three = (tensor.treatment for tensor in plan.tensors)
    assert kept.action is Action.KEEP
    assert (eight.bits, eight.group_size, eight.method) == (8, 32, "minmax")
    assert (three.bits, three.group_size, three.method) == (3, 32, "superblock")


def test_what_is_the_default_of_the_recipe_s_width_is_that_of_others_where_they_are_taken() -> None:
    rules = [{"match": "*", "bits": 4}]
    for fields, told in (
        ({}, (32, 6)),
        ({"scale_bits": 6}, (32, 6)),
        ({"group_size": 32}, (32, 6)),
    ):
        [tensor] = plan_of(linear(64, 64), bits=2, rules=rules, **fields).tensors
        assert (tensor.treatment.group_size, tensor.treatment.scale_bits) == told
        wider = replace(tensor.treatment, bits=2, group_size=16, scale_bits=4).at_width(4)
        assert (wider.group_size, wider.scale_bits) == (32, 6)
        assert wider.at_width(8).method == "lsq"


def test_a_rule_quantizes_what_is_kept_by_default_but_not_what_must_be() -> None:
    rules = [{"match": "*", "action": "quantize", "bits": 4}]
    plan = plan_of(
        ("pos_embed", "F32", (1, 64, 64)), ("x", "F32", (8, 8)), ("norm.weight", "F32", (64,)),
        rules=rules,
    )  # fmt: skip
    actions = [tensor.treatment.action for tensor in plan.tensors]
    assert actions == [Action.QUANTIZE, Action.QUANTIZE, Action.KEEP]


def test_a_rule_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ArrowQuantError) as caught:
        plan_of(linear(64, 64), rules=[{"match": "*"}, {"match": "blocks.*.attn.*", "bits": 2}])
    assert caught.value.code == "rule_matched_nothing"
    assert caught.value.where == {"pointer": "/recipe/rules/1/match"}


def test_a_rule_behind_another_still_counts_as_matching() -> None:
    rules = [{"match": "layer.*", "bits": 8}, {"match": "*", "bits": 2}]
    assert plan_of(linear(64, 64), rules=rules).tensors[0].treatment.bits == 8


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("blocks.*.attn.*", "blocks.11.attn.qkv.weight", "xblocks.1.attn.q"),
        ("*.attn*.to_?.weight", "a.b.attn1.to_q.weight", "a.attn.to_qk.weight"),
        ("layer[0-3].w", "layer2.w", "layer4.w"),
        ("layer[!0-3].w", "layer4.w", "layer2.w"),
        ("a.b", "a.b", "axb"),
        ("(a|b)+$^{1}", "(a|b)+$^{1}", "a"),
        ("a[^b]c", "a^c", "axc"),
        ("a[b", "a[b", "ab"),
        ("re:a.*\\d{2}模", "ab12模", "ab1模"),
        ("a\\*", "a\\b", "ab"),
        ("*模型*", "x模型y", "x"),
    ],
)
def test_globs(glob: str, yes: str, no: str) -> None:
    matcher = planning.Matcher(0, Rule(match=glob))
    assert matcher.matches(yes)
    assert not matcher.matches(no)
    assert not matcher.matches(yes + "\n") or glob.endswith("*")


@given(
    st.text("ab*?.[]!-^\\", min_size=1, max_size=8), st.text("ab.[]!-^\\*?", max_size=8)
)  # fmt: skip
def test_globs_match_as_in_a_shell(glob: str, name: str) -> None:
    assert planning.Matcher(0, Rule(match=glob)).matches(name) == fnmatchcase(name, glob)


@pytest.mark.parametrize(
    "pattern",
    ["re:(", "re:(?=a)", "re:(a)\\1", "re:a{1001}", "re:((a{100}){100}){100}", "re:\\ud800"],
)  # fmt: skip
def test_patterns_that_are_refused(pattern: str, capfd: pytest.CaptureFixture[str]) -> None:
    rule = Rule.model_construct(match=pattern.replace("\\ud800", "\ud800"))
    with pytest.raises(ArrowQuantError) as caught:
        planning.Matcher(3, rule)
    assert caught.value.code == "invalid_spec"
    assert caught.value.where == {"pointer": "/recipe/rules/3/match"}
    assert capfd.readouterr().err == ""


def test_hostile_patterns_take_linear_time() -> None:
    rules = [{"match": "re:" + "(a*)*" * 50 + "b|.*"}, {"match": ("*a" * MAX_PATTERN_CHARS)[:500]}]
    started = time.perf_counter()
    plan_of(linear(64, 64, "a" * 1000), rules=rules)
    assert time.perf_counter() - started < 2


def test_many_rules_on_many_tensors_stay_quick() -> None:
    tensors = [linear(64, 64, f"blocks.{n}.weight") for n in range(10_000)]
    rules = [{"match": f"blocks.{n}.*", "bits": 2} for n in range(255)] + [
        {"match": "*", "bits": 4}
    ]
    started = time.perf_counter()
    plan = plan_of(*tensors, rules=rules)
    assert time.perf_counter() - started < 10
    assert sum(tensor.treatment.bits == 2 for tensor in plan.tensors) == 255


def test_ties_take_the_treatment_that_needs_most_care() -> None:
    tensors = [linear(256, 64, "model.embed_tokens.weight"), linear(256, 64, "lm_head.weight")]
    ties = {"lm_head.weight": "model.embed_tokens.weight"}
    plan = make_plan(catalog_of(tensors, ties), resolve(Recipe(bits=2)))
    first, second = plan.tensors
    assert first.tied_to is None
    assert second.tied_to == first.name
    assert first.treatment.bits == second.treatment.bits == 8
    assert "lm_head.weight" in first.treatment.reason
    assert [piece.tensor for unit in plan.units for piece in unit.pieces] == [0]

    keep = Recipe.model_validate({"rules": [{"match": "lm_head*", "action": "keep"}]})
    first, second = make_plan(catalog_of(tensors, ties), resolve(keep)).tensors
    assert first.treatment.action is second.treatment.action is Action.KEEP
    assert (first.rows, first.cols) == (second.rows, second.cols)


def test_levels() -> None:
    (tensor,) = plan_of(linear(1000, 1000), bits=2).tensors
    higher = tensor.at_level(8)
    assert (higher.treatment.bits, higher.rows) == (8, 1000)
    raw = tensor.at_level(None)
    assert raw.treatment.codec == "raw"
    assert raw.tile_sizes(10).payload == 10 * 2000
    assert rows_per_tile(raw) == rows_per_tile(tensor)


# -- how it is cut ---------------------------------------------------------------------------------


def naive_payload(plan: Plan) -> int:
    """Payload counted row by row and group by group, from the definition."""
    total = 0
    for tensor in plan.tensors:
        how = tensor.treatment
        if tensor.tied_to:
            continue
        if how.action is Action.KEEP:
            total += tensor.source.nbytes
            continue
        size = how.group_size or tensor.cols
        groups = len(range(0, tensor.cols, size))
        if how.codec == "superblock":
            blocks = len(range(0, tensor.cols, 256))
            codes = math.ceil(tensor.cols * how.bits / 8)
            scale_codes = math.ceil(groups * how.scale_bits / 8)
            total += tensor.rows * (codes + 2 * scale_codes + 4 * blocks)
            continue
        if how.codec == "trellis":
            whole = {2: 4, 3: 8, 4: 2}[how.bits]
            codes = math.ceil(max(tensor.cols, 12 / how.bits) / whole) * whole
            total += tensor.rows * (codes * how.bits // 8 + 2)
            continue
        if how.codec == "codebook":
            row = math.ceil(tensor.cols * how.bits / 8) + 2 * groups
            tiles = math.ceil(tensor.rows / rows_per_tile(tensor))
            total += tensor.rows * row + tiles * 4 * 2**how.bits
            continue
        pair = 2 if how.symmetric else 4
        row = math.ceil(tensor.cols * how.bits / 8) + (0 if how.per_tensor else pair * groups)
        total += tensor.rows * row
        if how.per_tensor:
            total += pair * math.ceil(tensor.rows / rows_per_tile(tensor))
    return total


def check_invariants(plan: Plan) -> None:
    covered: dict[int, list[tuple[int, int]]] = {}
    for seq, unit in enumerate(plan.units):
        assert unit.seq == seq
        assert unit.pieces
        tiles = list(plan.tiles(unit))
        for tile in tiles:
            tensor = plan.tensors[tile.tensor]
            assert tile.row_start == tile.tile_index * rows_per_tile(tensor)
            assert tile.rows * tensor.row_bytes <= max(TILE_BYTES, tensor.row_bytes)
            covered.setdefault(tile.tensor, []).append((tile.row_start, tile.rows))
        held = sum(tile.rows * plan.tensors[tile.tensor].row_bytes for tile in tiles)
        assert held == unit.source_bytes
        assert held <= MAX_UNIT_BYTES or len(unit.pieces) == 1
    stored = [tensor for tensor in plan.tensors if tensor.tied_to is None]
    assert sorted(covered) == [tensor.index for tensor in stored]
    for tensor in stored:
        position = 0
        for start, rows in covered[tensor.index]:
            assert start == position
            assert rows > 0 or tensor.rows == 0
            position += rows
        assert position == tensor.rows
        assert tensor.rows * tensor.row_bytes == tensor.source.nbytes
    assert plan.payload_bytes() == naive_payload(plan)


_NAMES = [
    "layer.weight",
    "norm.weight",
    "lm_head.weight",
    "embed.weight",
    "x.bias",
    "conv",
    "pos_embed",
]
_DIMS = st.sampled_from([0, 1, 2, 3, 5, 7, 16, 31, 64, 65, 100, 127, 128, 129, 513])
_SHAPES = st.lists(_DIMS, max_size=3).map(tuple) | st.sampled_from(
    [(64, 32, 3, 3), (8, 4, 3, 3, 3), (16, 8, 1, 1), (3000, 4097), (5, 3_000_001), (7, 512, 33)]
)


@st.composite
def sources(draw: st.DrawFn) -> Catalog:
    tensors = []
    for number in range(draw(st.integers(1, 7))):
        dtype = draw(st.sampled_from(["F32", "F16", "BF16", "BF16", "I8", "F64", "F4", "F6_E2M3"]))
        shape = draw(_SHAPES)
        if math.prod(shape) * DTYPE_BITS[dtype] % 8:
            shape = (*shape, 8)
        tensors.append((f"b{number}.{draw(st.sampled_from(_NAMES))}", dtype, shape))
    ties = {}
    if draw(st.booleans()):
        tensors.append(("tied.weight", tensors[0][1], tensors[0][2]))
        ties["tied.weight"] = tensors[0][0]
    return catalog_of(tensors, ties)


RECIPES: st.SearchStrategy[dict[str, Any]] = (
    st.builds(
        dict,
        bits=st.sampled_from([2, 3, 4, 8]),
        granularity=st.sampled_from(["group", "row"]),
        symmetric=st.booleans(),
    )
    | st.builds(
        dict,
        bits=st.sampled_from([2, 3, 4]),
        method=st.sampled_from(["superblock", "trellis", "codebook"]),
        rotation=st.sampled_from(["none", "hadamard"]),
    )
    | st.just({"granularity": "tensor", "method": "minmax", "bits": 8})
)


@given(sources(), RECIPES)
def test_plans_hold_what_they_promise(catalog: Catalog, recipe: dict[str, Any]) -> None:
    resolved = resolve(Recipe.model_validate(recipe))
    plan = make_plan(catalog, resolved)
    check_invariants(plan)
    assert make_plan(catalog, resolved) == plan


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 40_000), st.integers(1, 9000)), min_size=1, max_size=8),
    st.sampled_from([2, 4, 8]),
)
def test_large_plans_are_cut_at_tile_borders(shapes: list[tuple[int, int]], bits: int) -> None:
    catalog = catalog_of([linear(r, c, f"layers.{n}.w") for n, (r, c) in enumerate(shapes)])
    plan = make_plan(catalog, resolve(Recipe.model_validate({"bits": bits})))
    check_invariants(plan)
    target = unit_bytes(catalog.nbytes)
    assert all(unit.source_bytes <= max(target, TILE_BYTES) for unit in plan.units)


def test_a_model_of_seven_billion_is_cut_evenly_and_quickly() -> None:
    layers = [
        linear(rows, 3584, f"model.layers.{n}.{name}.weight")
        for n in range(28)
        for name, rows in (("q", 3584), ("k", 512), ("v", 512), ("o", 3584), ("up", 18944), ("gate", 18944))
    ]  # fmt: skip
    layers += [linear(3584, 18944, f"model.layers.{n}.down.weight") for n in range(28)]
    plan = plan_of(linear(152_064, 3584, "model.embed_tokens.weight"), *layers)
    check_invariants(plan)
    assert 50 <= len(plan.units) <= 100
    assert max(unit.source_bytes for unit in plan.units) <= MAX_UNIT_BYTES


def test_the_size_of_units() -> None:
    assert unit_bytes(0) == MIN_UNIT_BYTES
    assert unit_bytes(10**15) == MAX_UNIT_BYTES
    assert MIN_UNIT_BYTES < unit_bytes(10**9) < MAX_UNIT_BYTES


def test_partial_groups_count_as_groups() -> None:
    plan = plan_of(linear(8, 129), granularity="group", group_size=128, bits=4)
    assert plan.payload_bytes() == 8 * (65 + 2 * 2 * 2)


def test_convolutions_are_rows_of_outputs() -> None:
    plan = plan_of(("conv.weight", "F16", (8, 16, 3, 3)), group_size=64, bits=2)
    (tensor,) = plan.tensors
    assert (tensor.rows, tensor.cols) == (8, 144)
    assert plan.payload_bytes() == 8 * (36 + 3 * 4)
