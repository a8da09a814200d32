"""The measurement of a model's cost, on a small one: what it reports, and that its parts fit together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from services.worker.backends.newbie.measure import CARD, Work, main, measure
from services.worker.backends.newbie.random_folder import Sizes, write_random

if TYPE_CHECKING:
    from pathlib import Path

TINY = Sizes(
    transformer={
        "model_type": "nextdit_clip",
        "patch_size": 2,
        "dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "in_channels": 16,
        "axes_dims": (4, 4, 4),
        "axes_lens": (1024, 512, 512),
        "clip_text_dim": 64,
    },
    gemma={
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "vocab_size": 600,
    },
    jina={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 300,
    },
    vae_widths=(8, 8, 16, 16),
    vae_layers=1,
)


def test_every_tier_is_measured_beside_a_bare_loop_and_the_matrix_rate(tiny_newbie: Path, tmp_path: Path) -> None:
    size = write_random(tmp_path / "model", TINY, tiny_newbie, "cpu")
    (tmp_path / "model" / "atelier.toml").write_text(CARD, encoding="utf-8")
    tiers = ("resident", "sequential")
    found = measure(tmp_path / "model", "cpu", tiers, Work(side=32, steps=2, matrix=64, repeats=1))
    assert tuple(row["tier"] for row in found["tiers"]) == tiers
    assert all(row["seconds"] > 0 and row["bytes_on_disk"] > size for row in found["tiers"])
    assert found["bare_seconds"] > 0
    # Two rows of 16 tokens of pictures and those of the prompt, through matrices of 48 columns.
    assert found["operations"] > 2 * 2 * 16 * 48 * 48
    assert found["roofline_seconds"] == pytest.approx(
        found["operations"] / found["matrix_operations_per_second"], abs=1e-3
    )


def test_the_command_writes_one_document(tiny_newbie: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--folder", str(tiny_newbie), "--device", "cpu", "--tiers", "tiled", "--side", "32", "--steps", "1"]
    assert main([*arguments, "--matrix", "64"]) == 0
    assert json.loads(capsys.readouterr().out)["tiers"][0]["tier"] == "tiled"


@pytest.mark.gpu
@pytest.mark.timeout(1200)
def test_the_full_size_fits_on_a_device(tiny_newbie: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    assert write_random(tmp_path / "model", Sizes(), tiny_newbie, "cuda") > 15_900_000_000
    (tmp_path / "model" / "atelier.toml").write_text(CARD, encoding="utf-8")
    (row,) = measure(tmp_path / "model", "cuda", ("resident",), Work(steps=2, repeats=1))["tiers"]
    assert 15_000 < row["peak_vram_mb"] < 40_000
