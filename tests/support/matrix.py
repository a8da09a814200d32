"""What a row of the fault matrix asks: the fate of the task, of its message, of the worker; and is all well again."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shared.clock import utc_now
from shared.contracts.base import decode
from shared.contracts.dead import DeadLetter
from shared.contracts.task import TaskMessage
from shared.domain.settle import RETRY_DELAYS_SECONDS
from shared.domain.task import TaskState
from shared.messaging import messages
from shared.messaging.topology import STATUS_RETURNED, TASKS_DEAD, retry_queue, work_queue
from tests.support.builders import MODEL, make_params
from tests.support.waiting import until
from tests.support.worker_process import WorkerSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pika.spec import BasicProperties

    from shared.contracts.outcome import Outcome
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

OBEDIENT: Final = "tests.worker_process.backends.faulty:FaultyBackend"
TIERED: Final = "tests.worker_process.backends.tiered:TieredBackend"
TIERS: Final = "".join(f"[tiers.{tier}]\nvram_mb = 0\n" for tier in ("tiled", "offload", "sequential"))
QUIET: Final = (work_queue(MODEL), *map(retry_queue, RETRY_DELAYS_SECONDS), TASKS_DEAD, STATUS_RETURNED)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task's message, taken out of the queue where it waited."""

    task: TaskMessage
    priority: int | None
    expires: str | None


class FaultSite(WorkerSite):
    """A site whose model does what the prompt says."""

    def card(self, backend: str = OBEDIENT, further: str = "") -> Path:
        """A models folder with the simulated model's card, served by a fixture."""
        return self.models(lambda card: card.replace('backend = "simulated"', f'backend = "{backend}"') + further)

    @property
    def model_dir(self) -> Path:
        """The model's own folder."""
        return self.folder / "models" / MODEL

    def order(self, deed: str = "paint", *, steps: int = 2, **changes: Any) -> TaskMessage:  # noqa: ANN401 - any field
        """Submit a task that makes the model do that."""
        return self.submit(params=make_params(prompt=deed, steps=steps), **changes)

    def send(self, task: TaskMessage, **changes: object) -> TaskMessage:
        """Put a task's message into its work queue, as its retry queue would in its time."""
        again = task.model_copy(update=changes)
        self.publisher.publish(messages.new_task(again, utc_now()), timeout=10)
        return again

    def waiting(self, task: TaskMessage, seconds: int) -> Waiting:
        """Wait until the task's message lies in that retry queue, and take it out."""
        properties, body = self.take(retry_queue(seconds))
        found = decode(TaskMessage, body)
        assert found.task_id == task.task_id
        return Waiting(found, properties.priority, properties.expiration)

    def letter(self, task: TaskMessage) -> DeadLetter:
        """Wait until the task is parked, and take its letter out."""
        _, body = self.take(TASKS_DEAD)
        letter = decode(DeadLetter, body)
        assert letter.task is not None
        assert letter.task.task_id == task.task_id
        return letter

    def depths(self) -> dict[str, int]:
        """What is ready in the queues that should be empty when all is done, as far as they are not."""
        with self.rabbit.connect() as connection:
            channel = connection.channel()
            found = {name: channel.queue_declare(name, passive=True).method.message_count for name in QUIET}
        return {name: count for name, count in found.items() if count}

    def files(self) -> list[str]:
        """What tasks have left on the disk: nothing, when all is done."""
        work = self.folder / "work"
        return [
            str(path.relative_to(work))
            for worker in work.glob("*")
            if worker.is_dir()
            for path in worker.iterdir()
            if path.name != ".child"
        ]

    def assert_well(self) -> Outcome:
        """A task as any other succeeds at its first attempt, and nothing is left of it or of those before."""
        outcome = self.outcome(self.order())
        assert (outcome.state, outcome.attempt) == (TaskState.SUCCEEDED, 1)
        until(lambda: not self.files(), 30, "the sandboxes' end")
        until(lambda: not self.depths(), 30, f"empty queues; found {self.depths()}")
        return outcome

    def failed(self, task: TaskMessage) -> tuple[str, int]:
        """Wait for the task's failure: its code, and the attempt that met it."""
        outcome = self.outcome(task)
        assert outcome.state is TaskState.FAILED, outcome
        assert outcome.error is not None
        return outcome.error.code, outcome.attempt

    def attempts(self, task: TaskMessage) -> list[str]:
        """The claims in the bucket: attempts that were started."""
        keys = (key.rsplit("/", 1)[-1] for key in self.store.keys(f"tasks/{task.task_id}/"))
        return sorted(key for key in keys if key.startswith("claim-"))

    def artifacts(self, task: TaskMessage) -> list[str]:
        """The files of the task in the bucket, of whatever attempt."""
        return [key for key in self.store.keys(f"tasks/{task.task_id}/") if key.count("/") == 3]

    def go(self, task: TaskMessage) -> None:
        """Let ``wait_for_go`` end."""
        (folder,) = until(lambda: list((self.folder / "work").glob(f"*/*/{task.task_id}/*")), 30, "its folder")
        (folder / "go").touch()

    def take(self, queue: str) -> tuple[BasicProperties, bytes]:
        """Wait for a message in a queue, and take it out."""
        taken: list[tuple[BasicProperties, bytes]] = []

        def take() -> bool:
            with self.rabbit.connect() as connection:
                method, properties, body = connection.channel().basic_get(queue, auto_ack=True)
            if method is not None and properties is not None:
                taken.append((properties, body or b""))
            return bool(taken)

        until(take, 60, f"a message in {queue}")
        return taken[0]


@contextmanager
def fault_site(rabbit: RabbitServer, s3: S3Server, guard: ProcessGuard, folder: Path) -> Iterator[FaultSite]:
    """A site with a bucket of its own and empty queues, for one test or for many rows."""
    rabbit.purge()
    bucket = s3.create_bucket()
    site = FaultSite(rabbit, s3, bucket, guard, folder)
    try:
        yield site
    finally:
        site.close()
        s3.delete_bucket(bucket)
