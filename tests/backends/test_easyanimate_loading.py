"""The loader against real folders: the published layouts load whole, and anything else is refused by name."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped] # ships no types
from diffusers import AutoencoderKLMagvit, EasyAnimateTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

from models.make_tiny_easyanimate import make, recipe
from models.tiny_folder import INDEX, up_to_date
from services.gateway.prompt.tokens import TokenCounts
from services.worker.backends.easyanimate.loading import EasyAnimateComponents, load_components
from shared.contracts.model_card import load_model_card
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"

Weights = dict[str, torch.Tensor]


def load(folder: Path) -> EasyAnimateComponents:
    return load_components(folder, torch.device("cpu"), torch.float32)


def rewrite(path: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(dict(load_file(path)))
    save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})


def rewrite_json(path: Path, **changes: Any) -> None:  # noqa: ANN401 - any JSON value
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def without(key: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if name != key}


def flow(components: EasyAnimateComponents) -> torch.Tensor:
    """One prediction that depends on every network's weights but the VAE's."""
    prompt = components.encoder.encode("blue hair")
    latents = torch.randn((1, 16, 2, 4, 6), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        result: torch.Tensor = components.transformer(
            latents, torch.tensor([300.0]), encoder_hidden_states=prompt.features, return_dict=False
        )[0]
    return result


@pytest.mark.usefixtures("socket_disabled")
def test_the_made_folder_loads_without_a_network_frozen_and_in_the_asked_type(tiny_easyanimate: Path) -> None:
    components = load(tiny_easyanimate)
    for network in (components.transformer, components.vae, components.encoder.model):
        parameters = list(network.parameters())
        assert {parameter.dtype for parameter in parameters} == {torch.float32}
        assert not any(parameter.requires_grad for parameter in parameters)
        assert not network.training
    assert not components.takes_images


def test_all_networks_get_the_asked_type_whatever_the_files_hold(tiny_easyanimate: Path) -> None:
    components = load_components(tiny_easyanimate, torch.device("cpu"), torch.bfloat16)
    for network in (components.transformer, components.vae, components.encoder.model):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


def test_the_features_are_those_of_the_whole_multimodal_model(tiny_easyanimate: Path) -> None:
    encoder = load(tiny_easyanimate).encoder
    whole: Any = Qwen2VLForConditionalGeneration.from_pretrained(tiny_easyanimate / "text_encoder", dtype=torch.float32)
    message = [{"role": "user", "content": [{"type": "text", "text": "a cat"}]}]
    text = encoder._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    tokens = encoder._tokenizer(text, padding="max_length", max_length=256, padding_side="right", return_tensors="pt")
    with torch.inference_mode():
        expected = whole.eval()(**tokens, output_hidden_states=True).hidden_states[-2]
        found = encoder.encode("a cat")
    # The padding as well: the transformer reads it like the rest.
    assert torch.equal(found.features, expected)
    assert torch.equal(found.mask, tokens.attention_mask)
    assert {name.partition(".")[0] for name, _ in encoder.model.named_children()} == {
        "embed_tokens",
        "layers",
        "norm",
        "rotary_emb",
    }


@pytest.mark.parametrize("kind", ["t2v", "inp"])
def test_two_runs_of_the_maker_give_the_same_bytes(request: pytest.FixtureRequest, tmp_path: Path, kind: Any) -> None:  # noqa: ANN401 - a kind
    first: Path = request.getfixturevalue("tiny_easyanimate" if kind == "t2v" else "tiny_easyanimate_inp")
    assert make(tmp_path / "again", kind)
    made = [path for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert len(made) == 12
    for path in made:
        assert path.read_bytes() == (first / path.relative_to(tmp_path / "again")).read_bytes(), path
    assert sum(path.stat().st_size for path in made) < 600_000


def test_the_maker_leaves_a_complete_folder_alone_and_repairs_an_interrupted_one(own_easyanimate: Path) -> None:
    assert not make(own_easyanimate)
    (own_easyanimate / INDEX).unlink()
    (own_easyanimate / ".making-killed").mkdir()
    assert not up_to_date(own_easyanimate, recipe("t2v"))
    assert make(own_easyanimate)
    assert up_to_date(own_easyanimate, recipe("t2v"))
    assert not up_to_date(own_easyanimate, recipe("inp"))
    assert not list(own_easyanimate.glob(".making-*"))


def test_a_model_of_texts_and_pictures_says_so(tiny_easyanimate_inp: Path) -> None:
    assert load(tiny_easyanimate_inp).takes_images


def shard(folder: Path, stem: str, count: int) -> None:
    """Split a component's weights, as the published ones are."""
    weights = load_file(folder / f"{stem}.safetensors")
    names = sorted(weights)
    index: dict[str, str] = {}
    for number in range(count):
        file = f"{stem}-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: weights[name] for name in names[number::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / f"{stem}.safetensors").unlink()
    size = sum(value.numel() * value.element_size() for value in weights.values())
    document = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(document), encoding="utf-8")


