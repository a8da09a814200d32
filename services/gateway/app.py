"""The gateway as a Flask application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask

from services.gateway.api.generate import generate_blueprint, models_blueprint
from services.gateway.api.images import images_blueprint
from services.gateway.api.problems import install_refusals
from services.gateway.api.retry import retry_blueprint
from shared.http.health import health_blueprint
from shared.http.metrics import install_metrics
from shared.http.request_context import install_request_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

    from services.gateway.admission.ports import Admission
    from services.gateway.fleet import Fleet
    from services.gateway.idempotency.once import Once
    from services.gateway.images.intake import Images
    from services.gateway.retrying import Retries
    from services.gateway.usecases import Submitter
    from shared.contracts.model_card import ModelCard
    from shared.health import Health
    from shared.http.auth import Gatekeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What the application works with."""

    submitter: Submitter
    once: Once
    retries: Retries
    images: Images
    admission: Admission
    gatekeeper: Gatekeeper
    cards: Mapping[str, ModelCard]
    fleet: Fleet
    health: Health
    registry: CollectorRegistry
    max_body_bytes: int


def create_app(parts: Dependencies) -> Flask:
    """The application; it does nothing before its first request."""
    app = Flask("services.gateway", static_folder=None)
    # Werkzeug cuts a body without a declared length here, without a word; the byte too much tells that it did.
    app.config["MAX_CONTENT_LENGTH"] = parts.max_body_bytes + 1
    install_request_context(app)
    install_metrics(app, parts.registry)
    install_refusals(app)
    app.register_blueprint(generate_blueprint(parts.submitter, parts.once, parts.gatekeeper, parts.max_body_bytes))
    app.register_blueprint(
        retry_blueprint(parts.submitter, parts.once, parts.retries, parts.gatekeeper, parts.max_body_bytes)
    )
    app.register_blueprint(images_blueprint(parts.images, parts.admission, parts.gatekeeper))
    app.register_blueprint(models_blueprint(parts.cards, parts.fleet, parts.gatekeeper))
    app.register_blueprint(health_blueprint(parts.health, parts.registry))
    return app
