"""``python -m services.worker.ops`` that is killed after the publish is confirmed and before the removal."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from services.worker import ops
from services.worker.dead.bootstrap import dead_letters
from shared.messaging.browser import RabbitLook

if TYPE_CHECKING:
    from shared.messaging.ports import Delivery


def die(self: RabbitLook, delivery: Delivery) -> None:
    del self, delivery
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    RabbitLook.take_out = die  # type: ignore[method-assign] # the fault
    sys.exit(ops.main(sys.argv[1:], connect=dead_letters))
