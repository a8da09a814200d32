"""One stack of containers for all tests here: the repository's own, with two more workers on models of the tests."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from infra.native.config import CHECKOUT
from tests.support.compose_stack import ComposeStack
from tests.support.containers import local_images
from tests.support.server_choice import PUBLIC, Mode, asked_mode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

MODELS: Final = ("tiny-newbie", "simulated", "hungry")
# What the control group of a worker allows, and what a picture of the hungry model takes, per megapixel.
LIMIT_MB: Final = 768
HUNGER_MB: Final = 80_000


def _models(folder: Path) -> Path:
    """The repository's models, and one that eats memory with the size of its pictures."""
    models = folder / "models"
    for model in MODELS[:2]:
        (models / model).mkdir(parents=True)
        shutil.copy(CHECKOUT / "models" / model / "atelier.toml", models / model)
    card = (CHECKOUT / "models" / "simulated" / "atelier.toml").read_text()
    hungry = card.replace('id = "simulated"', 'id = "hungry"')
    hungry = hungry.replace("memory_mb = 0", f"memory_mb = 0\nmemory_mb_per_megapixel = {HUNGER_MB}")
    (models / "hungry").mkdir()
    (models / "hungry" / "atelier.toml").write_text(hungry)
    for path in (folder, models, *models.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # for the containers' users
    return models


def _worker(model: str, models: Path, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - what a Compose file holds
    return {
        "extends": {"file": str(CHECKOUT / "docker-compose.yml"), "service": "worker"},
        "environment": {"ATELIER_WORKER_MODEL": model},
        "volumes": [f"{models}:/models:ro"],
        **more,
    }


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine with Compose and the images of others (ours are built). Without, there is no such stack."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode:
        why = "there is no Docker engine with Compose"
    elif missing := PUBLIC - set(local_images() or ()):
        why = f"not there as images: {', '.join(sorted(missing))}"
    else:
        why = "processes are asked for" if asked_mode() is Mode.LOCAL else ""
    if why:
        pytest.skip(why)


@pytest.fixture(scope="session")
def stack(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """The running stack. ``worker`` serves the tiny model from the volume that the stack fills by itself."""
    del engine
    folder = tmp_path_factory.mktemp("compose")
    models = _models(folder)
    more = {
        "services": {
            "gateway": {"volumes": [f"{models}:/models:ro"]},
            "worker-simulated": _worker("simulated", models),
            "worker-hungry": _worker("hungry", models, mem_limit=f"{LIMIT_MB}m"),
        }
    }
    with ComposeStack(folder, more, ATELIER_MODELS=",".join(MODELS)) as stack:
        yield stack


@pytest.fixture
def client(stack: ComposeStack) -> Iterator[httpx.Client]:
    """A tenant's client, through the published port."""
    with stack.client() as client:
        yield client
