"""What docker-compose.yml promises about isolation is in it, for every service."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.worker.config import WorkerSettings
from tests.support.compose import COMPOSE, GPU, ROOT, compose_variables, document, environment, megabytes, seconds
from tests.support.compose import services as all_services

SERVICES = sorted(all_services())
OWN = re.compile(r"^atelier/")
# Who is in a network besides the services that it is there for.
NETWORKS = {
    "edge": {"nginx"},
    "front": {"nginx", "gateway", "status-api"},
    "backend": {
        *("rabbitmq", "redis", "gateway", "gateway-ledger", "worker", "dead"),
        *("status-api", "status-consumer", "status-sweeper"),
    },
    "storage": {
        *("seaweedfs", "gateway", "worker", "dead", "rebuild"),
        *("status-api", "status-consumer", "status-sweeper"),
    },
    "database": {
        *("postgres", "prepare-roles", "prepare-tenants", "prepare-status", "gateway", "admin", "rebuild"),
        *("status-api", "status-consumer", "status-sweeper", "status-webhooks"),
    },
    "egress": {"status-webhooks", "gateway"},
}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_locked_down(name: str) -> None:
    service = all_services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert megabytes(service["mem_limit"]) > 0
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "container_name", "userns_mode"} == set()


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_runs_as_root(name: str) -> None:
    service = all_services()[name]
    user = service.get("user", "10001:10001" if OWN.match(service["image"]) else "root")
    assert user.split(":")[0] not in {"root", "0"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_container_mounts_it_may_change_only_where_it_must(name: str) -> None:
    kept = {"rabbitmq", "postgres", "seaweedfs"}  # servers, and their data
    mounts = [each for each in all_services()[name].get("volumes", []) if isinstance(each, str)]
    writable = [each.split(":")[0] for each in mounts if not each.endswith(":ro")]
    assert name in kept or name.startswith("prepare-") or writable == []
    assert not any("docker.sock" in each for each in mounts)


def test_models_are_read_only_for_all_but_what_fills_the_volume() -> None:
    holders = {
        name: [each for each in service.get("volumes", []) if isinstance(each, str) and ":/models" in each]
        for name, service in all_services().items()
    }
    assert {name for name, mounts in holders.items() if mounts} == {"gateway", "worker", "prepare-models"}
    assert all(each.endswith(":/models:ro") for name in ("gateway", "worker") for each in holders[name])
    assert environment(all_services()["worker"])["ATELIER_REQUIRE_READONLY_MODELS"] == "true"


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_each_network_holds_those_who_must_talk_and_no_others(network: str) -> None:
    members = {name for name, service in all_services().items() if network in service.get("networks", [])}
    assert members == NETWORKS[network]


def test_only_the_entrance_and_the_sender_of_callbacks_are_on_networks_with_an_outside() -> None:
    networks = document()["networks"]
    assert networks.keys() == NETWORKS.keys()
    assert {name for name, each in networks.items() if not each.get("internal")} == {"edge", "egress"}
    assert networks["edge"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert {name for name, service in all_services().items() if "ports" in service} == {"nginx"}
    assert compose_variables()["ATELIER_PUBLIC_ADDRESS"] == "127.0.0.1"


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_in_a_network_or_in_none_on_purpose(name: str) -> None:
    service = all_services()[name]
    assert service.get("networks") or service.get("network_mode") in {"none", "service:seaweedfs"}


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_files_that_the_service_was_given(name: str) -> None:
    service = all_services()[name]
    given = {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}
    secret = re.compile(r"AMQP_URL|REDIS_URL|TENANTS_URL|DATABASE_URL|PEPPER|_KEY|PASSWORD")
    for variable, value in environment(service).items():
        if secret.search(variable):
            assert variable.endswith("_FILE"), variable
            assert value in given, variable
    read = {value for value in environment(service).values() if value.startswith("/run/secrets/")}
    if not name.startswith("prepare-"):
        assert given == read, "a secret that the service does not use"


def test_no_secret_is_written_in_the_compose_files() -> None:
    for path in (COMPOSE, GPU):
        assert (
            re.findall(r"(?i)password\s*[:=]\s*[\"']?[a-z0-9]", path.read_text().replace("PGPASSWORD=$$(cat", "")) == []
        )
    files = [each["file"] for each in document()["secrets"].values()]
    assert all(file.startswith("${ATELIER_SECRETS_DIR:-.secrets}/") for file in files)


def test_a_stop_leaves_each_process_the_time_that_it_takes() -> None:
    service = all_services()
    assert seconds(service["worker"]["stop_grace_period"]) > WorkerSettings.model_fields["drain_seconds"].default + 10
    for name in ("gateway", "status-api"):
        assert seconds(service[name]["stop_grace_period"]) >= 35
    assert seconds(service["status-webhooks"]["stop_grace_period"]) > 15


def test_the_broker_stops_publishers_before_its_container_is_killed() -> None:
    text = (ROOT / "infra" / "compose" / "rabbitmq.conf").read_text()
    watermark = re.search(r"^vm_memory_high_watermark.absolute = (\w+)$", text, re.MULTILINE)
    assert watermark is not None
    assert megabytes(watermark[1]) <= 0.6 * megabytes(all_services()["rabbitmq"]["mem_limit"])


def test_what_a_worker_may_write_fits_into_its_memory() -> None:
    worker = all_services()["worker"]
    size = next(megabytes(each.rpartition("size=")[2]) for each in worker["tmpfs"] if each.startswith("/work:"))
    settings = environment(worker)
    needed = int(settings["ATELIER_MAX_WORK_MIB"]) + int(settings["ATELIER_MIN_FREE_MIB"])
    assert needed <= size
    assert size + 1024 <= megabytes(worker["mem_limit"])


def test_each_gpu_worker_has_one_device_of_its_own() -> None:
    added: dict[str, Any] = document(GPU)["services"]
    devices = {}
    for name in ("worker-newbie", "worker-easyanimate"):
        worker = added[name]
        assert worker["extends"] == {"file": "docker-compose.yml", "service": "worker"}
        (reserved,) = worker["deploy"]["resources"]["reservations"]["devices"]
        (devices[name],) = reserved["device_ids"]
        assert reserved["driver"] == "nvidia"
        assert environment(worker)["ATELIER_CONFINEMENT"] == "require"
        assert worker["build"]["args"]["LOCK"] == "requirements-gpu.lock"
    assert len(set(devices.values())) == 2
    assert added["worker"] == {"profiles": ["tiny"]}


def test_whatever_waits_for_a_server_waits_until_it_is_healthy() -> None:
    for name, service in all_services().items():
        for other, wait in service.get("depends_on", {}).items():
            ends = other.startswith("prepare-")
            assert wait["condition"] == ("service_completed_successfully" if ends else "service_healthy"), name


def test_each_image_of_ours_is_built_by_one_service_and_fetched_by_none() -> None:
    builders: dict[str, list[str]] = {}
    for name, service in all_services().items():
        if "build" in service:
            builders.setdefault(service["image"], []).append(name)
        elif OWN.match(service["image"]):
            assert service["pull_policy"] == "never", name
    assert sorted(builders.values()) == [["gateway"], ["prepare-configuration"], ["status-api"], ["worker"]]
