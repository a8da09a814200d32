"""The control group of a worker's container bounds its memory: the kernel ends the model's process and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.compose.conftest import HUNGER_MB, LIMIT_MB
from tests.compose.test_stack import ended, submitted

if TYPE_CHECKING:
    import httpx

    from tests.support.compose_stack import ComposeStack

SERVICE = "worker-hungry"
COUNT = "cat /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events 2>/dev/null"


def killed(stack: ComposeStack) -> int:
    """How often the kernel has killed in the container's control group."""
    pairs = [line.split() for line in stack.inside(SERVICE, "sh", "-c", COUNT).stdout.splitlines()]
    return next(int(value) for name, value in pairs if name == "oom_kill")


def test_a_task_that_outgrows_its_worker_fails_and_the_worker_goes_on(
    stack: ComposeStack, client: httpx.Client
) -> None:
    before = killed(stack)
    assert 512 * 512 / 1e6 * HUNGER_MB > LIMIT_MB > 16 * 16 / 1e6 * HUNGER_MB
    failed = ended(client, submitted(client, model="hungry", width=512, height=512))
    assert failed["state"] == "failed", failed
    assert killed(stack) > before
    modest = ended(client, submitted(client, model="hungry", width=16, height=16))
    assert modest["state"] == "succeeded", modest
    (container,) = stack.containers(SERVICE)
    assert container["RestartCount"] == 0
    ends = stack.events_of(SERVICE, "runner_ended")
    assert {line["error.code"] for line in ends} == {"host_out_of_memory"}
