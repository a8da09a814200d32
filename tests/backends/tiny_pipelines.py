"""Tiny pipelines of random weights, built in code and saved as diffusers saves them: no network, no fixture files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import diffusers
import torch
import transformers

if TYPE_CHECKING:
    from pathlib import Path

_diffusers: Any = cast("Any", diffusers)
_transformers: Any = cast("Any", transformers)

CARD = """
[model]
id = "{name}"
backend = "diffusers"
kind = "{kind}"
prompt_formats = ["text"]
{model}
licence = "Apache-2.0"

[defaults]
width = 64
height = 64
steps = 3
guidance = {guidance}

[limits]
min_side = 16
max_side = 128
side_multiple = {side_multiple}
max_pixels = 16384
max_steps = 50
max_guidance = {max_guidance}
max_count = 4
max_frames = {max_frames}
frame_step = {frame_step}
max_prompt_chars = 2000
max_prompt_tokens = {max_prompt_tokens}

[cost]
load_seconds = 1.0
vram_mb = 100

[options]
{options}
"""


def card(name: str, **changes: object) -> str:
    fields: dict[str, object] = {
        "kind": "image",
        "model": "",
        "guidance": 4.5,
        "max_guidance": 20.0,
        "max_frames": 1,
        "frame_step": 1,
        "side_multiple": 16,
        "max_prompt_tokens": 512,
        "options": "",
        **changes,
    }
    return CARD.format(name=name, **fields)


def stable_diffusion(folder: Path) -> Path:
    """A UNet with CLIP: real guidance, the new callback."""
    torch.manual_seed(0)
    unet = _diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    # Untrained, it would hardly look at the prompt, and its pictures would be one grey.
    _scale(unet, "attn2", 6.0)
    pipeline = _diffusers.StableDiffusionPipeline(
        vae=_vae(latent_channels=4),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        unet=unet,
        scheduler=_diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder, card(folder.name))


def pixart(folder: Path) -> Path:
    """A transformer with T5: the old callback, sizes that it would round by itself."""
    torch.manual_seed(0)
    transformer = _diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=16,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    pipeline = _diffusers.PixArtSigmaPipeline(
        vae=_vae(latent_channels=4),
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
        transformer=transformer,
        scheduler=_diffusers.DDIMScheduler(),
    )
    return _saved(pipeline, folder, card(folder.name))


def flux(folder: Path) -> Path:
    """Distilled from guidance: its scale is an input of the transformer, and it takes no negative prompt."""
    torch.manual_seed(0)
    transformer = _diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    pipeline = _diffusers.FluxPipeline(
        vae=_vae(latent_channels=4, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
        scheduler=_diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    text = card(folder.name, model="negative_prompt = false", guidance=3.5)
    return _saved(pipeline, folder, text)


def ltx(folder: Path) -> Path:
    """Text to video: frames come one more than a multiple of what the decoder makes of one."""
    torch.manual_seed(0)
    four, five = (False,) * 4, (False,) * 5
    vae = _diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=five,
        upsample_residual=four,
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
    )
    transformer = _diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    pipeline = _diffusers.LTXPipeline(
        scheduler=_diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
        transformer=transformer,
    )
    text = card(folder.name, kind="video", max_frames=9, max_prompt_tokens=128, frame_step=4, side_multiple=32)
    return _saved(pipeline, folder, text)


def _vae(**changes: Any) -> Any:  # noqa: ANN401 - diffusers has no types
    return _diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        **changes,
    )


def _clip() -> Any:  # noqa: ANN401 - transformers has no types
    config = _transformers.CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=len(_clip_vocabulary()),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        max_position_embeddings=512,
        projection_dim=16,
    )
    return _scale(_transformers.CLIPTextModel(config), "embedding", 50.0)


def _clip_vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return {token: number for number, token in enumerate(tokens)}


def _clip_tokenizer() -> Any:  # noqa: ANN401 - transformers has no types
    return _transformers.CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=512)


def _t5() -> Any:  # noqa: ANN401 - transformers has no types
    config = _transformers.T5Config(
        vocab_size=len(_pieces()), d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2, pad_token_id=0
    )
    return _transformers.T5EncoderModel(config)


def _pieces() -> list[tuple[str, float]]:
    letters = [(chr(code), -5.0) for code in range(33, 127)]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *letters]


def _t5_tokenizer() -> Any:  # noqa: ANN401 - transformers has no types
    return _transformers.T5Tokenizer(vocab=_pieces(), extra_ids=0, model_max_length=512)


def _scale(model: torch.nn.Module, part: str, factor: float) -> Any:  # noqa: ANN401 - diffusers has no types
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.mul_(factor)
    return model


def _saved(pipeline: Any, folder: Path, text: str) -> Path:  # noqa: ANN401 - diffusers has no types
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "atelier.toml").write_text(text, encoding="utf-8")
    return folder
