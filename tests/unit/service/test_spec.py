"""What callers may ask for, and what it means with every default filled in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.domain.gates import next_bits
from service.domain.profiles import GATES, LADDER, PROFILES
from service.domain.spec import JobRequest, Recipe, canonical_json, resolve

BODY: dict[str, Any] = {
    "source": {"connection": "models", "prefix": "a/b"},
    "output": {"connection": "models", "prefix": "out"},
}


def request(**changes: Any) -> JobRequest:
    return JobRequest.model_validate_json(json.dumps(BODY | changes))


def test_the_least_request() -> None:
    job = request()
    assert job.source.prefix == "a/b/"
    assert job.output.prefix == "out/"
    assert (job.output.if_exists, job.priority, job.recipe) == ("fail", "normal", Recipe())


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"extra": 1}, "extra"),
        ({"source": {"connection": "models", "url": "s3://x"}}, "url"),
        ({"source": {"connection": "../etc"}}, "connection"),
        ({"source": {"connection": "a\n"}}, "connection"),
        ({"source": {"connection": "a", "prefix": "../x"}}, "prefix"),
        ({"source": {"connection": "a", "prefix": "x" * 1025}}, "prefix"),
        ({"output": {"connection": "a", "prefix": "x.safetensors"}}, "prefix"),
        ({"output": {"connection": "a", "if_exists": "maybe"}}, "if_exists"),
        ({"recipe": {"bits": 5}}, "bits"),
        ({"recipe": {"bits": "4"}}, "bits"),
        ({"recipe": {"group_size": 100}}, "group_size"),
        ({"recipe": {"granularity": "row", "group_size": 64}}, "recipe"),
        ({"recipe": {"granularity": "tensor"}}, "recipe"),
        ({"recipe": {"rules": [{"match": ""}]}}, "match"),
        ({"recipe": {"rules": [{"match": "*"}] * 257}}, "rules"),
        ({"recipe": {"rules": [{"match": "*", "action": "keep", "bits": 4}]}}, "rules"),
        ({"recipe": {"method": "superblock", "bits": 8}}, "recipe"),
        ({"recipe": {"method": "superblock", "group_size": 64}}, "recipe"),
        ({"recipe": {"method": "superblock", "symmetric": True}}, "recipe"),
        ({"recipe": {"method": "superblock", "profile": "cloud"}}, "recipe"),
        ({"recipe": {"method": "superblock", "scale_bits": 5}}, "scale_bits"),
        ({"recipe": {"scale_bits": 4, "bits": 8}}, "recipe"),
        ({"recipe": {"scale_bits": 4, "symmetric": True}}, "recipe"),
        ({"recipe": {"method": "trellis", "group_size": 64}}, "recipe"),
        ({"recipe": {"method": "trellis", "granularity": "group"}}, "recipe"),
        ({"recipe": {"method": "hqq", "unbias": 0.5}}, "recipe"),
        ({"recipe": {"codebook": "nf4"}}, "recipe"),
        ({"recipe": {"method": "codebook", "codebook": "nf4", "bits": 3}}, "recipe"),
        (
            {
                "recipe": {
                    "method": "codebook",
                    "codebook": "nf4",
                    "rules": [{"match": "*", "bits": 2}],
                }
            },
            "recipe",
        ),
        ({"recipe": {"rules": [{"match": "*", "method": "superblock", "bits": 8}]}}, "recipe"),
        (
            {"recipe": {"rules": [{"match": "*", "method": "superblock", "group_size": 64}]}},
            "recipe",
        ),
        (
            {"recipe": {"rules": [{"match": "*", "action": "keep", "rotation": "hadamard"}]}},
            "rules",
        ),
        ({"recipe": {"rotation": "givens"}}, "rotation"),
        ({"recipe": {"fallback": {"min_cosine": 1.5}}}, "min_cosine"),
        ({"recipe": {"fallback": {"on_miss": "fail", "enabled": False}}}, "fallback"),
        ({"recipe": {"fallback": {"on_miss": "stop"}}}, "on_miss"),
        ({"limits": {"max_memory_bytes": 1}}, "max_memory_bytes"),
        ({"limits": {"threads": 0}}, "threads"),
        ({"labels": {"bad key!": "x"}}, "labels"),
        ({"priority": "urgent"}, "priority"),
    ],
)
def test_what_is_refused_and_where(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        request(**changes)
    assert any(where in map(str, error["loc"]) for error in caught.value.errors())


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_profiles_fill_what_is_left_out(profile: Any) -> None:
    resolved = resolve(Recipe(profile=profile))
    assert resolved.bits == PROFILES[profile].bits
    plain = resolve(Recipe(profile=profile, method="lsq"))
    assert plain.group_size == PROFILES[profile].group_size
    assert resolved.gate.min_sqnr_db == GATES[resolved.bits].sqnr_db


def test_the_gate_belongs_to_the_width_that_is_used() -> None:
    resolved = resolve(Recipe(profile="edge", bits=8))
    assert resolved.gate.min_cosine == GATES[8].cosine
    zero = Recipe.model_validate({"fallback": {"min_sqnr_db": 0, "min_cosine": 0.0}})
    assert (resolve(zero).gate.min_sqnr_db, resolve(zero).gate.min_cosine) == (0, 0)


def test_without_groups_the_group_size_is_zero() -> None:
    assert resolve(Recipe(granularity="row")).group_size == 0
    assert resolve(Recipe(granularity="tensor", method="minmax")).group_size == 0


def test_digests_tell_recipes_apart_and_nothing_else() -> None:
    implicit = resolve(Recipe())
    explicit = resolve(Recipe(profile="local", bits=4, method="superblock", group_size=32))
    assert implicit.digest() == explicit.digest()
    others = [Recipe(bits=2), Recipe(symmetric=True), Recipe(method="minmax")]
    digests = {resolve(recipe).digest() for recipe in others} | {implicit.digest()}
    assert len(digests) == 4


def test_a_recipe_that_climbs_is_the_recipe_it_always_was() -> None:
    implicit = resolve(Recipe())
    assert "on_miss" not in implicit.model_dump(mode="json")["gate"]
    climbing = resolve(Recipe.model_validate({"fallback": {"on_miss": "climb"}}))
    failing = resolve(Recipe.model_validate({"fallback": {"on_miss": "fail"}}))
    assert climbing.digest() == implicit.digest() != failing.digest()
    stored = canonical_json(failing.model_dump(mode="json"))
    assert type(failing).model_validate_json(stored) == failing


def test_what_old_recipes_could_not_say_is_not_in_their_digest() -> None:
    fields = resolve(Recipe(bits=4, method="lsq")).model_dump(mode="json")
    assert not {"scale_bits", "codebook", "rotation"} & set(fields)
    rule = resolve(Recipe.model_validate({"rules": [{"match": "*", "bits": 4}]})).rules[0]
    assert not {"scale_bits", "rotation"} & set(rule.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("fields", "resolved"),
    [
        ({"method": "superblock", "bits": 2}, ("group", 16, 4, "none", None)),
        ({"method": "superblock", "bits": 4}, ("group", 32, 6, "none", None)),
        ({"method": "superblock", "bits": 4, "scale_bits": 4}, ("group", 32, 4, "none", None)),
        ({"method": "trellis", "bits": 2}, ("row", 0, 0, "hadamard", None)),
        ({"method": "trellis", "rotation": "none"}, ("row", 0, 0, "none", None)),
        ({"method": "codebook"}, ("group", 128, 0, "none", "lloyd_max")),
        ({"method": "hqq", "granularity": "row"}, ("row", 0, 0, "none", None)),
        ({"rotation": "hadamard"}, ("group", 32, 6, "hadamard", None)),
        ({"bits": 2}, ("group", 16, 4, "none", None)),
        ({"profile": "cloud"}, ("group", 64, 0, "none", None)),
        ({"method": "lsq"}, ("group", 128, 0, "none", None)),
    ],
)
def test_methods_fill_what_is_left_out(fields: dict[str, Any], resolved: tuple[Any, ...]) -> None:
    found = resolve(Recipe.model_validate(fields))
    told = (found.granularity, found.group_size, found.scale_bits, found.rotation, found.codebook)
    assert told == resolved
    assert type(found).model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ({"bits": 2}, "superblock"),
        ({"bits": 3}, "superblock"),
        ({"bits": 4, "group_size": 32, "scale_bits": 4}, "superblock"),
        ({"bits": 8}, "lsq"),
        ({"bits": 4, "group_size": 64}, "lsq"),
        ({"bits": 4, "granularity": "row"}, "lsq"),
        ({"bits": 4, "symmetric": True}, "lsq"),
        ({"bits": 2, "method": "lsq"}, "lsq"),
        ({"profile": "edge"}, "lsq"),  # a budget: its candidates say what they are
        ({"budget": 3.0}, "lsq"),
    ],
)
def test_the_method_follows_from_the_width_and_what_else_is_asked(
    fields: dict[str, Any], method: str
) -> None:
    assert resolve(Recipe.model_validate(fields)).method == method


@pytest.mark.parametrize(
    ("fields", "rule", "method"),
    [
        ({"bits": 4}, {"bits": 2}, None),
        ({"bits": 4}, {"bits": 8}, None),  # what stands in is the default
        ({"bits": 4}, {"group_size": 64}, "lsq"),
        ({"bits": 4}, {"symmetric": True}, "lsq"),
        ({"bits": 8}, {"bits": 4}, "superblock"),
        ({"bits": 8, "symmetric": True}, {"bits": 4}, None),
        ({"bits": 8, "method": "lsq"}, {"bits": 4}, None),
        ({"bits": 8}, {"bits": 4, "method": "minmax"}, "minmax"),
        ({"budget": 3.0}, {"bits": 4}, None),
    ],
)
def test_a_rule_without_a_method_takes_that_of_its_width(
    fields: dict[str, Any], rule: dict[str, Any], method: str | None
) -> None:
    recipe = Recipe.model_validate(fields | {"rules": [{"match": "*"} | rule]})
    assert resolve(recipe).rules[0].method == method


def test_a_resolved_recipe_survives_storage() -> None:
    rules = {"rules": [{"match": "a*", "bits": 2}, {"match": "re:b", "action": "keep"}]}
    resolved = resolve(Recipe.model_validate(rules))
    again = type(resolved).model_validate_json(canonical_json(resolved.model_dump(mode="json")))
    assert again == resolved
    assert again.digest() == resolved.digest()


@given(st.dictionaries(st.text(max_size=5), st.integers(-(2**53), 2**53) | st.text(max_size=5)))
def test_canonical_json_does_not_depend_on_order(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(turned)
    assert json.loads(canonical_json(value)) == value


def test_the_ladder() -> None:
    assert [next_bits(bits) for bits in (2, 3, 4, 8)] == [4, 4, 8, None]
    assert sorted(LADDER) == list(LADDER)
