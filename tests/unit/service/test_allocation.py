"""Allocating bits: never over the budget, never worse for more room, close to the best there is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.allocation import Option, allocate, evolve, least, measure
from service.domain.budgeting import Measured, allocated, choosable, document_bytes
from service.domain.errors import ArrowQuantError
from service.domain.forecast import forecast
from service.domain.outputs import from_json, plan_outputs, resolve_outputs, to_json
from service.domain.plan import make_plan
from service.domain.profiles import Role
from service.domain.sensitivity import priors, sensitivities
from service.domain.spec import Recipe, resolve
from tests.unit.service.test_plan import catalog_of

options = st.lists(
    st.builds(
        Option,
        nbytes=st.integers(1, 60),
        loss=st.floats(0, 100, allow_nan=False, allow_infinity=False, allow_subnormal=False),
    ),
    min_size=1,
    max_size=4,
)
models = st.lists(options, min_size=1, max_size=5)


def _best(items: list[list[Option]], budget: int) -> float:
    fitting = (
        sum(option.loss for option in chosen)
        for chosen in itertools.product(*items)
        if sum(option.nbytes for option in chosen) <= budget
    )
    return min(fitting, default=math.inf)


@given(models, st.integers(0, 300))
def test_within_one_tensor_of_the_best(items: list[list[Option]], budget: int) -> None:
    found = allocate(items, budget)
    best = _best(items, budget)
    if found is None:
        assert best == math.inf
        return
    assert (found.nbytes, found.loss) == measure(items, found.choice)
    assert found.nbytes <= budget
    cheapest = least(items)
    step = max(
        item[n].loss - min(option.loss for option in item)
        for item, n in zip(items, cheapest, strict=True)
    )
    assert best - 1e-9 <= found.loss <= best + step + 1e-9


@given(models, st.integers(0, 250), st.integers(0, 60))
def test_more_room_is_never_worse(items: list[list[Option]], budget: int, more: int) -> None:
    before, after = allocate(items, budget), allocate(items, budget + more)
    if before is not None:
        assert after is not None
        assert after.loss <= before.loss + 1e-9


@given(models, st.integers(0, 300), st.integers(0, 5))
def test_evolution_keeps_to_the_budget_and_repeats_itself(
    items: list[list[Option]], budget: int, seed: int
) -> None:
    start = allocate(items, budget)
    if start is None:
        return
    found = evolve(items, budget, start, evaluations=40, population=8, seed=seed)
    assert found.nbytes <= budget
    assert found.loss <= start.loss
    assert found == evolve(items, budget, start, evaluations=40, population=8, seed=seed)


def test_nothing_to_allocate() -> None:
    found = allocate([], 0)
    assert found is not None
    assert (found.choice, found.nbytes, found.loss) == ((), 0, 0)
    assert evolve([], 0, found, evaluations=3, population=4, seed=0) == found


# -- priors ----------------------------------------------------------------------------------------


def test_priors_know_roles_ends_and_what_writes() -> None:
    names = [
        ("model.embed_tokens.weight", Role.EMBEDDING),
        ("model.layers.0.self_attn.q_proj.weight", Role.LINEAR),
        ("model.layers.1.self_attn.q_proj.weight", Role.LINEAR),
        ("model.layers.1.self_attn.v_proj.weight", Role.LINEAR),
        ("model.layers.1.mlp.down_proj.weight", Role.LINEAR),
        ("model.layers.12.mlp.down_proj.weight", Role.LINEAR),
        ("transformer_blocks.1.ff.net.2.weight", Role.LINEAR),
        ("blocks.1.adaLN_modulation.1.weight", Role.ADALN),
        ("something.weight", Role.LINEAR),
    ]
    assert priors(names) == [2, 2, 1, 2, 2, 4, 4, 4, 1]


def test_what_was_measured_goes_before_priors_and_gives_them_its_unit() -> None:
    names = [
        ("layers.1.q_proj.weight", Role.LINEAR),
        ("layers.1.v_proj.weight", Role.LINEAR),
        ("layers.3.v_proj.weight", Role.LINEAR),
        ("model.embed_tokens.weight", Role.EMBEDDING),
    ]
    assert priors(names) == [1, 2, 4, 2]
    assert sensitivities(names, {}) == priors(names)
    # Measured over prior: 0.1 and 0.4, of which the geometric mean is 0.2.
    found = sensitivities(names, {names[0][0]: 0.1, names[2][0]: 1.6, "other": 1e9})
    assert found == pytest.approx([0.1, 0.4, 1.6, 0.4])


# -- from a plan to a plan -------------------------------------------------------------------------


def _llm(blocks: int = 4, size: int = 512) -> list[tuple[str, str, tuple[int, ...]]]:
    layers = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    return [
        ("model.embed_tokens.weight", "BF16", (2000, size)),
        *(
            (f"model.layers.{n}.{name}.weight", "BF16", (size, size))
            for n in range(blocks)
            for name in layers
        ),
        ("model.norm.weight", "BF16", (size,)),
        ("lm_head.weight", "BF16", (2000, size)),
    ]


def _errors(plan: Any, scale: float = 1.0) -> dict[tuple[int, int], Measured]:
    typical = {2: 0.11, 3: 0.03, 4: 0.0075, 8: 3e-5}
    return {
        (free.tensor.index, number): Measured(scale * typical[way.treatment.bits], good=True)
        for free in choosable(plan)
        for number, way in free.ways.items()
        if number >= 0
    }


@given(st.floats(3.4, 17.0))
def test_a_plan_keeps_to_its_budget(bpw: float) -> None:
    catalog = catalog_of(_llm(), {"lm_head.weight": "model.embed_tokens.weight"})
    recipe = Recipe.model_validate({"budget": bpw, "group_size": 64})
    plan = plan_outputs(catalog, resolve_outputs(recipe))
    told = forecast(plan, {"": {"budget": bpw}}, {"arrowquant": "1"})
    assert told["budget"]["estimate"]
    assert told["totals"]["artifact_bytes"] <= told["budget"]["bytes"]
    rows = {entry["name"]: entry for entry in told["tensors"]}
    assert rows["lm_head.weight"]["bits"] == rows["model.embed_tokens.weight"]["bits"]


def test_an_allocation_is_a_function_of_errors_and_recipe_and_is_kept() -> None:
    recipe = Recipe.model_validate({"budget": 4.0, "group_size": 64})
    (spec,) = resolve_outputs(recipe)
    plan = make_plan(catalog_of(_llm()), spec.recipe)
    made = allocated(plan, _errors(plan))
    assert made == allocated(plan, _errors(plan))
    decided = plan.recipe.model_copy(update={"allocation": made})
    assert not decided.undecided
    outputs = plan_outputs(plan.catalog, from_json(to_json((spec,)) | to_json_of(made)))
    assert outputs.outputs[0].recipe.allocation == made
    floors = {Role.EMBEDDING: 3, Role.FINAL_LAYER: 4}
    for tensor in outputs.plans[0].tensors:
        if tensor.treatment.bits:
            assert tensor.treatment.bits >= floors.get(tensor.role, 2)
    total = sum(made.errors[name][n] or 0 for name, n in made.choice.items() if n >= 0)
    assert 0 < total <= made.loss


def to_json_of(made: Any) -> dict[str, Any]:
    return {"allocations": [made.model_dump(mode="json")]}


def test_what_misses_its_gate_is_no_candidate() -> None:
    plan = make_plan(
        catalog_of(_llm()), resolve(Recipe.model_validate({"budget": 5.0, "method": "lsq"}))
    )
    measured = _errors(plan)
    victim = next(free for free in choosable(plan) if "layers.1" in free.tensor.name)
    for number in (0, 1, 2):
        measured[victim.tensor.index, number] = Measured(0.001, good=False)
    assert allocated(plan, measured).choice[victim.tensor.name] in (3, -1)
    measured[victim.tensor.index, 3] = Measured(math.inf, good=True)
    assert allocated(plan, measured).choice[victim.tensor.name] == -1


def test_what_the_least_would_need_is_told() -> None:
    with pytest.raises(ArrowQuantError) as caught:
        plan_outputs(catalog_of(_llm()), resolve_outputs(Recipe.model_validate({"budget": 1.5})))
    assert caught.value.code == "budget_infeasible"
    least_bpw = caught.value.where["least_bits_per_weight"]
    assert least_bpw > 2
    plan_outputs(
        catalog_of(_llm()), resolve_outputs(Recipe.model_validate({"budget": least_bpw + 0.01}))
    )


def test_documents_are_as_large_as_expected() -> None:
    recipe = resolve(Recipe.model_validate({"budget": 4.0}))
    plan = make_plan(catalog_of(_llm(8)), recipe)
    told = forecast(
        plan_outputs(plan.catalog, resolve_outputs(Recipe.model_validate({"budget": 4.0}))),
        {"": {}},
        {},
    )
    documents = told["totals"]["artifact_bytes"] - told["totals"]["parts_bytes"]
    assert documents <= document_bytes(plan)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"budget": {}}, "give one of them"),
        ({"budget": {"bytes": 1, "bits_per_weight": 1}}, "give one of them"),
        ({"budget": 0}, "greater than 0"),
        ({"budget": True}, "budget"),
        ({"budget": 3, "granularity": "tensor", "method": "minmax"}, "not of a whole tensor"),
        ({"budget": {"bytes": 9, "search": {}, "candidates": [{"bits": 2}]}}, "its own candidates"),
        ({"fallback": {"ladder": [4, 2]}}, "ascending"),
        ({"fallback": {"ladder": [2, 2]}}, "ascending"),
    ],
)
def test_requests_that_make_no_sense(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Recipe.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "bpw", "bits"),
    [
        ({"profile": "edge"}, 3.0, 2),
        ({"profile": "edge", "bits": 2}, None, 2),
        ({"profile": "edge", "budget": 2.75}, 2.75, 2),
        ({}, None, 4),
        ({"budget": 4.5}, 4.5, 2),
        ({"budget": 4.5, "bits": 4}, 4.5, 4),
        ({"budget": {"bits_per_weight": 6, "candidates": [{"bits": 4}, {"bits": 8}]}}, 6, 4),
    ],
)
def test_defaults(fields: dict[str, Any], bpw: float | None, bits: int) -> None:
    recipe = resolve(Recipe.model_validate(fields))
    assert (recipe.budget.bits_per_weight if recipe.budget else None) == bpw
    assert recipe.bits == bits
    assert recipe.gate.min_mean_cosine == {"edge": 0.65, "local": 0.85}[recipe.profile]


def test_without_a_method_both_layouts_compete() -> None:
    recipe = resolve(Recipe.model_validate({"profile": "edge"}))
    assert recipe.budget is not None
    told = [(c.bits, c.method, c.group_size) for c in recipe.budget.candidates]
    assert told == [
        (2, "lsq", None), (2, "superblock", 16), (3, "lsq", None), (3, "superblock", 32),
        (4, "lsq", None), (4, "superblock", 32), (8, "lsq", None),
    ]  # fmt: skip
    asked = resolve(Recipe.model_validate({"budget": 3, "method": "superblock"}))
    assert asked.budget is not None
    plan = make_plan(catalog_of(_llm()), asked)
    ways = choosable(plan)[1].ways
    found = {
        (way.treatment.method, way.treatment.bits, way.treatment.group_size)
        for way in ways.values()
    }
    assert found == {
        ("superblock", 2, 16), ("superblock", 3, 32), ("superblock", 4, 32), ("lsq", 8, 64),
        (None, 0, 0),
    }  # fmt: skip


def test_a_rule_s_method_leaves_only_the_width_open() -> None:
    rules = [{"match": "*.q_proj.*", "method": "minmax", "group_size": 32}]
    plan = make_plan(
        catalog_of(_llm()), resolve(Recipe.model_validate({"budget": 4, "rules": rules}))
    )
    free = next(each for each in choosable(plan) if "q_proj" in each.tensor.name)
    found = [(way.treatment.method, way.treatment.bits) for way in free.ways.values()]
    assert found == [("minmax", 2), ("minmax", 3), ("minmax", 4), ("minmax", 8), (None, 0)]
