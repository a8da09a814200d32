"""The published model at its full size without its weights: on torch's meta device, and from files of holes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped] # ships no types
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import Gemma3TextModel, JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from services.worker.backends.newbie.architecture import TransformerConfig, from_weights
from services.worker.backends.newbie.loading import build_transformer, load_components
from services.worker.backends.newbie.names import to_published
from services.worker.backends.newbie.towers import gemma_config
from services.worker.backends.newbie.weights import WeightFiles
from shared.domain.errors import ConfigurationError
from tests.backends.layouts import authors_vae

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# As the files on the hub say; what is absent there has its value in upstream's code.
TRANSFORMER = {
    "model_type": "nextdit_clip",
    "patch_size": 2,
    "dim": 2304,
    "n_layers": 36,
    "n_heads": 24,
    "n_kv_heads": 8,
    "in_channels": 16,
    "axes_dims": [32, 32, 32],
    "axes_lens": [1024, 512, 512],
    "clip_text_dim": 1024,
}
GEMMA = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16},
}
CAPTION = 2560


def published() -> dict[str, Any]:
    """The four networks, without memory for a weight."""
    with init_empty_weights():
        return {
            "transformer": build_transformer(TransformerConfig.model_validate(TRANSFORMER), CAPTION),
            "gemma": Gemma3TextModel(gemma_config(dict(GEMMA))),
            "jina": JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(), add_pooling_layer=False),
            "vae": AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4,
                block_out_channels=[128, 256, 512, 512],
                layers_per_block=2,
                latent_channels=16,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
        }


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return published()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("transformer", 3_486_633_792),
        ("gemma", 3_880_263_168),
        ("jina", 558_314_496),
        ("vae", 83_819_683),
    ],
)
def test_every_network_has_the_published_number_of_parameters(
    networks: dict[str, Any], name: str, parameters: int
) -> None:
    assert sum(one.numel() for one in networks[name].parameters()) == parameters


def test_the_transformer_has_the_published_shapes(networks: dict[str, Any]) -> None:
    state = networks["transformer"].state_dict()
    assert len(state) == 614
    shapes = {name: tuple(value.shape) for name, value in to_published(state)}
    assert shapes["layers.35.attention.qkv.weight"] == (3840, 2304)
    assert shapes["layers.0.feed_forward.w1.weight"] == (9216, 2304)
    assert shapes["context_refiner.1.attention.q_norm.weight"] == (96,)
    assert shapes["cap_embedder.1.weight"] == (2304, 2560)
    assert shapes["time_text_embed.1.weight"] == (1024, 2048)
    assert shapes["final_layer.linear.weight"] == (64, 2304)


def write_holes(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """A safetensors file of these shapes in bfloat16 whose data take no room on the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, value in tensors.items():
        begin, end = end, end + 2 * value.numel()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def prefixed(prefix: str, model: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - any network
    return {f"{prefix}{name}": value for name, value in model.state_dict().items()}


def jina_as_authored(model: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - as above
    """The names that the tower's authors use, with the projections in one."""
    names = {
        "embeddings.LayerNorm": "emb_ln",
        "self_attn.o_proj": "mixer.out_proj",
        "post_attention_layernorm": "norm1",
        "post_mlp_layernorm": "norm2",
    }
    found = {}
    for key, value in model.state_dict().items():
        name = key.replace("layers.", "encoder.layers.")
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if "self_attn.q_proj" in name:
            found[f"model.{name.replace('self_attn.q_proj', 'mixer.Wqkv')}"] = torch.cat([value] * 3)
        elif "self_attn" not in name:
            found[f"model.{name}"] = value
    return found


@pytest.fixture(scope="module")
def repack(networks: dict[str, Any], tiny_newbie: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ComfyUI's files at their full size, with the tiny model's tokenizers."""
    folder = tmp_path_factory.mktemp("full") / "newbie"
    upstream = dict(to_published(networks["transformer"].state_dict()))
    write_holes(
        folder / "diffusion_models" / "NewBie-Image-Exp0.1-bf16.safetensors",
        {f"model.diffusion_model.{name}": value for name, value in upstream.items()},
    )
    write_holes(folder / "text_encoders" / "gemma_3_4b_it_bf16.safetensors", prefixed("model.", networks["gemma"]))
    write_holes(folder / "text_encoders" / "jina_clip_v2_bf16.safetensors", jina_as_authored(networks["jina"]))
    write_holes(folder / "vae" / "ae.safetensors", authors_vae(networks["vae"].state_dict()))
    for name in ("text_encoder", "clip_model"):
        (folder / name).mkdir()
        for file in (tiny_newbie / name).glob("tokenizer*"):
            (folder / name / file.name).write_bytes(file.read_bytes())
    (folder / "text_encoder" / "config.json").write_text(json.dumps(GEMMA), encoding="utf-8")
    return folder


def test_the_published_files_fit_without_a_configuration(repack: Path) -> None:
    with WeightFiles(list((repack / "diffusion_models").iterdir())) as weights:
        assert from_weights(weights) == TransformerConfig.model_validate(TRANSFORMER)
    components = load_components(repack, torch.device("meta"), torch.bfloat16)
    networks = [components.transformer, *components.encoder.towers, components.vae]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    assert sum(parameter.numel() for parameter in parameters) == 8_009_031_139
    assert {parameter.device.type for parameter in parameters} == {"meta"}
    gemma, jina = components.encoder.towers
    assert (jina.config.num_attention_heads, jina.config.num_hidden_layers) == (16, 24)
    assert gemma.config.sliding_window == 1024


def test_a_weight_of_another_shape_is_found_without_reading_one(repack: Path, networks: dict[str, Any]) -> None:
    weights = authors_vae(networks["vae"].state_dict())
    write_holes(repack / "vae" / "ae.safetensors", weights | {"decoder.conv_out.weight": torch.empty(3, 64, 3, 3)})
    with pytest.raises(ConfigurationError, match=r"vae.*decoder\.conv_out"):
        load_components(repack, torch.device("meta"), torch.bfloat16)
    write_holes(repack / "vae" / "ae.safetensors", weights)
