"""One try of a callback and what follows; how many are made at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from services.status.webhooks.courier import Courier, Result
from services.status.webhooks.crowd import Crowd, Limits
from services.status.webhooks.deliveries import GIVE_UP_AFTER, Delivery, DeliveryState, Line
from services.status.webhooks.notices import Notice
from services.status.webhooks.schedule import DELAYS, MOST_TRIES, next_due, retry_after_seconds
from services.status.webhooks.secrets import FRESH_SECONDS, SigningSecrets
from shared.domain.errors import AddressRefusedError, OutboundError, OutboundTimeoutError
from shared.http.outbound import OutboundAnswer, OutboundRequest
from tests.support.tenants import TenantWorld

if TYPE_CHECKING:
    from shared.http.outbound import Outbound

URL = "https://example.com/hook"
NOTICE = Notice(
    webhook_id="msg_019b8e1b78007abc8def0123456789ab_1_succeeded",
    task_id="019b8e1b-7800-7abc-8def-0123456789ab",
    tenant_id="acme",
    url=URL,
    type="task.succeeded",
    body='{"type":"task.succeeded","data":{"ü":1}}',
    created_at=datetime(2026, 1, 5, tzinfo=UTC),
)


class FakeOutbound:
    """Answers as it is told, and keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[OutboundRequest] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.failure: OutboundError | None = None

    def send(self, request: OutboundRequest) -> OutboundAnswer:
        self.sent.append(request)
        if self.failure is not None:
            raise self.failure
        return OutboundAnswer(status=self.status, headers=self.headers, body=b"x", complete=True)


class NothingDisabled:
    """As much of a DeliveryStore as a courier asks for."""

    def __init__(self) -> None:
        self.disabled = False

    def is_disabled(self, tenant_id: str, url: str) -> bool:
        return self.disabled and (tenant_id, url) == ("acme", URL)


class World:
    def __init__(self) -> None:
        # The library that checks signatures has no clock to set.
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.seconds = 0.0
        self.tenants = TenantWorld()
        self.tenants.operator.create_tenant("acme", "standard")
        self.secret = self.tenants.operator.create_webhook_secret("acme").text
        self.outbound: FakeOutbound = FakeOutbound()
        self.store = NothingDisabled()
        secrets = SigningSecrets(self.tenants.store, self.tenants.now, lambda: self.seconds)
        self.courier = Courier(
            store=self.store,  # type: ignore[arg-type] # it is asked for nothing else
            secrets=secrets,
            outbound=_as_outbound(self.outbound),
            clock=lambda: self.now,
            draw=lambda: 0.5,
        )
        self.delivery = Delivery(
            notice=NOTICE,
            state=DeliveryState.PENDING,
            tries=0,
            due_at=self.now + timedelta(seconds=45),
            until=self.now + GIVE_UP_AFTER,
            attempts=(),
        )

    def deliver(self, status: int = 200, *, tries: int = 0, retry_after: str | None = None) -> Result:
        self.outbound.status = status
        self.outbound.headers = {} if retry_after is None else {"retry-after": retry_after}
        return self.courier.deliver(replace(self.delivery, tries=tries))

    def verifies(self, secret: str) -> bool:
        request = self.outbound.sent[-1]
        try:
            Webhook(secret).verify(request.body or b"", dict(request.headers))
        except WebhookVerificationError:
            return False
        return True


def _as_outbound(fake: FakeOutbound) -> Outbound:
    return fake  # type: ignore[return-value] # the network is tests/integration/test_outbound.py's


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_a_2xx_is_a_success_and_the_receivers_library_verifies_it(world: World, status: int) -> None:
    result = world.deliver(status)
    assert (result.delivery.state, result.delivery.tries, result.healthy) == (DeliveryState.DELIVERED, 1, True)
    (request,) = world.outbound.sent
    assert (request.method, request.url, request.body) == ("POST", URL, NOTICE.body.encode())
    assert request.headers["webhook-id"] == NOTICE.webhook_id
    assert request.headers["Content-Type"] == "application/json"
    assert world.verifies(world.secret)
    assert not world.verifies("whsec_" + "A" * 32)


