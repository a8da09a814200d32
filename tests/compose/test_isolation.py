"""What keeps tenants, workers, models and the host apart: each promise is tried to be broken from inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from tests.support.compose_stack import ComposeStack

OURS = ("gateway", "gateway-ledger", "status-api", "status-consumer", "status-sweeper", "status-webhooks", "worker")
# A documentation address (RFC 5737): nobody is there, so of those with a way out the test looks at the route alone.
OUTSIDE = "192.0.2.1"
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError as exc:
    sys.exit(str(exc))
"""
FORK = """
import os, sys
children = []
try:
    while len(children) < 5000:
        children.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}))
except OSError as exc:
    sys.stdout.write(f"{len(children)} {exc.strerror}")
finally:
    for child in children:
        os.kill(child, 9)
"""


def in_python(stack: ComposeStack, service: str, program: str, *arguments: str) -> CompletedProcess[str]:
    return stack.inside(service, "python", "-c", program, *arguments)


def reaches(stack: ComposeStack, service: str, host: str, port: int) -> str:
    """Empty if a connection can be made, else why not."""
    done = in_python(stack, service, CONNECT, host, str(port))
    assert done.returncode in {0, 1}, done.stderr
    return str(done.stderr).strip()


def address(stack: ComposeStack, service: str) -> str:
    networks = stack.containers(service)[0]["NetworkSettings"]["Networks"]
    return str(next(iter(networks.values()))["IPAddress"])


def status_of(stack: ComposeStack, service: str) -> dict[str, str]:
    """What the kernel says of a service's first process."""
    lines = stack.inside(service, "cat", "/proc/1/status").stdout.splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_no_service_has_root_capabilities_or_a_way_to_gain_them(stack: ComposeStack) -> None:
    for service in stack.services():
        status = status_of(stack, service)
        assert "0" not in status["Uid"].split(), service
        found = {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")}
        assert set(found.values()) == {0}, (service, found)
        assert status["NoNewPrivs"] == "1", service


def test_no_service_can_write_to_its_image(stack: ComposeStack) -> None:
    for service in stack.services():
        for folder in ("/", "/usr", "/etc", "/opt"):
            done = stack.inside(service, "sh", "-c", f"echo x > {folder}/atelier-probe")
            assert done.returncode != 0, (service, folder)
            assert "Read-only file system" in done.stderr, (service, folder, done.stderr)


def test_every_service_is_bounded_in_memory_and_processes(stack: ComposeStack) -> None:
    for container in (each for service in stack.services() for each in stack.containers(service)):
        limits = container["HostConfig"]
        assert limits["Memory"] > 0, container["Name"]
        assert 0 < limits["PidsLimit"] <= 512, container["Name"]
        assert not limits["Privileged"], container["Name"]


def test_a_worker_is_bounded_in_processors_and_shared_memory(stack: ComposeStack) -> None:
    (worker,) = stack.containers("worker")
    assert worker["HostConfig"]["NanoCpus"] > 0
    assert worker["HostConfig"]["ShmSize"] > 64 << 20


def test_a_worker_that_forks_without_end_meets_its_limit(stack: ComposeStack) -> None:
    (worker,) = stack.containers("worker-hungry")
    count, _, reason = in_python(stack, "worker-hungry", FORK).stdout.partition(" ")
    assert int(count) < worker["HostConfig"]["PidsLimit"]
    assert reason == "Resource temporarily unavailable"


@pytest.mark.parametrize("service", ["worker", "worker-hungry", "gateway"])
def test_models_cannot_be_changed(stack: ComposeStack, service: str) -> None:
    listed = stack.inside(service, "sh", "-c", "ls /models").stdout.split()
    assert "simulated" in listed
    for attempt in ("touch /models/new", "rm /models/simulated/atelier.toml", "mount -o remount,rw /models"):
        done = stack.inside(service, "sh", "-c", attempt)
        assert done.returncode != 0, attempt
    assert "Read-only file system" in stack.inside(service, "touch", "/models/new").stderr
    assert stack.inside(service, "sh", "-c", "ls /models").stdout.split() == listed


def test_a_worker_reaches_the_broker_and_the_store_and_nothing_else(stack: ComposeStack) -> None:
    assert reaches(stack, "worker", "rabbitmq", 5672) == ""
    assert reaches(stack, "worker", "seaweedfs", 8333) == ""
    for service, port in (("postgres", 5432), ("nginx", 8080)):
        for host in (service, address(stack, service)):
            assert reaches(stack, "worker", host, port) != "", host


def test_nobody_but_the_sender_of_callbacks_and_the_gateway_has_a_way_out(stack: ComposeStack) -> None:
    without = [service for service in OURS if service not in {"status-webhooks", "gateway"}]
    for service in without:
        assert reaches(stack, service, OUTSIDE, 443) != "", service
    routes = stack.inside("status-webhooks", "cat", "/proc/net/route").stdout.splitlines()[1:]
    assert any(line.split()[1] == "00000000" for line in routes)


def test_the_entrance_reaches_no_store_and_no_broker(stack: ComposeStack) -> None:
    for service, port in (("postgres", 5432), ("rabbitmq", 5672), ("redis", 6379), ("seaweedfs", 8333)):
        for host in (service, address(stack, service)):
            done = stack.inside("nginx", "wget", "-q", "-T", "3", "-O", "/dev/null", f"http://{host}:{port}/")
            assert done.returncode != 0, (service, host)


def test_only_the_entrance_is_published_and_on_loopback(stack: ComposeStack) -> None:
    published = {
        (service, binding["HostIp"])
        for service in stack.services()
        for container in stack.containers(service)
        for bindings in container["NetworkSettings"]["Ports"].values()
        for binding in bindings or ()
    }
    assert published == {("nginx", "127.0.0.1")}


def test_a_service_sees_its_own_secrets_only(stack: ComposeStack) -> None:
    def seen(service: str) -> set[str]:
        return set(stack.inside(service, "sh", "-c", "ls /run/secrets 2>/dev/null").stdout.split())

    assert seen("worker") == {"amqp-worker.url", "s3-worker-access-key", "s3-worker-secret-key"}
    for service in OURS:
        others = {"amqp-gateway.url", "amqp-status.url", "amqp-worker.url", "amqp-operator.url"}
        assert len(seen(service) & others) <= 1, service
        assert "postgres-tenants-owner.url" not in seen(service), service
    assert seen("nginx") == set()
    environment = {line for service in OURS for c in stack.containers(service) for line in c["Config"]["Env"]}
    secrets = {path.read_text() for path in stack.secrets.iterdir()}
    assert not [line for line in environment if any(secret in line for secret in secrets)]


def test_the_gateways_role_cannot_change_tenants(stack: ComposeStack) -> None:
    program = """
import os, psycopg
with psycopg.connect(open(os.environ["ATELIER_TENANTS_URL_FILE"]).read()) as connection:
    print(connection.execute("SELECT count(*) FROM tenants").fetchone()[0])
    connection.execute("UPDATE tenants SET plan = 'vip'")
"""
    done = in_python(stack, "gateway", program)
    assert int(done.stdout) >= 1
    assert "permission denied" in done.stderr
