"""The Kubernetes manifests as kustomize builds them, taken apart for tests."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import yaml

from tests.architecture.source import ROOT

DEPLOY: Final = ROOT / "deploy" / "k8s"
OVERLAYS: Final = ("single-node", "gpu-cluster")
_NAME: Final = "app.kubernetes.io/name"

Object = dict[str, Any]


@cache
def _folder() -> Path:
    """A copy of the manifests, with secrets of its own."""
    copy = Path(tempfile.mkdtemp(prefix="manifests-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    shutil.copytree(DEPLOY, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("secrets"))
    script = ROOT / "infra" / "kubernetes" / "make-secrets.sh"
    subprocess.run(["/bin/sh", script, copy / "secrets"], check=True, capture_output=True)
    for overlay in OVERLAYS:
        shutil.copytree(copy / "secrets", copy / "overlays" / overlay / "secrets")
    return copy


@cache
def build(overlay: str) -> tuple[Object, ...]:
    """Every object of an overlay, from the real kustomize inside kubectl."""
    kubectl = Path(sys.prefix) / "bin" / "kubectl"
    done = subprocess.run(
        [kubectl, "kustomize", _folder() / "overlays" / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    """The objects of these kinds."""
    return [each for each in build(overlay) if each["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Object:
    """One object."""
    (found,) = [each for each in of_kind(overlay, kind) if each["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Pod:
    """What a workload's pods are made from."""

    kind: str
    workload: str
    labels: dict[str, str]
    spec: Object

    @property
    def name(self) -> str:
        return self.labels[_NAME]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ours(self) -> list[Object]:
        """The containers that run our images."""
        return [each for each in self.containers if each["image"].startswith("atelier/")]

    def variables(self, container: Object) -> dict[str, Object]:
        """The environment's entries by name."""
        found: dict[str, Object] = {entry["name"]: entry for entry in container.get("env", [])}
        assert len(found) == len(container.get("env", [])), f"{self.workload}: a variable is there twice"
        return found


@cache
def pods(overlay: str) -> tuple[Pod, ...]:
    """The pods of every Deployment, StatefulSet and Job."""
    return tuple(
        Pod(
            each["kind"],
            each["metadata"]["name"],
            each["spec"]["template"]["metadata"]["labels"],
            each["spec"]["template"]["spec"],
        )
        for each in of_kind(overlay, "Deployment", "StatefulSet", "Job")
    )


def selects(selector: Object | None, labels: dict[str, str]) -> bool:
    """Whether a label selector chooses an object."""
    if selector is None:
        return False
    same = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", "this reader knows no other operator"
        same = same and labels.get(rule["key"]) in rule["values"]
    return same


@dataclass(frozen=True)
class Network:
    """What NetworkPolicies let through: an edge is open when one side may send and the other may receive."""

    policies: tuple[Object, ...]

    @classmethod
    def of(cls, overlay: str) -> Network:
        return cls(tuple(of_kind(overlay, "NetworkPolicy")))

    def open(self, sender: dict[str, str], receiver: dict[str, str], port: int) -> bool:
        """Whether one pod of this namespace reaches another."""
        return self._passes("Egress", sender, receiver, port) and self._passes("Ingress", receiver, sender, port)

    def _passes(self, direction: str, mine: dict[str, str], other: dict[str, str], port: int) -> bool:
        return any(
            _has_port(rule, port) and any(_is_peer(peer, other) for peer in _peers(rule, direction))
            for rule in self._rules(direction, mine)
        )

    def reaches(self, sender: dict[str, str], address: str, port: int) -> bool:
        """Whether a pod reaches an address outside the cluster."""
        return any(
            _has_port(rule, port) and any(_holds(peer, address) for peer in _peers(rule, "Egress"))
            for rule in self._rules("Egress", sender)
        )

    def _rules(self, direction: str, labels: dict[str, str]) -> list[Object]:
        chosen = [
            policy["spec"]
            for policy in self.policies
            if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], labels)
        ]
        assert chosen, f"no policy of {direction} holds for {labels}, so everything may pass"
        return [rule for spec in chosen for rule in spec.get(direction.lower(), [])]


def _peers(rule: Object, direction: str) -> list[Object]:
    """Where a rule leads to, or from; a rule that names nobody means everybody."""
    peers: list[Object] = rule.get("to" if direction == "Egress" else "from", [{"podSelector": {}}])
    return peers


def _is_peer(peer: Object, labels: dict[str, str]) -> bool:
    return "namespaceSelector" not in peer and selects(peer.get("podSelector"), labels)


def _has_port(rule: Object, port: int) -> bool:
    return any(
        entry["protocol"] == "TCP" and entry["port"] <= port <= entry.get("endPort", entry["port"])
        for entry in rule["ports"]
    )


def _holds(peer: Object, address: str) -> bool:
    block = peer.get("ipBlock")
    if block is None:
        return False
    here = ip_address(address)
    if here not in ip_network(block["cidr"]):
        return False
    return not any(here in ip_network(network) for network in block.get("except", []))
