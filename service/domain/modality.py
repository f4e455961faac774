"""What a model makes (text, code, images, audio) and what part of it the weights are, with evidence.

Asked in this order, and the first that knows decides: the configuration beside the weights, the
metadata in their header, the names of the tensors. The caller may overrule all of them. What each
modality's recipe then is stands in `RECIPES`: data, in one place.

Video counts as images: its denoisers are image transformers with one more axis.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Self, get_args

Modality = Literal["text", "code", "image", "audio"]
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)


class Part(StrEnum):
    """What the weights are of a generative model."""

    DENOISER = "denoiser"  #: runs once in every sampling step: its errors add up
    LANGUAGE_MODEL = "language_model"  #: autoregressive, or nothing says that it diffuses
    ENCODER = "encoder"  #: one pass over a prompt, an image or a sound
    AUTOENCODER = "autoencoder"  #: to and from latents, once at the end
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ModalityRecipe:
    """What a recipe that does not say otherwise takes from the modality.

    unbias  how much of the length that least squares takes is given back, 0 to 1
    """

    unbias: float


# Measured: on models that are iterated, image or text, the unbiased fit wins at every width; on what
# runs once it costs a little. What nobody has recognised is treated as the latter.
_ITERATED: Final = ModalityRecipe(unbias=1.0)
_ONCE: Final = ModalityRecipe(unbias=0.0)
RECIPES: Final[Mapping[tuple[Modality, Part], ModalityRecipe]] = {
    (modality, Part.DENOISER): _ITERATED for modality in MODALITIES
}


@dataclass(frozen=True, slots=True)
class Detection:
    """What a source looks like. `evidence` says in sentences what was seen and what it means."""

    modality: Modality | None = None
    part: Part = Part.UNKNOWN
    evidence: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "modality": self.modality, "part": self.part.value, "evidence": list(self.evidence),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `as_dict` made; nothing known for an empty one."""
        if not data:
            return cls()
        return cls(data["modality"], Part(data["part"]), tuple(data["evidence"]))


def decide(asked: Modality | None, found: Detection) -> Detection:
    """The decision: what the caller says, else what was found. Images and sounds whose denoiser
    nobody recognised are taken for one: whoever says so wants their recipe."""
    if asked is None:
        return found
    part = found.part
    if part is Part.UNKNOWN and asked in ("image", "audio"):
        part = Part.DENOISER
    said = f"the caller says {asked}"
    if found.modality not in (None, asked):
        said += f", though it looks like {found.modality}"
    return Detection(asked, part, (said, *found.evidence))


def recipe_of(modality: Modality | None, part: Part) -> ModalityRecipe:
    """The defaults of a modality's recipe."""
    return _ONCE if modality is None else RECIPES.get((modality, part), _ONCE)


def detect(
    configs: Mapping[str, Any], metadata: Mapping[str, str], names: Iterable[str]
) -> Detection:
    """Judge a source.

    configs   parsed JSON by file name: `config.json` of the weights, `model_index.json` of the
              pipeline; anything may stand in there
    metadata  of the safetensors header
    names     of all tensors
    """
    found = Detection()
    for file in sorted(configs):
        found = _joined(found, _by_config(file, configs[file]))
    found = _joined(found, _by_metadata(metadata))
    if found.modality is None or found.part is Part.UNKNOWN:
        found = _joined(found, _by_names(list(names)))
    return found


def _joined(first: Detection, second: Detection) -> Detection:
    """What the first does not know, the second may."""
    part = second.part if first.part is Part.UNKNOWN else first.part
    evidence = (*first.evidence, *(e for e in second.evidence if e not in first.evidence))
    return Detection(first.modality or second.modality, part, evidence)


# -- configuration and metadata --------------------------------------------------------------------

_Kind = tuple[Modality | None, Part]

