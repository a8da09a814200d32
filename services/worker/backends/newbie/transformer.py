"""The NewBie-image transformer on diffusers' Lumina2 parts.

NewBie is Lumina-Image 2.0 with 36 layers and one more condition: the pooled CLIP text vector, which is mixed into the
time embedding and so reaches every modulated block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_lumina2 import (
    Lumina2CombinedTimestepCaptionEmbedding,
    Lumina2Transformer2DModel,
)
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

MAX_TIME_EMBEDDING = 1024


class TextCondition(NamedTuple):
    """What the transformer knows of the prompts: caption features (B, L, D) and pooled CLIP vectors (B, P)."""

    caption: Tensor
    pooled: Tensor


class NewbieConditionEmbedding(Lumina2CombinedTimestepCaptionEmbedding):
    """Embeds time, caption and the pooled CLIP vector."""

    def __init__(self, hidden_size: int, cap_feat_dim: int, norm_eps: float, clip_text_dim: int) -> None:
        super().__init__(hidden_size=hidden_size, cap_feat_dim=cap_feat_dim, norm_eps=norm_eps)
        time_dim = min(hidden_size, MAX_TIME_EMBEDDING)
        self.clip_text_pooled_proj = nn.Sequential(
            RMSNorm(clip_text_dim, eps=norm_eps), nn.Linear(clip_text_dim, clip_text_dim)
        )
        self.time_text_embed = nn.Sequential(nn.SiLU(), nn.Linear(time_dim + clip_text_dim, time_dim))

    def forward(  # type: ignore[override] # NewBie's condition is more than a caption
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: TextCondition
    ) -> tuple[Tensor, Tensor]:
        """Return the modulation input (B, time_dim) and the embedded caption (B, L, hidden_size)."""
        time, caption = super().forward(hidden_states, timestep, encoder_hidden_states.caption)
        clip = self.clip_text_pooled_proj(encoder_hidden_states.pooled)
        return self.time_text_embed(torch.cat([time, clip], dim=-1)), caption


class NewbieTransformer2DModel(Lumina2Transformer2DModel, CacheMixin):  # type: ignore[misc] # the library's own bases differ
    """Predicts the flow from noise (time 0) to latents (time 1)."""

    _repeated_blocks = ["Lumina2TransformerBlock"]  # noqa: RUF012 - as the library declares it

    @register_to_config  # type: ignore[untyped-decorator] # diffusers has no types
    def __init__(  # noqa: PLR0913 - the configuration of diffusers' class, which is read from this signature
        self,
        *,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        hidden_size: int = 2304,
        num_layers: int = 36,
        num_refiner_layers: int = 2,
        num_attention_heads: int = 24,
        num_kv_heads: int = 8,
        multiple_of: int = 256,
        norm_eps: float = 1e-5,
        axes_dim_rope: tuple[int, int, int] = (32, 32, 32),
        axes_lens: tuple[int, int, int] = (1024, 512, 512),
        cap_feat_dim: int = 2560,
        clip_text_dim: int = 1024,
    ) -> None:
        super().__init__(
            sample_size=sample_size,
            patch_size=patch_size,
            in_channels=in_channels,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_refiner_layers=num_refiner_layers,
            num_attention_heads=num_attention_heads,
            num_kv_heads=num_kv_heads,
            multiple_of=multiple_of,
            norm_eps=norm_eps,
            axes_dim_rope=axes_dim_rope,
            axes_lens=axes_lens,
            cap_feat_dim=cap_feat_dim,
        )
        self.time_caption_embed = NewbieConditionEmbedding(hidden_size, cap_feat_dim, norm_eps, clip_text_dim)

    def forward(self, latents: Tensor, time: Tensor, condition: TextCondition, caption_mask: Tensor) -> Tensor:
        """Return the flow (B, C, H, W) at ``latents`` (B, C, H, W) and ``time`` (B,), 0 for noise and 1 for a picture.

        Lumina2's forward hands its text features to ``time_caption_embed`` and uses only what comes back, so both
        conditions travel through the call and no module keeps state between calls.
        """
        (flow,) = super().forward(
            hidden_states=latents,
            timestep=time,
            encoder_hidden_states=condition,
            encoder_attention_mask=caption_mask,
            return_dict=False,
        )
        return cast("Tensor", flow)
