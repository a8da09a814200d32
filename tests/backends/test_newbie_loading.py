"""The loader against real folders: every published layout loads whole, and anything else is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.worker.backends.newbie.loading import NewbieComponents, load_components
from services.worker.backends.newbie.transformer import TextCondition
from shared.domain.errors import ConfigurationError
from tests.support.random_newbie import INDEX, make, up_to_date

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
GEMMA = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"

Weights = dict[str, torch.Tensor]


def load(folder: Path) -> NewbieComponents:
    return load_components(folder, torch.device("cpu"), torch.float32)


def rewrite(path: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(dict(load_file(path)))
    save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})


def rewrite_json(path: Path, **changes: Any) -> None:  # noqa: ANN401 - any JSON value
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def without(key: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if name != key}


def flow(components: NewbieComponents) -> torch.Tensor:
    """One prediction that depends on every component's weights but the VAE's."""
    prompt = components.encoder.encode("blue_hair", "xml")
    latents = torch.randn((1, 16, 4, 6), generator=torch.Generator().manual_seed(1))
    condition = TextCondition(prompt.caption.unsqueeze(0), prompt.pooled.unsqueeze(0))
    with torch.inference_mode():
        result: torch.Tensor = components.transformer(latents, torch.tensor([0.3]), condition, prompt.mask.unsqueeze(0))
    return result


@pytest.mark.usefixtures("socket_disabled")
def test_the_made_folder_loads_without_a_network_frozen_and_in_the_asked_type(tiny_newbie: Path) -> None:
    components = load(tiny_newbie)
    parameters = [*components.transformer.parameters(), *components.vae.parameters()]
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert {parameter.device.type for parameter in parameters} == {"cpu"}
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not components.transformer.training


def test_two_runs_of_the_maker_give_the_same_bytes(tiny_newbie: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again")
    made = [path for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert len(made) == 13
    for path in made:
        assert path.read_bytes() == (tiny_newbie / path.relative_to(tmp_path / "again")).read_bytes(), path
    assert sum(path.stat().st_size for path in made) < 1_500_000


def test_the_maker_leaves_a_complete_folder_alone_and_repairs_an_interrupted_one(own_newbie: Path) -> None:
    assert not make(own_newbie)
    (own_newbie / INDEX).unlink()
    (own_newbie / ".making-killed").mkdir()
    assert not up_to_date(own_newbie)
    assert make(own_newbie)
    assert up_to_date(own_newbie)
    assert not list(own_newbie.glob(".making-*"))


def test_comfyui_s_prefix_gives_the_same_model(tiny_newbie: Path, own_newbie: Path) -> None:
    rewrite(
        own_newbie / TRANSFORMER,
        lambda weights: {f"model.diffusion_model.{name}": value for name, value in weights.items()},
    )
    assert torch.equal(flow(load(own_newbie)), flow(load(tiny_newbie)))


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "language_model.", "model."])
def test_a_multimodal_text_encoder_gives_the_same_model(tiny_newbie: Path, own_newbie: Path, prefix: str) -> None:
    def rename(weights: Weights) -> Weights:
        renamed = {prefix + name: value for name, value in weights.items()}
        return renamed | {"vision_tower.vision_model.post_layernorm.weight": torch.ones(8)}

    rewrite(own_newbie / GEMMA, rename)
    config = own_newbie / "text_encoder" / "config.json"
    text = json.loads(config.read_text(encoding="utf-8"))
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    multimodal = {"model_type": "gemma3", "text_config": text, "vision_config": vision}
    config.write_text(json.dumps(multimodal), encoding="utf-8")
    assert torch.equal(flow(load(own_newbie)), flow(load(tiny_newbie)))


@pytest.mark.parametrize(
    ("file", "key", "shown"),
    [
        (TRANSFORMER, "layers.1.attention.qkv.weight", r"transformer: .*3 missing keys \(layers\.1\.attn\.to_k"),
        (TRANSFORMER, "clip_text_pooled_proj.1.bias", "transformer: .*clip_text_pooled_proj.1.bias"),
        (GEMMA, "layers.0.mlp.up_proj.weight", "text_encoder: .*mlp.up_proj.weight"),
        ("clip_model/model.safetensors", "embeddings.word_embeddings.weight", "clip_model: .*word_embeddings"),
        (VAE, "decoder.conv_in.weight", "vae: .*decoder.conv_in.weight"),
    ],
)
def test_a_missing_weight_is_refused_by_name(own_newbie: Path, file: str, key: str, shown: str) -> None:
    rewrite(own_newbie / file, without(key))
    with pytest.raises(ConfigurationError, match=shown):
        load(own_newbie)


@pytest.mark.parametrize(("file", "component"), [(TRANSFORMER, "transformer"), (VAE, "vae")])
def test_a_foreign_weight_is_refused_by_name(own_newbie: Path, file: str, component: str) -> None:
    rewrite(own_newbie / file, lambda weights: weights | {"foreign.weight": torch.ones(1)})
    with pytest.raises(ConfigurationError, match=rf"{component}.*foreign\.weight"):
        load(own_newbie)


def test_a_weight_of_another_shape_is_refused(own_newbie: Path) -> None:
    rewrite(own_newbie / TRANSFORMER, lambda weights: weights | {"x_embedder.bias": torch.ones(3)})
    with pytest.raises(ConfigurationError, match=r"transformer.*x_embedder\.bias"):
        load(own_newbie)


@pytest.mark.parametrize("file", [TRANSFORMER, GEMMA, "clip_model/model.safetensors", VAE])
def test_a_truncated_or_absent_file_is_refused(own_newbie: Path, file: str) -> None:
    path = own_newbie / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigurationError, match=file.partition("/")[0]):
        load(own_newbie)
    path.unlink()
    with pytest.raises(ConfigurationError, match=file.partition("/")[0]):
        load(own_newbie)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.PTH", "old.ckpt", "embeddings.pkl"])
def test_pickled_weights_anywhere_are_refused(own_newbie: Path, name: str) -> None:
    (own_newbie / "text_encoder" / name).write_bytes(b"")
    with pytest.raises(ConfigurationError, match=f"text_encoder/{name} is not safetensors"):
        load(own_newbie)


def test_a_config_that_asks_for_remote_code_is_refused(own_newbie: Path) -> None:
    rewrite_json(own_newbie / "clip_model" / "config.json", auto_map={"AutoModel": "modeling_clip.JinaCLIPModel"})
    with pytest.raises(ConfigurationError, match=r"clip_model/config\.json asks for remote code"):
        load(own_newbie)


@pytest.mark.parametrize(
    ("file", "changes", "shown"),
    [
        (INDEX, {"_class_name": "FluxPipeline"}, "FluxPipeline"),
        ("transformer/config.json", {"model_type": "lumina2"}, "lumina2"),
        ("transformer/config.json", {"n_heads": None}, "n_heads"),
        ("transformer/config.json", {"axes_dims": [4, 4, 8]}, "axes_dims"),
        ("transformer/config.json", {"n_kv_heads": 1}, "rows"),
        ("text_encoder/config.json", {"model_type": "llama"}, "llama"),
    ],
)
def test_a_folder_of_another_model_is_refused(
    own_newbie: Path, file: str, changes: dict[str, object], shown: str
) -> None:
    rewrite_json(own_newbie / file, **changes)
    with pytest.raises(ConfigurationError, match=shown):
        load(own_newbie)


def test_a_broken_or_missing_index_is_refused(own_newbie: Path) -> None:
    (own_newbie / INDEX).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=INDEX):
        load(own_newbie)
    (own_newbie / INDEX).unlink()
    with pytest.raises(ConfigurationError, match=INDEX):
        load(own_newbie)
