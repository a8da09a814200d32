"""The layouts in which NewBie is published, against each other: the same weights give the same model."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from transformers import Gemma3TextModel, JinaEmbeddingsV3Model

from services.worker.backends.newbie.loading import NewbieComponents, load_components
from services.worker.backends.newbie.repack import convert
from services.worker.backends.newbie.towers import load_jina
from services.worker.backends.newbie.transformer import TextCondition
from services.worker.backends.newbie.vae import load_vae
from services.worker.backends.newbie.weights import WeightFiles
from services.worker.model_check import check_model_folder
from services.worker.models import main
from shared.domain.errors import ConfigurationError
from tests.backends.layouts import JINA_CLIP, PACKED, RANK, ROBERTA, authors_vae, read, write

if TYPE_CHECKING:
    from pathlib import Path

# The adapter is merged in float32, and nothing else is computed on the way.
CLOSE = {"published": 1e-5, "comfyui": 0.0, "diffusers": 0.0}


def load(folder: Path) -> NewbieComponents:
    return load_components(folder, torch.device("cpu"), torch.float32)


def outputs(folder: Path) -> list[torch.Tensor]:
    """Of every component: both text features, a prediction, and what the decoder makes of it."""
    components = load(folder)
    with torch.inference_mode():
        prompt = components.encoder.encode("blue_hair & <n>$character_1$</n>", "xml")
        latents = torch.randn((1, 16, 4, 6), generator=torch.Generator().manual_seed(1))
        condition = TextCondition(prompt.caption.unsqueeze(0), prompt.pooled.unsqueeze(0))
        flow = components.transformer(latents, torch.tensor([0.3]), condition, prompt.mask.unsqueeze(0))
        (image,) = components.vae.decode(latents, return_dict=False)
    return [prompt.caption, prompt.pooled, flow, image]


def furthest(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def packed(tiny_newbie: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in every layout; ``diffusers`` comes from the converter."""
    folder = tmp_path_factory.mktemp("layouts")
    for name, pack in PACKED.items():
        pack(tiny_newbie, folder / name)
    convert(tiny_newbie, folder / "diffusers", "diffusers", "float32")
    return {name: folder / name for name in (*PACKED, "diffusers")}


@pytest.fixture(scope="module")
def expected(tiny_newbie: Path) -> list[torch.Tensor]:
    return outputs(tiny_newbie)


@pytest.mark.parametrize("layout", CLOSE)
def test_every_layout_gives_the_same_model(packed: dict[str, Path], expected: list[torch.Tensor], layout: str) -> None:
    assert furthest(outputs(packed[layout]), expected) <= CLOSE[layout]


