"""A running task shows how far it is to whoever follows its events."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import pika
from PIL import Image

from shared.contracts.base import decode
from shared.contracts.event import Preview, TaskEvent
from shared.domain.task import EventType
from shared.messaging.topology import EVENTS
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.native import NativeStack

SECONDS = 60


def test_what_a_task_shows_while_it_runs_is_told_and_stays_out_of_its_state(stack: NativeStack) -> None:
    with pika.BlockingConnection(pika.URLParameters(stack.administrator_url())) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, EVENTS, f"{EventType.PROGRESS}.#")
        answer = stack.post("/api/v1/generate", {"model": "simulated", "prompt": "a lake", "steps": 100, "width": 128})
        task_id = str(answer.json()["task_id"])

        def shown() -> Preview | None:
            _, _, body = channel.basic_get(queue, auto_ack=True)
            event = decode(TaskEvent, body) if body else None
            if event is None or event.task_id != task_id or event.data.progress is None:
                return None
            return event.data.progress.preview

        preview = until(shown, SECONDS, "a preview")
    assert preview is not None
    picture = Image.open(io.BytesIO(base64.b64decode(preview.data)))
    assert (picture.format, picture.size) == ("JPEG", (preview.width, preview.height))
    assert max(picture.size) <= 96
    assert "preview" not in stack.get(f"/api/v1/tasks/{task_id}").json()["progress"]
    assert stack.get(f"/api/v1/tasks/{task_id}", wait=30).json()["state"] == "succeeded"