# Class names, architectures and model types; the first that matches decides.
_CLASS_NAMES: Final[tuple[tuple[str, _Kind], ...]] = (
    (r"oobleck|encodec|vocoder|hifigan|music_?dcae|(^|[^a-z])dac(model)?$|audio.*(vae|autoencoder)", ("audio", Part.AUTOENCODER)),
    (r"autoencoder|vq_?model|vqvae|vae(model)?$", ("image", Part.AUTOENCODER)),
    (r"diffu_?coder|code.*(diffusion|mdlm)", ("code", Part.DENOISER)),
    (r"dream(?!booth)|llada|mdlm|sedd|diffu_?llama|diffu_?gpt|bd3_?lm|plaid|block_?diffusion|(masked|discrete|text)_?diffusion|diffusion_?(lm|language)", ("text", Part.DENOISER)),
    (r"stable_?audio|audio_?ldm|music_?ldm|audio_?(diffusion|dit)|mel.*dit|dance_?diffusion|wave_?grad|diff_?wave|ace_?step|riffusion|tango", ("audio", Part.DENOISER)),
    (r"(clip|siglip)_?text|t5_?encoder|umt5|(^|_)bert|(^|[^a-z])(distil|ro|al|de|mp)?berta?(model|for|$)|sentence|(xlm_?)?roberta|mpnet|text_?encoder", ("text", Part.ENCODER)),
    (r"whisper|wav2vec|hubert|clap(_|model|audio|text|$)|audio_?encoder", ("audio", Part.ENCODER)),
    (r"clip_?vision|siglip|dino|(^|[^a-z])vit(model|for|$)|image_?encoder", ("image", Part.ENCODER)),
    (r"u_?net|transformer_?[23]d|(^|[^a-z])(u-?)?(dit|vit|mmdit)([^a-z]|$)|dit_?transformer|flux|sd3|sdxl|stable.?diffusion|pixart|sana|hunyuan|cog_?(video|view)|wan(transformer|pipeline|$)|ltx|mochi|allegro|kandinsky|stable_?cascade|wuerstchen|lumina|aura_?flow|consistency_?model|control_?net|latent_?consistency|ddpm|ddim|dit_?pipeline|qwen_?image|z_?image|prior_?transformer|adm|(^|_)dit", ("image", Part.DENOISER)),
    (r"code_?(llama|gen|qwen|gemma)|star_?coder|santa_?coder|deepseek_?coder|(^|[^a-z])coder", ("code", Part.LANGUAGE_MODEL)),
    (r"causal_?lm|lm_?head_?model|llama|qwen|mistral|mixtral|gemma|gpt|phi\d?(for|$)|olmo|falcon|bloom|opt(for|$)|masked_?lm", ("text", Part.LANGUAGE_MODEL)),
    (r"(^|[^a-z])(text|language|mdlm)([^a-z]|$)", ("text", Part.UNKNOWN)),
    (r"audio|waveform|speech|music", ("audio", Part.UNKNOWN)),
    (r"image|video|vision", ("image", Part.UNKNOWN)),
)  # fmt: skip
_CLASSES: Final = tuple((re.compile(name, re.IGNORECASE), kind) for name, kind in _CLASS_NAMES)

_MAX_TOLD: Final = 80


def _by_config(file: str, config: Any) -> Detection:
    if not isinstance(config, dict):
        return Detection(evidence=(f"{file} is not a JSON object: nothing is taken from it",))
    found = Detection()
    said = config.get("modality")
    if isinstance(said, str) and said in MODALITIES:
        found = Detection(said, evidence=(f"{file} says modality {said!r}",))
    for key, value in _class_names(config):
        kind = _kind_of(value)
        if kind is None:
            continue
        if file == "model_index.json" and kind[1] is Part.DENOISER:
            # A pipeline is of several models: which of them this is, it does not say.
            kind = kind[0], Part.UNKNOWN
        found = _joined(found, _seen(f"{file}: {key} {value[:_MAX_TOLD]!r}", kind))
    return found