@pytest.mark.parametrize("source", CLOSE)
@pytest.mark.parametrize("layout", ["diffusers", "published"])
def test_a_converted_model_is_its_source_s(
    packed: dict[str, Path], expected: list[torch.Tensor], tmp_path: Path, source: str, layout: str
) -> None:
    convert(packed[source], tmp_path / "made", layout, "float32", file_bytes=40_000)
    assert furthest(outputs(tmp_path / "made"), expected) <= CLOSE[source]
    shards = list((tmp_path / "made" / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 3
    check_model_folder(tmp_path / "made", require_readonly=False)


def test_the_towers_are_those_of_transformers_own_loading(tiny_newbie: Path) -> None:
    gemma, jina = load(tiny_newbie).encoder.towers
    tokens = torch.tensor([[2, 7, 9, 11]])
    theirs = Gemma3TextModel.from_pretrained(tiny_newbie / "text_encoder", dtype=torch.float32)
    with torch.inference_mode():
        assert torch.equal(gemma(tokens).last_hidden_state, theirs(tokens).last_hidden_state)
        own = JinaEmbeddingsV3Model.from_pretrained(tiny_newbie / "clip_model", dtype=torch.float32)
        assert torch.equal(jina(tokens).last_hidden_state, own(tokens).last_hidden_state)


def test_weights_are_written_in_the_asked_type_and_listed(tiny_newbie: Path, tmp_path: Path) -> None:
    sums = convert(tiny_newbie, tmp_path / "made", "diffusers", "bfloat16")
    name = "transformer/diffusion_pytorch_model.safetensors"
    with safe_open(tmp_path / "made" / name, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.bfloat16}  # noqa: SIM118 - no mapping
    assert sums[name] == hashlib.sha256((tmp_path / "made" / name).read_bytes()).hexdigest()
    listed = (tmp_path / "made" / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert listed == [f"{digest}  {path}" for path, digest in sums.items()]
    assert furthest(outputs(tmp_path / "made"), outputs(tiny_newbie)) == 0.0


def test_nothing_is_overwritten_and_nothing_half_done_is_left(own_newbie: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out" / "made"
    weights = read(own_newbie / "transformer")
    weights.pop("layers.0.attention.qkv.weight")
    write(own_newbie / "transformer" / "diffusion_pytorch_model.safetensors", weights)
    with pytest.raises(ConfigurationError, match=r"layers\.0\.attn"):
        convert(own_newbie, dest, "diffusers", "bfloat16")
    assert list(dest.parent.iterdir()) == []
    dest.mkdir()
    with pytest.raises(ConfigurationError, match="exists"):
        convert(own_newbie, dest, "diffusers", "bfloat16")


@pytest.mark.parametrize(
    ("missing", "shown"),
    [
        ("text_encoder/tokenizer.json", r"ComfyUI's files hold no text_encoder/tokenizer\.json.*gemma-3-4b-it"),
        ("clip_model/tokenizer.json", r"ComfyUI's files hold no clip_model/tokenizer\.json.*jina-clip-v2"),
        ("text_encoders/jina_clip_v2_bf16.safetensors", "holds 0 files of Jina CLIP"),
        ("vae/ae.safetensors", "vae/ holds 0 safetensors files"),
    ],
)
def test_what_comfyui_s_files_lack_is_said(tiny_newbie: Path, tmp_path: Path, missing: str, shown: str) -> None:
    PACKED["comfyui"](tiny_newbie, tmp_path / "packed")
    (tmp_path / "packed" / missing).unlink()
    with pytest.raises(ConfigurationError, match=shown):
        load(tmp_path / "packed")


class Adapter(nn.Module):
    """The repository's parametrisation of a weight: its one adapter is added whenever the weight is used."""

    def __init__(self, rows: int, columns: int, *, swapped: bool, drawn: torch.Generator) -> None:
        super().__init__()
        first, second = (1, RANK, columns), (1, rows, RANK)
        self.swapped = swapped
        self.lora_A = nn.Parameter(torch.randn(second if swapped else first, generator=drawn) * 0.1)
        self.lora_B = nn.Parameter(torch.randn(first if swapped else second, generator=drawn) * 0.1)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        left, right = (self.lora_A, self.lora_B) if self.swapped else (self.lora_B, self.lora_A)
        return weight + (left[0] @ right[0])


class Block(nn.Module):
    """One layer of the tower as its authors wrote it: fused projections, rotary positions, norms after the sums."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixer = nn.ModuleDict({"Wqkv": nn.Linear(width, 3 * width), "out_proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-5), nn.LayerNorm(width, eps=1e-5)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        count, width = states.shape
        fused = self.mixer["Wqkv"](states).view(count, 3, self.heads, width // self.heads)
        query, key, value = (fused[:, part].transpose(0, 1) for part in range(3))
        query, key = self.turned(query), self.turned(key)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(0, 1).reshape(count, width)
        states = self.norm1(self.mixer["out_proj"](mixed) + states)
        last: torch.Tensor = self.norm2(self.mlp["fc2"](functional.gelu(self.mlp["fc1"](states))) + states)
        return last

    def turned(self, heads: torch.Tensor) -> torch.Tensor:
        _, count, width = heads.shape
        speeds = 20000.0 ** -(torch.arange(0, width, 2) / width)
        angles = torch.outer(torch.arange(count), speeds)
        pairs = torch.complex(heads[..., : width // 2], heads[..., width // 2 :])
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], dim=-1)


class Roberta(nn.Module):
    def __init__(self, words: int, width: int, heads: int) -> None:
        super().__init__()
        names = {"word_embeddings": nn.Embedding(words, width), "token_type_embeddings": nn.Embedding(1, width)}
        self.embeddings = nn.ModuleDict(names)
        self.emb_ln = nn.LayerNorm(width, eps=1e-5)
        self.blocks = tuple(Block(width, heads) for _ in range(2))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(self.blocks)})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        kinds = self.embeddings["token_type_embeddings"](torch.zeros_like(tokens))
        states: torch.Tensor = self.emb_ln(self.embeddings["word_embeddings"](tokens) + kinds)
        for layer in self.blocks:
            states = layer(states)
        return states


def test_the_adapter_is_merged_as_the_repository_s_own_class_would_add_it(tmp_path: Path) -> None:
    drawn = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    tower = Roberta(words=30, width=16, heads=2)
    for module in list(tower.modules()):
        if isinstance(module, nn.Linear | nn.Embedding):
            rows, columns = module.weight.shape
            swapped = isinstance(module, nn.Embedding)
            parametrize.register_parametrization(module, "weight", Adapter(rows, columns, swapped=swapped, drawn=drawn))
    state = {ROBERTA + name: value.detach().clone() for name, value in tower.state_dict().items()}
    assert f"{ROBERTA}encoder.layers.1.mixer.Wqkv.parametrizations.weight.0.lora_A" in state
    write(tmp_path / "model.safetensors", state)
    with WeightFiles([tmp_path / "model.safetensors"]) as weights:
        native = load_jina(dict(JINA_CLIP), weights, torch.float32).eval()
    tokens = torch.tensor([0, 5, 17, 29, 2])
    with torch.inference_mode():
        difference = native(tokens.unsqueeze(0)).last_hidden_state[0] - tower(tokens)
        # What the adapter does is far more than that.
        assert float(difference.abs().max()) < 1e-5


def test_an_adapter_that_the_configuration_does_not_name_is_refused(packed: dict[str, Path]) -> None:
    document = json.loads(json.dumps(JINA_CLIP))
    document["text_config"]["hf_model_config_kwargs"]["lora_adaptations"] = ["retrieval.query", "separation"]
    with (
        WeightFiles([packed["published"] / "clip_model" / "model.safetensors"]) as weights,
        pytest.raises(ConfigurationError, match="holds 1 adapters"),
    ):
        load_jina(document, weights, torch.float32)


def test_a_decoder_without_a_configuration_is_read_by_its_shapes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[32, 32, 64],
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    latents = torch.randn((1, 16, 2, 2))
    for name, state in (("own", dict(vae.state_dict())), ("authors", authors_vae(dict(vae.state_dict())))):
        write(tmp_path / f"{name}.safetensors", state)
        with WeightFiles([tmp_path / f"{name}.safetensors"]) as weights:
            loaded = load_vae(None, weights, torch.float32)
        assert (loaded.config.scaling_factor, loaded.config.shift_factor) == (0.3611, 0.1159)
        with torch.inference_mode():
            assert torch.equal(loaded.decode(latents).sample, vae.decode(latents).sample)


def test_the_command_converts_and_checks(tiny_newbie: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    dest = tmp_path / "tiny-newbie"
    assert main(["convert", str(tiny_newbie), str(dest)], out) == 0
    assert "  transformer/diffusion_pytorch_model.safetensors\n" in out.getvalue()
    assert main(["check", str(dest)], out) == 0
    assert "files compared" in out.getvalue().splitlines()[-1]
    assert main(["convert", str(tiny_newbie), str(dest)], out) == 78
    assert "exists" in capsys.readouterr().err
    weights = read(dest / "transformer")
    name = "time_caption_embed.time_text_embed.1.weight"
    write(dest / "transformer" / "diffusion_pytorch_model.safetensors", weights | {name: weights[name] + 1})
    assert main(["check", str(dest)], out) == 78
    assert "SHA256SUMS" in capsys.readouterr().err
    (dest / "SHA256SUMS").unlink()
    assert main(["check", str(dest)], out) == 0
    write(dest / "transformer" / "diffusion_pytorch_model.safetensors", weights | {name: weights[name][:-1]})
    assert main(["check", str(dest)], out) == 78
    assert "time_text_embed" in capsys.readouterr().err


def test_a_checking_operator_does_not_wait_for_torch() -> None:
    code = "import sys, services.worker.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
