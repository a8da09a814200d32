"""With TLS every hop to the broker is encrypted and verified, and the plain ones are closed."""

from __future__ import annotations

from typing import Final

from services.worker.config import WorkerSettings
from tests.architecture.test_kubernetes_wiring import SETTINGS, our_containers
from tests.support.manifests import Network, named, of_kind, pods

OVERLAY: Final = "gpu-cluster-tls"
BROKER: Final = {"app.kubernetes.io/name": "rabbitmq"}


def test_everything_of_ours_is_told_whom_to_trust() -> None:
    told = our_containers(OVERLAY)
    assert {container["name"] for _, container in told} == set(SETTINGS)
    for pod, container in told:
        assert pod.variables(container)["ATELIER_CA_FILE"]["value"] == "/etc/trusted/ca.crt"
        (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == "/etc/trusted"]
        (volume,) = [each for each in pod.spec["volumes"] if each["name"] == mount["name"]]
        assert volume["configMap"] == {"name": "trusted"}
        assert mount["readOnly"] is True


def test_that_is_a_setting() -> None:
    assert "ca_file" in WorkerSettings.model_fields


def test_the_broker_listens_to_tls_alone() -> None:
    spec = named(OVERLAY, "RabbitmqCluster", "rabbitmq")["spec"]
    assert spec["tls"] == {"secretName": "broker-tls", "disableNonTLSListeners": True}
    network = Network.of(OVERLAY)
    workers = [pod for pod in pods(OVERLAY) if pod.name == "worker"]
    for pod in workers:
        assert network.open(pod.labels, BROKER, 5671)
        assert not network.open(pod.labels, BROKER, 5672)
    assert workers


def test_the_autoscaler_verifies_the_broker() -> None:
    for scaled in of_kind(OVERLAY, "ScaledObject"):
        (trigger,) = scaled["spec"]["triggers"]
        assert trigger["metadata"]["host"] == "https://rabbitmq.atelier.svc:15671/atelier"
        assert "unsafeSsl" not in trigger["metadata"]
    (trust,) = of_kind(OVERLAY, "TriggerAuthentication")
    given = {each["parameter"]: (each["name"], each["key"]) for each in trust["spec"]["secretTargetRef"]}
    assert given["tls"] == ("secrets", "amqp-monitor-tls")
    assert given["ca"] == ("broker-tls", "ca.crt")


def test_nothing_else_changes() -> None:
    def others(overlay: str) -> list[tuple[str, str]]:
        return sorted(
            (each["kind"], each["metadata"]["name"]) for each in of_kind(overlay, "Service", "PodDisruptionBudget")
        )

    assert others(OVERLAY) == others("gpu-cluster")
