from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from shared.logging import bind, bound, configure, get_logger, unbind_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    configure("unit", stream=stream)
    unbind_all()
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    unbind_all()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = before[0], before[1]


def test_our_lines_and_a_librarys_have_one_shape(lines: Callable[[], list[dict[str, Any]]]) -> None:
    bind(task_id="t", tenant_id="acme", request_id="r", trace_id="x")
    get_logger("ours").info("task_started", attempt=2)
    logging.getLogger("library").warning("it %s", "happened")
    ours, theirs = lines()
    assert ours["message"] == "task_started"
    assert ours["attempt"] == 2
    assert theirs["message"] == "it happened"
    for line in (ours, theirs):
        assert line["service.name"] == "unit"
        assert (line["task_id"], line["tenant_id"], line["request_id"], line["trace.id"]) == ("t", "acme", "r", "x")
        assert line["@timestamp"].endswith("Z")
    assert (ours["log.level"], theirs["log.level"]) == ("info", "warning")
    assert (ours["log.logger"], theirs["log.logger"]) == ("ours", "library")


def test_context_of_a_block_ends_with_it(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log = get_logger("ours")
    with bound(task_id="inner", tenant_id=None):
        log.info("inside")
    log.info("outside")
    inside, outside = lines()
    assert inside["task_id"] == "inner"
    assert "tenant_id" not in inside
    assert "task_id" not in outside


def test_an_exception_is_one_line_with_its_stack(lines: Callable[[], list[dict[str, Any]]]) -> None:
    try:
        raise ValueError("broken")  # noqa: TRY301, EM101 - the test's own
    except ValueError:
        get_logger("ours").exception("it_broke")
        logging.getLogger("library").exception("it broke")
    ours, theirs = lines()
    assert "ValueError: broken" in ours["error.stack_trace"]
    assert "ValueError: broken" in theirs["error.stack_trace"]


def test_lines_below_the_level_are_not_written(lines: Callable[[], list[dict[str, Any]]]) -> None:
    get_logger("ours").debug("quiet")
    logging.getLogger("library").debug("quiet")
    logging.getLogger("pika").error("a stack for each refused connection")
    logging.getLogger("botocore").info("narrates every call")
    assert lines() == []


def test_whatever_a_library_logs_can_be_written(lines: Callable[[], list[dict[str, Any]]]) -> None:
    get_logger("ours").info("odd", thing=object(), number=10**30, text="\ud800")
    assert len(lines()) == 1
