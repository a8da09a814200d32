from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from models import make_tiny_easyanimate
from tests.backends import tiny_pipelines
from tests.support.random_newbie import make

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that is called in this process leaves its stream, which is closed by then, to all tests after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


@pytest.fixture(scope="session")
def tiny_newbie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NewBie folder of random weights, made once; tests that change it copy it first. Its card has no options."""
    folder = tmp_path_factory.mktemp("models") / "tiny-newbie"
    make(folder)
    card = (MODELS / "tiny-newbie" / "atelier.toml").read_text(encoding="utf-8")
    (folder / "atelier.toml").write_text(card.partition("[options]")[0], encoding="utf-8")
    return folder


@pytest.fixture
def own_newbie(tiny_newbie: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that the test may damage."""
    return Path(shutil.copytree(tiny_newbie, tmp_path / "model"))


@pytest.fixture(scope="session")
def tiny_easyanimate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny EasyAnimate folder that makes videos of a text; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("models") / "tiny-easyanimate"
    make_tiny_easyanimate.make(folder)
    shutil.copy(MODELS / "tiny-easyanimate" / "atelier.toml", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_easyanimate_inp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny EasyAnimate folder that makes videos of a text and a first picture."""
    folder = tmp_path_factory.mktemp("models") / "tiny-easyanimate-inp"
    make_tiny_easyanimate.make(folder, "inp")
    shutil.copy(MODELS / "tiny-easyanimate-inp" / "atelier.toml", folder)
    return folder


@pytest.fixture
def own_easyanimate(tiny_easyanimate: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that the test may damage."""
    return Path(shutil.copytree(tiny_easyanimate, tmp_path / "model"))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated model, taking no time."""
    folder = tmp_path_factory.mktemp("models") / "simulated"
    folder.mkdir()
    card = (MODELS / "simulated" / "atelier.toml").read_text(encoding="utf-8")
    (folder / "atelier.toml").write_text(card.replace("seconds_per_step = 0.05", "seconds_per_step = 0.0"))
    return folder


@pytest.fixture(scope="session")
def tiny_diffusers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion folder, made once."""
    return tiny_pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "tiny-diffusers")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory, tiny_diffusers: Path) -> dict[str, Path]:
    """Tiny folders of structurally different pipelines, by name, made once."""
    root = tmp_path_factory.mktemp("pipelines")
    return {
        "stable_diffusion": tiny_diffusers,
        "pixart": tiny_pipelines.pixart(root / "pixart"),
        "flux": tiny_pipelines.flux(root / "flux"),
    }
