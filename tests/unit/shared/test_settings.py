from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from services.gateway.config import GatewaySettings
from services.worker.config import WorkerSettings, child_environment
from shared.config import load_settings
from shared.contracts.model_card import load_model_card
from shared.domain.errors import ConfigurationError
from tests.support.builders import make_params

WORKER = {
    "ATELIER_AMQP_URL": "amqp://x",
    "ATELIER_S3_ENDPOINT": "http://127.0.0.1:1",
    "ATELIER_S3_ACCESS_KEY": "a",
    "ATELIER_S3_SECRET_KEY": "b",
    "ATELIER_WORKER_MODEL": "simulated",
}
GATEWAY = {
    "ATELIER_AMQP_URL": "amqp://gateway:hidden-password@127.0.0.1/atelier",
    "ATELIER_TENANTS_URL": "postgresql://gateway:hidden-password@127.0.0.1/atelier",
    "ATELIER_KEY_PEPPER": "hidden-pepper",
    "ATELIER_MODELS": "tiny-newbie, simulated",
    "ATELIER_S3_ENDPOINT": "http://127.0.0.1:1",
    "ATELIER_S3_ACCESS_KEY": "hidden-access",
    "ATELIER_S3_SECRET_KEY": "hidden-secret",
}
CARD = """
[model]
id = "toy"
backend = "simulated"
licence = "Apache-2.0"
[defaults]
width = 64
height = 64
steps = 2
guidance = 1.0
[limits]
min_side = 32
max_side = 128
side_multiple = 16
max_pixels = 16384
max_steps = 4
max_guidance = 2.0
max_prompt_chars = 100
max_prompt_tokens = 10
[cost]
load_seconds = 1.0
fixed_seconds = 0.5
seconds_per_step = 0.25
seconds_per_megapixel_step = 10.0
vram_mb = 100
vram_mb_per_megapixel = 1000
"""


def test_settings_are_read_from_the_environment_and_frozen() -> None:
    settings = load_settings(GatewaySettings, GATEWAY)
    assert settings.model_ids == ("tiny-newbie", "simulated")
    with pytest.raises(ValueError, match="frozen"):
        settings.log_level = "debug"  # type: ignore[misc] # what is tested


def test_secrets_are_not_shown() -> None:
    text = repr(load_settings(GatewaySettings, GATEWAY))
    assert "hidden" not in text


@pytest.mark.parametrize("variable", sorted(GATEWAY))
def test_a_missing_variable_is_named(variable: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        load_settings(GatewaySettings, {name: value for name, value in GATEWAY.items() if name != variable})


def test_a_bad_value_is_named_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="ATELIER_MAX_BODY_BYTES") as failure:
        load_settings(GatewaySettings, {**GATEWAY, "ATELIER_MAX_BODY_BYTES": "hidden-nonsense"})
    assert "hidden" not in str(failure.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    path.write_text("from-a-file\n")
    given = {name: value for name, value in GATEWAY.items() if name != "ATELIER_KEY_PEPPER"}
    settings = load_settings(GatewaySettings, {**given, "ATELIER_KEY_PEPPER_FILE": str(path)})
    assert settings.key_pepper.get_secret_value() == "from-a-file"
    with pytest.raises(ConfigurationError, match="ATELIER_KEY_PEPPER_FILE"):
        load_settings(GatewaySettings, {**given, "ATELIER_KEY_PEPPER_FILE": str(tmp_path / "gone")})


def test_a_secret_that_is_no_text_is_named_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    path.write_bytes(b"hidden\xff")
    given = {name: value for name, value in GATEWAY.items() if name != "ATELIER_KEY_PEPPER"}
    with pytest.raises(ConfigurationError, match="ATELIER_KEY_PEPPER_FILE: the file is not UTF-8") as failure:
        load_settings(GatewaySettings, {**given, "ATELIER_KEY_PEPPER_FILE": str(path)})
    assert "hidden" not in "".join(traceback.format_exception(failure.value))


def test_a_default_model_must_be_served() -> None:
    with pytest.raises(ConfigurationError, match="ATELIER_DEFAULT_MODEL"):
        load_settings(GatewaySettings, {**GATEWAY, "ATELIER_DEFAULT_MODEL": "other"})


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu0"])
def test_a_worker_knows_its_devices(device: str) -> None:
    given = WORKER
    assert load_settings(WorkerSettings, {**given, "ATELIER_DEVICE": "cuda:1"}).device == "cuda:1"
    with pytest.raises(ConfigurationError, match="ATELIER_DEVICE"):
        load_settings(WorkerSettings, {**given, "ATELIER_DEVICE": device})


def test_the_child_gets_no_variable_of_ours() -> None:
    environment = child_environment({**GATEWAY, "PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x"})
    assert environment["PATH"] == "/bin"
    assert not any(name.startswith(("ATELIER_", "AWS_")) for name in environment)


def test_a_card_predicts_seconds_and_memory(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "atelier.toml").write_text(CARD)
    predicted = load_model_card(folder).predict(make_params(width=100, height=100, steps=2, count=3))
    assert predicted.gpu_seconds == pytest.approx(3 * (0.5 + 2 * (0.25 + 0.01 * 10)))
    assert predicted.vram_mb == 110


def test_a_card_may_price_decoding_and_the_square_of_the_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "atelier.toml").write_text(CARD + "seconds_per_megapixel2_step = 3.0\nseconds_per_megapixel = 7.0\n")
    predicted = load_model_card(folder).predict(make_params(width=1000, height=1000, steps=2, num_frames=2))
    assert predicted.gpu_seconds == pytest.approx(0.5 + 2 * 7 + 2 * (0.25 + 2 * 10 + 4 * 3))


