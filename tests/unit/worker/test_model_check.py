"""A model's folder is looked over before anything starts; each fault is named with its file and its cure."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.model_check import check_model_folder, main
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

CARD = '[model]\nid = "some"\nbackend = "newbie"\n'
WEIGHTS = "transformer/model.safetensors"


def safetensors(tensors: dict[str, Any] | None = None, body: int = 24) -> bytes:
    found = {"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}} if tensors is None else tensors
    header = json.dumps({"__metadata__": {"format": "pt"}, **found}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(body)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "some"
    (folder / "transformer").mkdir(parents=True)
    (folder / "atelier.toml").write_text(CARD, encoding="utf-8")
    (folder / WEIGHTS).write_bytes(safetensors())
    return folder


def refusal(folder: Path, *, readable: tuple[Path, ...] = (), require_readonly: bool = False) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_model_folder(folder, require_readonly=require_readonly, readable=readable)
    return caught.value.message


def test_a_sound_folder_is_described(model: Path) -> None:
    (model / "modeling.py").write_text("raise SystemExit", encoding="utf-8")
    found = check_model_folder(model, require_readonly=False)
    assert found.weight_bytes == (model / WEIGHTS).stat().st_size
    assert found.ignored == ("modeling.py",)
    assert not found.read_only


def test_a_folder_without_weights_may_be_a_model(model: Path) -> None:
    (model / WEIGHTS).unlink()
    assert check_model_folder(model, require_readonly=False).weight_bytes == 0


def test_hidden_names_are_nobody_s_business(model: Path) -> None:
    (model / ".cache").mkdir()
    (model / ".cache" / "old.ckpt").write_bytes(b"")
    assert check_model_folder(model, require_readonly=False).ignored == ()


def test_a_missing_folder_an_empty_one_and_one_without_a_card(tmp_path: Path, model: Path) -> None:
    assert "does not exist; see ATELIER_MODELS_DIR" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").endswith("empty is empty; put the model's files there")
    (model / "atelier.toml").unlink()
    assert "atelier.toml is missing" in refusal(model)
    assert "is not a folder" in refusal(model / WEIGHTS)


def test_a_card_that_cannot_be_read(model: Path) -> None:
    (model / "atelier.toml").write_text("[model", encoding="utf-8")
    assert "atelier.toml cannot be read" in refusal(model)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "MODEL.PTH", "old.ckpt", "embeddings.pkl"])
def test_a_pickle_is_refused(model: Path, name: str) -> None:
    (model / "transformer" / name).write_bytes(b"")
    assert f"transformer/{name} is not safetensors; convert the weights and remove it" in refusal(model)


def test_a_config_that_asks_for_remote_code_is_refused(model: Path) -> None:
    (model / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Model"}}', encoding="utf-8")
    assert "config.json asks for remote code" in refusal(model)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"", "is not whole: it has 0 bytes and a header of 0"),
        (b"\x10\0\0", "is not whole: it has 3 bytes and a header of 16"),
        (safetensors()[:40], "is not whole: it has 40 bytes and a header of"),
        (safetensors()[:-1], "its header tells of"),
        (safetensors() + b"x", "its header tells of"),
        (struct.pack("<Q", 2**63) + bytes(100), "and a header of 9223372036854775808"),
        (struct.pack("<Q", 5) + b"hello", "has no readable safetensors header"),
        (struct.pack("<Q", 2) + b"[]", "has no readable safetensors header"),
        (safetensors({"a": {"dtype": "F32", "shape": [6]}}), "has no readable safetensors header"),
        (
            safetensors({"a": {"dtype": "F32", "shape": [6], "data_offsets": [30, 24]}}),
            "has no readable safetensors header",
        ),
        (safetensors({"a": 1}), "has no readable safetensors header"),
        (b"PK\x03\x04" + bytes(100), "is a pickle or an archive under another name"),
        (b"\x80\x04\x95" + b"\xff" * 100, "is a pickle or an archive under another name"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
            "is a git-lfs pointer and not the file itself; run git lfs pull",
        ),
    ],
)
def test_a_file_of_weights_that_is_not_whole_is_refused(model: Path, content: bytes, shown: str) -> None:
    (model / WEIGHTS).write_bytes(content)
    message = refusal(model)
    assert f"{model / WEIGHTS} " in message
    assert shown in message


def test_a_header_whose_length_begins_like_a_pickle_is_none(model: Path) -> None:
    plain = safetensors()
    header = plain[8:-24] + b" " * (0x0280 - (len(plain) - 32))
    (model / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    assert (model / WEIGHTS).read_bytes().startswith(b"\x80\x02")
    assert check_model_folder(model, require_readonly=False).weight_bytes == 8 + 0x0280 + 24


def test_a_pointer_in_place_of_a_tokenizer_is_refused(model: Path) -> None:
    (model / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "tokenizer.json is a git-lfs pointer" in refusal(model)


@pytest.mark.parametrize(
    ("index", "shown"),
    [
        ({"weight_map": {"a": "model-2.safetensors"}}, "names model-2.safetensors, which is missing"),
        ({"weight_map": {"a": "../model.safetensors"}}, "names '../model.safetensors', which is no safetensors file"),
        ({"weight_map": {"a": "model.bin"}}, "names 'model.bin', which is no safetensors file"),
        ({"weight_map": {"a": 1}}, "has no weight_map of names"),
        ({}, "has no weight_map of names"),
    ],
)
def test_an_index_that_names_what_is_not_there_is_refused(model: Path, index: dict[str, Any], shown: str) -> None:
    (model / "transformer" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    message = refusal(model)
    assert "model.safetensors.index.json" in message
    assert shown in message


def test_an_index_of_what_is_there_is_accepted(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors"}}
    (model / "transformer" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert check_model_folder(model, require_readonly=False).weight_bytes


def _to_secret(model: Path) -> None:
    (model.parent / "secret").write_bytes(b"hunter2")
    (model / "config.json").symlink_to(model.parent / "secret")


def _to_nothing(model: Path) -> None:
    (model / "config.json").symlink_to(model / "nothing")


def _to_a_folder(model: Path) -> None:
    (model / "vae").symlink_to(model.parent)


def _pipe(model: Path) -> None:
    os.mkfifo(model / "config.json")


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (_to_secret, "config.json is a link out of the model's folder, to "),
        (_to_nothing, "config.json leads nowhere"),
        (_to_a_folder, "vae is a link to a folder"),
        (_pipe, "config.json is not a regular file"),
    ],
)
def test_what_is_no_file_of_the_folder_is_refused(model: Path, make: Callable[[Path], None], shown: str) -> None:
    make(model)
    assert shown in refusal(model)


def test_a_link_to_a_folder_that_the_operator_opened_is_accepted(model: Path) -> None:
    blobs = model.parent / "blobs"
    blobs.mkdir()
    (model / WEIGHTS).rename(blobs / "0a1b")
    (model / WEIGHTS).symlink_to(blobs / "0a1b")
    assert "link out of the model's folder" in refusal(model)
    assert check_model_folder(model, require_readonly=False, readable=(blobs,)).weight_bytes


def test_a_file_that_this_user_cannot_read_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.R_OK or Path(path).name != "model.safetensors")
    assert "model.safetensors cannot be read; let this worker's user read it" in refusal(model)


def test_a_writable_folder_is_refused_where_read_only_ones_are_required(model: Path) -> None:
    message = refusal(model, require_readonly=True)
    assert f"{model} can be changed by this worker, and ATELIER_REQUIRE_READONLY_MODELS asks" in message


def test_files_that_their_owner_could_make_writable_again_are_not_read_only(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)
    assert "can be changed" in refusal(model, require_readonly=True)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert check_model_folder(model, require_readonly=True).read_only


def test_one_writable_file_among_others_is_found(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK or Path(path).name == "model.safetensors")
    assert f"{model / WEIGHTS} can be changed" in refusal(model, require_readonly=True)


def test_a_read_only_mount_is_read_only_for_every_user(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    class Mounted:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr("os.statvfs", lambda path: Mounted if str(path).startswith(str(model)) else real(path))
    assert check_model_folder(model, require_readonly=True).read_only


def test_as_a_program_it_checks_the_card_and_says_what_it_found(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(model)]) == 78
    assert "limits: Field required" in capsys.readouterr().err
    card = Path("models/simulated/atelier.toml").read_text(encoding="utf-8")
    (model / "atelier.toml").write_text(card.replace('id = "simulated"', 'id = "some"'), encoding="utf-8")
    (model / "modeling.py").write_text("raise SystemExit", encoding="utf-8")
    assert main([str(model)]) == 0
    size = (model / WEIGHTS).stat().st_size
    said = f"some: backend simulated, {size} bytes of weights; never imported: modeling.py\n"
    assert capsys.readouterr().out == said
    (model / WEIGHTS).write_bytes(b"broken")
    assert main([str(model)]) == 78
    assert WEIGHTS in capsys.readouterr().err
