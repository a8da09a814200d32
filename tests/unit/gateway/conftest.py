"""The real application over fakes: a broker in memory, a fixed clock, a drawn seed that is always the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.gateway.admission.ports import Unlimited
from services.gateway.app import Dependencies, create_app
from services.gateway.ends import Ends
from services.gateway.fleet import Fleet
from services.gateway.idempotency.memory import MemoryRecords
from services.gateway.idempotency.once import Once, RepeatPolicy
from services.gateway.images.fetching import ImageFetcher
from services.gateway.images.intake import Images
from services.gateway.images.limits import ImageLimits
from services.gateway.prompt.check import PromptCheck
from services.gateway.prompt.tokens import TokenCounts
from services.gateway.prompt.validate import PromptValidator
from services.gateway.results.cache import ResultCache
from services.gateway.results.near import NoNearResults
from services.gateway.retrying import Retries
from services.gateway.scheduling import Scheduling
from services.gateway.usecases import SubmitPolicy, Submitter
from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.contracts.model_card import ModelCard, load_model_cards
from shared.contracts.task import TaskMessage
from shared.domain.errors import ConnectionFailedError, OutboundError
from shared.domain.outbound import OutboundPolicy
from shared.health import Health
from shared.http.outbound import OutboundAnswer
from shared.messaging.memory import MemoryBroker
from shared.messaging.topology import STATUS_EVENTS, topology, work_queue
from shared.storage.memory import MemoryStore
from shared.storage.records import TaskRecords
from tests.support.tenants import TenantWorld

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from services.gateway.admission.ports import Admission
    from shared.domain.errors import AtelierError
    from shared.http.outbound import OutboundRequest
    from shared.messaging.ports import OutboundMessage

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DRAWN_SEED = 4711
MODELS = ("tiny-newbie", "simulated")
MODELS_DIR = Path(__file__).parents[3] / "models"
MAX_BODY_BYTES = 262144
IMAGE_LIMITS = ImageLimits(most_bytes=65536, most_side=8192, most_pixels=40_000_000, most_kept=3, places=1)
REPEATS = RepeatPolicy(repeat_window=10.0, publish_timeout=1.0, stale_after=4.0)


class FakePublisher:
    """A SubmitPublisher over the memory broker that can be told to fail."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.failure: AtelierError | None = None
        self.problem: str | None = None

    def publish(self, *messages: OutboundMessage, timeout: float) -> None:
        if self.failure is not None:
            raise self.failure
        self._broker.publish(*messages, timeout=timeout)


class FakeWeb:
    """Whoever fetches from it gets what is set, and each URL is noted."""

    def __init__(self) -> None:
        self.answer: OutboundAnswer | OutboundError = ConnectionFailedError()
        self.asked: list[str] = []

    def send(self, request: OutboundRequest) -> OutboundAnswer:
        self.asked.append(request.url)
        if isinstance(self.answer, OutboundError):
            raise self.answer
        return self.answer

    def serves(self, body: bytes, status: int = 200, *, complete: bool = True) -> None:
        self.answer = OutboundAnswer(status=status, headers={}, body=body, complete=complete)


class KnownOpen(dict[str, str]):
    """OpenTasks by hand: the tenant of each."""

    def owner(self, task_id: str) -> str | None:
        return self.get(task_id)


@dataclass
class Gateway:
    client: FlaskClient
    broker: MemoryBroker
    publisher: FakePublisher
    cards: dict[str, ModelCard]
    key: str
    vip_key: str
    fleet: Fleet
    tenants: TenantWorld
    submitter: Submitter
    records: MemoryRecords
    store: MemoryStore
    open_tasks: KnownOpen
    web: FakeWeb
    images: Images

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def tasks(self, model: str = "tiny-newbie") -> list[TaskMessage]:
        return [decode(TaskMessage, message.body) for message in self.broker.messages(work_queue(model))]

    def events(self) -> list[TaskEvent]:
        return [decode(TaskEvent, message.body) for message in self.broker.messages(STATUS_EVENTS)]

    def published(self) -> int:
        return sum(self.broker.depth(queue.name) for queue in topology(MODELS).queues)


@pytest.fixture(scope="session")
def prompts() -> PromptValidator:
    return PromptValidator()


@pytest.fixture
def gateway(prompts: PromptValidator) -> Gateway:
    return gateway_over(prompts, TenantWorld(), Unlimited())


def gateway_over(prompts: PromptValidator, tenants: TenantWorld, admission: Admission) -> Gateway:
    broker = MemoryBroker(topology(MODELS))
    publisher = FakePublisher(broker)
    cards = load_model_cards(MODELS_DIR, MODELS)
    key, vip_key = tenants.key_of("acme"), tenants.key_of("zeus", "vip")
    store, open_tasks, web = MemoryStore(lambda: NOW), KnownOpen(), FakeWeb()
    fetcher = ImageFetcher(web, OutboundPolicy(), "https")
    images = Images(store, fetcher, IMAGE_LIMITS, lambda: NOW, pause=lambda _seconds: None)
    policy = SubmitPolicy(
        cards=cards,
        prompts=PromptCheck(prompts, TokenCounts.load(cards, MODELS_DIR)),
        images=images,
        default_model="tiny-newbie",
        publish_timeout=1.0,
        start_within=3600.0,
        finish_within=7200.0,
        max_run=21600.0,
        draw_seed=lambda _task_id, _most: DRAWN_SEED,
        clock=lambda: NOW,
    )
    fleet = Fleet(cards)
    registry = CollectorRegistry()
    found = Counter("found", "x", ["found"], registry=registry)
    results = ResultCache(TaskRecords(store), NoNearResults(), revision=fleet.revision, counts=found)
    replays = Counter("replays", "x", ["kind"], registry=registry)
    submitter = Submitter(
        policy=policy,
        publisher=publisher,
        admission=admission,
        scheduling=Scheduling(fleet),
        results=results,
        ends=Ends(TaskRecords(store), lambda: NOW),
    )
    records = MemoryRecords(lambda: 0.0)
    app = create_app(
        Dependencies(
            submitter=submitter,
            retries=Retries(TaskRecords(store), open_tasks),
            once=Once(records, REPEATS, replays, clock=lambda: 0.0),
            images=images,
            admission=admission,
            gatekeeper=tenants.gatekeeper,
            cards=cards,
            fleet=fleet,
            health=Health(
                {"broker": lambda: publisher.problem, "keys": tenants.keys.problem}, {"keys": tenants.keys.warning}
            ),
            registry=registry,
            max_body_bytes=MAX_BODY_BYTES,
        )
    )
    return Gateway(
        app.test_client(),
        broker,
        publisher,
        cards,
        key,
        vip_key,
        fleet,
        tenants,
        submitter,
        records,
        store,
        open_tasks,
        web,
        images,
    )
