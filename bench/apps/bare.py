"""The baseline: a Flask view that reads JSON and answers JSON."""

from __future__ import annotations

import uuid

from flask import Flask, Response, jsonify, request


def build() -> Flask:
    """The application."""
    app = Flask(__name__)

    @app.post("/generate")
    def generate() -> tuple[Response, int]:
        body = request.get_json()
        return jsonify({"task_id": str(uuid.uuid4()), "length": len(body["prompt"])}), 202

    return app
