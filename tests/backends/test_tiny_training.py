"""How the small model is trained: what is learnt is what is served, and an interrupted run goes on as if whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from models import tiny_flow, tiny_vae
from models.painter import draw_scene
from models.prompts import tag_prompt, xml_prompt
from models.tiny_export import export
from models.tiny_flow import Networks, Pictures, Tokens, flow_of, load_networks, train_flow
from models.tiny_text import gemma_tokenizer, jina_tokenizer
from models.tiny_vae import Steps, load_vae, make_vae, train_vae
from services.worker.backends.newbie.loading import load_components
from services.worker.backends.newbie.text import PromptEncoder, collate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED = 3


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """This process as the only one that trains."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.fixture
def pictures() -> Pictures:
    rng = np.random.default_rng(SEED)
    return Pictures([draw_scene(rng) for _ in range(8)], torch.randn((8, 16, 16, 16)).to(torch.bfloat16))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_flow, "BATCH", 4)
    monkeypatch.setattr(tiny_flow, "POOL", 2)
    monkeypatch.setattr(tiny_flow, "SAVE_EVERY", 1)
    monkeypatch.setattr(tiny_vae, "SAVE_EVERY", 1)


def networks() -> tuple[Networks, Tokens]:
    """Untrained, and with no weight at nought."""
    torch.manual_seed(SEED)
    tokens = Tokens(gemma_tokenizer(), jina_tokenizer())
    made = Networks(tokens.gemma, tokens.jina).eval().requires_grad_(requires_grad=False)
    for parameter in made.parameters():
        if not parameter.any():
            parameter.normal_(0.0, 0.05)
    return made, tokens


def test_what_is_trained_is_what_is_served() -> None:
    made, tokens = networks()
    rng = np.random.default_rng(SEED)
    scenes = [draw_scene(rng) for _ in range(6)]
    prompts = [(xml_prompt(scene, rng), "xml") for scene in scenes] + [
        ("", "xml"),
        (tag_prompt(scenes[0], rng), "text"),
    ]
    latents, times = torch.randn((8, 16, 16, 16)), torch.rand(8)
    encoder = PromptEncoder(made.gemma, tokens.gemma, made.jina, tokens.jina)
    condition, mask = collate([encoder.encode(*prompt) for prompt in prompts])
    served = made.transformer(latents, times, condition, mask)
    trained = flow_of(made, latents, times, *tokens.read(prompts))
    assert served.abs().max() > 0.5
    torch.testing.assert_close(trained, served, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("alone", "small")
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_flow(0, tmp_path / "whole.pt", pictures, SEED, 3)
    follow = tiny_flow._follow

    def interrupted(*arguments: Any) -> None:  # noqa: ANN401 - as the original
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        follow(*arguments)

    monkeypatch.setattr(tiny_flow, "_follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_flow(0, tmp_path / "parts.pt", pictures, SEED, 3)
    monkeypatch.setattr(tiny_flow, "_follow", follow)
    train_flow(0, tmp_path / "parts.pt", pictures, SEED, 3)
    whole, parts = (torch.load(tmp_path / name, weights_only=True)["average"] for name in ("whole.pt", "parts.pt"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.usefixtures("alone", "small")
def test_a_trained_autoencoder_goes_on_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(crops=1, whole=1, batch=4)
    train_vae(0, tmp_path / "vae.pt", SEED, steps)
    first = load_vae(tmp_path / "vae.pt").state_dict()
    train_vae(0, tmp_path / "vae.pt", SEED, steps)
    assert all(torch.equal(value, first[name]) for name, value in load_vae(tmp_path / "vae.pt").state_dict().items())
    assert capsys.readouterr().out.count("vae 2/2") == 1


@pytest.mark.usefixtures("alone", "small")
def test_what_was_trained_is_written_as_a_folder_that_loads_strictly(tmp_path: Path, pictures: Pictures) -> None:
    train_flow(0, tmp_path / "flow.pt", pictures, SEED, 1)
    made, tokens = load_networks(tmp_path / "flow.pt")
    expected = {name: value.clone() for name, value in made.transformer.state_dict().items()}
    export(tmp_path / "model", made, tokens, make_vae())
    loaded = load_components(tmp_path / "model", torch.device("cpu"), torch.bfloat16)
    for name, value in loaded.transformer.state_dict().items():
        assert torch.equal(value, expected[name].to(torch.bfloat16)), name
