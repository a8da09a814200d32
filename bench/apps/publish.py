"""The publish path alone: JSON in, task and queued event built, published and confirmed, 202 out. No checks."""

from __future__ import annotations

import os
from datetime import timedelta

import orjson
from flask import Flask, Response, request

from shared.clock import utc_now
from shared.contracts.task import Params, Predicted, TaskMessage
from shared.domain.task import Lane
from shared.ids import new_task_id
from shared.lifecycle import settle_memory
from shared.messaging import messages
from shared.messaging.gevent_publisher import GeventPublisher


def build() -> Flask:
    """The application."""
    app = Flask(__name__)
    publisher = GeventPublisher(os.environ["BENCH_AMQP_URL"], "bench.publish")
    publisher.start()

    settle_memory()

    @app.post("/generate")
    def generate() -> Response:
        body = orjson.loads(request.get_data(cache=False))
        now = utc_now()
        params = Params(prompt=body["prompt"], prompt_format="xml", width=64, height=64, steps=1, guidance=1.0, seed=1)
        task = TaskMessage(
            task_id=new_task_id(),
            tenant_id="bench",
            lane=Lane.STANDARD,
            model="simulated",
            params=params,
            priority=5,
            submitted_at=now,
            start_deadline=now + timedelta(hours=1),
            finish_deadline=now + timedelta(hours=2),
            predicted=Predicted(gpu_seconds=0.05, vram_mb=0),
        )
        publisher.publish(*messages.submit(task, now), timeout=5)
        return Response(orjson.dumps({"task_id": task.task_id}), 202, content_type="application/json")

    return app
