"""The worked example of docs/adding-a-model.md is true: its card loads, its backend keeps the port's contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.worker.backends.registry import BACKENDS, create_backend
from services.worker.model_check import main
from shared.contracts.model_card import ModelCard, load_model_card
from tests.backends.test_backend import *  # noqa: F403 - the contract itself, here for the example

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding-a-model.md"
NAME = "ripples"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def block(language: str, holding: str) -> str:
    (found,) = [text for text in blocks(language) if holding in text]
    return found


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's file as a package of its own, its line in the registry, and a folder with its card."""
    root = tmp_path_factory.mktemp("example")
    (root / "own_package").mkdir()
    (root / "own_package" / "__init__.py").touch()
    (root / "own_package" / "ripples.py").write_text(block("python", "class RipplesBackend"), encoding="utf-8")
    folder = root / "models" / NAME
    folder.mkdir(parents=True)
    (folder / "atelier.toml").write_text(block("toml", "[limits]"), encoding="utf-8")
    (line,) = re.findall(
        r'^ +"ripples": "([\w.]+:\w+)",$', block("python", "services.worker.backends.ripples:"), re.MULTILINE
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        patch.setitem(BACKENDS, NAME, line.replace("services.worker.backends", "own_package"))
        yield folder


@pytest.fixture(scope="module")  # type: ignore[no-redef] # in place of the contract's
def model(example: Path) -> tuple[str, Path]:
    """Stands for the contract's own fixture, so that every test of it runs on the example."""
    return NAME, example


def test_the_card_of_the_page_says_everything_that_a_card_can_say(example: Path) -> None:
    card = load_model_card(example)
    written = (example / "atelier.toml").read_text(encoding="utf-8")
    for section in ("model", "defaults", "limits", "cost", "previews"):
        kind = type(getattr(card, section))
        assert set(kind.model_fields) <= set(re.findall(r"^(\w+) =", written, re.MULTILINE)), section
    page = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in ModelCard.model_fields if f"[{name}" not in page] == []


def test_the_folder_of_the_page_passes_the_check(example: Path) -> None:
    assert main([str(example)]) == 0


def test_a_class_of_another_package_needs_no_line(example: Path) -> None:
    assert create_backend("own_package.ripples:RipplesBackend").tiers() == ("resident",)
    assert example.is_dir()


def test_the_options_of_the_page_are_those_of_the_generic_backend() -> None:
    from services.worker.backends.pipeline.options import PipelineOptions  # noqa: PLC0415 - imports torch

    written = block("toml", "[options.arguments]")
    assert {name for name in PipelineOptions.model_fields if name not in written} == set()
