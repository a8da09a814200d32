"""Work that was done before, through the public entrance: two gateways, Redis, the bucket and a worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import redis

from tests.support.waiting import until

if TYPE_CHECKING:
    import httpx

    from tests.support.native import NativeStack

SECONDS: Final = 60
MODEL: Final = "simulated"
HIT, MISS = "atelier; hit", "atelier; fwd=miss"


def submit(stack: NativeStack, **body: Any) -> httpx.Response:  # noqa: ANN401 - any field
    answer = stack.post("/api/v1/generate", {"model": MODEL, **body})
    assert answer.status_code in {200, 202}, answer.text
    return answer


def ended(stack: NativeStack, answer: httpx.Response) -> dict[str, Any]:
    task_id = answer.json()["task_id"]
    view = until(lambda: _final(stack.get(f"/api/v1/tasks/{task_id}", wait=20).json()), SECONDS, "the task's end")
    assert view is not None
    return view


def _final(view: dict[str, Any]) -> dict[str, Any] | None:
    return view if view.get("state") in {"succeeded", "failed", "expired"} else None


def picture(stack: NativeStack, view: dict[str, Any]) -> bytes:
    answer = stack.get(view["artifacts"][0]["url"])
    assert answer.status_code == 200
    return answer.content


def near(stack: NativeStack) -> redis.Redis:
    url = stack.stack.environment_of("gateway-1")["ATELIER_REDIS_URL_FILE"]
    with open(url, encoding="utf-8") as file:  # noqa: PTH123 - a path from the environment
        return redis.Redis.from_url(file.read().strip(), decode_responses=True)


def reused(stack: NativeStack) -> int:
    """How many tasks the worker has ended with another's result."""
    with (stack.stack.site.layout.logs / "worker-simulated.log").open("rb") as file:
        return sum(b'"task_reused"' in line for line in file)


def started(stack: NativeStack) -> int:
    with (stack.stack.site.layout.logs / "worker-simulated.log").open("rb") as file:
        return sum(b'"task_started"' in line for line in file)


def warm(stack: NativeStack) -> None:
    """Until both gateways have heard which revision the worker has, and nothing is on its way."""
    until(lambda: {submit(stack, prompt="warm", seed=1).headers["Cache-Status"] for _ in range(4)} == {HIT}, SECONDS)
    until(lambda: near(stack).hlen("atelier:ledger:tasks") == 0, SECONDS, "an empty ledger")


def test_finished_work_is_answered_at_once_also_after_redis_has_lost_it(stack: NativeStack) -> None:
    warm(stack)
    first = submit(stack, prompt="a quiet pond", seed=5)
    assert (first.status_code, first.headers["Cache-Status"]) == (202, MISS)
    made = ended(stack, first)
    begun = started(stack)
    for lose in (False, False, True):
        if lose:
            assert near(stack).delete(*near(stack).keys("atelier:result:*")) > 0
        # A repeat within seconds would be answered with the first task itself; another key makes it a new request.
        answer = stack.post_keyed("/api/v1/generate", {"model": MODEL, "prompt": "a quiet pond", "seed": 5})
        assert (answer.status_code, answer.headers["Cache-Status"]) == (200, HIT)
        view = ended(stack, answer)
        assert view["task_id"] != made["task_id"]
        assert (view["state"], view["attempt"], view["started_at"]) == ("succeeded", 1, None)
        assert (view["receipt"]["cache"], view["receipt"]["made_by"]) == ("hit", made["task_id"])
        assert picture(stack, view) == picture(stack, made)
    assert started(stack) == begun


def test_equal_tasks_on_their_way_are_computed_once(stack: NativeStack) -> None:
    warm(stack)
    begun, taken = started(stack), reused(stack)
    body = {"model": MODEL, "prompt": "a wide bay", "seed": 6, "steps": 40}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: stack.post_keyed("/api/v1/generate", body), range(8)))
    views = [ended(stack, answer) for answer in answers]
    assert {view["state"] for view in views} == {"succeeded"}
    assert len({view["task_id"] for view in views}) == 8
    assert len({view["artifacts"][0]["sha256"] for view in views}) == 1
    assert started(stack) == begun + 1
    assert reused(stack) == taken + 7


def test_whoever_takes_any_is_given_what_is_there_and_off_makes_a_new_one(stack: NativeStack) -> None:
    warm(stack)
    made = ended(stack, submit(stack, prompt="a steep coast", seed=9))
    any_one = submit(stack, prompt="a steep coast", cache="any")
    assert (any_one.headers["Cache-Status"], any_one.json()["seed"]) == (HIT, 9)
    assert ended(stack, any_one)["artifacts"][0]["sha256"] == made["artifacts"][0]["sha256"]
    new = stack.post_keyed("/api/v1/generate", {"model": MODEL, "prompt": "a steep coast", "seed": 9, "cache": "off"})
    assert (new.status_code, new.headers["Cache-Status"]) == (202, "atelier; fwd=bypass")


def test_another_tenant_makes_its_own(stack: NativeStack) -> None:
    warm(stack)
    body = {"model": MODEL, "prompt": "a deep fjord", "seed": 10}
    ended(stack, submit(stack, **body))
    answer = stack.post_as("vip", "/api/v1/generate", body)
    assert (answer.status_code, answer.headers["Cache-Status"]) == (202, MISS)


def test_the_ledger_is_empty_again_after_a_hit(stack: NativeStack) -> None:
    warm(stack)
    body = {"model": MODEL, "prompt": "a low dune", "seed": 11}
    ended(stack, submit(stack, **body))
    for _ in range(3):
        assert stack.post_keyed("/api/v1/generate", body).status_code == 200
    client = near(stack)
    until(lambda: client.hlen("atelier:ledger:tasks") == 0, SECONDS, "an empty ledger")