def test_every_secret_in_force_signs_and_no_other(world: World) -> None:
    operator = world.tenants.operator
    revoked = operator.create_webhook_secret("acme")
    operator.revoke_webhook_secret(revoked.id)
    new = operator.create_webhook_secret("acme", overlap=timedelta(hours=1)).text
    world.deliver()
    assert [world.verifies(secret) for secret in (world.secret, revoked.text, new)] == [True, False, True]
    assert len(world.outbound.sent[-1].headers["webhook-signature"].split()) == 2
    world.tenants.seconds = 3600.0
    world.deliver()
    assert [world.verifies(secret) for secret in (world.secret, new)] == [False, True]


def test_a_revoked_secret_signs_no_more_after_seconds(world: World) -> None:
    world.deliver()
    for secret in world.tenants.operator.webhook_secrets("acme"):
        world.tenants.operator.revoke_webhook_secret(secret.id)
    assert world.deliver().delivery.state is DeliveryState.DELIVERED
    world.seconds = FRESH_SECONDS
    result = world.deliver()
    assert (result.delivery.state, result.delivery.attempts[-1].error) == (DeliveryState.DISABLED, "no_webhook_secret")
    assert len(world.outbound.sent) == 2


def test_a_tenant_store_that_is_away_costs_no_try(world: World) -> None:
    world.tenants.store.available = False
    result = world.deliver()
    assert (result.delivery.state, result.delivery.tries, result.healthy) == (DeliveryState.PENDING, 0, None)
    assert result.delivery.due_at == world.now + timedelta(seconds=30)
    assert world.outbound.sent == []


@pytest.mark.parametrize(
    ("status", "healthy"), [(302, True), (400, True), (404, True), (429, False), (500, False), (503, False)]
)
def test_any_other_answer_is_a_failure_and_tried_again(world: World, status: int, healthy: bool) -> None:
    result = world.deliver(status)
    tried = result.delivery
    assert (tried.state, tried.tries, result.healthy) == (DeliveryState.PENDING, 1, healthy)
    assert tried.due_at == world.now + timedelta(seconds=DELAYS[0] * 1.1)
    assert (tried.attempts[-1].status, tried.attempts[-1].error) == (status, None)


@pytest.mark.parametrize("failure", [OutboundTimeoutError(), AddressRefusedError()])
def test_no_answer_is_a_failure_and_told_by_its_code_alone(world: World, failure: OutboundError) -> None:
    world.outbound.failure = failure
    result = world.deliver()
    assert (result.delivery.state, result.healthy) == (DeliveryState.PENDING, False)
    assert (result.delivery.attempts[-1].status, result.delivery.attempts[-1].error) == (None, failure.code)


def test_gone_disables_the_url_and_what_comes_later_is_not_sent(world: World) -> None:
    result = world.deliver(410)
    assert (result.delivery.state, result.disable) == (DeliveryState.DISABLED, True)
    world.store.disabled = True
    result = world.deliver()
    assert (result.delivery.state, result.disable) == (DeliveryState.DISABLED, False)
    assert result.delivery.attempts[-1].error == "gone"
    assert len(world.outbound.sent) == 1


def test_patience_that_is_asked_for_is_had_within_bounds(world: World) -> None:
    def due(header: str) -> float:
        return (world.deliver(503, retry_after=header).delivery.due_at - world.now).total_seconds()

    assert due("120") == 120
    assert due("1") == DELAYS[0] * 1.1
    assert due("99999999999") == 6 * 3600
    assert due("soon") == DELAYS[0] * 1.1


def test_the_last_try_is_the_last(world: World) -> None:
    assert world.deliver(500, tries=MOST_TRIES - 2).delivery.state is DeliveryState.PENDING
    assert world.deliver(500, tries=MOST_TRIES - 1).delivery.state is DeliveryState.GIVEN_UP


def test_of_many_tries_the_last_few_are_kept(world: World) -> None:
    for number in range(MOST_TRIES + 5):
        world.delivery = replace(world.deliver(400 + number, tries=1).delivery, state=DeliveryState.PENDING)
    assert [each.status for each in world.delivery.attempts] == list(range(405, 405 + MOST_TRIES))


