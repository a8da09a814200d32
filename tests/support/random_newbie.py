"""A NewBie folder of a few hundred thousand random weights, in the layout in which the real one is published.

Its pictures are colour fields, made in milliseconds. The weights come from a fixed seed: two runs give the same bytes.
`model_index.json` is written last and names what made the folder: while it is there and fits, nothing is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

SEED = 20255
COMPONENTS = ("transformer", "text_encoder", "clip_model", "vae")
INDEX = "model_index.json"
LIBRARIES = ("diffusers", "numpy", "tokenizers", "torch", "transformers")

HIDDEN = 48
MAX_TOKENS = 512
TRANSFORMER_CONFIG: dict[str, Any] = {
    "_class_name": "NextDiT_3B_GQA_patch2_Adaln_Refiner_WHIT_CLIP",
    "model_type": "nextdit_clip",
    "patch_size": 2,
    "in_channels": 16,
    "dim": HIDDEN,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "axes_dims": [4, 4, 4],
    "axes_lens": [1024, 512, 512],
    "clip_text_dim": HIDDEN,
    "clip_img_dim": HIDDEN,
}
REFINER_LAYERS = 2
FEED_FORWARD = 256

# Weights are drawn with the standard deviation gain / sqrt(fan in), by the end of their name. A gain of 1 everywhere
# gives much the same picture for every prompt: these let the prompt move the flow.
GAINS = {
    "time_text_embed.1.weight": 2.0,
    "final_layer.adaLN_modulation.1.weight": 2.0,
    "final_layer.linear.weight": 2.0,
}
# Every 3x3 convolution is a blur of mixed channels, which makes the decoder paint soft patches and not static.
BLUR = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0]).astype(np.float32) / 6.0

# Shorter words would be cut out of the middle of longer ones.
SHORTEST_WORD = 3
# Whole tokens, so that the reference prompt fits into 512 of them.
TAGS = """
character_1 character_2 n gender appearance clothing expression action interaction position general_tags count style
background atmosphere quality objects other caption artists environment perspective lighting resolution danbooru_tags
""".split()  # noqa: SIM905 - a list of words reads better without quotes
WORDS = """
You are an assistant designed to generate high-quality anime images based on xml format prompts textual with the
highest degree image-text alignment <Prompt Start> character_1 character_2 character background 1girl 1boy 2girls
2boys girl multiple_girls solo chibi blue green brown black white yellow purple pink orange grey silver blonde hair
eyes long short medium twintails ponytail braid bangs school_uniform serafuku dress skirt shirt jacket ribbon happy
smile angry surprised closed open standing sitting walking running holding looking_at_viewer center left right upper
lower body anime_style digital_art watercolor simple indoors outdoors forest city night sunset cheerful calm dark
bright very aesthetic masterpiece best no text high_resolution detailed briefcase book flower sword alternate_costume
artist blurry worst low deformed hands anatomy extra limbs poorly drawn face mutated proportions woman young small
large from under over
""".split()  # noqa: SIM905 - as above


def up_to_date(out: Path) -> bool:
    """Say whether ``out`` holds a complete model, made by this script with the installed libraries."""
    try:
        index = json.loads((out / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(index.get("_made_by") == _made_by()) and all((out / name).is_dir() for name in COMPONENTS)


def make(out: Path, *, force: bool = False) -> bool:
    """Make the model in ``out`` and return whether anything was done.

    Everything is written aside and renamed into place, the index last: an interrupted run leaves no index, and a
    folder without one is not a model.
    """
    if not force and up_to_date(out):
        return False
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        if not force and up_to_date(out):
            return False
        for abandoned in out.glob(".making-*"):
            shutil.rmtree(abandoned)
        _replace(out)
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs of this script out of the folder; the lock ends with the process at the latest."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=out) as name:
        making = Path(name)
        _build(making)
        for file in making.rglob("*"):
            # safetensors writes files that only their owner can read, and a worker is another user.
            file.chmod(0o755 if file.is_dir() else 0o644)
        (out / INDEX).unlink(missing_ok=True)
        for component in COMPONENTS:
            shutil.rmtree(out / component, ignore_errors=True)
            (making / component).rename(out / component)
        (making / INDEX).rename(out / INDEX)


def _made_by() -> dict[str, str]:
    return {
        "script_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        **{library: version(library) for library in LIBRARIES},
    }


def _build(folder: Path) -> None:
    _save_transformer(folder / "transformer")
    _save_text_towers(folder)
    _save_vae(folder / "vae")
    index = {
        "_class_name": "NewbiePipeline",
        "transformer": [None, TRANSFORMER_CONFIG["_class_name"]],
        "text_encoder": ["transformers", "Gemma3TextModel"],
        "tokenizer": ["transformers", "GemmaTokenizer"],
        "clip_model": ["transformers", "JinaEmbeddingsV3Model"],
        "clip_tokenizer": ["transformers", "XLMRobertaTokenizer"],
        "vae": ["diffusers", "AutoencoderKL"],
        "_made_by": _made_by(),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save_transformer(folder: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415 - imports torch

    weights = {name: _draw(name, shape) for name, shape in sorted(_transformer_shapes().items())}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TRANSFORMER_CONFIG, indent=2) + "\n", encoding="utf-8")
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def _transformer_shapes() -> dict[str, tuple[int, ...]]:
    """Upstream's own names, written down here and not derived from our converter, which they are meant to test."""
    patch = TRANSFORMER_CONFIG["in_channels"] * TRANSFORMER_CONFIG["patch_size"] ** 2
    shapes: dict[str, tuple[int, ...]] = {
        **_linear("x_embedder", HIDDEN, patch),
        **_linear("t_embedder.mlp.0", HIDDEN, 256),
        **_linear("t_embedder.mlp.2", HIDDEN, HIDDEN),
        "cap_embedder.0.weight": (HIDDEN,),
        **_linear("cap_embedder.1", HIDDEN, HIDDEN),
        "clip_text_pooled_proj.0.weight": (HIDDEN,),
        **_linear("clip_text_pooled_proj.1", HIDDEN, HIDDEN),
        **_linear("time_text_embed.1", HIDDEN, 2 * HIDDEN),
        "norm_final.weight": (HIDDEN,),
        **_linear("final_layer.linear", patch, HIDDEN),
        **_linear("final_layer.adaLN_modulation.1", HIDDEN, HIDDEN),
    }
    stacks = {
        "noise_refiner": REFINER_LAYERS,
        "context_refiner": REFINER_LAYERS,
        "layers": TRANSFORMER_CONFIG["n_layers"],
    }
    for stack, count in stacks.items():
        for layer in range(count):
            shapes |= _block_shapes(f"{stack}.{layer}", modulated=stack != "context_refiner")
    return shapes