def test_weights_in_several_files_give_the_same_model(tiny_easyanimate: Path, own_easyanimate: Path) -> None:
    shard(own_easyanimate / "text_encoder", "model", 5)
    shard(own_easyanimate / "transformer", "diffusion_pytorch_model", 2)
    assert torch.equal(flow(load(own_easyanimate)), flow(load(tiny_easyanimate)))


def test_a_text_encoder_of_the_newer_key_names_gives_the_same_model(
    tiny_easyanimate: Path, own_easyanimate: Path
) -> None:
    def rename(weights: Weights) -> Weights:
        return {
            name.replace("model.", "model.language_model.").replace("visual.", "model.visual."): value
            for name, value in weights.items()
        }

    rewrite(own_easyanimate / TEXT, rename)
    assert torch.equal(flow(load(own_easyanimate)), flow(load(tiny_easyanimate)))


def test_a_vae_without_the_pipelines_own_option_gets_it(tiny_easyanimate: Path) -> None:
    config = json.loads((tiny_easyanimate / "vae" / "config.json").read_text(encoding="utf-8"))
    assert "cache_mag_vae" not in config
    assert load(tiny_easyanimate).vae.config.cache_mag_vae is True


@pytest.mark.parametrize(
    ("file", "key"),
    [
        (TRANSFORMER, "transformer_blocks.1.attn1.to_q.weight"),
        (TRANSFORMER, "time_embedding.linear_1.bias"),
        (TEXT, "model.layers.0.mlp.up_proj.weight"),
        (VAE, "decoder.conv_in.weight"),
    ],
)
def test_a_missing_weight_is_refused_by_name(own_easyanimate: Path, file: str, key: str) -> None:
    assert key in load_file(own_easyanimate / file)
    rewrite(own_easyanimate / file, without(key))
    shown = key.removeprefix("model.").replace(".", r"\.")
    with pytest.raises(ConfigurationError, match=rf"{file.partition('/')[0]}: .*missing keys \({shown}"):
        load(own_easyanimate)


@pytest.mark.parametrize(("file", "stem"), [(TRANSFORMER, ""), (VAE, ""), (TEXT, "model.layers.7.")])
def test_a_foreign_weight_is_refused_by_name(own_easyanimate: Path, file: str, stem: str) -> None:
    rewrite(own_easyanimate / file, lambda weights: weights | {f"{stem}foreign.weight": torch.ones(1)})
    with pytest.raises(ConfigurationError, match=rf"{file.partition('/')[0]}.*foreign\.weight"):
        load(own_easyanimate)


@pytest.mark.parametrize(
    ("file", "key"), [(TRANSFORMER, "proj.bias"), (TEXT, "model.norm.weight"), (VAE, "decoder.conv_in.bias")]
)
def test_a_weight_of_another_shape_is_refused(own_easyanimate: Path, file: str, key: str) -> None:
    rewrite(own_easyanimate / file, lambda weights: weights | {key: torch.ones(3)})
    with pytest.raises(ConfigurationError, match=file.partition("/")[0]):
        load(own_easyanimate)


@pytest.mark.parametrize("file", [TRANSFORMER, TEXT, VAE])
def test_a_truncated_or_absent_file_is_refused(own_easyanimate: Path, file: str) -> None:
    path = own_easyanimate / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigurationError, match=file.partition("/")[0]):
        load(own_easyanimate)
    path.unlink()
    with pytest.raises(ConfigurationError, match=file.partition("/")[0]):
        load(own_easyanimate)


@pytest.mark.parametrize("component", ["scheduler", "tokenizer", "text_encoder", "transformer", "vae"])
def test_a_folder_without_a_component_is_refused_by_its_name(own_easyanimate: Path, component: str) -> None:
    shutil.rmtree(own_easyanimate / component)
    with pytest.raises(ConfigurationError, match=component):
        load(own_easyanimate)


