"""What makes two tasks the same work, and how one ends with another's result."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from shared.contracts.base import decode, encode
from shared.contracts.cache import Sameness, cache_key, reused, scope_of
from shared.contracts.outcome import Outcome
from shared.domain.settle import may_await_twin
from shared.domain.task import TaskState
from shared.ids import new_task_id
from tests.support.builders import NOW, make_artifact, make_image, make_outcome, make_params, make_task

PARAMS = make_params()
OTHERS: dict[str, Any] = {
    "prompt": "a lighthouse at dawn",
    "prompt_format": "xml",
    "negative_prompt": "blur",
    "width": 128,
    "height": 128,
    "steps": 5,
    "guidance": 4.6,
    "seed": 8,
    "count": 2,
    "num_frames": 5,
    "image": make_image(),
}


def key(sameness: Sameness = Sameness.SEED, *, scope: str = "tenant/acme", revision: str = "r", **changes: Any) -> str:  # noqa: ANN401 - any parameter
    return cache_key(scope, "simulated", revision, make_params(**changes), sameness)


def test_every_parameter_belongs_to_the_work() -> None:
    assert set(OTHERS) == set(type(PARAMS).model_fields)
    keys = {key()} | {key(**{name: value}) for name, value in OTHERS.items()}
    assert len(keys) == len(OTHERS) + 1
    assert key() == key()


def test_an_image_is_its_content_and_not_where_it_lies() -> None:
    same = make_image(key=f"inputs/zeus/{'1' * 64}.png")
    assert key(image=make_image()) == key(image=same)
    other = make_image(key=f"inputs/acme/{'2' * 64}.png", sha256="2" * 64)
    assert key(image=make_image()) != key(image=other)


def test_for_any_result_the_seed_alone_does_not_matter() -> None:
    keys = {key(Sameness.ANY)} | {key(Sameness.ANY, **{name: value}) for name, value in OTHERS.items()}
    assert len(keys) == len(OTHERS)
    assert key(Sameness.ANY) == key(Sameness.ANY, seed=8)
    assert key(Sameness.ANY) != key(Sameness.SEED)


def test_scope_model_and_revision_belong_to_it_too() -> None:
    other_model = cache_key("tenant/acme", "tiny-newbie", "r", PARAMS, Sameness.SEED)
    assert len({key(), key(scope="tenant/zeus"), key(revision="s"), other_model}) == 4
    assert scope_of(key(scope="tenant/zeus")) == "tenant/zeus"


@pytest.mark.parametrize("same_tenant", [True, False])
def test_a_reused_result_is_the_tasks_own_end_with_the_others_artifacts(*, same_tenant: bool) -> None:
    made = make_outcome(artifacts=(make_artifact(),))
    task = make_task(
        task_id=new_task_id(), tenant_id="acme" if same_tenant else "zeus", params=make_params(seed=99), attempt=2
    )
    outcome = decode(Outcome, encode(reused(task, made, worker="w", at=NOW + timedelta(seconds=2))))
    assert (outcome.state, outcome.attempt, outcome.worker) == (TaskState.SUCCEEDED, 2, "w")
    assert outcome.task == task.model_copy(update={"params": make_params(seed=made.task.params.seed)})
    assert outcome.artifacts == made.artifacts
    assert outcome.execution != made.execution
    # It never ran, so it is not billed; whose work it was is the business of that tenant alone.
    assert outcome.started_at is None
    assert outcome.timings == {"queued": 2.0, "total": 2.0}
    assert outcome.receipt == {**made.receipt, "cache": "hit"} | ({"made_by": made.task.task_id} if same_tenant else {})


def test_a_task_waits_for_its_twin_until_half_of_its_time_is_over() -> None:
    deadline = NOW + timedelta(seconds=60)
    assert may_await_twin(NOW, NOW, deadline)
    assert may_await_twin(NOW + timedelta(seconds=29.9), NOW, deadline)
    assert not may_await_twin(NOW + timedelta(seconds=30), NOW, deadline)