def test_guidance_doubles_the_rows_of_a_model_that_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "atelier.toml").write_text(CARD + "cfg = true\n")
    card = load_model_card(folder)
    once, twice = (card.predict(make_params(guidance=guidance)).gpu_seconds for guidance in (1.0, 1.1))
    assert twice - 0.5 == pytest.approx(2 * (once - 0.5))
    assert card.default_shape.passes == 1


def test_a_card_without_tiers_has_the_resident_one_and_others_follow_down_the_ladder(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "atelier.toml").write_text(CARD)
    (resident,) = load_model_card(folder).prices
    tiers = "[tiers.sequential]\nvram_mb = 1\nslow_factor = 9\n[tiers.tiled]\nvram_mb = 90\nslow_factor = 1.5\n"
    (folder / "atelier.toml").write_text(CARD + tiers)
    prices = load_model_card(folder).prices
    assert [price.name for price in prices] == ["resident", "tiled", "sequential"]
    assert prices[0] == resident
    assert prices[2].seconds.row_step == 9 * resident.seconds.row_step
    assert (prices[1].memory.base, prices[1].memory.megapixel) == (90, 0)


@pytest.mark.parametrize("seconds", ["72000", "119", "-1", "nan", "inf"])
def test_the_longest_run_stays_clear_of_the_brokers_own_limit(seconds: str) -> None:
    assert load_settings(GatewaySettings, {**GATEWAY, "ATELIER_MAX_RUN_SECONDS": "71999"}).max_run_seconds == 71999
    with pytest.raises(ConfigurationError, match="ATELIER_MAX_RUN_SECONDS"):
        load_settings(GatewaySettings, {**GATEWAY, "ATELIER_MAX_RUN_SECONDS": seconds})


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[cost]", "[tiers.tiled]\nvram_mb = 1\nslow_factor = 0.5\n[cost]", "tiers.tiled.slow_factor"),
        ("[cost]", "[tiers.resident]\nvram_mb = 1\n[cost]", "tiers.resident"),
        ('id = "toy"', 'id = "other"', "model.id"),
        ("max_steps = 4", "max_steps = 0", "limits.max_steps"),
        ("max_steps = 4", "", "limits.max_steps"),
        ("width = 64", "width = 65", "default side 65"),
        ("guidance = 1.0", "guidance = 1.0\nnum_frames = 2", "default num_frames 2"),
        ("[cost]", "max_frames = 9\nframe_step = 0\n[cost]", "limits.frame_step"),
        ("[cost]", "[cost]\ncolour = 1", "cost.colour"),
        ("[cost]", "[cost", "line"),
    ],
)
def test_a_bad_card_is_named_with_its_entry(tmp_path: Path, old: str, new: str, named: str) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "atelier.toml").write_text(CARD.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=named) as failure:
        load_model_card(folder)
    assert "atelier.toml" in str(failure.value)


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"toy/atelier\.toml"):
        load_model_card(tmp_path / "toy")


def test_folders_are_given_with_commas_between() -> None:
    settings = load_settings(WorkerSettings, {**WORKER, "ATELIER_READ_FOLDERS": "/blobs, /more"})
    assert settings.read_folders == (Path("/blobs"), Path("/more"))
