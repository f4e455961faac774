"""Recipes with several outputs: what each means, and where one read cannot serve all."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from service.domain.catalog import Catalog, ObjectInfo, SourceTensor
from service.domain.errors import ArrowQuantError
from service.domain.outputs import from_json, output_ids, plan_outputs, resolve_outputs, to_json
from service.domain.plan import make_plan
from service.domain.spec import Recipe, resolve


def _recipe(*outputs: dict[str, Any], **fields: Any) -> Recipe:
    return Recipe.model_validate(fields | {"outputs": list(outputs)})


def _catalog(*shapes: tuple[int, ...]) -> Catalog:
    start, tensors = 8, []
    for number, shape in enumerate(shapes):
        size = 2
        for dim in shape:
            size *= dim
        tensors.append(SourceTensor(f"blocks.{number}.w", 0, "BF16", shape, start, size))
        start += size
    return Catalog((ObjectInfo("m.safetensors", start, "e"),), tuple(tensors))


def test_ids_are_the_widths_unless_given() -> None:
    recipe = _recipe({"bits": 8}, {"id": "tiny", "bits": 2}, {}, {"profile": "edge"})
    assert list(recipe.each()) == ["int8", "tiny", "int4", "int2"]
    assert list(Recipe().each()) == [""]


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ([{"bits": 4}, {}], "another 'int4'"),
        ([{"id": "a"}, {"id": "a"}], "another 'a'"),
        ([{"granularity": "tensor"}], "outputs 0: .*granularity .* not 'tensor'"),
        ([{"bits": 8}, {"method": "minmax", "unbias": 1}], "outputs 1: unbias"),
        ([{"granularity": "row", "group_size": 64}], "group_size only goes"),
        ([{"bits": 5}], "2, 3, 4 or 8"),
        ([{"id": "../x"}], "pattern"),
        ([{"id": ""}], "pattern"),
        ([{"outputs": []}], "not permitted"),
        ([{"id": f"o{n}"} for n in range(9)], "at most 8"),
    ],
)
def test_what_cannot_be_is_refused(outputs: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        _recipe(*outputs)


def test_an_output_overrides_and_null_takes_back() -> None:
    recipe = _recipe(
        {"id": "rows", "granularity": "row", "group_size": None},
        {"id": "wide", "bits": 8, "symmetric": True},
        bits=4,
        group_size=64,
        rules=[{"match": "*", "bits": 3}],
    )
    rows, wide = recipe.each().values()
    assert rows == Recipe.model_validate({"bits": 4, "granularity": "row", "rules": recipe.rules})
    assert (wide.bits, wide.group_size, wide.symmetric) == (8, 64, True)
    assert wide.rules == recipe.rules
    assert not wide.outputs


def test_the_ledger_keeps_every_resolved_recipe() -> None:
    single, several = resolve_outputs(Recipe(bits=2)), resolve_outputs(_recipe({"bits": 2}, {}))
    assert to_json(single) == {"recipe": resolve(Recipe(bits=2)).model_dump(mode="json")}
    for outputs in (single, several):
        assert from_json(to_json(outputs)) == outputs
    assert output_ids(to_json(single)) == [""]
    assert output_ids(to_json(several)) == ["int2", "int4"]


def test_every_output_is_planned_as_if_alone() -> None:
    catalog = _catalog((4096, 1024), (256, 256), (8, 64, 64), (64,))
    recipe = _recipe({"bits": 8}, {"bits": 2, "rules": [{"match": "*.1.w", "action": "keep"}]})
    job = plan_outputs(catalog, resolve_outputs(recipe))
    for (_, plan), alone in zip(job, recipe.each().values(), strict=True):
        assert plan == make_plan(catalog, resolve(alone))
        assert plan.units == job.units
        assert [list(plan.tiles(u)) for u in plan.units] == [list(job.tiles(u)) for u in job.units]


def test_a_stack_kept_by_one_output_only_is_refused() -> None:
    """Raw, it is 8 rows; quantized, 512."""
    keep = [{"match": "*.0.w", "action": "keep"}]
    outputs = resolve_outputs(_recipe({"bits": 8}, {"bits": 2, "rules": keep}))
    with pytest.raises(ArrowQuantError, match=r"invalid_spec.*512 and 8 rows") as refused:
        plan_outputs(_catalog((8, 64, 64)), outputs)
    assert refused.value.where == {"tensor": "blocks.0.w", "pointer": "/recipe/outputs"}


def test_an_error_of_a_rule_names_its_output() -> None:
    outputs = resolve_outputs(_recipe({"bits": 8}, {"rules": [{"match": "none", "bits": 2}]}))
    with pytest.raises(ArrowQuantError, match="rule_matched_nothing") as refused:
        plan_outputs(_catalog((64, 64)), outputs)
    assert refused.value.where["output"] == "int4"
    assert refused.value.where["pointer"] == "/recipe/outputs/1/rules/0/match"
