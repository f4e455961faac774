"""What a caller may ask for, and what it means once every default is filled in.

`JobRequest` is the wire form (extra fields are refused, messages say the fix). `resolve` turns its
recipe into a `ResolvedRecipe` in which nothing is implicit; that form is hashed, stored in the
manifest and is all the planner sees.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from service.domain import methods, smoothing
from service.domain.activations import Activations
from service.domain.budget import Allocated, AnyBudget, ResolvedBudget, resolve_budget
from service.domain.calibration import Calibration
from service.domain.gates import Fallback, Gate, resolve_gate
from service.domain.limits import Limits, Retention
from service.domain.methods import METHODS
from service.domain.modality import Modality, Part, recipe_of
from service.domain.notify import NotifyList
from service.domain.places import Output, Source
from service.domain.profiles import (
    LADDER,
    PROFILES,
    ROLE_FLOORS,
    Bits,
    Codebook,
    Granularity,
    GroupSize,
    Method,
    ProfileName,
    Role,
    Rotation,
    ScaleBits,
)
from service.domain.sensitivity import BUDGET_FLOORS
from service.domain.smoothing import Smoothing
from service.domain.wire import Wire

MAX_RULES = 256
MAX_PATTERN_CHARS = 512
MAX_OUTPUTS = 8


class Rule(Wire):
    """What to do with the tensors whose full name matches; the first matching rule wins.

    `match` is a glob (`blocks.*.attn.*`), or a regular expression after `re:` that must match the
    whole name. Either `action: keep`, or the quantization fields to override.
    """

    match: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN_CHARS)]
    action: Literal["keep", "quantize"] = "quantize"
    bits: Bits | None = None
    group_size: GroupSize | None = None
    method: Method | None = None
    symmetric: bool | None = None
    # Left out where nobody said them, so that the digests of recipes without them stay.
    scale_bits: ScaleBits | None = Field(default=None, exclude_if=lambda value: value is None)
    rotation: Rotation | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _keep_has_no_fields(self) -> Self:
        said = [name for name in OVERRIDES if getattr(self, name) is not None]
        if self.action == "keep" and said:
            raise ValueError(
                f"a rule with action 'keep' takes no {', '.join(said)}; "
                "remove them, or use action 'quantize'"
            )
        return self


# What a rule may say otherwise than the recipe.
OVERRIDES = ("bits", "group_size", "method", "symmetric", "scale_bits", "rotation")


class OutputRecipe(Wire):
    """One of several artifacts that are made from one read of the source.

    What is left out is as the recipe says; null is as if the recipe did not say it. `id` names the
    folder below the output's prefix: `int4` and the like unless given.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] | None = None
    profile: ProfileName | None = None
    bits: Bits | None = None
    method: Method | None = None
    granularity: Granularity | None = None
    group_size: GroupSize | None = None
    symmetric: bool | None = None
    scale_bits: ScaleBits | None = None
    codebook: Codebook | None = None
    rotation: Rotation | None = None
    unbias: Annotated[float, Field(ge=0, le=1)] | None = None
    modality: Modality | None = None
    budget: AnyBudget | None = None
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] | None = None
    fallback: Fallback | None = None


