"""The pods of the overlay for one node run as they are written, and make a picture.

Without a cluster: each container is run by an engine under its own user, with its read-only root, its mounts, limits,
variables and command. See tests/support/pods.py for what that leaves out.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from tests.architecture.source import ROOT
from tests.support.manifests import Pod, pods
from tests.support.pods import Node, docker, has_images
from tests.support.server_choice import PUBLIC
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

OVERLAY: Final = "single-node"
BUILT: Final = {
    "gateway": "services/gateway/Dockerfile",
    "status": "services/status/Dockerfile",
    "worker": "services/worker/Dockerfile",
    "setup": "infra/compose/Dockerfile",
}
PROMPT: Final = (
    "<character_1><n></n><gender>1girl</gender></character_1><general_tags><style>anime_style</style></general_tags>"
)

pytestmark = [
    pytest.mark.faults,  # as long as those
    pytest.mark.skipif(not has_images(PUBLIC), reason="there is no container engine, or not with these images"),
    pytest.mark.timeout(1500),
]


def image(name: str) -> str:
    """Ours as they are built here."""
    return f"atelier-pods/{name.removeprefix('atelier/')}" if name.startswith("atelier/") else name


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    for name, dockerfile in BUILT.items():
        docker("build", "--quiet", "--tag", image(f"atelier/{name}:0.1.0"), "--file", ROOT / dockerfile, ROOT)
    node = Node(OVERLAY, tmp_path_factory.mktemp("node"), f"atelier-pods-{secrets.token_hex(3)}", image)
    node.up()
    yield node
    node.down()


@pytest.fixture(scope="module")
def services(node: Node) -> list[Pod]:
    """Every pod that stays, ready."""
    staying = [pod for pod in pods(OVERLAY) if pod.kind != "Job"]
    waiting = {pod.workload: pod for pod in staying}

    def all_ready() -> bool:
        for name, pod in list(waiting.items()):
            if not node.answers(pod, "readinessProbe"):
                del waiting[name]
        return not waiting

    try:
        until(all_ready, timeout=1200, what="every pod to be ready")
    except AssertionError:
        for name in waiting:
            print(name, node.state(name), docker("logs", "--tail", "20", node.container(name), check=False))  # noqa: T201
        raise
    return staying


@pytest.fixture(scope="module")
def client(node: Node, services: list[Pod]) -> Iterator[httpx.Client]:
    assert services
    address = docker("port", node.container("nginx"), "8080")
    with httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {_key(node)}"
        yield client


def _key(node: Node) -> str:
    """An API key, made as an operator does it."""
    (pod,) = [pod for pod in pods(OVERLAY) if pod.workload == "schemas"]
    (tenants,) = [each for each in pod.containers if each["name"] == "tenants"]
    folder = node.folder / "pods" / "gateway" / "secrets"
    environment = [f"--env={name}={value}" for name, value in node.environment(pod, tenants).items()]
    made = docker(
        *("run", "--rm", "--network", node.prefix, "--user", "10001:10001", "--group-add", "10001", *environment),
        f"--volume={node.folder / 'pods' / 'schemas' / 'tenants-secrets'}:/run/secrets:ro",
        f"--volume={node.folder / 'pods' / 'schemas' / 'plans'}:/etc/atelier:ro",
        *(f"--volume={folder / 'key-pepper'}:/run/pepper:ro", "--env=ATELIER_KEY_PEPPER_FILE=/run/pepper"),
        *(image("atelier/gateway:0.1.0"), "python", "-m", "services.gateway.admin"),
        *("key", "create", "--tenant", "pods", "--plan", "standard", "--json"),
    )
    return str(json.loads(made)["key"])


def test_every_probe_of_every_pod_passes(node: Node, services: list[Pod]) -> None:
    wrong = {
        (pod.workload, probe): problem
        for pod in services
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        if (problem := node.answers(pod, probe))
    }
    assert wrong == {}


def test_a_prompt_becomes_a_picture(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": PROMPT})
    assert answer.status_code == 202, answer.text
    status = client.get(f"/status/{answer.json()['task_id']}", params={"wait": 50})
    assert status.json()["status"] == "done", status.text
    picture = client.get(status.json()["result_url"])
    assert picture.content.startswith(b"\x89PNG")


@pytest.mark.parametrize("path", ["/models/tiny-newbie/x", "/app/x", "/run/secrets/x", "/usr/x"])
def test_a_worker_writes_to_its_own_folders_alone(node: Node, services: list[Pod], path: str) -> None:
    assert services
    said = docker("exec", node.container("worker-tiny-newbie"), "sh", "-c", f"touch {path} 2>&1; true")
    assert "Read-only file system" in said


def test_a_worker_that_is_told_to_go_goes_in_its_time(node: Node, client: httpx.Client) -> None:
    task = client.post("/generate", json={"prompt": PROMPT}).json()["task_id"]
    name = node.container("worker-tiny-newbie")
    docker("stop", name)
    assert node.state("worker-tiny-newbie")["ExitCode"] == 0
    docker("start", name)
    status = client.get(f"/status/{task}", params={"wait": 50})
    assert status.json()["status"] == "done", status.text
