"""Folders that are refused before a picture is made, by the name of what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.worker.backends.pipeline.backend import DiffusersBackend
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

INDEX = "model_index.json"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
Weights = dict[str, torch.Tensor]


@pytest.fixture
def own(tiny_diffusers: Path, tmp_path: Path) -> Path:
    """A folder that the test may damage."""
    return Path(shutil.copytree(tiny_diffusers, tmp_path / "own"))


def load(folder: Path) -> None:
    DiffusersBackend().load(folder, "cpu", "resident")


def rewrite(path: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(dict(load_file(path)))
    save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})


def rewrite_json(path: Path, **changes: Any) -> None:  # noqa: ANN401 - any JSON value
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(("file", "part"), [(UNET, "unet"), (VAE, "vae"), (TEXT, "text_encoder")])
def test_a_missing_weight_is_refused_by_name(own: Path, file: str, part: str) -> None:
    lost = min(load_file(own / file))
    rewrite(own / file, lambda weights: {name: value for name, value in weights.items() if name != lost})
    with pytest.raises(ConfigurationError, match=rf"^{part}: .*1 missing keys \(.*{lost.split('.')[-2]}"):
        load(own)


@pytest.mark.parametrize(("file", "part"), [(UNET, "unet"), (VAE, "vae")])
def test_a_foreign_weight_is_refused_by_name(own: Path, file: str, part: str) -> None:
    rewrite(own / file, lambda weights: weights | {"foreign.weight": torch.ones(1)})
    with pytest.raises(ConfigurationError, match=rf"{part}: .*1 unexpected keys \(foreign\.weight\)"):
        load(own)


@pytest.mark.parametrize(("file", "part"), [(UNET, "unet"), (VAE, "vae"), (TEXT, "text_encoder")])
def test_a_weight_of_another_shape_is_refused(own: Path, file: str, part: str) -> None:
    changed = min(load_file(own / file))
    rewrite(own / file, lambda weights: weights | {changed: torch.ones(3, 2)})
    with pytest.raises(ConfigurationError, match=f"^{part}"):
        load(own)


@pytest.mark.parametrize(("file", "part"), [(UNET, "unet"), (VAE, "vae"), (TEXT, "text_encoder")])
def test_weights_of_another_model_are_refused(own: Path, file: str, part: str) -> None:
    rewrite(own / file, lambda _: {"layers.0.weight": torch.ones(4, 4)})
    with pytest.raises(ConfigurationError, match=f"^{part}"):
        load(own)


@pytest.mark.parametrize(("file", "part"), [(UNET, "unet"), (VAE, "vae"), (TEXT, "text_encoder")])
def test_a_truncated_or_absent_file_is_refused(own: Path, file: str, part: str) -> None:
    path = own / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigurationError, match=f"^{part}"):
        load(own)
    path.unlink()
    with pytest.raises(ConfigurationError, match=f"^{part}"):
        load(own)
    shutil.rmtree(path.parent)
    with pytest.raises(ConfigurationError, match=f"^{part}: its folder is missing"):
        load(own)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "old.ckpt"])
def test_pickled_weights_are_refused(own: Path, name: str) -> None:
    (own / "unet" / name).write_bytes(b"")
    with pytest.raises(ConfigurationError, match=f"unet/{name} is not safetensors"):
        load(own)


def test_a_config_that_asks_for_remote_code_is_refused(own: Path) -> None:
    rewrite_json(own / "text_encoder" / "config.json", auto_map={"AutoModel": "modeling.Tower"})
    with pytest.raises(ConfigurationError, match="asks for remote code"):
        load(own)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"_class_name": "NewbiePipeline"}, "'NewbiePipeline' is no pipeline of diffusers"),
        ({"_class_name": "AutoencoderKL"}, "'AutoencoderKL' is no pipeline"),
        ({"_class_name": ["pipeline", "Mine"]}, "own code is never run"),
        ({"_class_name": None}, "own code is never run"),
        ({"unet": ["my_unet", "MyUNet"]}, "unet is of 'my_unet'"),
        ({"unet": ["os", "system"]}, "unet is of 'os'"),
        ({"unet": ["diffusers", "DiffusionPipeline"]}, "unet is of diffusers.DiffusionPipeline"),
        ({"unet": ["transformers", "pipeline"]}, "unet is of transformers.pipeline"),
        ({"unet": ["stable_diffusion", "os"]}, "unet is of stable_diffusion.os"),
        ({"refiner": ["diffusers", "UNet2DConditionModel"]}, "has no refiner"),
        ({"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline"),
        ({"_class_name": "StableDiffusionImg2ImgPipeline"}, "takes no width.*takes no height"),
        ({"_class_name": "FluxPipeline"}, "FluxPipeline has no"),
        ({"_class_name": "DDPMPipeline"}, "DDPMPipeline has no"),
    ],
)
def test_an_index_of_another_kind_or_of_foreign_code_is_refused(
    own: Path, changes: dict[str, object], shown: str
) -> None:
    rewrite_json(own / INDEX, **changes)
    with pytest.raises(ConfigurationError, match=shown):
        load(own)


def test_an_index_that_lacks_a_component_is_refused(own: Path) -> None:
    index = json.loads((own / INDEX).read_text(encoding="utf-8"))
    del index["unet"]
    (own / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="unet of StableDiffusionPipeline is missing"):
        load(own)
    (own / INDEX).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=INDEX):
        load(own)


def test_python_files_in_the_folder_are_never_run(own: Path) -> None:
    trap = f"open({str(own / 'ran')!r}, 'w').close()\n"
    for place in (own, own / "unet", own / "scheduler"):
        for name in ("pipeline.py", "my_unet.py", "unet.py", "__init__.py"):
            (place / name).write_text(trap, encoding="utf-8")
    load(own)
    assert not (own / "ran").exists()
    assert "pipeline" not in sys.modules


def test_a_component_of_the_pipeline_s_own_module_is_found(own: Path) -> None:
    rewrite_json(own / INDEX, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    with pytest.raises(ConfigurationError, match="safety_checker: its folder is missing"):
        load(own)
