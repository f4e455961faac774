"""Where the input of a layer can be scaled by weights before it: maps of the common families, as data.

A map says of one kind of block which tensors make a vector and which linear layers read it, so that the
vector can be divided by s and the layers' columns multiplied by s without changing what the block does:

    Affine     a norm's weight and bias, y = n(x) * w + b
    Modulated  rows of an adaLN linear, y = n(x) * (1 + scale(t)) + shift(t)
    Carried    rows of a linear layer whose outputs reach the next one channel by channel: values through
               attention to its output (Xiao et al. 2023 fold norms alone; the sums of attention are linear in
               the values), the ungated half of a gated feed-forward
    Unfolded   layers whose input no weight of the block's own scales, and why

Names are modules, those that end in `?` may be missing. The order of chunks is that of the reference code of each
family: facebookresearch/DiT and diffusers (AdaLayerNormZero: shift, scale, gate; AdaLayerNormContinuous: scale, shift).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Affine:
    norm: str
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Modulated:
    """`chunks`: how many the linear's rows are; `shift` and `scale`: numbers of two of them."""

    linear: str
    chunks: int
    shift: int
    scale: int
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Carried:
    """rows   which part of the first layers' rows is carried, of how many equal parts
    grouped  several heads read the same values where there are more columns than rows
    first    only the first columns of the layers that read it are fed by these rows
    """

    by: tuple[str, ...]
    to: tuple[str, ...]
    rows: tuple[int, int] = (0, 1)
    grouped: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True)
class Unfolded:
    to: tuple[str, ...]
    why: str