def _block_shapes(stem: str, *, modulated: bool) -> dict[str, tuple[int, ...]]:
    heads, kv_heads = TRANSFORMER_CONFIG["n_heads"], TRANSFORMER_CONFIG["n_kv_heads"]
    head = HIDDEN // heads
    shapes: dict[str, tuple[int, ...]] = {
        f"{stem}.attention.qkv.weight": ((heads + 2 * kv_heads) * head, HIDDEN),
        f"{stem}.attention.out.weight": (HIDDEN, HIDDEN),
        f"{stem}.attention.q_norm.weight": (head,),
        f"{stem}.attention.k_norm.weight": (head,),
        f"{stem}.feed_forward.w1.weight": (FEED_FORWARD, HIDDEN),
        f"{stem}.feed_forward.w2.weight": (HIDDEN, FEED_FORWARD),
        f"{stem}.feed_forward.w3.weight": (FEED_FORWARD, HIDDEN),
    }
    for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
        shapes[f"{stem}.{norm}.weight"] = (HIDDEN,)
    if modulated:
        shapes |= _linear(f"{stem}.adaLN_modulation.1", 4 * HIDDEN, HIDDEN)
    return shapes


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _save_text_towers(folder: Path) -> None:
    from transformers import (  # noqa: PLC0415 - imports torch
        Gemma3TextConfig,
        Gemma3TextModel,
        GemmaTokenizer,
        JinaEmbeddingsV3Config,
        JinaEmbeddingsV3Model,
        XLMRobertaTokenizer,
    )
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415 - imports torch

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # the library's gap
    vocab = _gemma_vocabulary()
    tokenizer = GemmaTokenizer(vocab=vocab, padding_side="right", model_max_length=MAX_TOKENS, add_bos_token=True)
    tokenizer.add_tokens(_whole_tokens())
    tokenizer.save_pretrained(folder / "text_encoder")
    gemma = Gemma3TextModel(
        Gemma3TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=2 * HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=HIDDEN // 2,
            query_pre_attn_scalar=HIDDEN // 2,
            sliding_window=64,
            max_position_embeddings=1024,
            pad_token_id=vocab["<pad>"],
            eos_token_id=vocab["<eos>"],
            bos_token_id=vocab["<bos>"],
        )
    )
    _save(gemma, folder / "text_encoder")

    pieces = _jina_vocabulary()
    jina = JinaEmbeddingsV3Model(
        JinaEmbeddingsV3Config(
            vocab_size=len(pieces),
            hidden_size=HIDDEN,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=2 * HIDDEN,
            max_position_embeddings=MAX_TOKENS + 2,
        ),
        add_pooling_layer=False,
    )
    _save(jina, folder / "clip_model")
    XLMRobertaTokenizer(vocab=pieces, model_max_length=MAX_TOKENS).save_pretrained(folder / "clip_model")


