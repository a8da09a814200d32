"""Every process's addresses are completed by its file of trusted certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.gateway.config import AdminSettings, GatewaySettings, LedgerSettings
from services.status.config import (
    DatabaseSettings,
    StatusApiSettings,
    StatusConsumerSettings,
    StatusLifecycleSettings,
    StatusRebuildSettings,
    StatusRetentionSettings,
    StatusSweeperSettings,
    StatusWebhooksSettings,
)
from services.worker.config import WorkerSettings
from services.worker.dead.config import OpsSettings
from shared.config import ServerSettings, TrustSettings, load_settings
from shared.domain.errors import ConfigurationError
from tests.support.certificates import Authority, make_authority

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = (
    *(AdminSettings, GatewaySettings, LedgerSettings, WorkerSettings, OpsSettings, DatabaseSettings),
    *(StatusApiSettings, StatusConsumerSettings, StatusLifecycleSettings, StatusRebuildSettings),
    *(StatusRetentionSettings, StatusSweeperSettings, StatusWebhooksSettings),
)
VALUES = {
    "ATELIER_AMQP_URL": "amqps://broker/atelier",
    "ATELIER_REDIS_URL": "rediss://cache/0",
    "ATELIER_DATABASE_URL": "postgresql://database/status",
    "ATELIER_TENANTS_URL": "postgresql://database/tenants",
    "ATELIER_KEY_PEPPER": "pepper",
    "ATELIER_MODELS": "simulated",
    "ATELIER_WORKER_MODEL": "simulated",
    "ATELIER_S3_ENDPOINT": "https://store",
    "ATELIER_S3_ACCESS_KEY": "a",
    "ATELIER_S3_SECRET_KEY": "b",
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), "server", "other")


@pytest.mark.parametrize("kind", CLASSES)
def test_each_address_names_the_file(kind: type[TrustSettings], authority: Authority) -> None:
    settings = load_settings(kind, VALUES | {"ATELIER_CA_FILE": str(authority.ca_file)})
    names = [name for name in kind.model_fields if name.endswith("_url") and name != "status_url"]
    urls = {name: getattr(settings, name).get_secret_value() for name in names}
    assert [name for name, url in urls.items() if not url.endswith(f"={authority.ca_file}")] == []
    assert settings.ca_file == authority.ca_file


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for path in (empty, tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigurationError, match=f"ATELIER_CA_FILE.*{path}"):
            load_settings(LedgerSettings, VALUES | {"ATELIER_CA_FILE": str(path)})


def test_a_server_s_key_must_be_the_one_of_its_certificate(authority: Authority) -> None:
    pair = {"ATELIER_TLS_CERTIFICATE_FILE": str(authority.certificate("server"))}
    right = load_settings(ServerSettings, pair | {"ATELIER_TLS_KEY_FILE": str(authority.key("server"))})
    assert right.tls_key_file == authority.key("server")
    for wrong in ({"ATELIER_TLS_KEY_FILE": str(authority.key("other"))}, {}):
        with pytest.raises(ConfigurationError, match="ATELIER_TLS_KEY_FILE"):
            load_settings(ServerSettings, pair | wrong)


def test_no_address_is_shown_when_it_is_refused(authority: Authority) -> None:
    wrong = "postgresql://status:secret-word@database/status?sslmode=require"
    with pytest.raises(ConfigurationError) as refused:
        load_settings(
            StatusConsumerSettings, VALUES | {"ATELIER_DATABASE_URL": wrong, "ATELIER_CA_FILE": str(authority.ca_file)}
        )
    assert "ATELIER_DATABASE_URL: Value error, sslmode must be verify-full" in refused.value.message
    assert "secret-word" not in refused.value.message