class Recipe(Wire):
    """How to quantize. What is left out comes from the profile, or from the recipe that `ref` names
    (`name@3`, or `name` for its newest version): fields beside `ref` go before its own."""

    ref: Annotated[str, StringConstraints(max_length=80)] | None = None
    # Of the named version: filled in on submission; given, it must be right.
    ref_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    profile: ProfileName = "local"
    bits: Bits | None = None
    # By the width and what else is asked unless said: `superblock` below 8 bits where it can, else `lsq`.
    method: Method | None = None
    # `group`, or what the method has instead.
    granularity: Granularity | None = None
    group_size: GroupSize | None = None
    symmetric: bool = False
    # Width of the codes of scales, with method `superblock`: by its width unless said.
    scale_bits: ScaleBits | None = None
    # The levels of codes, with method `codebook`: `lloyd_max` unless said.
    codebook: Codebook | None = None
    # `hadamard`: rows are turned by a fixed random rotation along the inputs before they are
    # quantized, which spreads outliers; readers turn them back. As the method has it unless said.
    rotation: Rotation | None = None
    # How much of the length that a least-squares row loses is given back: 1 makes each row's
    # projection on its weights exact. Measured to help iterated diffusion models, and to cost a
    # single-pass encoder a little: so it is 1 where the source is a denoiser, 0 elsewhere.
    unbias: Annotated[float, Field(ge=0, le=1)] | None = None
    # What the model makes; found out from the source unless given.
    modality: Modality | None = None
    # The most that the artifact may have: a number is bits per weight. Widths are then chosen tensor
    # by tensor from measured errors; `bits` only says whose gate they must meet, that of the
    # narrowest candidate unless given.
    budget: AnyBudget | None = None
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] = ()
    fallback: Fallback = Fallback()
    # What the layers of these very weights saw while the model ran; null: made without.
    calibration: Calibration | None = None
    # How the inputs of layers are to be quantized, by diffusion time: by its defaults where there is a
    # calibration file.
    activations: Activations | None = None
    # Ranges are moved from the inputs of layers into their weights, by the calibration file.
    smoothing: Smoothing | None = None
    # Several artifacts from one read of the source, each in a folder of its own.
    outputs: Annotated[tuple[OutputRecipe, ...], Field(max_length=MAX_OUTPUTS)] = ()

    @model_validator(mode="after")
    def _method_can(self) -> Self:
        if self.ref is not None and self.ref_sha256 is None:
            return self  # what it is, only the recipe that it names can tell
        methods.check(
            self.way(),
            bits=self.bits or PROFILES[self.profile].bits,
            granularity=self.granularity,
            group_size=self.group_size,
            symmetric=self.symmetric,
            scale_bits=self.scale_bits,
            unbias=self.unbias or 0.0,
            codebook=self.codebook,
        )
        for rule in self.rules:
            method = self.way_of(rule)
            methods.check(
                method,
                bits=rule.bits,
                group_size=rule.group_size,
                symmetric=bool(rule.symmetric),
                scale_bits=rule.scale_bits,
                codebook=self.codebook if method == self.way() else None,
            )
        return self

    def way(self) -> Method:
        """The method: as asked, else that of its width. Under a budget, which chooses among widths and
        methods itself, it is only what candidates without a method are made by."""
        if self.method is not None:
            return self.method
        if self.has_budget:
            return methods.STAND_IN
        return methods.default(
            self.bits or PROFILES[self.profile].bits,
            granularity=self.granularity,
            group_size=self.group_size,
            symmetric=self.symmetric,
            scale_bits=self.scale_bits,
        )

    def way_of(self, rule: Rule) -> Method:
        """The method of the tensors that a rule is for: as it says, else as that of the recipe."""
        if rule.method is not None:
            return rule.method
        if self.method is not None or self.has_budget:
            return methods.at_width(self.way(), rule.bits)
        return methods.default(
            rule.bits or self.bits or PROFILES[self.profile].bits,
            granularity=self.granularity if rule.group_size is None else None,
            group_size=rule.group_size or self.group_size,
            symmetric=self.symmetric if rule.symmetric is None else rule.symmetric,
            scale_bits=rule.scale_bits or self.scale_bits,
        )

    @property
    def has_budget(self) -> bool:
        """Whether widths are chosen tensor by tensor, as asked or as the profile has it."""
        aims = PROFILES[self.profile].budget_bpw is not None and self.bits is None
        return self.budget is not None or (aims and self.granularity != "tensor")

    @model_validator(mode="after")
    def _what_is_measured(self) -> Self:
        if self.calibration is None and self.ref is None:
            if self.activations:
                raise ValueError("activations are quantized as a calibration file says: name one")
            if self.smoothing:
                raise ValueError("smoothing goes by what a calibration file saw: name one")
        if self.smoothing:
            smoothing.check(self.calibration, self.activations, has_budget=self.budget is not None)
        return self

    @model_validator(mode="after")
    def _budget_fits(self) -> Self:
        if self.budget is not None and self.granularity == "tensor":
            raise ValueError("a budget is for scales of groups or rows, not of a whole tensor")
        for way in self.budget.candidates if self.budget else ():
            method = methods.at_width(way.method or self.way(), way.bits)
            methods.check(
                method, bits=way.bits, group_size=way.group_size, scale_bits=way.scale_bits
            )
        return self

    @model_validator(mode="after")
    def _outputs_fit(self) -> Self:
        if self.ref is None or self.ref_sha256 is not None:
            self.each()
        return self

    def each(self) -> dict[str, Recipe]:
        """The recipe of every output alone, by id; without `outputs` it is this one, called ''.

        Raises ValueError for an output that is no recipe, or two of one id.
        """
        if not self.outputs:
            return {"": self}
        found: dict[str, Recipe] = {}
        for number, output in enumerate(self.outputs):
            recipe = self._with(number, output)
            name = output.id or f"int{recipe.bits or PROFILES[recipe.profile].bits}"
            if name in found:
                raise ValueError(f"outputs {number}: there is another {name!r}; give each its id")
            found[name] = recipe
        return found

    def _with(self, number: int, output: OutputRecipe) -> Recipe:
        changes = output.model_dump(exclude_unset=True, exclude={"id"})
        fields = self.model_dump(exclude_unset=True, exclude={"outputs"}) | changes
        try:
            return Recipe.model_validate({k: v for k, v in fields.items() if v is not None})
        except ValidationError as error:
            why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"outputs {number}: {why}") from None


Label = Annotated[str, StringConstraints(max_length=256)]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]


class PlanRequest(Wire):
    """What a plan needs: the source and the recipe."""

    source: Source
    recipe: Recipe = Recipe()