def _save_vae(folder: Path) -> None:
    from diffusers import AutoencoderKL  # noqa: PLC0415 - imports torch

    vae = AutoencoderKL(  # type: ignore[no-untyped-call] # the library's gap
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8, 8, 16, 16],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    _save(vae, folder)


def _gemma_vocabulary() -> dict[str, int]:
    """Bytes and ASCII: any text can be written with them."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    return {token: number for number, token in enumerate([*tokens, *map(chr, range(33, 127))])}


def _whole_tokens() -> list[str]:
    tags = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
    return list(dict.fromkeys([*tags, ", ", *(word for word in WORDS if len(word) >= SHORTEST_WORD)]))


def _jina_vocabulary() -> list[tuple[str, float]]:
    """Pieces with their log-likelihood: a whole word always beats its letters."""
    letters = [(chr(code), -10.0) for code in range(33, 127)]
    words = [(word, -8.0) for word in dict.fromkeys([*TAGS, *WORDS]) if len(word) > 1]
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return [*specials, ("▁", -3.0), *letters, *words, ("<mask>", 0.0)]


def _save(model: Any, folder: Path) -> None:  # noqa: ANN401 - transformers and diffusers have no types
    """Replace a library model's weights, which depend on the library's version, with ours."""
    state: Mapping[str, torch.Tensor] = model.state_dict()
    drawn = {name: _draw(name, tuple(value.shape)) for name, value in state.items()}
    model.load_state_dict(drawn, assign=True)
    model.save_pretrained(folder)


def _draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw a weight from the seed and its name; norms and biases are recognised by having one axis."""
    import torch  # noqa: PLC0415 - takes seconds, and a folder that is up to date needs none of it

    words = np.frombuffer(hashlib.sha256(f"{SEED} {name}".encode()).digest(), dtype=np.uint32)
    generator = np.random.default_rng(words)
    if shape[2:] == BLUR.shape:
        random = generator.standard_normal((*shape[:2], 1, 1), dtype=np.float32) * BLUR
    else:
        random = generator.standard_normal(shape, dtype=np.float32)
    gain = next((gain for end, gain in GAINS.items() if name.endswith(end)), 1.0)
    if len(shape) == 1:
        values = random * np.float32(0.1 * gain) if name.endswith("bias") else np.ones(shape, dtype=np.float32)
    else:
        values = random * np.float32(gain / np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(values).to(torch.bfloat16)
