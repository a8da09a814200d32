"""compose.tls.yml leaves no hop between containers in plain text, and no key with anybody but its server."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from infra.compose.prepare import main
from tests.support.compose import GPU, ROOT, document, environment
from tests.support.compose import services as all_services

if TYPE_CHECKING:
    from pathlib import Path

OVERRIDE: Final = document(ROOT / "compose.tls.yml")
SERVERS: Final = ("nginx", "gateway", "status-api", "rabbitmq", "redis", "postgres", "seaweedfs")
# Who looks at no server: they prepare files, or talk to one process in their own network namespace.
ALONE: Final = {"prepare-configuration", "prepare-models", "prepare-bucket"}


def test_the_gpu_workers_have_what_the_other_worker_has() -> None:
    added = document(ROOT / "compose.gpu-tls.yml")["services"]
    assert added.keys() == {name for name in document(GPU)["services"] if name.startswith("worker-")}
    assert all(each["environment"] == over("worker")["environment"] for each in added.values())
    assert all(each["secrets"] == over("worker")["secrets"] for each in added.values())


def over(name: str) -> dict[str, Any]:
    found: dict[str, Any] = OVERRIDE["services"].get(name, {})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets")
    make(path)
    return path


def make(folder: Path) -> None:
    for script, *arguments in (("make-secrets.sh",), ("make-tls.sh", "atelier.example.com,10.1.2.3")):
        command = ["/bin/sh", str(ROOT / "infra" / "compose" / script), *arguments]
        subprocess.run(command, check=True, capture_output=True, env={"ATELIER_SECRETS_DIR": str(folder), "PATH": PATH})


PATH: Final = "/usr/local/bin:/usr/bin:/bin"


def test_it_overrides_what_is_there() -> None:
    assert OVERRIDE["services"].keys() - all_services().keys() == set()


@pytest.mark.parametrize("name", sorted(all_services().keys() - set(SERVERS) - ALONE))
def test_every_client_has_the_authority_s_certificate(name: str) -> None:
    assert "ca.crt" in over(name)["secrets"]
    own = environment(over(name))
    assert own.get("ATELIER_CA_FILE") == "/run/secrets/ca.crt" or own.get("PGSSLMODE") == "verify-full"


@pytest.mark.parametrize("name", sorted(all_services()))
def test_no_address_is_left_in_plain_text(name: str) -> None:
    merged = environment(all_services()[name]) | environment(over(name))
    assert [value for value in merged.values() if value.startswith("http://")] == []
    urls = {secret for secret in all_services()[name].get("secrets", []) if secret.startswith(("amqp", "redis.url"))}
    assert {secret for secret in urls if secret.endswith(".url")} <= OVERRIDE["secrets"].keys()


def test_each_key_is_with_its_server_alone() -> None:
    holders = {
        secret: [name for name in all_services() if secret in over(name).get("secrets", [])]
        for secret in OVERRIDE["secrets"]
        if secret.endswith(".key")
    }
    assert holders == {f"{name}.key": [name] for name in SERVERS}


def test_everything_that_it_names_is_made_and_kept(folder: Path) -> None:
    made = {path.name: path.read_bytes() for path in (folder / "tls").iterdir()}
    assert OVERRIDE["secrets"].keys() <= made.keys()
    make(folder)
    assert {path.name: path.read_bytes() for path in (folder / "tls").iterdir()} == made


def test_the_addresses_are_those_for_tls(folder: Path) -> None:
    for user in ("gateway", "worker", "status", "operator"):
        password = (folder / f"amqp-{user}").read_text()
        assert (folder / "tls" / f"amqp-{user}.url").read_text() == f"amqps://{user}:{password}@rabbitmq:5671/atelier"
    assert (folder / "tls" / "redis.url").read_text() == f"rediss://:{(folder / 'redis').read_text()}@redis:6379/0"


@pytest.mark.parametrize("server", SERVERS)
def test_a_certificate_has_the_names_that_its_server_is_called_by(folder: Path, server: str) -> None:
    asked = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(folder / "tls" / f"{server}.crt")]
    names = set(re.findall(r"(?:DNS|IP Address):([^,\s]+)", subprocess.check_output(asked, text=True)))
    further = {"atelier.example.com", "10.1.2.3"} if server == "nginx" else set()
    assert names == {server, "localhost", "127.0.0.1"} | further


def test_nginx_verifies_and_is_looked_at_on_loopback_alone(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "secrets")
    shutil.copy(folder / "tls" / "ca.crt", tmp_path / "secrets")
    assert main(["--models", "simulated", "--secrets", str(tmp_path / "secrets"), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "nginx" / "nginx.conf").read_text()
    assert "listen 8080 ssl " in text
    assert "proxy_ssl_verify on;" in text
    assert re.findall(r"proxy_pass (\w+)://", text) == ["https"] * text.count("proxy_pass ")
    assert "listen 127.0.0.1:8081;" in text