def _class_names(config: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """What says of which class a model is, most telling first."""
    several = config.get("architectures")
    values = [
        ("_class_name", config.get("_class_name")),
        *(("architectures", one) for one in (several if isinstance(several, list) else ())),
        ("model_type", config.get("model_type")),
    ]
    return [(key, value) for key, value in values if isinstance(value, str)]


_METADATA_KEYS: Final = (
    "modality", "modelspec.architecture", "architecture", "_class_name", "model_type",
    "modelspec.implementation",
)  # fmt: skip


def _by_metadata(metadata: Mapping[str, str]) -> Detection:
    found = Detection()
    for key in _METADATA_KEYS:
        value = metadata.get(key, "")
        kind: _Kind | None = _kind_of(value)
        if key == "modality":
            said = next((one for one in MODALITIES if one == value), None)
            kind = (said, Part.UNKNOWN) if said else None
        if kind is not None:
            found = _joined(found, _seen(f"header metadata: {key} {value[:_MAX_TOLD]!r}", kind))
    return found


def _kind_of(value: str) -> _Kind | None:
    return next((kind for pattern, kind in _CLASSES if pattern.search(value)), None)


def _seen(what: str, kind: _Kind) -> Detection:
    modality, part = kind
    means = f"{modality}" + ("" if part is Part.UNKNOWN else f", {part.value.replace('_', ' ')}")
    return Detection(modality, part, (f"{what}: {means}",))


# -- names of tensors ------------------------------------------------------------------------------

# A name votes for every modality whose pattern it matches.
_VOTES: Final[tuple[tuple[Modality, re.Pattern[str]], ...]] = (
    (
        "text",
        re.compile(
            r"embed_tokens|lm_head|self_attn|mlp\.(gate|up|down)_proj|(input|post_attention)_layernorm"
            r"|rotary_emb|(^|\.)w[tp]e\.|transformer\.h\.|model\.layers\.|word_embeddings|vocab_embed"
            r"|ff_proj|(^|\.)ff_out\.|tok_embeddings|attention\.self\.|sigma_map"
        ),
    ),
    (
        "image",
        re.compile(
            r"conv_(in|out)\.|(down|up)_blocks\.|mid_block\.|(^|\.)unet\.|(^|\.)vae\.|patch_?embed|to_rgb"
            r"|x_embedder|y_embedder|pos_embed\.proj|joint_blocks\.|(double|single)_blocks\.|(img|txt)_in\."
            r"|(img|txt)_(attn|mlp|mod)|single_transformer_blocks\.|context_embedder|adaln_single"
            r"|(input|output|middle)_blocks?\.|caption_projection|label_emb"
        ),
    ),
    (
        "audio",
        re.compile(
            r"(^|[._])mel([._]|$)|spectrogram|waveform|audio|vocoder|to_timestep_embed|seconds_(start|total)"
            r"|timestep_features|project_in\.weight|(pre|post)process_conv|dilated_conv"
        ),
    ),
)  # fmt: skip
_STEPS: Final = re.compile(
    r"(time|timestep|time_text|sigma|noise)_?(step_)?(embed|emb|mlp|proj|map|in\.|features)|(^|\.)t_embedder\."
    r"|(^|\.)(t_block|t_embed|sigma_map|time_in|time_mlp)\.|adaln|scale_shift_table|emb_layers\.|to_timestep_embed",
    re.IGNORECASE,
)
_LATENTS: Final = re.compile(
    r"(^|\.)(post_)?quant_conv\.|(^|\.)quantize\.embedding|(^|\.)bottleneck\."
)
_TWO_HALVES: Final = (re.compile(r"^(\w+\.)?encoder\."), re.compile(r"^(\w+\.)?decoder\."))


def _by_names(names: list[str]) -> Detection:
    votes: Counter[Modality] = Counter()
    for name in names:
        votes.update(modality for modality, pattern in _VOTES if pattern.search(name))
    most = max(votes.values(), default=0)
    best = [modality for modality in MODALITIES if most and votes[modality] == most]
    part, why = _part_by_names(names, best[0] if best else None)
    told = ", ".join(f"{modality} {count}" for modality, count in sorted(votes.items())) or "none"
    evidence = [f"names of {len(names)} tensors, votes: {told}" + (f"; {why}" if why else "")]
    return Detection(best[0] if best else None, part, tuple(evidence))


def _part_by_names(names: list[str], modality: Modality | None) -> tuple[Part, str]:
    step = next((name for name in names if _STEPS.search(name)), None)
    if step is not None:
        return Part.DENOISER, f"{step[:_MAX_TOLD]!r} takes the time step: denoiser"
    latent = next((name for name in names if _LATENTS.search(name)), None)
    halves = all(any(half.search(name) for name in names) for half in _TWO_HALVES)
    if latent is not None and halves and modality != "text":
        return Part.AUTOENCODER, f"{latent[:_MAX_TOLD]!r} between two halves: autoencoder"
    if modality == "text":
        return Part.LANGUAGE_MODEL, "nothing takes a time step: language model"
    return Part.UNKNOWN, ""
