"""Pictures from strangers, as the child decodes them: whole ones as they are meant, all others as a refusal."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from services.worker.backends.base import InvalidParameterError
from services.worker.backends.input_images import read_image
from tests.support.pictures import HTML, SVG, bomb, chunk, claimed, picture

if TYPE_CHECKING:
    from pathlib import Path

RED = (255, 0, 0)
ORIENTATION = 0x0112


def read(folder: Path, body: bytes, **options: Any) -> Image.Image:  # noqa: ANN401 - those of read_image
    path = folder / "input"
    path.write_bytes(body)
    return read_image(path, **options)


def refusal(folder: Path, body: bytes, **options: Any) -> str:  # noqa: ANN401 - those of read_image
    with pytest.raises(InvalidParameterError) as caught:
        read(folder, body, **options)
    assert not caught.value.retryable
    return caught.value.message


@pytest.mark.parametrize(
    ("kind", "mode", "colour"),
    [
        ("PNG", "RGB", RED),
        ("PNG", "RGBA", (*RED, 255)),
        ("WEBP", "RGB", RED),
        ("JPEG", "RGB", RED),
        ("JPEG", "CMYK", (0, 255, 255, 0)),
    ],
)
def test_every_kind_becomes_rgb(tmp_path: Path, kind: str, mode: str, colour: Any) -> None:  # noqa: ANN401 - a colour
    image = read(tmp_path, picture(kind, (9, 5), mode, colour=colour))
    assert (image.mode, image.size) == ("RGB", (9, 5))
    assert np.abs(np.asarray(image).astype(int) - RED).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA"])
def test_so_does_every_mode(tmp_path: Path, mode: str) -> None:
    assert read(tmp_path, picture("PNG", (9, 5), mode)).mode == "RGB"


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    assert read(tmp_path, picture("PNG", mode="RGBA", colour=(9, 9, 9, 0))).getpixel((0, 0)) == (255, 255, 255)
    half = read(tmp_path, picture("PNG", mode="RGBA", colour=(0, 0, 0, 128))).getpixel((0, 0))
    assert half == (127, 127, 127)
    palette = picture("PNG", mode="P", transparency=0)
    assert read(tmp_path, palette).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_become_eight_without_being_cut(tmp_path: Path) -> None:
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    path = tmp_path / "deep.png"
    Image.fromarray(levels).save(path)
    assert (np.asarray(read_image(path))[..., 0] == np.arange(256).reshape(16, 16)).all()


@pytest.mark.parametrize(("orientation", "size"), [(1, (9, 5)), (3, (9, 5)), (6, (5, 9)), (8, (5, 9))])
def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert read(tmp_path, picture("JPEG", (9, 5), exif=exif)).size == size


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    path = tmp_path / "animation"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=40, lossless=True)
    assert read_image(path).getpixel((4, 4)) == RED


@pytest.mark.parametrize("body", [b"", SVG, HTML, picture("GIF", (8, 8), "P"), picture("BMP"), picture("TIFF")])
def test_other_kinds_are_refused(tmp_path: Path, body: bytes) -> None:
    assert "cannot be read" in refusal(tmp_path, body)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_is_cut_off_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "noise"
    Image.fromarray(noise).save(path, kind)
    body = path.read_bytes()
    assert "cannot be read" in refusal(tmp_path, body[: int(share * len(body))])


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bomb(4000, 600)
    assert len(body) < 5000

    def decoded(_image: Image.Image) -> None:
        pytest.fail("it was decoded")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "load", decoded)
        assert "is 4000x600 pixels" in refusal(tmp_path, body, max_pixels=2_000_000)
    assert read(tmp_path, body).size == (4000, 600)


@pytest.mark.parametrize("sides", [(33_000, 2), (2, 33_000), (8000, 8000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_what_only_claims_to_be_large_is_refused_as_well(tmp_path: Path, sides: tuple[int, int]) -> None:
    assert "pixels" in refusal(tmp_path, claimed(*sides)) or max(sides) > 10**6


def test_a_text_that_unpacks_to_megabytes_is_refused_or_left_out(tmp_path: Path) -> None:
    body = picture("PNG")
    text = b"a\0\0" + bomb(8000, 600)[41:-16]
    at = body.index(b"IDAT") - 4
    stuffed = body[:at] + chunk(b"zTXt", text) + body[at:]
    try:
        assert read(tmp_path, stuffed).size == (8, 6)
    except InvalidParameterError as exc:
        assert "cannot be read" in exc.message  # noqa: PT017 - either way will do


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([picture("PNG"), picture("JPEG"), picture("WEBP"), picture("PNG", mode="P")]),
    st.integers(0, 200),
    st.binary(min_size=1, max_size=4),
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, body: bytes, at: int, junk: bytes) -> None:
    damaged = body[:at] + junk + body[at + len(junk) :]
    try:
        assert read(tmp_path, damaged, max_pixels=100_000).mode == "RGB"
    except InvalidParameterError as exc:
        assert exc.message.startswith("the input image")  # noqa: PT017 - either way will do


def test_a_header_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    body = bytearray(picture("PNG", (8, 6)))
    body[16:24] = struct.pack(">II", 800, 600)
    assert "cannot be read" in refusal(tmp_path, bytes(body))
