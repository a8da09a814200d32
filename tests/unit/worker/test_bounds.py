"""What a model's process says and leaves behind must not count against the tasks that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import pytest

from services.worker.bootstrap import _bound_files
from services.worker.errors import WorkFolderExceededError
from services.worker.planner import Capacity, DevicePlanner
from services.worker.ports import Plan
from services.worker.sandbox import Sandboxes
from shared.contracts.task import Predicted
from tests.support.builders import make_task

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("mebibytes", [1, 3])
def test_a_child_that_fills_its_folder_is_stopped_and_replaced(tmp_path: Path, mebibytes: int) -> None:
    sandboxes, supervisor, handler = Sandboxes(tmp_path / "root"), Mock(), Mock()
    sandboxes.sweep()
    (sandboxes.fresh_home() / "cache").write_bytes(b"x" * (2 << 20))
    _bound_files(cast("Any", Mock(sandboxes=sandboxes, supervisor=supervisor)), mebibytes, handler)
    stopped = [type(call.args[0]) for call in handler.interrupt.call_args_list]
    assert stopped == ([WorkFolderExceededError] if mebibytes == 1 else [])
    assert supervisor.recycle.called == (mebibytes == 1)


def test_a_tier_that_no_card_knows_is_learnt_as_the_planned_one() -> None:
    learner = Mock()
    planner = DevicePlanner(Mock(), learner, Capacity(memory_mb=1, highest_tier="resident"), Mock())
    planner.ran_out(make_task(), Plan(tier="tiled"), "../../etc")
    assert [call.args[1] for call in learner.remember_oom.call_args_list] == ["tiled"]


@pytest.mark.parametrize(
    ("fitting", "room", "expected"),
    [("resident", True, 700), ("tiled", True, 700), ("offload", True, None), ("tiled", False, None)],
)
def test_tasks_are_planned_together_at_the_tier_of_the_first_and_only_where_there_is_room_now(
    fitting: str, room: bool, expected: int | None
) -> None:
    learner, gate = Mock(), Mock()
    learner.tier_for.return_value = fitting
    learner.predict.return_value = Predicted(gpu_seconds=3.0, vram_mb=700)
    gate.fits_now.return_value = room
    planner = DevicePlanner(gate, learner, Capacity(memory_mb=1000, highest_tier="resident"), Mock())
    plan = Plan(tier="tiled", seconds=1.0, memory_mb=500, figures={"predicted_mb": 500, "device_name": "GPU"})
    together = planner.plan_together(make_task(), plan)
    assert (None if together is None else together.memory_mb) == expected
    if together is not None:
        assert (together.tier, together.seconds) == ("tiled", 3.0)
        assert together.figures == {"predicted_mb": 700, "device_name": "GPU"}
        gate.fits_now.assert_called_once_with(700)
