"""Writes the JSON Schema of every contract beside this module: ``python -m shared.contracts.schemas [--check]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.contracts.cache import Lead
from shared.contracts.control import ControlMessage
from shared.contracts.dead import DeadLetter
from shared.contracts.event import TaskEvent
from shared.contracts.outcome import Claim, Lease, Outcome
from shared.contracts.task import TaskMessage
from shared.contracts.worker_report import WorkerReport

if TYPE_CHECKING:
    from shared.contracts.base import Message

CONTRACTS: Final[dict[str, type[Message]]] = {
    "task-message": TaskMessage,
    "task-event": TaskEvent,
    "claim": Claim,
    "control-message": ControlMessage,
    "dead-letter": DeadLetter,
    "lead": Lead,
    "lease": Lease,
    "outcome": Outcome,
    "worker-report": WorkerReport,
}
SCHEMAS_DIR: Final = Path(__file__).parent / "schemas"


def schema_text(kind: type[Message]) -> str:
    """The JSON Schema (2020-12) of a contract, as it is checked in."""
    return json.dumps(kind.model_json_schema(by_alias=True), indent=2, sort_keys=True) + "\n"


def schema_path(name: str) -> Path:
    """Where a contract's schema is checked in."""
    return SCHEMAS_DIR / f"{name}.v{CONTRACTS[name].current_schema}.json"


def main(arguments: list[str]) -> int:
    """Write the schemas, or with ``--check`` only compare them. Returns the exit status."""
    stale = [name for name, kind in CONTRACTS.items() if _differs(schema_path(name), schema_text(kind))]
    if "--check" in arguments:
        sys.stderr.writelines(f"{schema_path(name)} is stale: run make schemas\n" for name in stale)
        return 1 if stale else 0
    for name in stale:
        schema_path(name).write_text(schema_text(CONTRACTS[name]))
    return 0


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text() != text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
