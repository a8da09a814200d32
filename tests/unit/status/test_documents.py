from __future__ import annotations

import pytest

from services.status.store.documents import document_of
from services.status.view import TaskView
from shared.contracts.base import decode, encode
from shared.contracts.event import TaskEvent, ended_event, queued_event
from shared.domain.task import EventType
from tests.support.builders import make_event, make_outcome, make_params, make_task
from tests.support.views import replayed


@pytest.mark.parametrize("event_type", list(EventType))
def test_a_document_is_what_pydantic_would_write(event_type: EventType) -> None:
    task = make_task(callback="https://client.example/ü", callback_events=("started",), retry_of=make_task().task_id)
    event = decode(TaskEvent, encode(make_event(event_type, task)))
    view = replayed([event])
    assert TaskView.model_validate_json(document_of(view)) == view
    assert TaskView.model_validate_json(document_of(view)).model_dump() == view.model_dump()


def test_numbers_of_any_size_are_kept() -> None:
    task = make_task(params=make_params(seed=2**70))
    view = replayed([queued_event(task), ended_event(make_outcome(task=task))])
    assert TaskView.model_validate_json(document_of(view)) == view
