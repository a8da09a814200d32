"""What the NewBie backend computes, on the tiny model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from services.worker.backends.base import (
    GenerationCancelledError,
    GenerationRequest,
    InvalidOutputError,
    InvalidParameterError,
    OutOfMemoryError,
)
from services.worker.backends.newbie.backend import NewbieBackend
from services.worker.backends.newbie.loading import load_components
from services.worker.backends.newbie.sampling import initial_noise
from services.worker.backends.newbie.text import MAX_TOKENS, SYSTEM_PROMPTS, PromptEncoder, collate
from services.worker.backends.newbie.transformer import NewbieTransformer2DModel, TextCondition
from shared.domain.errors import ConfigurationError
from tests.support.generation import XML_PROMPT, Progress, generation_request

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from services.worker.backends.newbie.loading import NewbieComponents


@pytest.fixture(scope="module")
def components(tiny_newbie: Path) -> NewbieComponents:
    return load_components(tiny_newbie, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def encoder(components: NewbieComponents) -> PromptEncoder:
    return components.encoder


@pytest.fixture(scope="module")
def backend(tiny_newbie: Path) -> NewbieBackend:
    backend = NewbieBackend()
    backend.load(tiny_newbie, "cpu", "resident")
    return backend


def pixels(backend: NewbieBackend, *requests: GenerationRequest) -> list[NDArray[np.uint8]]:
    progress = Progress()
    generated = backend.generate(list(requests), progress.report, progress.cancelled)
    return [picture for pictures in generated.sets for picture in pictures.pixels]


def largest_difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    return int(np.abs(first.astype(np.int16) - second.astype(np.int16)).max())


def test_rows_of_a_batch_equal_single_runs(backend: NewbieBackend, tmp_path: Path) -> None:
    one = generation_request(tmp_path, seeds=(3, 4))
    two = generation_request(tmp_path, prompt="a cat", prompt_format="text", guidance=1.0, seeds=(5,))
    together = pixels(backend, one, two)
    alone = [
        *pixels(backend, generation_request(tmp_path, seeds=(3,))),
        *pixels(backend, generation_request(tmp_path, seeds=(4,))),
        *pixels(backend, two),
    ]
    # Equal to about 1e-6 before rounding to 256 levels.
    assert max(largest_difference(*pair) for pair in zip(together, alone, strict=True)) <= 1


def test_rows_of_one_forward_with_other_lengths_and_times_equal_single_rows(components: NewbieComponents) -> None:
    prompts = [components.encoder.encode(text, "xml") for text in (XML_PROMPT, "blue_hair", "")]
    latents = torch.randn((3, 16, 4, 6), generator=torch.Generator().manual_seed(1))
    times = torch.tensor([0.1, 0.5, 0.9])
    condition, mask = collate(prompts)
    with torch.inference_mode():
        together = components.transformer(latents, times, condition, mask)
        for row, prompt in enumerate(prompts):
            single = TextCondition(prompt.caption.unsqueeze(0), prompt.pooled.unsqueeze(0))
            alone = components.transformer(
                latents[row : row + 1], times[row : row + 1], single, prompt.mask.unsqueeze(0)
            )
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_both_conditions_and_the_time_move_the_flow(components: NewbieComponents) -> None:
    prompt, other = (components.encoder.encode(text, "xml") for text in (XML_PROMPT, "a cat"))
    latents = torch.randn((1, 16, 4, 6), generator=torch.Generator().manual_seed(1))

    def flow(caption: Any, pooled: Any, time: float) -> torch.Tensor:  # noqa: ANN401 - EncodedPrompt
        condition = TextCondition(caption.caption.unsqueeze(0), pooled.pooled.unsqueeze(0))
        with torch.inference_mode():
            result: torch.Tensor = components.transformer(
                latents, torch.tensor([time]), condition, caption.mask.unsqueeze(0)
            )
        return result

    base = flow(prompt, prompt, 0.2)
    assert torch.equal(base, flow(prompt, prompt, 0.2))
    for changed in (flow(other, prompt, 0.2), flow(prompt, other, 0.2), flow(prompt, prompt, 0.8)):
        assert (changed - base).abs().max() > 1e-2


def test_guidance_is_one_forward_a_step_with_a_second_row(
    backend: NewbieBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, list[float]]] = []
    forward = NewbieTransformer2DModel.forward

    def counting(self: NewbieTransformer2DModel, latents: torch.Tensor, time: torch.Tensor, *rest: Any) -> Any:  # noqa: ANN401
        calls.append((len(latents), time.tolist()))
        return forward(self, latents, time, *rest)

    monkeypatch.setattr(NewbieTransformer2DModel, "forward", counting)
    pixels(backend, generation_request(tmp_path, steps=2))
    pixels(backend, generation_request(tmp_path, steps=2, guidance=1.0))
    pixels(backend, generation_request(tmp_path, steps=2, options={"cfg_trunc": 0.1}))
    # With shift 6 and two steps the noise levels are 1 and 6/7; time counts from noise.
    second = pytest.approx(1 / 7)
    assert calls == [(2, [0.0, 0.0]), (2, [second, second]), (1, [0.0]), (1, [second]), (2, [0.0, 0.0]), (1, [second])]


def test_guidance_truncated_from_the_start_is_no_guidance(backend: NewbieBackend, tmp_path: Path) -> None:
    (truncated,) = pixels(backend, generation_request(tmp_path, options={"cfg_trunc": 0}))
    (unguided,) = pixels(backend, generation_request(tmp_path, guidance=1.0))
    (guided,) = pixels(backend, generation_request(tmp_path))
    assert np.array_equal(truncated, unguided)
    assert not np.array_equal(guided, unguided)


def test_the_renorm_option_changes_the_picture(backend: NewbieBackend, tmp_path: Path) -> None:
    (clamped,) = pixels(backend, generation_request(tmp_path))
    (free,) = pixels(backend, generation_request(tmp_path, options={"cfg_renorm": 0}))
    assert not np.array_equal(clamped, free)


def test_the_tiled_tier_makes_the_same_picture_when_one_tile_holds_it(
    backend: NewbieBackend, tiny_newbie: Path, tmp_path: Path
) -> None:
    tiled = NewbieBackend()
    report = tiled.load(tiny_newbie, "cpu", "tiled")
    assert report.receipt["tier"] == "tiled"
    request = generation_request(tmp_path, width=32, height=32)
    assert np.array_equal(pixels(tiled, request)[0], pixels(backend, request)[0])


def test_an_unknown_tier_is_refused(tiny_newbie: Path) -> None:
    with pytest.raises(ConfigurationError, match="resident, tiled, offload, sequential"):
        NewbieBackend().load(tiny_newbie, "cpu", "frugal")


def test_captions_are_padded_on_the_right_to_a_multiple_of_eight(encoder: PromptEncoder) -> None:
    prompt = encoder.encode(XML_PROMPT, "xml")
    length = int(prompt.mask.sum())
    assert len(prompt.mask) % 8 == 0
    assert len(prompt.mask) - length < 8
    assert prompt.mask.tolist() == [1] * length + [0] * (len(prompt.mask) - length)
    assert prompt.caption.shape == (len(prompt.mask), 48)


def test_the_caption_is_the_last_but_one_layer_before_the_final_norm(
    encoder: PromptEncoder,
) -> None:
    gemma = encoder._gemma
    seen: list[torch.Tensor] = []
    handle = gemma.layers[-2].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        prompt = encoder.encode("blue_hair", "xml")
    finally:
        handle.remove()
    assert torch.equal(seen[0][0], prompt.caption)


def test_only_gemma_reads_the_system_prompt_and_an_empty_prompt_has_none(encoder: PromptEncoder) -> None:
    xml, text = encoder.encode("blue_hair", "xml"), encoder.encode("blue_hair", "text")
    assert torch.equal(xml.pooled, text.pooled)
    assert xml.mask.sum() != text.mask.sum()
    empty_xml, empty_text = encoder.encode("", "xml"), encoder.encode("", "text")
    assert int(empty_xml.mask.sum()) == 1
    assert torch.equal(empty_xml.caption, empty_text.caption)
    assert set(SYSTEM_PROMPTS) == {"xml", "text"}


def test_the_pooled_vector_is_the_mean_over_the_tokens(encoder: PromptEncoder) -> None:
    tokens = encoder._jina_tokenizer("blue_hair", return_tensors="pt")
    with torch.inference_mode():
        features = encoder._jina(**tokens).last_hidden_state[0]
    torch.testing.assert_close(encoder.encode("blue_hair", "xml").pooled, features.mean(0))


def test_a_perfect_flow_ends_at_its_latents_and_their_decoded_picture(
    backend: NewbieBackend, components: NewbieComponents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = torch.randn((1, 16, 6, 8), generator=torch.Generator().manual_seed(5))
    noise = initial_noise([7], (16, 6, 8))
    monkeypatch.setattr(NewbieTransformer2DModel, "forward", lambda *_: target - noise)
    (picture,) = pixels(backend, generation_request(tmp_path, guidance=1.0))
    with torch.inference_mode():
        (decoded,) = components.vae.decode(target / 0.3611 + 0.1159, return_dict=False)
    expected = ((decoded[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).numpy()
    assert largest_difference(picture, expected) <= 1


def test_a_prompt_over_the_token_limit_is_refused_with_its_count(backend: NewbieBackend, tmp_path: Path) -> None:
    fits = "~" * (MAX_TOKENS - 100)
    assert len(pixels(backend, generation_request(tmp_path, prompt=fits, steps=1))) == 1
    with pytest.raises(InvalidParameterError, match=r"has \d{3} tokens .* reads 512"):
        pixels(backend, generation_request(tmp_path, prompt="~" * MAX_TOKENS))
    with pytest.raises(InvalidParameterError, match="tokens"):
        pixels(backend, generation_request(tmp_path, negative_prompt="~" * MAX_TOKENS))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"width": 72}, "width 72 is not a multiple of 16"),
        ({"height": 8}, "height 8"),
        ({"num_frames": 5}, "num_frames 5"),
        ({"seeds": (-1,)}, "seeds"),
        ({"seeds": (2**63,)}, "seeds"),
        ({"options": {"sampler": "ddim"}}, "sampler"),
        ({"options": {"cfg_trunc": float("nan")}}, "cfg_trunc"),
        ({"prompt_format": "yaml"}, "yaml"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_name(
    backend: NewbieBackend, tmp_path: Path, changes: dict[str, object], shown: str
) -> None:
    with pytest.raises(InvalidParameterError, match=shown):
        pixels(backend, generation_request(tmp_path, **changes))


def test_a_batch_of_two_sizes_is_refused(backend: NewbieBackend, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="different sizes"):
        pixels(backend, generation_request(tmp_path), generation_request(tmp_path, width=32))


def test_no_requests_are_no_pictures(backend: NewbieBackend) -> None:
    assert pixels(backend) == []


def test_cancelling_before_the_first_step_computes_none(backend: NewbieBackend, tmp_path: Path) -> None:
    progress = Progress(cancel_after=0)
    with pytest.raises(GenerationCancelledError):
        backend.generate([generation_request(tmp_path)], progress.report, progress.cancelled)
    assert progress.seen == [("encoding", 0, 0)]


def test_memory_that_does_not_suffice_is_its_own_error(
    backend: NewbieBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:  # noqa: ANN401 - stands for any forward
        message = "CUDA out of memory"
        raise torch.cuda.OutOfMemoryError(message)

    monkeypatch.setattr(NewbieTransformer2DModel, "forward", fails)
    with pytest.raises(OutOfMemoryError, match="1 pictures of 64x48"):
        pixels(backend, generation_request(tmp_path))


def test_values_that_are_not_finite_are_an_error_and_no_picture(
    backend: NewbieBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_self: object, latents: torch.Tensor, *_: Any) -> torch.Tensor:  # noqa: ANN401 - stands for the forward
        return torch.full_like(latents, float("nan"))

    monkeypatch.setattr(NewbieTransformer2DModel, "forward", breaks)
    with pytest.raises(InvalidOutputError, match="not finite"):
        pixels(backend, generation_request(tmp_path))


def sketched(backend: NewbieBackend, folder: Path, **changes: Any) -> tuple[Progress, bytes]:  # noqa: ANN401 - any field
    progress = Progress(sketching=True)
    generated = backend.generate([generation_request(folder, **changes)], progress.report, progress.cancelled)
    return progress, generated.sets[0].pixels[0].tobytes()


@pytest.mark.parametrize(
    ("size", "shape"), [((128, 64), (48, 96, 3)), ((64, 48), (48, 64, 3)), ((192, 192), (96, 96, 3))]
)
def test_a_sketch_of_each_step_is_a_small_picture_of_the_first(
    backend: NewbieBackend, tmp_path: Path, size: tuple[int, int], shape: tuple[int, ...]
) -> None:
    width, height = size
    progress, _ = sketched(backend, tmp_path, width=width, height=height, seeds=(3, 4))
    assert [sketch.shape for sketch in progress.sketches] == [shape] * 3
    assert {sketch.dtype for sketch in progress.sketches} == {np.dtype(np.uint8)}


def test_sketches_change_nothing_of_the_picture_and_the_last_one_is_it(backend: NewbieBackend, tmp_path: Path) -> None:
    progress, picture = sketched(backend, tmp_path, width=64, height=64)
    (alone,) = pixels(backend, generation_request(tmp_path, width=64, height=64))
    assert picture == alone.tobytes()
    assert largest_difference(progress.sketches[-1], alone) <= 1  # nothing to shrink
    assert largest_difference(progress.sketches[0], alone) > 1


def test_where_the_decoder_is_not_at_hand_nothing_is_sketched(tiny_newbie: Path, tmp_path: Path) -> None:
    backend = NewbieBackend()
    backend.load(tiny_newbie, "cpu", "offload")
    progress, _ = sketched(backend, tmp_path)
    assert len(progress.seen) == 5
    assert progress.sketches == []
