"""Every object is one that a cluster would take: by Kubernetes' published schemas, and those of two operators.

``crds/`` has the operators' schemas, each under the licence that it names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
from jsonschema import Draft7Validator

from tests.support.manifests import OVERLAYS, build, named

# The oldest that is still looked after, and the newest that the schemas know.
VERSIONS: Final = ("1.33", "1.37")
_CRDS: Final = Path(__file__).with_name("crds")
OPERATORS: Final = {"keda.sh/v1alpha1", "rabbitmq.com/v1beta1"}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(overlay: str, version: str) -> None:
    own = [each for each in build(overlay) if each["apiVersion"] not in OPERATORS]
    for each in own:
        kubernetes_validate.validate(each, version, strict=True)
    assert own


@pytest.mark.parametrize("overlay", ["gpu-cluster", "gpu-cluster-tls"])
@pytest.mark.parametrize("kind", ["ScaledObject", "TriggerAuthentication", "RabbitmqCluster"])
def test_operators_take_what_is_theirs(kind: str, overlay: str) -> None:
    validator = _validator(kind)
    objects = [each for each in build(overlay) if each["kind"] == kind]
    assert objects
    for each in objects:
        assert each["apiVersion"] in OPERATORS
        assert [error.message for error in validator.iter_errors(each)] == []


def test_a_field_that_an_operator_does_not_know_is_found() -> None:
    cluster = named("gpu-cluster", "RabbitmqCluster", "rabbitmq")
    wrong = {**cluster, "spec": {**cluster["spec"], "replica": 3}}
    assert ["replica" in error.message for error in _validator("RabbitmqCluster").iter_errors(wrong)] == [True]


def test_what_is_added_to_the_broker_s_pods_is_part_of_a_pod() -> None:
    template = named("gpu-cluster", "RabbitmqCluster", "rabbitmq")["spec"]["override"]["statefulSet"]["spec"][
        "template"
    ]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "broker"}, "spec": template["spec"]}
    kubernetes_validate.validate(pod, VERSIONS[0], strict=True)


def test_every_object_that_is_not_kubernetes_own_is_checked(overlay: str) -> None:
    others = {each["kind"] for each in build(overlay) if each["apiVersion"] in OPERATORS}
    assert {kind.lower() for kind in others} <= {path.stem for path in _CRDS.glob("*.json")}


def _validator(kind: str) -> Draft7Validator:
    schema = json.loads((_CRDS / f"{kind.lower()}.json").read_text(encoding="utf-8"))
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft7Validator(_closed(schema))


def _closed(schema: Any) -> Any:  # noqa: ANN401 - any JSON
    """The schema, with nothing allowed beside what it names, as the API server prunes it."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.pop("x-kubernetes-int-or-string", False):
        closed.pop("anyOf", None)
    open_ended = "additionalProperties" in closed or closed.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object" and not open_ended:
        closed["additionalProperties"] = False
    return closed