class JobRequest(PlanRequest):
    """The body of `POST /v1/jobs`."""

    name: Annotated[str, StringConstraints(max_length=128)] = ""
    labels: dict[LabelKey, Label] = Field(default={}, max_length=64)
    output: Output
    limits: Limits = Limits()
    priority: Literal["low", "normal", "high"] = "normal"
    retention: Retention | None = None
    notify: NotifyList = ()


class ResolvedRecipe(BaseModel):
    """A recipe with nothing left to guess. `group_size` 0 is one scale per row (or tensor).

    `unbias` may be None until a source is planned, see `for_model`; `modality` is only what the
    caller says of it.
    """

    model_config = ConfigDict(frozen=True)
    profile: ProfileName
    bits: Bits
    method: Method
    granularity: Granularity
    group_size: int
    symmetric: bool
    # Left out where a recipe of old would not have had them, so that the digests of those stay.
    scale_bits: int = Field(default=0, exclude_if=lambda value: value == 0)
    codebook: Codebook | None = Field(default=None, exclude_if=lambda value: value is None)
    rotation: Rotation = Field(default="none", exclude_if=lambda value: value == "none")
    unbias: float | None
    # Left out where nobody said it, as in recipes of before it was asked.
    modality: Modality | None = Field(default=None, exclude_if=lambda value: value is None)
    rules: tuple[Rule, ...]
    gate: Gate
    ladder: tuple[int, ...]
    role_floors: dict[Role, Bits]
    calibration: Calibration | None = Field(default=None, exclude_if=lambda value: value is None)
    activations: Activations | None = Field(default=None, exclude_if=lambda value: value is None)
    smoothing: Smoothing | None = Field(default=None, exclude_if=lambda value: value is None)
    budget: ResolvedBudget | None = Field(default=None, exclude_if=lambda value: value is None)
    # Made from the errors that were measured; whoever has it need not measure again.
    allocation: Allocated | None = Field(default=None, exclude_if=lambda value: value is None)

    def for_model(self, modality: Modality | None, part: Part) -> ResolvedRecipe:
        """What was left to the source filled in from its modality; a recipe in which nothing was,
        such as that of an artifact, stays as it is."""
        if self.unbias is not None:
            return self
        return self.model_copy(update={"unbias": recipe_of(modality, part).unbias})

    @property
    def undecided(self) -> bool:
        """Whether errors are to be measured before it is known what becomes of each tensor."""
        return self.budget is not None and self.allocation is None

    def published(self) -> dict[str, Any]:
        """The form of a manifest: what was chosen, without the measurements."""
        return self.model_dump(mode="json", exclude={"allocation": {"errors"}})

    def asked(self) -> dict[str, Any]:
        """What the bytes are a function of beside source and engine: all but what follows from
        them."""
        return self.model_dump(mode="json", exclude={"allocation"})

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


def resolve(recipe: Recipe) -> ResolvedRecipe:
    """Fill every default from the profile and the width."""
    profile, method = PROFILES[recipe.profile], recipe.way()
    facts = METHODS[method]
    budget = resolve_budget(recipe.budget, profile, recipe.method, how=recipe)
    bits = recipe.bits or (budget.narrowest if budget else profile.bits)
    granularity = recipe.granularity or facts.granularities[0]
    groups = recipe.group_size or facts.groups.get(bits, profile.group_size)
    return ResolvedRecipe(
        profile=recipe.profile,
        bits=bits,
        method=method,
        granularity=granularity,
        group_size=groups if granularity == "group" else 0,
        symmetric=recipe.symmetric,
        scale_bits=recipe.scale_bits or facts.scale_widths.get(bits, 0),
        codebook=recipe.codebook or next(iter(facts.codebooks), None),
        rotation=recipe.rotation or ("hadamard" if facts.rotated else "none"),
        unbias=recipe.unbias,
        modality=recipe.modality,
        rules=tuple(_resolved(rule, recipe, method) for rule in recipe.rules),
        gate=resolve_gate(recipe.fallback, profile, bits),
        calibration=recipe.calibration,
        activations=_activations(recipe),
        smoothing=smoothing.resolve(recipe.smoothing, _activations(recipe)),
        ladder=recipe.fallback.ladder or LADDER,
        role_floors=dict(ROLE_FLOORS if budget is None else BUDGET_FLOORS),
        budget=budget,
    )


def _resolved(rule: Rule, recipe: Recipe, method: Method) -> Rule:
    """With its method where the recipe's own would be another one at its width."""
    way = recipe.way_of(rule)
    if rule.action == "keep" or way == methods.at_width(method, rule.bits):
        return rule
    return rule.model_copy(update={"method": way})


def _activations(recipe: Recipe) -> Activations | None:
    how = recipe.activations or Activations()
    if recipe.calibration is None or how.mode == "none":
        return None
    return smoothing.as_they_come(how) if recipe.smoothing else how


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
