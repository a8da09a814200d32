"""What this worker does when it is told something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.contracts.base import decode
from shared.contracts.control import ControlMessage, Order
from shared.domain.errors import DecodeError
from shared.logging import get_logger

if TYPE_CHECKING:
    from services.worker.handler import TaskHandler
    from services.worker.supervisor import Supervisor
    from shared.lifecycle import StopSignal

log = get_logger(__name__)


class Control:
    """Orders from the control exchange, those for others left out."""

    def __init__(self, worker_id: str, handler: TaskHandler, supervisor: Supervisor, stop: StopSignal) -> None:
        self._worker_id = worker_id
        self._handler = handler
        self._supervisor = supervisor
        self._stop = stop

    def heard(self, body: bytes) -> None:
        """Obey. An order that cannot be read is logged and left alone."""
        try:
            message = decode(ControlMessage, body)
        except DecodeError as exc:
            log.warning("control_unintelligible", error_code=exc.code, error_message=exc.message)
            return
        if message.worker not in {None, self._worker_id}:
            return
        if message.order is Order.CANCEL and message.task_id is not None:
            self._handler.cancel(message.task_id)
            return
        log.info("control_order", order=message.order)
        if message.order is Order.DRAIN:
            self._stop.request()
        else:
            self._supervisor.recycle("told to")