def test_pickled_weights_and_remote_code_are_refused(own_easyanimate: Path) -> None:
    pickled = own_easyanimate / "transformer" / "diffusion_pytorch_model.bin"
    pickled.write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"transformer/diffusion_pytorch_model\.bin is not safetensors"):
        load(own_easyanimate)
    pickled.unlink()
    rewrite_json(own_easyanimate / "text_encoder" / "config.json", auto_map={"AutoModel": "modeling.Model"})
    with pytest.raises(ConfigurationError, match=r"text_encoder/config\.json asks for remote code"):
        load(own_easyanimate)


@pytest.mark.parametrize(
    ("file", "changes", "shown"),
    [
        (INDEX, {"_class_name": "EasyAnimateControlPipeline"}, "EasyAnimateControlPipeline"),
        (INDEX, {"_class_name": "EasyAnimateInpaintPipeline"}, "16 channels, expected 33"),
        ("transformer/config.json", {"_class_name": "CogVideoXTransformer3DModel"}, "transformer.*CogVideoX"),
        ("transformer/config.json", {"num_layers": 3}, "transformer.*missing"),
        ("transformer/config.json", {"text_embed_dim_t5": 16}, "transformer"),
        ("text_encoder/config.json", {"model_type": "bert"}, "text_encoder.*bert"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "vae.*AutoencoderKL"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "scheduler.*DDIMScheduler"),
    ],
)
def test_a_folder_of_another_model_is_refused(
    own_easyanimate: Path, file: str, changes: dict[str, object], shown: str
) -> None:
    rewrite_json(own_easyanimate / file, **changes)
    with pytest.raises(ConfigurationError, match=shown):
        load(own_easyanimate)


def test_a_tokenizer_without_a_chat_template_is_refused(own_easyanimate: Path) -> None:
    (own_easyanimate / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(ConfigurationError, match="tokenizer: it has no chat template"):
        load(own_easyanimate)


PUBLISHED = {"num_attention_heads": 48, "attention_head_dim": 64, "add_norm_text_encoder": True, "text_embed_dim": 3584}


def parameters(build: Callable[[], Any]) -> int:
    """Counted without any memory for the weights."""
    with init_empty_weights():
        model = build()
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("layers", "mmdit_layers", "channels", "count"),
    [
        (36, 18, 16, 6_814_462_016),
        (36, 18, 33, 6_814_670_912),
        (48, 48, 16, 11_799_056_960),
        (48, 48, 33, 11_799_265_856),
    ],
    ids=["7b", "7b-InP", "12b", "12b-InP"],
)
def test_the_published_transformers_have_their_published_sizes(
    layers: int, mmdit_layers: int, channels: int, count: int
) -> None:
    def build() -> Any:  # noqa: ANN401 - diffusers has no types
        return EasyAnimateTransformer3DModel(  # type: ignore[no-untyped-call] # the library's gap
            **PUBLISHED,
            num_layers=layers,
            mmdit_layers=mmdit_layers,
            in_channels=channels,
            out_channels=16,
            patch_size=2,
        )

    assert parameters(build) == count


def test_the_published_vae_has_its_published_size() -> None:
    assert parameters(AutoencoderKLMagvit) == 244_375_507


def test_the_text_part_of_qwen2_vl_7b_is_a_seventh_smaller_than_the_whole() -> None:
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 152_064,
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1_000_000.0},
        },
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "patch_size": 14},
        tie_word_embeddings=False,
    )
    whole = parameters(lambda: Qwen2VLForConditionalGeneration(config))
    text_config: Any = config.text_config
    text = parameters(lambda: Qwen2VLTextModel(text_config))
    assert whole == 8_291_375_616
    assert whole - text == 675_759_104 + 152_064 * 3584


@pytest.mark.parametrize("prompt", ["", "a cat", "blue hair, <gender>1girl</gender>", "~" * 200, "漢字"])
def test_the_gateway_counts_a_prompt_s_tokens_as_the_encoder_does(tiny_easyanimate: Path, prompt: str) -> None:
    card = load_model_card(tiny_easyanimate)
    counts = TokenCounts.load({card.id: card}, tiny_easyanimate.parent)
    found = load(tiny_easyanimate).encoder.encode(prompt)
    assert counts.count(prompt, "text", card) == counts.count(prompt, "xml", card) == int(found.mask.sum())
