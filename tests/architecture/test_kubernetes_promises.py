"""What is promised of every pod: no root, no way to more rights, bounds, probes, an orderly end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.manifests import OVERLAYS, build, named, of_kind, pods, selects

if TYPE_CHECKING:
    from tests.support.manifests import Pod

SERVICES = {
    *("nginx", "gateway", "gateway-ledger"),
    *("status-api", "status-consumer", "status-sweeper", "status-webhooks", "worker"),
}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_is_a_deployment_for_every_process(overlay: str) -> None:
    assert {pod.name for pod in pods(overlay) if pod.kind == "Deployment"} == SERVICES


def test_the_namespace_refuses_pods_that_break_the_strictest_standard(overlay: str) -> None:
    labels = named(overlay, "Namespace", "atelier")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_everything_is_in_the_namespace(overlay: str) -> None:
    assert {each["metadata"].get("namespace") for each in build(overlay) if each["kind"] != "Namespace"} == {"atelier"}


def test_pods_are_restricted(overlay: str) -> None:
    for pod in pods(overlay):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True, pod.workload
        assert context["runAsUser"] > 0, pod.workload
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pod.workload
        assert pod.spec["automountServiceAccountToken"] is False, pod.workload
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec), pod.workload
        assert all("hostPath" not in volume for volume in pod.spec["volumes"]), pod.workload
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, f"{pod.workload}/{container['name']}"


def test_our_images_run_as_their_own_user(overlay: str) -> None:
    for pod in pods(overlay):
        if len(pod.ours) == len(pod.containers):
            context = pod.spec["securityContext"]
            assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (10001, 10001, 10001)


def test_memory_is_bounded_everywhere_and_processors_where_models_run(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), pod.workload
            assert "memory" in resources["limits"], pod.workload
            if pod.name == "worker":
                assert {"cpu", "ephemeral-storage"} <= set(resources["limits"]), pod.workload


def test_what_lies_in_memory_is_bounded(overlay: str) -> None:
    for pod in pods(overlay):
        for volume in pod.spec["volumes"]:
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], f"{pod.workload}/{volume['name']}"


def test_models_and_secrets_are_mounted_read_only(overlay: str) -> None:
    for pod in pods(overlay):
        if pod.workload == "tiny-model":  # which puts it there
            continue
        claims = [volume["persistentVolumeClaim"] for volume in pod.spec["volumes"] if volume["name"] == "models"]
        assert all(claim == {"claimName": "models", "readOnly": True} for claim in claims), pod.workload
        for container in pod.containers:
            for mount in container["volumeMounts"]:
                read_only = mount["name"] in {"models", "plans", "roles", "source"} or "secrets" in mount["name"]
                assert not read_only or mount["readOnly"] is True, f"{pod.workload}: {mount}"


def test_a_pod_mounts_no_secret_whole(overlay: str) -> None:
    for pod in pods(overlay):
        for volume in pod.spec["volumes"]:
            assert "secret" not in volume or volume["secret"]["items"], pod.workload


def test_every_service_says_whether_it_lives_and_is_ready(overlay: str) -> None:
    for pod in pods(overlay):
        if pod.kind == "Job":
            continue
        (container,) = pod.spec["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe in container, f"{pod.workload} has no {probe}"
        if pod.ours == [container]:
            assert set(ports.values()) == {8000 if pod.name in {"gateway", "status-api"} else 9000}
            assert _path(container["readinessProbe"], ports) == "/readyz"
            assert _path(container["livenessProbe"], ports) == "/healthz"
            assert _path(container["startupProbe"], ports) == "/healthz"


def _path(probe: dict[str, Any], ports: dict[str, int]) -> str:
    assert probe["httpGet"]["port"] in ports
    return str(probe["httpGet"]["path"])


def test_every_deployment_is_disrupted_one_pod_at_a_time(overlay: str) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    for pod in pods(overlay):
        if pod.kind != "Deployment":
            continue
        (budget,) = [each for each in budgets if selects(each["spec"]["selector"], pod.labels)]
        assert budget["spec"]["maxUnavailable"] == 1, pod.workload


def test_replicas_lie_on_nodes_apart(overlay: str) -> None:
    for deployment in of_kind(overlay, "Deployment"):
        spec = deployment["spec"]
        if spec.get("replicas", 2) == 1:
            continue
        for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
            assert selects(constraint["labelSelector"], spec["template"]["metadata"]["labels"])
            assert constraint["labelSelector"] == spec["selector"]


def test_a_deployment_chooses_its_own_pods_alone(overlay: str) -> None:
    for deployment in of_kind(overlay, "Deployment"):
        chosen = [pod.workload for pod in pods(overlay) if selects(deployment["spec"]["selector"], pod.labels)]
        assert chosen == [deployment["metadata"]["name"]]


def test_there_is_one_ledger_and_never_two(overlay: str) -> None:
    spec = named(overlay, "Deployment", "gateway-ledger")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_workers_are_given_the_time_to_drain(overlay: str) -> None:
    workers = [pod for pod in pods(overlay) if pod.name == "worker"]
    for pod in workers:
        (container,) = pod.containers
        drain = float(pod.variables(container)["ATELIER_DRAIN_SECONDS"]["value"])
        assert pod.spec["terminationGracePeriodSeconds"] >= drain + 30
        # A hook would hold SIGTERM back, or send a first one: the kubelet's would be the second, which ends at once.
        assert "lifecycle" not in container


def test_what_is_connected_to_is_left_out_before_it_stops(overlay: str) -> None:
    for pod in pods(overlay):
        if pod.name in {"nginx", "gateway", "status-api"}:
            (container,) = pod.containers
            assert "sleep" in " ".join(container["lifecycle"]["preStop"]["exec"]["command"]), pod.workload


def test_images_are_pinned(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            _, _, tag = container["image"].partition(":")
            assert tag not in {"", "latest"}, container["image"]


def _gpu(pod: Pod) -> object:
    (container,) = pod.containers
    return container["resources"]["limits"].get("nvidia.com/gpu")


def test_every_worker_of_a_gpu_cluster_has_one_gpu_and_its_own_model() -> None:
    workers = [pod for pod in pods("gpu-cluster") if pod.name == "worker"]
    models = named_settings("gpu-cluster")["models"].split(",")
    assert [_gpu(pod) for pod in workers] == ["1", "1"]
    assert sorted(pod.variables(pod.containers[0])["ATELIER_WORKER_MODEL"]["value"] for pod in workers) == sorted(
        models
    )


def named_settings(overlay: str) -> dict[str, str]:
    (found,) = [each for each in of_kind(overlay, "ConfigMap") if each["metadata"]["name"].startswith("settings")]
    settings: dict[str, str] = found["data"]
    return settings
