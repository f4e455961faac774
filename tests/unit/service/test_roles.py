"""What tensors of the common model families are taken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.profiles import Role
from service.domain.roles import role_of, rows_and_cols

L, C, E, P, T, X, A, F, N, B, Z = (
    Role.LINEAR,
    Role.CONV,
    Role.EMBEDDING,
    Role.POSITION_EMBEDDING,
    Role.TIME_EMBEDDER,
    Role.PATCH_EMBEDDER,
    Role.ADALN,
    Role.FINAL_LAYER,
    Role.NORM,
    Role.BIAS,
    Role.OTHER,
)

V, M = (1152,), (1152, 1152)
K = (320, 320, 3, 3)

CASES: dict[str, list[tuple[str, tuple[int, ...], Role]]] = {
    "DiT": [
        ("x_embedder.proj.weight", (1152, 4, 2, 2), X),
        ("x_embedder.proj.bias", V, B),
        ("t_embedder.mlp.0.weight", (1152, 256), T),
        ("y_embedder.embedding_table.weight", (1001, 1152), E),
        ("pos_embed", (1, 256, 1152), P),
        ("blocks.0.attn.qkv.weight", (3456, 1152), L),
        ("blocks.0.mlp.fc1.weight", (4608, 1152), L),
        ("blocks.0.adaLN_modulation.1.weight", (6912, 1152), A),
        ("final_layer.linear.weight", (32, 1152), F),
        ("final_layer.adaLN_modulation.1.weight", (2304, 1152), A),
    ],
    "DiT of diffusers": [
        ("pos_embed.proj.weight", (1152, 4, 2, 2), X),
        ("transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight", (1152, 256), T),
        ("transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", (1001, 1152), E),
        ("transformer_blocks.0.norm1.linear.weight", (6912, 1152), A),
        ("transformer_blocks.0.attn1.to_out.0.weight", M, L),
        ("transformer_blocks.0.ff.net.0.proj.weight", (4608, 1152), L),
        ("proj_out_1.weight", (2304, 1152), F),
        ("proj_out_2.weight", (32, 1152), F),
    ],
    "Stable Diffusion UNet": [
        ("conv_in.weight", (320, 4, 3, 3), X),
        ("time_embedding.linear_1.weight", (1280, 320), T),
        ("add_embedding.linear_1.weight", (1280, 2816), T),
        ("down_blocks.0.resnets.0.conv1.weight", K, C),
        ("down_blocks.0.resnets.0.norm1.weight", (320,), N),
        ("down_blocks.0.resnets.0.time_emb_proj.weight", (320, 1280), T),
        ("down_blocks.0.attentions.0.proj_in.weight", (320, 320, 1, 1), C),
        ("down_blocks.0.attentions.0.proj_out.weight", (320, 320), L),
        ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", (1280, 768), L),
        ("conv_norm_out.weight", (320,), N),
        ("conv_out.weight", (4, 320, 3, 3), F),
        ("model.diffusion_model.input_blocks.0.0.weight", (320, 4, 3, 3), X),
        ("model.diffusion_model.input_blocks.1.0.emb_layers.1.weight", (320, 1280), T),
        ("model.diffusion_model.time_embed.0.weight", (1280, 320), T),
        ("model.diffusion_model.label_emb.0.0.weight", (1280, 2816), T),
        ("model.diffusion_model.out.2.weight", (4, 320, 3, 3), F),
    ],
    "SD3 and FLUX": [
        ("context_embedder.weight", (3072, 4096), X),
        ("x_embedder.weight", (3072, 64), X),
        ("time_text_embed.timestep_embedder.linear_1.weight", (3072, 256), T),
        ("time_text_embed.text_embedder.linear_1.weight", (3072, 768), T),
        ("time_text_embed.guidance_embedder.linear_1.weight", (3072, 256), T),
        ("transformer_blocks.0.norm1_context.linear.weight", (18432, 3072), A),
        ("transformer_blocks.0.attn.add_q_proj.weight", (3072, 3072), L),
        ("transformer_blocks.0.attn.norm_q.weight", (128,), N),
        ("single_transformer_blocks.0.norm.linear.weight", (9216, 3072), A),
        ("single_transformer_blocks.0.proj_out.weight", (3072, 15360), L),
        ("norm_out.linear.weight", (6144, 3072), A),
        ("proj_out.weight", (64, 3072), F),
        ("img_in.weight", (3072, 64), X),
        ("txt_in.weight", (3072, 4096), X),
        ("time_in.in_layer.weight", (3072, 256), T),
        ("vector_in.in_layer.weight", (3072, 768), T),
        ("double_blocks.0.img_mod.lin.weight", (18432, 3072), A),
        ("double_blocks.0.img_attn.norm.key_norm.scale", (128,), N),
        ("double_blocks.0.img_attn.proj.weight", (3072, 3072), L),
        ("single_blocks.0.modulation.lin.weight", (9216, 3072), A),
    ],
    "PixArt": [
        ("adaln_single.emb.timestep_embedder.linear_1.weight", (1152, 256), T),
        ("adaln_single.linear.weight", (6912, 1152), A),
        ("caption_projection.linear_1.weight", (1152, 4096), L),
        ("scale_shift_table", (2, 1152), A),
        ("transformer_blocks.0.scale_shift_table", (6, 1152), A),
        ("t_block.1.weight", (6912, 1152), A),
    ],
    "Stable Audio": [
        ("global_proj.0.weight", (1536, 1536), L),
        ("timestep_proj.0.weight", (1536, 256), T),
        ("preprocess_conv.weight", (64, 64, 1), C),
        ("proj_in.weight", (1536, 64), X),
        ("model.model.transformer.project_in.weight", (1536, 64), X),
        ("model.model.transformer.project_out.weight", (64, 1536), F),
        ("model.model.to_timestep_embed.0.weight", (1536, 256), T),
        ("model.model.timestep_features.weight", (128, 1), T),
        ("transformer_blocks.0.attn1.to_q.weight", (1536, 1536), L),
    ],
    "LLaMA, Qwen, Dream": [
        ("model.embed_tokens.weight", (152064, 3584), E),
        ("model.layers.0.self_attn.q_proj.weight", (3584, 3584), L),
        ("model.layers.0.self_attn.q_proj.bias", (3584,), B),
        ("model.layers.0.self_attn.q_norm.weight", (128,), N),
        ("model.layers.0.mlp.down_proj.weight", (3584, 18944), L),
        ("model.layers.0.input_layernorm.weight", (3584,), N),
        ("model.layers.0.mlp.experts.3.gate_proj.weight", (768, 2048), L),
        ("model.layers.0.mlp.experts.gate_up_proj", (128, 2048, 1536), L),
        ("model.norm.weight", (3584,), N),
        ("lm_head.weight", (152064, 3584), F),
        ("tok_embeddings.weight", (32000, 4096), E),
        ("output.weight", (32000, 4096), F),
    ],
    "LLaDA": [
        ("model.transformer.wte.weight", (126464, 4096), E),
        ("model.transformer.blocks.0.ff_out.weight", (4096, 12288), L),
        ("model.transformer.blocks.0.attn_norm.weight", (4096,), N),
        ("model.transformer.ln_f.weight", (4096,), N),
        ("model.transformer.ff_out.weight", (126464, 4096), F),
    ],
    "MDLM": [
        ("backbone.vocab_embed.embedding", (30522, 768), E),
        ("backbone.sigma_map.mlp.0.weight", (128, 256), T),
        ("backbone.blocks.0.adaLN_modulation.weight", (4608, 128), A),
        ("backbone.output_layer.linear.weight", (30522, 768), F),
    ],
    "BERT and MiniLM": [
        ("embeddings.word_embeddings.weight", (30522, 384), E),
        ("embeddings.position_embeddings.weight", (512, 384), P),
        ("embeddings.token_type_embeddings.weight", (2, 384), E),
        ("embeddings.LayerNorm.weight", (384,), N),
        ("embeddings.LayerNorm.beta", (384,), B),
        ("encoder.layer.0.attention.self.query.weight", (384, 384), L),
        ("encoder.layer.0.output.dense.weight", (384, 1536), L),
        ("pooler.dense.weight", (384, 384), L),
        ("cls.predictions.decoder.weight", (30522, 384), F),
    ],
    "Whisper": [
        ("model.encoder.conv1.weight", (512, 80, 3), C),
        ("model.encoder.embed_positions.weight", (1500, 512), P),
        ("model.decoder.embed_tokens.weight", (51865, 512), E),
        ("model.decoder.layers.0.encoder_attn.k_proj.weight", (512, 512), L),
        ("model.encoder.layers.0.self_attn_layer_norm.weight", (512,), N),
        ("decoder.positional_embedding", (448, 512), P),
        ("decoder.token_embedding.weight", (51865, 512), E),
        ("proj_out.weight", (51865, 512), F),
    ],
    "VAE": [
        ("encoder.conv_in.weight", (128, 3, 3, 3), X),
        ("encoder.down_blocks.0.resnets.0.norm1.weight", (128,), N),
        ("encoder.mid_block.attentions.0.to_q.weight", (512, 512), L),
        ("quant_conv.weight", (8, 8, 1, 1), C),
        ("decoder.up_blocks.0.upsamplers.0.conv.weight", K, C),
        ("decoder.conv_out.weight", (3, 128, 3, 3), F),
        ("decoder.up.0.time_conv.weight", (384, 384, 3, 1, 1), C),
    ],
    "T5 and CLIP": [
        ("shared.weight", (32128, 4096), E),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", (4096, 4096), L),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 64), P),
        ("encoder.block.0.layer.0.layer_norm.weight", (4096,), N),
        ("text_model.embeddings.token_embedding.weight", (49408, 768), E),
        ("text_model.embeddings.position_embedding.weight", (77, 768), P),
        ("vision_model.embeddings.patch_embedding.weight", (768, 3, 32, 32), X),
        ("logit_scale", (), Z),
        ("transformer.wpe.weight", (1024, 768), P),
        ("gpt_neox.embed_in.weight", (50432, 768), E),
        ("embed_out.weight", (50432, 768), F),
    ],
    "anything else": [
        ("module.w", M, L),
        ("stack", (8, 64, 64), L),
        ("", M, L),
        ("alpha", V, Z),
    ],
}


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [pytest.param(*case, id=case[0] or "-") for cases in CASES.values() for case in cases],
)
def test_roles(name: str, shape: tuple[int, ...], role: Role) -> None:
    assert role_of(name, shape) is role


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((7, 5), (7, 5)),
        ((8, 4, 3, 3), (8, 36)),
        ((8, 4, 3, 3, 3), (8, 108)),
        ((8, 4, 3), (8, 12)),
        ((8, 4, 64), (32, 64)),
        ((5,), (5, 1)),
        ((), (1, 1)),
        ((0, 4), (0, 4)),
    ],
)
def test_matrices(shape: tuple[int, ...], matrix: tuple[int, int]) -> None:
    assert rows_and_cols(shape) == matrix


@given(
    st.text(max_size=40),
    st.lists(st.integers(0, 2**40), max_size=8).map(tuple),
)
def test_every_name_and_shape_has_a_role_and_a_matrix(name: str, shape: tuple[int, ...]) -> None:
    assert role_of(name, shape) in Role
    rows, cols = rows_and_cols(shape)
    elements = 1
    for dim in shape:
        elements *= dim
    assert rows * cols == elements
