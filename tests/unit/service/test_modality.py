"""What a source is taken for: configuration before metadata before names, the caller before all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.objects import FolderStore
from service.domain.catalog import Catalog
from service.domain.modality import MODALITIES, RECIPES, Detection, Part, decide, detect, recipe_of
from service.domain.outputs import OutputSpec, from_json, plan_outputs, to_json
from service.domain.plan import make_plan
from service.domain.profiles import Action, Role
from service.domain.spec import Recipe, resolve
from service.usecases.inspect_source import inspect
from service.usecases.look import MAX_CONFIG_BYTES
from tests import weights

UNET = ["conv_in.weight", "down_blocks.0.resnets.0.time_emb_proj.weight", "conv_out.weight"]
FLUX = ["double_blocks.0.img_attn.qkv.weight", "img_in.weight", "time_in.in_layer.weight"]
SD3 = [
    "joint_blocks.0.x_block.attn.qkv.weight",
    "x_embedder.proj.weight",
    "t_embedder.mlp.0.weight",
]
PIXART = [
    "adaln_single.linear.weight",
    "pos_embed.proj.weight",
    "transformer_blocks.0.attn1.to_q.weight",
]
DIT = [
    "x_embedder.proj.weight",
    "blocks.0.adaLN_modulation.1.weight",
    "y_embedder.embedding_table.weight",
]
STABLE_AUDIO = [
    "to_timestep_embed.0.weight",
    "project_in.weight",
    "transformer.layers.0.ff.ff.0.proj.weight",
]
LLAMA = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]
VAE = ["encoder.conv_in.weight", "decoder.conv_out.weight", "post_quant_conv.weight"]


@pytest.mark.parametrize(
    ("config", "modality", "part"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "image", Part.DENOISER),
        ({"_class_name": "DiTTransformer2DModel"}, "image", Part.DENOISER),
        ({"_class_name": "SD3Transformer2DModel"}, "image", Part.DENOISER),
        ({"_class_name": "FluxTransformer2DModel"}, "image", Part.DENOISER),
        ({"_class_name": "PixArtTransformer2DModel"}, "image", Part.DENOISER),
        ({"_class_name": "CogVideoXTransformer3DModel"}, "image", Part.DENOISER),
        ({"_class_name": "StableAudioDiTModel"}, "audio", Part.DENOISER),
        ({"_class_name": "AutoencoderKL"}, "image", Part.AUTOENCODER),
        ({"_class_name": "AutoencoderOobleck"}, "audio", Part.AUTOENCODER),
        ({"architectures": ["DreamModel"], "model_type": "Dream"}, "text", Part.DENOISER),
        ({"architectures": ["LLaDAModelLM"], "model_type": "llada"}, "text", Part.DENOISER),
        ({"model_type": "mdlm"}, "text", Part.DENOISER),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "text", Part.LANGUAGE_MODEL),
        ({"architectures": ["LlamaForCausalLM"]}, "text", Part.LANGUAGE_MODEL),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "text", Part.ENCODER),
        ({"architectures": ["T5EncoderModel"], "model_type": "t5"}, "text", Part.ENCODER),
        ({"architectures": ["CLIPTextModel"]}, "text", Part.ENCODER),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "audio", Part.ENCODER),
        ({"_class_name": "SomethingNew"}, None, Part.UNKNOWN),
        ({}, None, Part.UNKNOWN),
    ],
)  # fmt: skip
def test_by_configuration(config: dict[str, Any], modality: str | None, part: Part) -> None:
    found = detect({"config.json": config}, {}, ["layer.weight"])
    assert (found.modality, found.part) == (modality, part)
    assert (modality is None) or any(line.startswith("config.json: ") for line in found.evidence)


@pytest.mark.parametrize(
    ("names", "modality", "part"),
    [
        (UNET, "image", Part.DENOISER),
        (FLUX, "image", Part.DENOISER),
        (SD3, "image", Part.DENOISER),
        (PIXART, "image", Part.DENOISER),
        (DIT, "image", Part.DENOISER),
        (STABLE_AUDIO, "audio", Part.DENOISER),
        (LLAMA, "text", Part.LANGUAGE_MODEL),
        (VAE, "image", Part.AUTOENCODER),
        (["a.weight", "b.weight"], None, Part.UNKNOWN),
        ([], None, Part.UNKNOWN),
    ],
)
def test_by_names(names: list[str], modality: str | None, part: Part) -> None:
    found = detect({}, {}, names)
    assert (found.modality, found.part) == (modality, part)
    assert found.evidence


def test_the_order_of_witnesses() -> None:
    config = {"config.json": {"model_type": "Dream"}}
    assert detect(config, {"modality": "audio"}, FLUX).modality == "text"
    assert detect({}, {"modality": "audio"}, FLUX).modality == "audio"
    assert detect({}, {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, LLAMA).part is (
        Part.DENOISER
    )
    # A pipeline says what it makes, not which of its models this is: the names do.
    pipeline = {"model_index.json": {"_class_name": "StableAudioPipeline"}}
    assert detect(pipeline, {}, LLAMA) == Detection(
        "audio", Part.LANGUAGE_MODEL, detect(pipeline, {}, LLAMA).evidence
    )


def test_the_caller_overrules_and_it_is_said() -> None:
    found = detect({"config.json": {"model_type": "Dream"}}, {}, [])
    decided = decide("code", found)
    assert (decided.modality, decided.part) == ("code", Part.DENOISER)
    assert decided.evidence[0] == "the caller says code, though it looks like text"
    assert decide(None, found) == found
    assert decide("image", Detection()).part is Part.DENOISER
    assert decide("text", Detection()).part is Part.UNKNOWN


def test_recipes_are_for_what_is_iterated() -> None:
    assert {recipe_of(modality, Part.DENOISER).unbias for modality in MODALITIES} == {1.0}
    others = [part for part in Part if part is not Part.DENOISER]
    assert {recipe_of(m, part).unbias for m in (*MODALITIES, None) for part in others} == {0.0}
    assert all(0 <= recipe.unbias <= 1 for recipe in RECIPES.values())


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(["config.json", "model_index.json"]), json_like),
    st.dictionaries(st.sampled_from(["modality", "architecture", "x"]), st.text(max_size=30)),
    st.lists(st.text(max_size=40), max_size=6),
)
def test_anything_may_stand_there(
    configs: dict[str, Any], metadata: dict[str, str], names: list[str]
) -> None:
    found = detect(configs, metadata, names)
    assert found.modality in (*MODALITIES, None)
    assert Detection.from_dict(found.as_dict()) == found


# -- from a source to a plan -----------------------------------------------------------------------


def model(folder: Path, names: list[str], config: bytes | None = None) -> Path:
    made = {
        name: weights.bfloat16(weights.gaussian((64, 64), number))
        for number, name in enumerate(names)
    }
    weights.write(folder / "model.safetensors", made)
    if config is not None:
        (folder / "config.json").write_bytes(config)
    return folder


@pytest.mark.parametrize("prefix", ["m/", "m/model.safetensors"])
def test_configuration_is_read_beside_the_weights(tmp_path: Path, prefix: str) -> None:
    model(tmp_path / "m", LLAMA, b'{"model_type": "Dream"}')
    catalog = inspect(FolderStore(tmp_path), prefix)
    assert (catalog.looks.modality, catalog.looks.part) == ("text", Part.DENOISER)
    plan = make_plan(catalog, resolve(Recipe()))
    assert (plan.looks, plan.recipe.unbias) == (catalog.looks, 1.0)
    assert {t.treatment.unbias for t in plan.tensors} == {1.0}


@pytest.mark.parametrize(
    "config",
    [
        None,
        b"",
        b"[1]",
        b"no json",
        b"\xff",
        b'{"model_type": "Dream", "x": "' + b" " * MAX_CONFIG_BYTES + b'"}',
    ],
)
def test_configuration_is_a_hint_and_never_a_need(tmp_path: Path, config: bytes | None) -> None:
    catalog = inspect(FolderStore(tmp_path), "m/") if model(tmp_path / "m", LLAMA, config) else None
    assert catalog is not None
    assert (catalog.looks.modality, catalog.looks.part) == ("text", Part.LANGUAGE_MODEL)
    assert make_plan(catalog, resolve(Recipe())).recipe.unbias == 0.0


def looking(tmp_path: Path, names: list[str]) -> Catalog:
    return inspect(FolderStore(model(tmp_path / "m", names).parent), "m/")


def test_what_the_caller_says_holds(tmp_path: Path) -> None:
    catalog = looking(tmp_path, UNET)
    assert make_plan(catalog, resolve(Recipe())).recipe.unbias == 1.0
    assert make_plan(catalog, resolve(Recipe(unbias=0.5))).recipe.unbias == 0.5
    asked = make_plan(catalog, resolve(Recipe(modality="audio")))
    assert asked.recipe.modality == "audio"
    assert asked.looks.evidence[0].startswith("the caller says audio, though")


def test_a_filled_in_recipe_stays_as_it_is(tmp_path: Path) -> None:
    """A retry, a resumed job and a replay begin with the recipe that the first plan has completed."""
    catalog = looking(tmp_path, UNET)
    first = plan_outputs(catalog, (OutputSpec("", resolve(Recipe())),))
    again = plan_outputs(catalog, from_json(to_json(first.outputs)))
    assert again.outputs == first.outputs
    assert again.plans[0].tensors == first.plans[0].tensors


def test_an_autoencoder_is_kept_unless_a_rule_names_it(tmp_path: Path) -> None:
    catalog = looking(tmp_path, [*VAE, "first_stage_model.decoder.conv.weight"])
    plan = make_plan(catalog, resolve(Recipe()))
    assert {(t.role, t.treatment.action) for t in plan.tensors} == {(Role.VAE, Action.KEEP)}
    assert all("autoencoder" in t.treatment.reason for t in plan.tensors)
    ruled = make_plan(
        catalog, resolve(Recipe.model_validate({"rules": [{"match": "*", "bits": 8}]}))
    )
    assert {t.treatment.bits for t in ruled.tensors} == {8}


def test_an_autoencoder_inside_a_checkpoint_is_kept(tmp_path: Path) -> None:
    names = ["model.diffusion_model.input_blocks.1.0.in_layers.2.weight", "vae.decoder.up.weight"]
    plan = make_plan(looking(tmp_path, names), resolve(Recipe()))
    assert [t.treatment.action for t in plan.tensors] == [Action.QUANTIZE, Action.KEEP]
