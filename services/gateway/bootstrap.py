"""The gateway's composition root: settings in, what the application works with out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter

from services.gateway.admission.guarded import GuardedAdmission
from services.gateway.admission.local import LocalAdmission
from services.gateway.admission.ports import Unlimited
from services.gateway.admission.redis_ledger import RedisLedger
from services.gateway.app import Dependencies
from services.gateway.ends import Ends
from services.gateway.fleet import Fleet
from services.gateway.idempotency.guarded import GuardedRecords
from services.gateway.idempotency.once import Once, RepeatPolicy
from services.gateway.idempotency.redis_records import RedisRecords
from services.gateway.images.fetching import ImageFetcher
from services.gateway.images.intake import Images
from services.gateway.plans import load_usable_plans
from services.gateway.prompt.check import PromptCheck
from services.gateway.prompt.tokens import TokenCounts
from services.gateway.prompt.validate import PromptValidator
from services.gateway.redis_client import connect
from services.gateway.results.cache import ResultCache
from services.gateway.results.near import NoNearResults, RedisResults
from services.gateway.retrying import Retries
from services.gateway.scheduling import Scheduling
from services.gateway.seeds import drawn_seed
from services.gateway.usecases import SubmitPolicy, Submitter
from shared.auth.bootstrap import key_store
from shared.clock import utc_now
from shared.contracts.model_card import load_model_cards
from shared.health import Health
from shared.http import outbound
from shared.http.auth import gatekeeper
from shared.messaging.depths import QueueDepths
from shared.messaging.gevent_publisher import RECONNECT_GRACE_SECONDS, GeventPublisher
from shared.messaging.subscription import Feed, Subscription
from shared.messaging.topology import WORKERS, work_queue
from shared.storage.records import TaskRecords
from shared.storage.s3 import Patience, S3Store

if TYPE_CHECKING:
    from services.gateway.config import GatewaySettings
    from services.gateway.results.near import NearResults

# A submit does not wait longer for a result that may be there: it can be made again.
_RESULTS_PATIENCE: Final = Patience(connect=0.2, read=0.5, tries=1)
# An end is written where a result was found, or where nobody knows what became of a publish.
_END_PATIENCE: Final = Patience(connect=0.5, read=2.0, tries=1)
# Of a submit with an image: a look, or one to count those that are kept and a write of megabytes.
_IMAGE_PATIENCE: Final = Patience(connect=0.5, read=4.0, tries=1)
_IMAGE_CALLS: Final = 3
# Looks into the bucket of a submit that finds its result: who has it, which task, how that ended, what is kept.
_BUCKET_LOOKS: Final = 4
# Of a submit, beside what it may wait for others: the checks, a turn among its process's greenlets, the answer.
_SUBMIT_MARGIN_SECONDS: Final = 2.0
# Calls of Redis in one submit, each of which may wait for a place in the pool, for the connection and for the answer.
_REDIS_WAITS: Final = 3 * 3


def gateway(settings: GatewaySettings) -> Dependencies:
    """Build everything, in the process that serves: a connection must not be shared over a fork.

    Raises ConfigurationError for settings, cards or plans that cannot be used.
    """
    cards = load_model_cards(settings.models_dir, settings.model_ids)
    registry = CollectorRegistry()
    plans = load_usable_plans(settings)
    keys = key_store(settings, plans, registry)
    publisher = GeventPublisher(settings.amqp_url.get_secret_value(), f"gateway.{os.getpid()}", settings.queue_type)
    publisher.start()
    fleet = Fleet(cards)
    feed = Feed(exchange=WORKERS, prefix="gateway.workers")
    # Without it tasks are priced by the cards alone, so it is no condition of readiness.
    Subscription(settings.amqp_url.get_secret_value(), f"gateway.{os.getpid()}.workers", feed, fleet.hear).start()
    images = _images(settings)
    policy = SubmitPolicy(
        cards=cards,
        prompts=PromptCheck(PromptValidator(), TokenCounts.load(cards, settings.models_dir)),
        images=images,
        default_model=settings.default_model or settings.model_ids[0],
        publish_timeout=settings.publish_timeout_seconds,
        start_within=settings.start_within_seconds,
        finish_within=settings.finish_within_seconds,
        max_run=settings.max_run_seconds,
        draw_seed=drawn_seed,
        clock=utc_now,
        outbound=settings.outbound_policy,
        max_waiting=settings.max_waiting,
        vip_reserve=settings.vip_reserve,
    )
    admission = _admission(settings, fleet, registry)
    results = _results(settings, fleet, registry)
    records = TaskRecords(S3Store(settings, _END_PATIENCE))
    submitter = Submitter(
        policy=policy,
        publisher=publisher,
        admission=admission,
        scheduling=Scheduling(fleet),
        results=results,
        ends=Ends(records, utc_now),
    )
    return Dependencies(
        submitter=submitter,
        once=_once(settings, registry),
        retries=Retries(records, admission),
        images=images,
        admission=admission,
        gatekeeper=gatekeeper(keys, settings, plans.anonymous, registry),
        cards=cards,
        fleet=fleet,
        health=Health(
            {"broker": lambda: publisher.problem, "keys": keys.problem},
            {"keys": keys.warning, "ledger": lambda: admission.problem, "results": lambda: results.problem},
        ),
        registry=registry,
        max_body_bytes=settings.max_body_bytes,
    )


def _admission(settings: GatewaySettings, fleet: Fleet, registry: CollectorRegistry) -> GuardedAdmission | Unlimited:
    if settings.redis_url is None:
        return Unlimited()
    client = connect(settings.redis_url.get_secret_value(), settings.redis_timeout_seconds)
    queues = {model: work_queue(model) for model in settings.model_ids}
    depths = QueueDepths(settings.amqp_url.get_secret_value(), f"gateway.{os.getpid()}.depth", queues)
    depths.start()
    fallbacks = Counter(
        "atelier_gateway_ledger_fallbacks_total", "Submits that this process decided on alone.", registry=registry
    )
    local = LocalAdmission(depths.read, fleet.workers)
    return GuardedAdmission(RedisLedger(client, fleet.workers), local, fallbacks)


def _images(settings: GatewaySettings) -> Images:
    policy = settings.outbound_policy
    patience = outbound.Patience(whole=settings.image_fetch_seconds)
    fetcher = ImageFetcher(outbound.Outbound(policy, patience), policy, settings.image_urls)
    return Images(S3Store(settings, _IMAGE_PATIENCE), fetcher, settings.image_limits, utc_now)


def _results(settings: GatewaySettings, fleet: Fleet, registry: CollectorRegistry) -> ResultCache:
    counts = Counter(
        "atelier_gateway_results_total", "Submits by what the look-up of results found.", ["found"], registry=registry
    )
    near: NearResults = NoNearResults()
    if settings.redis_url is not None:
        near = RedisResults(connect(settings.redis_url.get_secret_value(), settings.redis_timeout_seconds))
    return ResultCache(TaskRecords(S3Store(settings, _RESULTS_PATIENCE)), near, revision=fleet.revision, counts=counts)


def _once(settings: GatewaySettings, registry: CollectorRegistry) -> Once:
    replays = Counter(
        "atelier_gateway_replays_total", "Submits answered with an earlier request's task.", ["kind"], registry=registry
    )
    waits = settings.publish_timeout_seconds + RECONNECT_GRACE_SECONDS + _REDIS_WAITS * settings.redis_timeout_seconds
    waits += _BUCKET_LOOKS * _RESULTS_PATIENCE.longest + _END_PATIENCE.longest
    policy = RepeatPolicy(
        repeat_window=settings.repeat_window_seconds,
        publish_timeout=settings.publish_timeout_seconds,
        stale_after=waits + _SUBMIT_MARGIN_SECONDS,
        image_seconds=settings.image_fetch_seconds + _IMAGE_CALLS * _IMAGE_PATIENCE.longest,
    )
    if settings.redis_url is None:
        return Once(None, policy, replays)
    client = connect(settings.redis_url.get_secret_value(), settings.redis_timeout_seconds)
    return Once(GuardedRecords(RedisRecords(client)), policy, replays)
