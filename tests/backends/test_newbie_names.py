from __future__ import annotations

import pytest
import torch

from services.worker.backends.newbie.names import HeadLayout, some_of, to_diffusers
from shared.domain.errors import ConfigurationError

LAYOUT = HeadLayout(heads=3, kv_heads=1, head_dim=2)


def converted_name(name: str) -> str:
    (converted,) = dict(to_diffusers({name: torch.ones(1)}, LAYOUT))
    return converted


@pytest.mark.parametrize(
    ("upstream", "diffusers"),
    [
        ("x_embedder.weight", "x_embedder.weight"),
        ("cap_embedder.0.weight", "time_caption_embed.caption_embedder.0.weight"),
        ("t_embedder.mlp.0.bias", "time_caption_embed.timestep_embedder.linear_1.bias"),
        ("t_embedder.mlp.2.weight", "time_caption_embed.timestep_embedder.linear_2.weight"),
        ("clip_text_pooled_proj.1.bias", "time_caption_embed.clip_text_pooled_proj.1.bias"),
        ("time_text_embed.1.weight", "time_caption_embed.time_text_embed.1.weight"),
        ("final_layer.linear.bias", "norm_out.linear_2.bias"),
        ("final_layer.adaLN_modulation.1.weight", "norm_out.linear_1.weight"),
        ("layers.35.attention.out.weight", "layers.35.attn.to_out.0.weight"),
        ("layers.0.attention.q_norm.weight", "layers.0.attn.norm_q.weight"),
        ("layers.0.attention.k_norm.weight", "layers.0.attn.norm_k.weight"),
        ("layers.0.feed_forward.w3.weight", "layers.0.feed_forward.linear_3.weight"),
        ("layers.0.attention_norm1.weight", "layers.0.norm1.norm.weight"),
        ("layers.0.attention_norm2.weight", "layers.0.norm2.weight"),
        ("layers.0.ffn_norm2.weight", "layers.0.ffn_norm2.weight"),
        ("noise_refiner.1.adaLN_modulation.1.bias", "noise_refiner.1.norm1.linear.bias"),
        ("context_refiner.1.attention_norm1.weight", "context_refiner.1.norm1.weight"),
        ("model.diffusion_model.x_embedder.bias", "x_embedder.bias"),
    ],
)
def test_published_names_become_diffusers_names(upstream: str, diffusers: str) -> None:
    assert converted_name(upstream) == diffusers


def test_a_fused_weight_is_split_into_query_key_and_value_rows() -> None:
    fused = torch.arange(10.0).unsqueeze(1).expand(10, 4)
    split = dict(to_diffusers({"layers.0.attention.qkv.weight": fused}, LAYOUT))
    assert {name: value[:, 0].tolist() for name, value in split.items()} == {
        "layers.0.attn.to_q.weight": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        "layers.0.attn.to_k.weight": [6.0, 7.0],
        "layers.0.attn.to_v.weight": [8.0, 9.0],
    }


def test_a_fused_weight_of_other_heads_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"layers\.0\.attention\.qkv\.weight has 12 rows"):
        list(to_diffusers({"layers.0.attention.qkv.weight": torch.ones(12, 4)}, LAYOUT))


def test_the_norm_that_upstream_never_uses_is_dropped() -> None:
    assert list(to_diffusers({"norm_final.weight": torch.ones(4)}, LAYOUT)) == []


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.attention.qkv.bias",
        "layers.0.attention.to_q.weight",
        "layers.0.extra.weight",
        "x_embedder.scale",
        "cap_embedder.2.weight",
        "encoder.layers.0.attention.out.weight",
        "norm_final.bias",
    ],
)
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown keys"):
        list(to_diffusers({name: torch.ones(1)}, LAYOUT))


def test_many_names_are_cut_short() -> None:
    assert some_of(f"k{number}" for number in range(7)) == "k0, k1, k2, k3, k4 and 2 more"
    assert some_of(["b", "a"]) == "a, b"