Part = Affine | Modulated | Carried | Unfolded


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of block.

    block    regular expression of the block's name; empty for the model as a whole
    needs    what such a block has, relative to it; never: what it has not
    classes  what `_class_name`, `architectures` or `model_type` of a config.json call such models, in small
             letters; where the config says something else, the map is not used
    """

    name: str
    block: str
    needs: tuple[str, ...]
    parts: tuple[Part, ...]
    classes: frozenset[str]
    never: tuple[str, ...] = ()


GELU: Final = "what is between is not homogeneous"
SHARED: Final = "its modulation is shared by all blocks"
ENCODED: Final = "it is fed by another model"

_SELF = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
_FF_OUT = Unfolded(("ff.net.2",), GELU)
_DIT_CLASSES = frozenset({"dittransformer2dmodel", "transformer2dmodel"})
_JOINT_CLASSES = frozenset({"sd3transformer2dmodel", "fluxtransformer2dmodel"})
_LLAMA_CLASSES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "dream", "llamaforcausallm", "mistralforcausallm"}
    | {"qwen2forcausallm", "qwen3forcausallm", "dreammodel", "sdar", "sdarforcausallm"}
)

_DIT = Family(
    "DiT",
    r"(?:.+\.)?transformer_blocks\.\d+",
    ("norm1.linear.weight", "attn1.to_q.weight", "ff.net.0.proj.weight"),
    (
        Modulated("norm1.linear", 6, 0, 1, _SELF),
        Modulated("norm1.linear", 6, 3, 4, ("ff.net.0.proj",)),
        Carried(("attn1.to_v",), ("attn1.to_out.0",)),
        Carried(("ff.net.0.proj",), ("ff.net.2",), rows=(0, 2)),
        _FF_OUT,
    ),
    _DIT_CLASSES,
    never=("attn2.to_q.weight",),
)
_DIT_END = Family(
    "DiT",
    "",
    ("proj_out_1.weight", "proj_out_2.weight", "transformer_blocks.0.norm1.linear.weight"),
    (Modulated("proj_out_1", 2, 0, 1, ("proj_out_2",)),),
    _DIT_CLASSES,
)
_DIT_ORIGINAL = Family(
    "DiT",
    r"(?:.+\.)?blocks\.\d+",
    ("adaLN_modulation.1.weight", "attn.qkv.weight", "mlp.fc1.weight"),
    (
        Modulated("adaLN_modulation.1", 6, 0, 1, ("attn.qkv",)),
        Modulated("adaLN_modulation.1", 6, 3, 4, ("mlp.fc1",)),
        Carried(("attn.qkv",), ("attn.proj",), rows=(2, 3)),
        Unfolded(("mlp.fc2",), GELU),
    ),
    frozenset({"dit"}),
)
_JOINT = Family(
    "SD3/FLUX",
    r"(?:.+\.)?transformer_blocks\.\d+",
    ("norm1.linear.weight", "norm1_context.linear.weight", "attn.add_q_proj.weight"),
    (
        Modulated("norm1.linear", 6, 0, 1, ("attn.to_q", "attn.to_k", "attn.to_v")),
        Modulated("norm1.linear", 6, 3, 4, ("ff.net.0.proj",)),
        # SD3.5: a second attention of the image alone.
        Modulated("norm1.linear", 9, 0, 1, ("attn.to_q", "attn.to_k", "attn.to_v")),
        Modulated("norm1.linear", 9, 3, 4, ("ff.net.0.proj",)),
        Modulated("norm1.linear", 9, 6, 7, ("attn2.to_q", "attn2.to_k", "attn2.to_v")),
        Modulated(
            "norm1_context.linear", 6, 0, 1, ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
        ),
        Modulated("norm1_context.linear", 6, 3, 4, ("ff_context.net.0.proj",)),
        # SD3's last block drops the text: AdaLayerNormContinuous.
        Modulated(
            "norm1_context.linear", 2, 1, 0, ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
        ),
        # Image and text attend to the values of both.
        Carried(("attn.to_v", "attn.add_v_proj"), ("attn.to_out.0", "attn.to_add_out?")),
        Carried(("attn2.to_v",), ("attn2.to_out.0",)),
        Unfolded(("ff.net.2", "ff_context.net.2?"), GELU),
    ),
    _JOINT_CLASSES,
)  # fmt: skip
_SINGLE = Family(
    "SD3/FLUX",
    r"(?:.+\.)?single_transformer_blocks\.\d+",
    ("norm.linear.weight", "proj_mlp.weight", "proj_out.weight", "attn.to_v.weight"),
    (
        Modulated("norm.linear", 3, 0, 1, ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
        # It reads attention and feed-forward side by side, attention first.
        Carried(("attn.to_v",), ("proj_out",), first=True),
    ),
    _JOINT_CLASSES,
)
_JOINT_END = Family(
    "SD3/FLUX",
    "",
    ("norm_out.linear.weight", "proj_out.weight", "transformer_blocks.0.norm1_context.linear.weight"),
    (Modulated("norm_out.linear", 2, 1, 0, ("proj_out",)),),
    _JOINT_CLASSES,
)  # fmt: skip
_PIXART = Family(
    "PixArt",
    r"(?:.+\.)?transformer_blocks\.\d+",
    ("scale_shift_table", "attn1.to_q.weight", "attn2.to_q.weight", "ff.net.0.proj.weight"),
    (
        Unfolded((*_SELF, "ff.net.0.proj"), SHARED),
        Unfolded(("attn2.to_q",), "nothing is before it that could scale it"),
        Unfolded(("attn2.to_k", "attn2.to_v"), ENCODED),
        Carried(("attn1.to_v",), ("attn1.to_out.0",)),
        Carried(("attn2.to_v",), ("attn2.to_out.0",)),
        Carried(("ff.net.0.proj",), ("ff.net.2",), rows=(0, 2)),
        _FF_OUT,
    ),
    frozenset({"pixarttransformer2dmodel", "transformer2dmodel"}),
)
_UNET = Family(
    "UNet",
    r"(?:.+\.)?(?:down_blocks\.\d+|up_blocks\.\d+|mid_block)\.attentions\.\d+\.transformer_blocks\.\d+",
    ("norm1.weight", "norm2.weight", "norm3.weight", "attn2.to_q.weight", "ff.net.0.proj.weight"),
    (
        Affine("norm1", _SELF),
        Affine("norm2", ("attn2.to_q",)),
        Unfolded(("attn2.to_k", "attn2.to_v"), ENCODED),
        Affine("norm3", ("ff.net.0.proj",)),
        Carried(("attn1.to_v",), ("attn1.to_out.0",)),
        Carried(("attn2.to_v",), ("attn2.to_out.0",)),
        # GEGLU: the first half is multiplied by the gelu of the second.
        Carried(("ff.net.0.proj",), ("ff.net.2",), rows=(0, 2)),
        _FF_OUT,
    ),
    frozenset({"unet2dconditionmodel"}),
    never=("pos_embed", "fuser", "attn2.processor"),
)
_UNET_IN = Family(
    "UNet",
    r"(?:.+\.)?(?:down_blocks\.\d+|up_blocks\.\d+|mid_block)\.attentions\.\d+",
    ("norm.weight", "proj_in.weight", "transformer_blocks.0.norm1.weight"),
    (Affine("norm", ("proj_in",)),),
    frozenset({"unet2dconditionmodel"}),
)
_LLAMA = Family(
    "LLaMA/Qwen-like",
    r"(?:.+\.)?layers\.\d+",
    ("input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"),
    (
        Affine("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        Affine("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        Carried(("self_attn.v_proj",), ("self_attn.o_proj",), grouped=True),
        Carried(("mlp.up_proj",), ("mlp.down_proj",)),
    ),
    _LLAMA_CLASSES,
    never=(
        "pre_feedforward_layernorm", "post_feedforward_layernorm", "mlp.experts", "mlp.gate",
        "self_attn.v_norm",
    ),
)  # fmt: skip
_LLADA = Family(
    "LLaDA",
    r"(?:.+\.)?blocks\.\d+",
    ("attn_norm.weight", "ff_norm.weight", "q_proj.weight", "attn_out.weight", "up_proj.weight"),
    (
        Affine("attn_norm", ("q_proj", "k_proj", "v_proj")),
        Affine("ff_norm", ("ff_proj", "up_proj")),
        Carried(("v_proj",), ("attn_out",), grouped=True),
        Carried(("up_proj",), ("ff_out",)),
    ),
    frozenset({"llada", "lladamodellm"}),
)

FAMILIES: Final = (
    _DIT, _DIT_END, _DIT_ORIGINAL, _JOINT, _SINGLE, _JOINT_END, _PIXART, _UNET, _UNET_IN, _LLAMA, _LLADA,
)  # fmt: skip
