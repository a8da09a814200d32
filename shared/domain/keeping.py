"""How long results are kept, and for how long they are given to others. Pure.

Equal requests share artifacts: a task's outcome may name those of another task, whose time is over earlier. Nobody
keeps a list of who shares what. Instead a result is given again only while it is young, so that its age alone tells
until when somebody may still count on it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

DEFAULT_KEEP_DAYS: Final = 30
# From the submit of the task that made it.
REUSED_FOR: Final = timedelta(days=7)
# Between the decision to give a result and the end of the task that gets it.
_REUSE_TAKES: Final = timedelta(hours=1)
# A lead is taken before the start of a task, which ends within a week of its submit.
LEADS_KEPT_FOR: Final = 2 * REUSED_FOR
LEASES_KEPT_FOR: Final = timedelta(days=7)
PROBES_KEPT_FOR: Final = timedelta(days=1)
# An input image may be named for so long after it was last uploaded, and lasts as long as the task of its last use.
INPUTS_NAMED_FOR: Final = timedelta(days=3)
INPUTS_KEPT_FOR: Final = INPUTS_NAMED_FOR + REUSED_FOR + timedelta(days=1)


def may_be_given(now: datetime, made_at: datetime) -> bool:
    """Whether the result of a task that was submitted then may still answer another request."""
    return now - made_at < REUSED_FOR


def kept_until(submitted_at: datetime, ended_at: datetime, keep: timedelta, others: timedelta | None) -> datetime:
    """Until when a task's artifacts are kept.

    ``keep``: how long its tenant keeps results. ``others``: the longest that those do who may have been given this one,
    None where nobody may.
    """
    own = ended_at + keep
    return own if others is None else max(own, submitted_at + REUSED_FOR + _REUSE_TAKES + others)