def test_the_tries_take_a_day() -> None:
    assert timedelta(hours=20) < timedelta(seconds=sum(DELAYS)) < timedelta(hours=24)
    now = NOTICE.created_at
    most = sum(
        ((next_due(tries, now, retry_after=None, draw=lambda: 1.0) or now) - now for tries in range(1, MOST_TRIES)),
        timedelta(),
    )
    assert most < GIVE_UP_AFTER


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("30", 30.0),
        ("Mon, 05 Jan 2026 00:01:00 GMT", 60.0),
        ("Sun, 04 Jan 2026 23:59:00 GMT", -60.0),
        ("-5", None),
        ("\u00b2", None),
        ("1.5", None),
        (f"Mon, 05 Jan {'9' * 40} 00:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOTICE.created_at) == seconds


T0 = NOTICE.created_at


def lines(*names: str) -> list[Line]:
    return [Line(name, T0) for name in names]


def test_a_host_that_many_call_is_everybodys_whatever_they_are_called() -> None:
    crowd = Crowd(Limits(slots=64, tenant=16, host=16, line=4))
    waiting = lines(*(f"{tenant} shared.example" for tenant in ("amy", "bob", "cat", "dan", "zoe")))
    begun: list[str] = []
    made: Counter[str] = Counter()
    for _ in range(500):
        for name, count in crowd.places(waiting, T0).items():
            for _ in range(count):
                crowd.begin(name)
                begun.append(name)
        name = begun.pop(0)
        crowd.end(name, healthy=True, now=T0)
        made[name] += 1
    assert min(made[line.name] for line in waiting) > 80


def test_each_line_gets_a_place_before_any_gets_a_second() -> None:
    crowd = Crowd(Limits(slots=5, tenant=10, host=10, line=4))
    assert crowd.places(lines("a x", "a y", "b x"), T0) == {"a x": 2, "a y": 2, "b x": 1}


def test_no_tenant_host_or_line_takes_all_places() -> None:
    crowd = Crowd(Limits(slots=100, tenant=6, host=5, line=4))
    assert crowd.places(lines("a x", "a y", "a z"), T0) == {"a x": 2, "a y": 2, "a z": 2}
    assert crowd.places(lines("a x", "b x", "c y"), T0) == {"a x": 3, "b x": 2, "c y": 4}
    for _ in range(4):
        crowd.begin("a x")
    assert crowd.places(lines("a x", "a y", "b x"), T0) == {"a y": 2, "b x": 1}
    assert crowd.under_way == 4
    crowd.end("a x", healthy=True, now=T0)
    assert crowd.places(lines("a x"), T0) == {"a x": 1}


class TestALineThatFails:
    @pytest.fixture
    def crowd(self) -> Crowd:
        crowd = Crowd(Limits(failures=3, pause=10.0, longest_pause=25.0))
        for _ in range(3):
            self.fail(crowd, T0)
        return crowd

    @staticmethod
    def fail(crowd: Crowd, at: datetime, name: str = "a x") -> None:
        crowd.begin(name)
        crowd.end(name, healthy=False, now=at)

    def test_is_left_alone_and_others_are_not(self, crowd: Crowd) -> None:
        assert crowd.places(lines("a x", "a y", "b x"), T0) == {"a y": 4, "b x": 4}
        assert crowd.left_alone(T0) == 1

    def test_then_one_tries_and_its_failure_doubles_the_pause_up_to_a_bound(self, crowd: Crowd) -> None:
        at = T0
        for seconds in (10, 20, 25, 25):
            assert crowd.places(lines("a x"), at + timedelta(seconds=seconds - 1)) == {}
            at += timedelta(seconds=seconds)
            assert crowd.places(lines("a x"), at) == {"a x": 1}
            self.fail(crowd, at)

    def test_and_its_success_opens_the_line(self, crowd: Crowd) -> None:
        crowd.begin("a x")
        assert crowd.places(lines("a x"), T0 + timedelta(seconds=10)) == {}
        crowd.end("a x", healthy=True, now=T0 + timedelta(seconds=10))
        assert crowd.places(lines("a x"), T0) == {"a x": 4}

    def test_failures_that_were_under_way_together_count_once(self, crowd: Crowd) -> None:
        self.fail(crowd, T0)
        assert crowd.places(lines("a x"), T0 + timedelta(seconds=10)) == {"a x": 1}

    def test_what_was_not_asked_of_the_host_says_nothing(self, crowd: Crowd) -> None:
        crowd.begin("a x")
        crowd.end("a x", healthy=None, now=T0)
        assert crowd.places(lines("a x"), T0) == {}

    def test_a_success_in_between_begins_the_count_anew(self) -> None:
        crowd = Crowd(Limits(failures=3))
        for healthy in (False, False, True, False, False):
            crowd.begin("a x")
            crowd.end("a x", healthy=healthy, now=T0)
        assert crowd.places(lines("a x"), T0) == {"a x": 4}
