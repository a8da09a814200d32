"""What most would build: Flask and Celery's ``apply_async`` over RabbitMQ, persistent, with publisher confirms."""

from __future__ import annotations

import os

from celery import Celery
from flask import Flask, Response, jsonify, request


def build() -> Flask:
    """The application."""
    app = Flask(__name__)
    celery = Celery("bench", broker=os.environ["BENCH_CELERY_URL"])
    celery.conf.update(
        broker_transport_options={"confirm_publish": True},
        task_default_delivery_mode="persistent",
        task_ignore_result=True,
        broker_pool_limit=10,
    )

    @celery.task(name="generate")  # type: ignore[untyped-decorator] # celery has no types
    def generate_task(prompt: str) -> None:
        """Never run: nothing consumes."""

    @app.post("/generate")
    def generate() -> tuple[Response, int]:
        body = request.get_json()
        result = generate_task.apply_async(kwargs={"prompt": body["prompt"]})
        return jsonify({"task_id": result.id}), 202

    return app
