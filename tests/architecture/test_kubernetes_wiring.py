"""What the manifests name is there: settings, secrets, files, services, and the edges of the network."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest
import yaml

import infra.kubernetes.__main__
from services.gateway.config import AdminSettings, GatewaySettings, LedgerSettings
from services.status.config import (
    StatusApiSettings,
    StatusConsumerSettings,
    StatusMigrateSettings,
    StatusSweeperSettings,
    StatusWebhooksSettings,
)
from services.worker.config import WorkerSettings
from shared.config import PREFIX, Settings, load_settings
from shared.domain.outbound import is_public
from shared.messaging.topology import MONITOR, PERMISSIONS, topology, work_queue
from tests.architecture.source import ROOT
from tests.support.manifests import DEPLOY, OVERLAYS, Network, Pod, named, of_kind, pods, selects

if TYPE_CHECKING:
    from tests.support.manifests import Object

SETTINGS: Final[dict[str, type[Settings]]] = {
    "gateway": GatewaySettings,
    "gateway-ledger": LedgerSettings,
    "status-api": StatusApiSettings,
    "status-consumer": StatusConsumerSettings,
    "status-sweeper": StatusSweeperSettings,
    "status-webhooks": StatusWebhooksSettings,
    "worker": WorkerSettings,
    "tenants": AdminSettings,
    "status": StatusMigrateSettings,
}
# What a setting leads to, in the cluster that holds everything.
LEADS_TO: Final = {
    "ATELIER_AMQP_URL_FILE": ("rabbitmq", 5672),
    "ATELIER_REDIS_URL_FILE": ("redis", 6379),
    "ATELIER_DATABASE_URL_FILE": ("postgres", 5432),
    "ATELIER_TENANTS_URL_FILE": ("postgres", 5432),
    "ATELIER_S3_ENDPOINT": ("seaweedfs", 8333),
    "ATELIER_STATUS_URL": ("status-api", 8000),
}
PORTS: Final = (4369, 5432, 5672, 6379, 8000, 8080, 8333, 8888, 9000, 9333, 15672, 15692, 25672)
# Secrets as they look; no value is one that is in use anywhere.
EXAMPLES: Final = {
    "AMQP_URL": "amqp://name:word@rabbitmq:5672/atelier",
    "REDIS_URL": "redis://:word@redis:6379/0",
    "DATABASE_URL": "postgresql://name:word@postgres/status",
    "TENANTS_URL": "postgresql://name:word@postgres/tenants",
}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def our_containers(overlay: str) -> list[tuple[Pod, Object]]:
    """Those that read our settings."""
    return [(pod, each) for pod in pods(overlay) for each in pod.containers if each["name"] in SETTINGS]


def settings_map(overlay: str) -> dict[str, str]:
    (found,) = [each for each in of_kind(overlay, "ConfigMap") if each["metadata"]["name"].startswith("settings")]
    data: dict[str, str] = found["data"]
    return data


def test_every_process_of_ours_is_known(overlay: str) -> None:
    assert {container["name"] for _, container in our_containers(overlay)} == set(SETTINGS)
    for pod in pods(overlay):
        for container in pod.containers:
            theirs = container["name"] not in SETTINGS
            assert not theirs or not any(name.startswith(PREFIX) for name in pod.variables(container)), pod.workload


def test_every_variable_is_a_setting_of_its_process(overlay: str) -> None:
    for pod, container in our_containers(overlay):
        fields = {f"{PREFIX}{name.upper()}" for name in SETTINGS[container["name"]].model_fields}
        given = {name.removesuffix("_FILE") if name not in fields else name for name in pod.variables(container)}
        assert given <= fields, pod.workload


def test_every_process_would_start_with_what_it_is_given(overlay: str, tmp_path: Path) -> None:
    for pod, container in our_containers(overlay):
        environ = _environ(overlay, pod, container, tmp_path)
        load_settings(SETTINGS[container["name"]], environ)


def _environ(overlay: str, pod: Pod, container: Object, folder: Path) -> dict[str, str]:
    environ = {}
    for name, entry in pod.variables(container).items():
        value = entry.get("value")
        if value is None and "configMapKeyRef" in entry["valueFrom"]:
            value = settings_map(overlay)[entry["valueFrom"]["configMapKeyRef"]["key"]]
        elif value is None:
            value = f"{pod.workload}-0"
        if value.startswith("/run/secrets/"):
            file = folder / Path(value).name
            kind = name.removeprefix(PREFIX).removesuffix("_FILE")
            file.write_text(EXAMPLES.get(kind, "a-word-of-more-than-16-letters"), encoding="utf-8")
            value = str(file)
        environ[name] = value
    return environ


def test_every_file_that_is_named_is_mounted(overlay: str) -> None:
    for pod, container in our_containers(overlay):
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        named_secrets = set()
        for entry in pod.variables(container).values():
            value = entry.get("value", "")
            if not value.startswith("/"):
                continue
            folder, _, name = value.rpartition("/")
            if folder == "/run/secrets":
                named_secrets.add(name)
            assert value in mounts or folder in mounts, f"{pod.workload}: {value}"
        items = mounts["/run/secrets"]["secret"]["items"] if "/run/secrets" in mounts else []
        # And no more than is named: a process sees the secrets that it needs.
        assert {item["path"] for item in items} == named_secrets, pod.workload


def test_every_secret_that_is_named_exists(overlay: str) -> None:
    secrets = {each["metadata"]["name"]: each["data"] for each in of_kind(overlay, "Secret")}
    volumes = [volume for pod in pods(overlay) for volume in pod.spec["volumes"]]
    for cluster in of_kind(overlay, "RabbitmqCluster"):
        volumes += cluster["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]["volumes"]
    named_keys = {
        (volume["secret"]["secretName"], item["key"])
        for volume in volumes
        if "secret" in volume
        for item in volume["secret"]["items"]
    }
    for trigger in of_kind(overlay, "TriggerAuthentication"):
        named_keys |= {(each["name"], each["key"]) for each in trigger["spec"]["secretTargetRef"]}
    # Both ways: nothing is missing, and nothing lies about unused.
    assert named_keys == {(name, key) for name, data in secrets.items() for key in data}


def test_without_its_secrets_an_overlay_cannot_be_built() -> None:
    for overlay in OVERLAYS:
        kustomization = yaml.safe_load((DEPLOY / "overlays" / overlay / "kustomization.yaml").read_text())
        (generator,) = kustomization["secretGenerator"]
        assert all(name.startswith("secrets/") for name in generator["files"])
        assert [line for line in generator.get("literals", []) if not line.endswith("-name=monitor")] == []


def test_what_is_generated_is_current() -> None:
    assert infra.kubernetes.__main__.main(["--check"]) == 0


def test_names_are_those_of_the_namespace(overlay: str) -> None:
    (found,) = [each for each in of_kind(overlay, "ConfigMap") if each["metadata"]["name"].startswith("nginx")]
    names = set(re.findall(r"([a-z-]+)\.atelier\.svc\.cluster\.local:8000", found["data"]["nginx.conf"]))
    assert names == {"gateway", "status-api"}
    assert names <= {each["metadata"]["name"] for each in of_kind(overlay, "Service")}


def test_the_broker_has_the_queues_of_the_models_that_are_served() -> None:
    settings = settings_map("gpu-cluster")
    template = named("gpu-cluster", "RabbitmqCluster", "rabbitmq")["spec"]["override"]["statefulSet"]["spec"][
        "template"
    ]
    (definitions,) = template["spec"]["initContainers"]
    assert f"--models={settings['models']}" in definitions["command"]
    assert f"--queue-type={settings['queue-type']}" in definitions["command"]
    files = {
        item["path"] for volume in template["spec"]["volumes"] for item in volume.get("secret", {}).get("items", [])
    }
    assert files == {f"amqp-{each.user}" for each in (*PERMISSIONS, MONITOR)}


def test_the_broker_runs_with_the_settings_that_it_has_everywhere() -> None:
    everywhere = _settings_of((ROOT / "infra" / "rabbitmq" / "rabbitmq.conf").read_text())
    of_three = _settings_of((ROOT / "infra" / "rabbitmq" / "cluster" / "cluster.conf").read_text())
    queues = {name: value for name, value in of_three.items() if name.startswith(("quorum_queue.", "queue_leader_"))}
    assert len(queues) == 3
    everywhere |= queues
    text = named("gpu-cluster", "RabbitmqCluster", "rabbitmq")["spec"]["rabbitmq"]["additionalConfig"]
    here = _settings_of(text)
    sizes = {"vm_memory_high_watermark.absolute", "disk_free_limit.absolute"}
    # The log is the operator's.
    assert {name: value for name, value in everywhere.items() if name not in sizes and "log." not in name} == {
        name: value for name, value in here.items() if name not in {*sizes, "load_definitions"}
    }
    assert sizes <= set(here)


def _settings_of(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def test_every_configuration_that_is_mounted_or_read_exists(overlay: str) -> None:
    maps = {each["metadata"]["name"]: each.get("data", {}) for each in of_kind(overlay, "ConfigMap")}
    for pod in pods(overlay):
        for volume in pod.spec["volumes"]:
            assert "configMap" not in volume or volume["configMap"]["name"] in maps, pod.workload
        for container in pod.containers:
            for entry in pod.variables(container).values():
                reference = entry.get("valueFrom", {}).get("configMapKeyRef")
                assert reference is None or reference["key"] in maps[reference["name"]], pod.workload


def test_a_model_that_is_served_has_a_worker_and_the_other_way_round(overlay: str) -> None:
    models = settings_map(overlay)["models"].split(",")
    workers = [pod for pod in pods(overlay) if pod.name == "worker"]
    served = [pod.variables(pod.containers[0])["ATELIER_WORKER_MODEL"]["value"] for pod in workers]
    assert sorted(served) == sorted(models)
    assert settings_map(overlay)["default-model"] in models
    assert [pod.labels["atelier/model"] for pod in workers] == served


def test_workers_are_scaled_by_their_own_queue() -> None:
    models = settings_map("gpu-cluster")["models"].split(",")
    queues = {queue.name for queue in topology(models).queues}
    workers = {pod.workload: pod for pod in pods("gpu-cluster") if pod.name == "worker"}
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in of_kind("gpu-cluster", "ScaledObject")}
    assert set(scaled) == set(workers)
    for name, spec in scaled.items():
        (trigger,) = spec["triggers"]
        data = trigger["metadata"]
        assert data["queueName"] == work_queue(workers[name].labels["atelier/model"])
        assert data["queueName"] in queues
        # The broker's other protocol counts no message that a worker holds.
        assert (data["protocol"], data["mode"], data["excludeUnacknowledged"]) == ("http", "QueueLength", "false")
        host = urlsplit(data["host"])
        assert (host.hostname, host.port, host.path) == ("rabbitmq.atelier.svc", 15672, "/atelier")
        assert host.password is None


def test_what_is_scaled_by_others_names_no_number_of_its_own() -> None:
    scaled = {
        *(each["spec"]["scaleTargetRef"]["name"] for each in of_kind("gpu-cluster", "ScaledObject")),
        *(each["spec"]["scaleTargetRef"]["name"] for each in of_kind("gpu-cluster", "HorizontalPodAutoscaler")),
    }
    assert scaled == {"gateway", "worker-newbie", "worker-easyanimate"}
    for name in scaled:
        assert "replicas" not in named("gpu-cluster", "Deployment", name)["spec"]


def test_pods_reach_what_their_settings_name_and_nothing_else() -> None:
    network = Network.of("single-node")
    everyone = [*pods("single-node")]
    open_edges = {
        (sender.name, receiver.name, port)
        for sender in everyone
        for receiver in everyone
        for port in PORTS
        if network.open(sender.labels, receiver.labels, port)
    }
    assert open_edges == _wanted_edges("single-node")


def _wanted_edges(overlay: str) -> set[tuple[str, str, int]]:
    wanted = {("nginx", "gateway", 8000), ("nginx", "status-api", 8000), *_entrance(overlay)}
    for pod, container in our_containers(overlay):
        for variable in pod.variables(container):
            if variable in LEADS_TO:
                receiver, port = LEADS_TO[variable]
                wanted.add((pod.name, receiver, port))
    return wanted


def _entrance(overlay: str) -> set[tuple[str, str, int]]:
    """Nginx takes requests from everywhere; nobody inside may send any."""
    assert Network.of(overlay)._passes("Ingress", {"app.kubernetes.io/name": "nginx"}, {}, 8080)
    return set()


@pytest.mark.parametrize(
    ("store", "address", "port"),
    [("postgres", "192.0.2.10", 5432), ("redis", "192.0.2.20", 6379), ("seaweedfs", "192.0.2.30", 443)],
)
def test_stores_outside_are_reached_by_those_whose_settings_name_them(store: str, address: str, port: int) -> None:
    network = Network.of("gpu-cluster")
    reaching = {pod.name for pod in pods("gpu-cluster") if network.reaches(pod.labels, address, port)}
    assert reaching == {sender for sender, receiver, _ in _wanted_edges("gpu-cluster") if receiver == store}


def test_the_broker_is_reached_by_those_whose_settings_name_it() -> None:
    network = Network.of("gpu-cluster")
    broker = {"app.kubernetes.io/name": "rabbitmq", "app.kubernetes.io/component": "rabbitmq"}
    reaching = {pod.name for pod in pods("gpu-cluster") if network.open(pod.labels, broker, 5672)}
    assert reaching == {sender for sender, receiver, _ in _wanted_edges("gpu-cluster") if receiver == "rabbitmq"}
    assert not any(
        network.open(pod.labels, broker, port) for pod in pods("gpu-cluster") for port in (4369, 15672, 25672)
    )
    assert network.open(broker, broker, 25672)


def test_workers_know_the_broker_and_the_bucket_alone() -> None:
    wanted = {edge for edge in _wanted_edges("single-node") if edge[0] == "worker"}
    assert wanted == {("worker", "rabbitmq", 5672), ("worker", "seaweedfs", 8333)}


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111"])
def test_only_callbacks_and_the_fetching_of_images_leave_the_cluster(overlay: str, address: str) -> None:
    network = Network.of(overlay)
    leaving = {
        pod.name for pod in pods(overlay) for port in (80, 443, 8080) if network.reaches(pod.labels, address, port)
    }
    assert leaving == {"status-webhooks", "gateway"}
    for name in leaving:
        sender = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "atelier"}
        assert [port for port in (22, 80, 443, 5432, 8080) if network.reaches(sender, address, port)] == [80, 443]


def test_callbacks_reach_no_address_that_the_sender_would_refuse(overlay: str) -> None:
    (policy,) = [each for each in of_kind(overlay, "NetworkPolicy") if each["metadata"]["name"] == "to-outside"]
    for peer in policy["spec"]["egress"][0]["to"]:
        for text in peer["ipBlock"]["except"]:
            network = ip_network(text)
            assert not is_public(network[0]), text
            assert not is_public(network[-1]), text
    sender = {"app.kubernetes.io/name": "status-webhooks"}
    for text in ("10.0.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "fd00::1"):
        assert not is_public(ip_address(text))
        assert not Network.of(overlay).reaches(sender, text, 443)


def test_every_service_chooses_pods_that_have_its_port(overlay: str) -> None:
    for service in of_kind(overlay, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        chosen = [pod for pod in pods(overlay) if selects(selector, pod.labels)]
        assert chosen, service["metadata"]["name"]
        for pod in chosen:
            ports = {port["name"] for container in pod.spec["containers"] for port in container["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
