"""What a tensor does in its model, told from its name and rank.

The names are those of the common families: diffusers UNets and DiTs, SD3/FLUX, PixArt, Stable
Audio, LLaMA/Qwen-like text models (Dream, LLaDA), BERT-like encoders. Order matters: the first
pattern that matches decides. A two-dimensional weight that no pattern knows is a linear layer, so
that an unknown architecture is quantized, never skipped in silence.
"""

from __future__ import annotations

import re

from service.domain.modality import Part
from service.domain.profiles import Role

_NAMED: tuple[tuple[re.Pattern[str], Role], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), role)
    for pattern, role in (
        (r"(^|[._])(bias|b)$", Role.BIAS),
        (r"^(first_stage_model|vae|autoencoder|pretransform)\.", Role.VAE),
        (r"(layer_?norm|rms_?norm|group_?norm|(^|[._])(ln|norm|gn)[_\d]*|norm[_\d]*)\.(weight|scale|gamma|beta|g)$", Role.NORM),
        (r"(^|[._])(q|k|pre|post|input|ffn?|attn|final)_?(layer)?norm(\.weight)?$", Role.NORM),
        (r"(patch_?embed|x_embedder|context_embedder|(^|\.)(img|txt)_in\.|pos_embed\.proj|(^|\.)conv_in\.|input_blocks\.0\.|^(transformer\.|model\.)*proj(ect)?_in\.weight$)", Role.PATCH_EMBEDDER),
        (r"(^|[._])(position|positional|pos)_?(embedding|embeddings|embed|embeds|ids)|embed_positions|relative_attention_bias|relative_position|rel_pos|(^|\.)wpe\.", Role.POSITION_EMBEDDING),
        (r"(^|[._])(time|timestep|t|sigma|noise|guidance)_?(text_|step_)?(embed|embedder|embedding|emb_proj|mlp|proj|map|features)", Role.TIME_EMBEDDER),
        (r"((^|\.)(time|vector|guidance)_in\.|(^|\.)emb_layers\.|(^|\.)label_emb\.|(^|\.)add_embedding\.)", Role.TIME_EMBEDDER),
        (r"(adaln|ada_ln|adalayernorm|modulation|(^|[._])mod\.|(^|\.)t_block\.|norm\d?(_context)?\.linear|scale_shift_table|norm_out\.linear)", Role.ADALN),
        (r"(final_layer|^(transformer\.|model\.)*(proj_out(_\d)?|project_out|output|embed_out|ff_out)\.weight$|(^|\.)conv_out\.|(^|diffusion_model\.)out\.\d|lm_head|(^|\.)head\.weight$|(^|\.)output_layer\.|predictions\.decoder\.)", Role.FINAL_LAYER),
        (r"(word_embeddings|embed_tokens|embed_in\.|tok_embeddings|token_type_embeddings|(^|\.)wte\.|(^|[._])embed(ding|dings|der)?s?(\.(embedding_table\.)?weight)?$|(^|\.)shared\.weight$|y_embedder|class_embed)", Role.EMBEDDING),
    )
)  # fmt: skip


def role_of(name: str, shape: tuple[int, ...], part: Part = Part.UNKNOWN) -> Role:
    """The role of a tensor with this full name and shape, in weights that are this part of a model."""
    if len(shape) < 2:
        return _one_dimensional(name)
    if part is Part.AUTOENCODER:
        return Role.VAE
    for pattern, role in _NAMED:
        if pattern.search(name):
            return role if role not in (Role.BIAS, Role.NORM) else Role.OTHER
    return Role.CONV if _is_convolution(shape) else Role.LINEAR


def rows_and_cols(shape: tuple[int, ...]) -> tuple[int, int]:
    """The matrix a tensor is quantized as: rows of outputs by the flattened input axis.

    A convolution [out, in, k...] becomes (out, in*k...); a stack of matrices [experts, out, in]
    becomes (experts*out, in), which keeps rows short.
    """
    rows = 1
    lead = 1 if _is_convolution(shape) or len(shape) < 3 else len(shape) - 1
    for dim in shape[:lead]:
        rows *= dim
    cols = 1
    for dim in shape[lead:]:
        cols *= dim
    return rows, cols


def _one_dimensional(name: str) -> Role:
    if name.endswith(("bias", ".b", "beta")):
        return Role.BIAS
    return Role.NORM if re.search(r"norm|ln_|(^|\.)ln|gamma", name, re.IGNORECASE) else Role.OTHER


def _is_convolution(shape: tuple[int, ...]) -> bool:
    # Kernels are small; a 3-D stack of matrices has a wide last axis.
    return len(shape) >= 4 or (len(shape) == 3 and shape[-1] <= 16)
