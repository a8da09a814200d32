from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from shared.contracts.base import decode, encode
from shared.contracts.cache import Lead
from shared.contracts.control import ControlMessage
from shared.contracts.dead import DeadLetter
from shared.contracts.event import TaskEvent
from shared.contracts.outcome import Claim, Lease, Outcome
from shared.contracts.task import TaskMessage
from shared.contracts.worker_report import WorkerReport

if TYPE_CHECKING:
    from shared.contracts.base import Message

GOLDEN: Final = Path(__file__).parent / "golden" / "v1"

# What version 1 of the software wrote. Files are added, never changed: old messages stay in queues and buckets.
KINDS: Final[dict[str, type[Message]]] = {
    "task-message": TaskMessage,
    "task-message-image": TaskMessage,
    "task-event-queued": TaskEvent,
    "task-event-started": TaskEvent,
    "task-event-progress": TaskEvent,
    "task-event-retrying": TaskEvent,
    "task-event-succeeded": TaskEvent,
    "claim": Claim,
    "outcome": Outcome,
    "outcome-video": Outcome,
    "lease": Lease,
    "control-message-cancel": ControlMessage,
    "control-message-drain": ControlMessage,
    "dead-letter-task": DeadLetter,
    "dead-letter-body": DeadLetter,
    "worker-report": WorkerReport,
    "worker-report-revision": WorkerReport,
    "lead": Lead,
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_golden_document_is_read_and_written_again_without_a_change(name: str) -> None:
    body = (GOLDEN / f"{name}.json").read_bytes()
    assert json.loads(encode(decode(KINDS[name], body))) == json.loads(body)


def test_every_golden_document_is_tested() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(KINDS)


@pytest.mark.parametrize(
    "kind", [TaskMessage, TaskEvent, Claim, Outcome, DeadLetter, WorkerReport, Lease, Lead, ControlMessage]
)
def test_the_golden_documents_of_a_contract_fill_every_field(kind: type[Message]) -> None:
    written: set[str] = set()
    for name in (name for name, its_kind in KINDS.items() if its_kind is kind):
        written |= set(json.loads((GOLDEN / f"{name}.json").read_bytes()))
    assert written == {field.alias or name for name, field in kind.model_fields.items()}
