"""What makes NewBie faster: features that are kept, steps that are skipped, weights that take less."""

from __future__ import annotations

import shutil
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from services.worker.backends.base import GenerationCancelledError, InvalidParameterError
from services.worker.backends.newbie.backend import NewbieBackend
from services.worker.backends.newbie.embeddings import EmbeddingCache, PromptKey
from services.worker.backends.newbie.placement import TIERS
from services.worker.backends.newbie.text import EncodedPrompt, PromptEncoder
from services.worker.backends.newbie.transformer import NewbieTransformer2DModel
from services.worker.backends.workbench import Workbench
from shared.domain.errors import ConfigurationError
from tests.support.generation import Progress, generation_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from services.worker.backends.images import PictureSet

HOST = torch.device("cpu")
SIZE = {"width": 32, "height": 32, "steps": 8}


def extend(folder: Path, text: str) -> None:
    with (folder / "atelier.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")


def without_presets(folder: Path) -> None:
    card = folder / "atelier.toml"
    card.write_text(card.read_text(encoding="utf-8").partition("[quality")[0], encoding="utf-8")


class Desk:
    """A model as a worker's child has it: with the guard between tasks."""

    def __init__(self, folder: Path, tier: str = "resident") -> None:
        self.backend = NewbieBackend()
        self.bench = Workbench(self.backend, folder, "cpu")
        self.bench.load(tier)
        self.out = folder

    def make(self, *changes: dict[str, Any], tier: str = "", cancel_after: int | None = None) -> list[PictureSet]:
        progress = Progress(cancel_after=cancel_after)
        requests = [generation_request(self.out, **{**SIZE, **one}) for one in changes or ({},)]
        try:
            worked = self.bench.compute(requests, tier, progress.report, progress.cancelled)
        finally:
            self.bench.tidy()
        return list(worked.generated.sets)  # type: ignore[attr-defined] # this backend's pictures

    def pixels(self, **changes: Any) -> NDArray[np.uint8]:  # noqa: ANN401 - any field
        (pictures,) = self.make(changes)
        return pictures.pixels[0]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def desk(tiny_newbie: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("speed") / "model"
    shutil.copytree(tiny_newbie, folder)
    without_presets(folder)
    extend(folder, "[quality.draft]\ncache_threshold = 10.0\n[quality.high]\ncache_threshold = 0.0")
    return Desk(folder)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that the towers read."""
    seen: list[str] = []
    encode = PromptEncoder.encode

    def noted(self: PromptEncoder, prompt: str, prompt_format: str) -> EncodedPrompt:
        seen.append(prompt)
        return encode(self, prompt, prompt_format)

    monkeypatch.setattr(PromptEncoder, "encode", noted)
    return seen


def embeddings(*sets: PictureSet) -> list[object]:
    return [one.receipt["embeddings"] for one in sets]


def test_a_prompt_is_encoded_once_for_whoever_asks_again(desk: Desk, encoded: list[str]) -> None:
    mine = {"prompt": "once", "negative_prompt": "dark", "scope": "a"}
    first, second = desk.make(mine), desk.make(mine)
    assert encoded == ["once", "dark"]
    assert (embeddings(*first), embeddings(*second)) == (["computed"], ["cached"])
    assert np.array_equal(first[0].pixels[0], second[0].pixels[0])
    # Another seed, size or guidance needs no other features; another format or text does.
    assert embeddings(*desk.make({**mine, "seeds": (8, 9), "width": 48, "guidance": 2.0})) == ["cached"]
    assert embeddings(*desk.make({**mine, "prompt_format": "text"})) == ["computed"]
    assert embeddings(*desk.make({**mine, "prompt": "once."})) == ["computed"]


def test_nobody_learns_what_others_asked_for(desk: Desk, encoded: list[str]) -> None:
    desk.make({"prompt": "secret", "scope": "a"})
    before = len(encoded)
    other = desk.make({"prompt": "secret", "scope": "b"})
    assert embeddings(*other) == ["computed"]
    # Not even within one batch, and without a scope nothing is kept at all.
    encoded.clear()
    pair = desk.make({"prompt": "new", "scope": "a"}, {"prompt": "new", "scope": "b"})
    assert embeddings(*pair) == ["computed", "computed"]
    assert encoded.count("new") == 2
    desk.make({"prompt": "plain"})
    assert embeddings(*desk.make({"prompt": "plain"})) == ["computed"]
    assert before > 0


def test_a_model_that_is_loaded_anew_has_forgotten(tiny_newbie: Path) -> None:
    own = Desk(tiny_newbie)
    own.make({"scope": "a"})
    own.backend.reload(frozenset({"transformer"}))
    assert embeddings(*own.make({"scope": "a"})) == ["cached"]
    own.backend.reload(frozenset({"text_encoder"}))
    assert embeddings(*own.make({"scope": "a"})) == ["computed"]


@pytest.mark.parametrize("text", ['[options]\nisolation = "reload"', "[options]\nembedding_cache_mb = 0"])
def test_a_card_can_forbid_it(own_newbie: Path, text: str) -> None:
    extend(own_newbie, text)
    own = Desk(own_newbie)
    assert [embeddings(*own.make({"scope": "a"})) for _ in range(2)] == [["computed"]] * 2


def prompt(value: float, length: int = 8) -> EncodedPrompt:
    return EncodedPrompt(torch.full((length, 4), value), torch.ones(length), torch.full((4,), value))


def test_the_cache_is_bounded_in_bytes_and_drops_what_was_not_used_for_longest() -> None:
    size = sum(tensor.nbytes for tensor in (prompt(0).caption, prompt(0).mask, prompt(0).pooled))
    cache = EmbeddingCache(2 * size)
    first, second, third = (PromptKey("a", text, "xml") for text in ("1", "2", "3"))
    cache.put(first, prompt(1))
    cache.put(second, prompt(2))
    assert cache.get(first, HOST) is not None
    cache.put(third, prompt(3))
    assert cache.get(second, HOST) is None
    cache.put(third, prompt(4))
    assert [float(kept.pooled[0]) for key in (first, third) if (kept := cache.get(key, HOST))] == [1.0, 4.0]
    cache.put(second, prompt(5, length=4000))
    assert cache.get(second, HOST) is None
    assert cache.get(first, HOST) is not None


def test_what_is_done_to_features_is_not_done_to_those_that_are_kept() -> None:
    cache, key = EmbeddingCache(1 << 20), PromptKey("a", "1", "xml")
    given = prompt(1)
    cache.put(key, given)
    given.caption.zero_()
    taken = cache.get(key, HOST)
    assert taken is not None
    taken.pooled.zero_()
    kept = cache.get(key, HOST)
    assert kept is not None
    assert torch.equal(kept.caption, prompt(1).caption)
    assert torch.equal(kept.pooled, prompt(1).pooled)


def test_skipped_steps_are_counted_and_a_picture_without_them_is_bit_for_bit_the_same_as_ever(desk: Desk) -> None:
    plain = desk.pixels()
    parts = dict(desk.backend.guarded().parts)
    (draft,) = desk.make({"quality": "draft"})
    assert draft.receipt["cache_threshold"] == 10.0
    # All but the first step: nothing changes ten times as much as it is.
    assert draft.receipt["steps_cached"] == 7
    assert not np.array_equal(draft.pixels[0], plain)
    assert np.array_equal(desk.pixels(quality="draft"), draft.pixels[0])
    (again,) = desk.make({})
    assert np.array_equal(again.pixels[0], plain)
    assert "steps_cached" not in again.receipt
    assert np.array_equal(desk.pixels(quality="high"), plain)
    # Nothing had to be loaded anew, and no hook is left.
    assert {name: id(part) for name, part in desk.backend.guarded().parts.items()} == {
        name: id(part) for name, part in parts.items()
    }
    transformer: Any = parts["transformer"]
    assert not any(hasattr(module, "_diffusers_hook") for module in transformer.modules())
    assert not any("forward" in vars(module) for module in transformer.modules())


@pytest.mark.parametrize("tier", TIERS)
def test_steps_are_skipped_at_every_tier_alike(desk: Desk, tier: str) -> None:
    expected = desk.pixels(quality="draft")
    (made,) = desk.make({"quality": "draft"}, tier=tier)
    assert (made.receipt["tier"], made.receipt["steps_cached"]) == (tier, 7)
    assert np.array_equal(made.pixels[0], expected)
    desk.make({}, tier="resident")


def test_pictures_of_one_batch_do_not_decide_for_each_other(desk: Desk) -> None:
    asked: list[dict[str, Any]] = [
        {"quality": "draft", "seeds": (1, 2)},
        {"quality": "draft", "prompt": "a cat", "guidance": 1.0},
    ]
    together = [pixels for one in desk.make(*asked) for pixels in one.pixels]
    alone = [desk.pixels(quality="draft", seeds=(seed,)) for seed in (1, 2)]
    alone.append(desk.pixels(quality="draft", prompt="a cat", guidance=1.0))
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_guidance_that_ends_half_way_starts_the_cache_anew(desk: Desk) -> None:
    (made,) = desk.make({"quality": "draft", "options": {"cfg_trunc": 0.5}})
    # One step in full with two rows, and one with one.
    assert made.receipt["steps_cached"] == 6


def test_a_cancelled_picture_leaves_nothing_behind(desk: Desk) -> None:
    plain = desk.pixels()
    with pytest.raises(GenerationCancelledError):
        desk.make({"quality": "draft"}, cancel_after=3)
    assert np.array_equal(desk.pixels(), plain)
    assert desk.make({"quality": "draft"})[0].receipt["steps_cached"] == 7


@pytest.fixture(scope="module")
def small(tiny_newbie: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The model with its matrices in 8 bits."""
    folder = tmp_path_factory.mktemp("fp8") / "model"
    shutil.copytree(tiny_newbie, folder)
    extend(folder, '[options]\nstorage = "fp8"')
    return Desk(folder)


def test_matrices_in_8_bits_take_less_and_change_a_picture_little(desk: Desk, small: Desk) -> None:
    transformer: Any = small.backend.guarded().parts["transformer"]
    stored = {name: value.dtype for name, value in transformer.named_parameters()}
    assert stored["layers.0.attn.to_q.weight"] is torch.float8_e4m3fn
    assert stored["layers.0.norm2.weight"] is torch.float32
    (full,), (cast,) = desk.make({"width": 64, "height": 64}), small.make({"width": 64, "height": 64})
    assert (full.receipt["storage"], cast.receipt["storage"]) == ("full", "fp8")
    difference = np.abs(full.pixels[0].astype(int) - cast.pixels[0].astype(int))
    # Of 255 levels, with random weights.
    assert 0 < difference.mean() < 12


@pytest.mark.parametrize("tier", TIERS)
def test_8_bits_are_the_same_at_every_tier_and_after_every_task(small: Desk, tier: str) -> None:
    expected = small.pixels()
    parts = dict(small.backend.guarded().parts)
    for _ in range(2):
        (made,) = small.make({}, tier=tier)
        assert np.array_equal(made.pixels[0], expected)
    assert all(small.backend.guarded().parts[name] is part for name, part in parts.items())
    assert np.array_equal(small.make({"quality": "standard"}, tier="resident")[0].pixels[0], expected)


def test_a_damaged_weight_in_8_bits_is_loaded_anew(small: Desk) -> None:
    expected = small.pixels()
    before: Any = small.backend.guarded().parts["transformer"]
    with torch.inference_mode():
        before.layers[0].attn.to_q.weight.view(torch.uint8).fill_(7)
    small.bench._dirty = frozenset({"transformer"})
    small.bench.tidy()
    assert small.backend.guarded().parts["transformer"] is not before
    assert np.array_equal(small.pixels(), expected)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_compiled_blocks_make_the_same_picture_and_leave_the_model_clean(
    desk: Desk, own_newbie: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend(own_newbie, "[options]\ncompile = true")
    # Traced as for the real compiler, which takes a minute, and run as traced.
    compiled = partialmethod(NewbieTransformer2DModel.compile_repeated_blocks, backend="eager")
    monkeypatch.setattr(NewbieTransformer2DModel, "compile_repeated_blocks", compiled)
    own = Desk(own_newbie)
    parts = dict(own.backend.guarded().parts)
    for _ in range(2):
        assert np.abs(own.pixels().astype(int) - desk.pixels().astype(int)).max() <= 1
    assert all(own.backend.guarded().parts[name] is part for name, part in parts.items())
    transformer: Any = parts["transformer"]
    assert transformer.layers[0]._compiled_call_impl is not None


def test_where_nothing_can_compile_it_is_said_at_once(own_newbie: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extend(own_newbie, "[options]\ncompile = true")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ConfigurationError, match="compile needs a C compiler"):
        NewbieBackend().load(own_newbie, "cpu", "resident")


def test_qualities_do_not_mix_in_a_batch(desk: Desk) -> None:
    with pytest.raises(InvalidParameterError, match="qualities"):
        desk.make({"quality": "draft"}, {"quality": "high"})


@pytest.mark.parametrize(
    "text",
    [
        "[quality.draft]\ncache_threshold = -1",
        '[quality.draft]\ncache_threshold = "much"',
        '[options]\nstorage = "int8"',
        "[options]\nembedding_cache_mb = -1",
        '[options]\ncompile = "yes"',
    ],
)
def test_a_wrong_setting_is_named(own_newbie: Path, text: str) -> None:
    without_presets(own_newbie)
    extend(own_newbie, text)
    with pytest.raises(ConfigurationError, match=text.partition("\n")[2].partition(" ")[0]):
        NewbieBackend().load(own_newbie, "cpu", "resident")
