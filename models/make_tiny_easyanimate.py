"""Makes tiny EasyAnimate V5.1 models with random weights, in the layout in which the real ones are published.

    python -m models.make_tiny_easyanimate [--kind t2v|inp] [--out models/tiny-easyanimate] [--force]

``t2v`` makes videos of a text, ``inp`` of a text and a first picture as well. Their videos are moving colour fields:
they show that seed, prompt and picture arrive, and nothing of what the prompt says. The weights come from a fixed seed,
so two runs give the same bytes. `model_index.json` is written last and names what made the folder: while it is there
and fits, nothing is made again.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from models import tiny_folder
from models.tiny_folder import Recipe, save

Kind = Literal["t2v", "inp"]

SEED: Final = 5151
COMPONENTS: Final = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
FOLDERS: Final[dict[Kind, str]] = {"t2v": "tiny-easyanimate", "inp": "tiny-easyanimate-inp"}
PIPELINES: Final[dict[Kind, str]] = {"t2v": "EasyAnimatePipeline", "inp": "EasyAnimateInpaintPipeline"}
# Latents alone; or latents, a mask and the latents of what is known.
CHANNELS: Final[dict[Kind, int]] = {"t2v": 16, "inp": 33}

HIDDEN: Final = 32
HEADS: Final = 2
HEAD: Final = 16
MAX_TOKENS: Final = 512
# A gain of 1 everywhere gives much the same video for every prompt: these let the prompt move the flow.
GAINS: Final = {"norm_out.linear.weight": 2.0, "proj_out.weight": 2.0, "time_embedding.linear_2.weight": 2.0}
SPECIALS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Whole tokens, so that an XML prompt fits into the 256 that the model reads.
TAGS: Final = """
character_1 character_2 n gender appearance clothing expression action interaction position general_tags count style
background atmosphere quality objects other caption
""".split()  # noqa: SIM905 - a list of words reads better without quotes
WORDS: Final = """
character background 1girl 1boy solo chibi blue green brown black white red yellow purple hair eyes long short school
uniform happy smile standing running walking flying camera slowly forest city night sunset ocean mountain simple very
aesthetic high resolution detailed quality blurry worst
""".split()  # noqa: SIM905 - as above


def make(out: Path, kind: Kind = "t2v", *, force: bool = False) -> bool:
    """Make the model in ``out`` and return whether anything was done."""
    return tiny_folder.make(out, recipe(kind), force=force)


def recipe(kind: Kind) -> Recipe:
    """How a model of this kind is made."""
    return Recipe(FOLDERS[kind], Path(__file__), COMPONENTS, partial(_build, kind))


def _build(kind: Kind, folder: Path) -> dict[str, Any]:
    vocabulary = _save_tokenizer(folder / "tokenizer")
    _save_text_encoder(folder / "text_encoder", vocabulary)
    _save_transformer(folder / "transformer", kind)
    _save_vae(folder / "vae")
    _save_scheduler(folder / "scheduler")
    return {
        "_class_name": PIPELINES[kind],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "EasyAnimateTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLMagvit"],
    }


def _save_tokenizer(folder: Path) -> dict[str, int]:
    """Write the tokenizer and return the ids of its special tokens and the size of its vocabulary, under ``""``."""
    from tokenizers.pre_tokenizers import ByteLevel  # noqa: PLC0415 - imported where it is needed
    from transformers import Qwen2Tokenizer  # noqa: PLC0415 - imports torch

    tokens = [*sorted(ByteLevel.alphabet()), *SPECIALS]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=MAX_TOKENS)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS[1:])})
    tags = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
    tokenizer.add_tokens(list(dict.fromkeys([*tags, *(word for word in WORDS if len(word) > len("red"))])))
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return {"": len(tokenizer), **{token: vocabulary[token] for token in SPECIALS}}


def _save_text_encoder(folder: Path, vocabulary: dict[str, int]) -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration  # noqa: PLC0415 - imports torch
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415 - imports torch

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # the library's gap
    text = {
        "vocab_size": vocabulary[""],
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": vocabulary["<|im_start|>"],
        "eos_token_id": vocabulary["<|im_end|>"],
        # The sections add up to half a head.
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 4], "rope_theta": 10000.0},
    }
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": HIDDEN, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
    )
    save(Qwen2VLForConditionalGeneration(config), folder, SEED, GAINS)


def _save_transformer(folder: Path, kind: Kind) -> None:
    from diffusers import EasyAnimateTransformer3DModel  # noqa: PLC0415 - imports torch

    model = EasyAnimateTransformer3DModel(  # type: ignore[no-untyped-call] # the library's gap
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        in_channels=CHANNELS[kind],
        out_channels=16,
        patch_size=2,
        num_layers=2,
        mmdit_layers=1,
        time_embed_dim=8,
        add_norm_text_encoder=True,
        text_embed_dim=HIDDEN,
        add_noise_in_inpaint_model=kind == "inp",
    )
    save(model, folder, SEED, GAINS)


def _save_vae(folder: Path) -> None:
    from diffusers import AutoencoderKLMagvit  # noqa: PLC0415 - imports torch

    model = AutoencoderKLMagvit(  # type: ignore[no-untyped-call] # the library's gap
        latent_channels=16,
        block_out_channels=[8, 8, 8, 8],
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
        up_block_types=["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
    )
    save(model, folder, SEED, GAINS)


def _save_scheduler(folder: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler  # noqa: PLC0415 - imports torch

    scheduler: Any = FlowMatchEulerDiscreteScheduler(  # type: ignore[no-untyped-call] # the library's gap
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    scheduler.save_config(folder)


def main() -> None:
    """Parse the command line and make the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(FOLDERS), default="t2v", help="of a text, or of a picture as well")
    parser.add_argument("--out", type=Path, help="the model's folder; models/tiny-easyanimate[-inp] when absent")
    parser.add_argument("--force", action="store_true", help="make it again even when it is up to date")
    arguments = parser.parse_args()
    out = arguments.out or Path(__file__).parent / FOLDERS[arguments.kind]
    made = make(out, arguments.kind, force=arguments.force)
    print(f"{out}: {'made' if made else 'up to date'}")


if __name__ == "__main__":
    main()
