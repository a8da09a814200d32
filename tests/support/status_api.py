"""The status API over fakes, and the keys of two tenants."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry

from services.status.api.stream_events import news_event
from services.status.app import Dependencies, create_app
from services.status.cancelling import Cancelling
from services.status.lookup import TaskFinder
from services.status.store.deliveries_memory import MemoryDeliveryStore
from services.status.store.memory import MemoryTaskViewStore
from services.status.streams.follow import Sources
from services.status.streams.hub import NewsHub
from services.status.streams.metrics import StreamMetrics
from services.status.streams.registry import StreamLimits, StreamRegistry
from shared.contracts.event import ended_event
from shared.health import Health
from shared.ids import task_id_seconds
from shared.messaging.memory import MemoryBroker
from shared.messaging.topology import CONTROL, Binding, Queue, Topology, topology
from shared.storage.memory import MemoryStore
from shared.storage.records import TaskRecords
from tests.support.builders import MODEL, TASK_ID, TENANT, make_artifact, make_outcome, make_task
from tests.support.polling import PollingWaiter
from tests.support.tenants import PLANS, TenantWorld

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from shared.auth.plans import PlanBook
    from shared.contracts.event import TaskEvent

PICTURE: Final = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
SHA256: Final = hashlib.sha256(PICTURE).hexdigest()
WHOLE: Final = f"/api/v1/tasks/{TASK_ID}"
SHORT: Final = f"/status/{TASK_ID}"
ARTIFACT: Final = f"{WHOLE}/artifacts/0"
OPERATOR_KEY: Final = "operator-key-for-tests"
ORDERS: Final = "worker.worker-1.control"
LIMITS: Final = StreamLimits(all=4, per_tenant=3, heartbeat_seconds=15.0)
MADE_AT: Final = datetime.fromtimestamp(task_id_seconds(TASK_ID), UTC)


class PublicStore(MemoryStore):
    """A store that clients can reach once it is told so."""

    public = False

    def presign(self, key: str, *, seconds: int, save_as: str | None = None) -> str | None:
        name = f"&save_as={save_as}" if save_as else ""
        return f"https://store.example/{key}?expires={seconds}{name}" if self.public else None


class StatusApiWorld:
    """The application over fakes, and the keys of two tenants."""

    def __init__(self, plans: PlanBook = PLANS) -> None:
        self.views = MemoryTaskViewStore()
        self.deliveries = MemoryDeliveryStore(self.views)
        self.objects = PublicStore()
        self.broker = MemoryBroker(_with_a_worker(topology([MODEL])))
        self.proofs = 0
        self.records = TaskRecords(self.objects)
        self.now = MADE_AT + timedelta(hours=1)
        self.slept = 0.0
        self.problem: str | None = None
        self.tenants = TenantWorld(plans=plans)
        self.key, self.other_key = self.tenants.key_of(TENANT), self.tenants.key_of("other")
        finder = TaskFinder(
            store=self.views,
            waiter=PollingWaiter(self.views, clock=lambda: self.slept, sleep=self.sleep),
            records=self.records,
            clock=lambda: self.now,
        )
        self.registry = registry = CollectorRegistry()
        self.seconds = 0.0
        metrics = StreamMetrics(registry)
        self.hub = NewsHub(self.views, news_event, metrics, clock=lambda: self.seconds, now=lambda: self.now)
        sources = Sources(news=self.views, hub=self.hub, encode=news_event, sleep=self.sleep)
        self.streams = StreamRegistry(LIMITS, sources, metrics, clock=lambda: self.seconds)
        parts = Dependencies(
            finder=finder,
            objects=self.objects,
            gatekeeper=self.tenants.gatekeeper,
            health=Health(
                {"database": lambda: self.problem, "keys": self.tenants.keys.problem},
                {"keys": self.tenants.keys.warning},
            ),
            registry=registry,
            views=self.views,
            cancelling=Cancelling(
                views=self.views,
                work=self.views,
                records=self.records,
                publisher=self.broker,
                clock=lambda: self.now,
                prove_store=self.prove,
            ),
            deliveries=self.deliveries,
            clock=lambda: self.now,
            news=self.views,
            streams=self.streams,
            operator_key=OPERATOR_KEY,
        )
        self.client = create_app(parts).test_client()

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def prove(self) -> None:
        self.proofs += 1

    def apply(self, *events: TaskEvent) -> None:
        self.views.apply_events(events, seen_until=MADE_AT)

    def succeed(self, count: int = 1, *, tenant_id: str = TENANT) -> None:
        """The task has ended with so many pictures, which are in the bucket."""
        artifacts = []
        for number in range(count):
            key = f"tasks/{TASK_ID}/1-e/{number}.png"
            artifacts.append(make_artifact(key=key, bytes=len(PICTURE), sha256=SHA256, seed=7 + number))
            self.objects.put(key, PICTURE, media_type="image/png")
        self.apply(ended_event(make_outcome(task=make_task(tenant_id=tenant_id), artifacts=tuple(artifacts))))

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.client.get(path, headers={"Authorization": f"Bearer {self.key}", **headers})

    def delete(self, path: str = WHOLE, **headers: str) -> TestResponse:
        return self.client.delete(path, headers={"Authorization": f"Bearer {self.key}", **headers})

    def json(self, path: str, status: int = 200) -> dict[str, Any]:
        response = self.get(path)
        assert response.status_code == status, response.data
        body: dict[str, Any] = response.get_json(force=True)
        return body


def _with_a_worker(plan: Topology) -> Topology:
    """With the queue that a worker makes for the orders that it is given."""
    bound = Binding(CONTROL, ORDERS)
    return replace(plan, queues=(*plan.queues, Queue(ORDERS)), bindings=(*plan.bindings, bound))


def assert_problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.data
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = response.get_json(force=True)
    assert (body["status"], body["code"], body["error"]["code"]) == (status, code, code)
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["Cache-Control"] == "no-store"
    return body
