"""The gateway's composition root: settings in, what the application works with out."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from services.gateway.app import Dependencies
from services.gateway.fleet import Fleet
from services.gateway.prompt.validate import PromptValidator
from services.gateway.usecases import SubmitPolicy, Submitter
from shared.auth.bootstrap import key_store
from shared.clock import utc_now
from shared.contracts.model_card import load_model_cards
from shared.health import Health
from shared.messaging.gevent_publisher import GeventPublisher
from shared.messaging.subscription import Feed, Subscription
from shared.messaging.topology import WORKERS

if TYPE_CHECKING:
    from services.gateway.config import GatewaySettings


def gateway(settings: GatewaySettings) -> Dependencies:
    """Build everything, in the process that serves: a connection must not be shared over a fork.

    Raises ConfigurationError for settings, cards or plans that cannot be used.
    """
    cards = load_model_cards(settings.models_dir, settings.model_ids)
    registry = CollectorRegistry()
    keys = key_store(settings, registry)
    publisher = GeventPublisher(settings.amqp_url.get_secret_value(), f"gateway.{os.getpid()}")
    publisher.start()
    fleet = Fleet(cards)
    feed = Feed(exchange=WORKERS, prefix="gateway")
    # Without it tasks are priced by the cards alone, so it is no condition of readiness.
    Subscription(settings.amqp_url.get_secret_value(), f"gateway.{os.getpid()}.workers", feed, fleet.hear).start()
    policy = SubmitPolicy(
        cards=cards,
        default_model=settings.default_model or settings.model_ids[0],
        publish_timeout=settings.publish_timeout_seconds,
        start_within=settings.start_within_seconds,
        finish_within=settings.finish_within_seconds,
        max_run=settings.max_run_seconds,
    )
    source = random.SystemRandom()
    submitter = Submitter(
        policy=policy,
        prompts=PromptValidator(),
        publisher=publisher,
        fleet=fleet,
        clock=utc_now,
        draw_seed=lambda most: source.randint(0, most),
    )
    return Dependencies(
        submitter=submitter,
        authenticator=keys,
        cards=cards,
        fleet=fleet,
        health=Health({"broker": lambda: publisher.problem, "keys": keys.problem}, {"keys": keys.warning}),
        registry=registry,
        max_body_bytes=settings.max_body_bytes,
    )
