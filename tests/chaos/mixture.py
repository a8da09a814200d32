"""A seeded mixture of tasks, and which ends are right for each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from shared.clock import utc_now
from shared.domain.task import Lane, TaskState
from shared.ids import new_task_id
from tests.chaos.choosy import REFUSED
from tests.support.builders import make_params, make_task

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage

# Deaths burn attempts, and here is a death every few seconds: more than usual, so that no task may be given up.
MAX_ATTEMPTS: Final = 12
TENANTS: Final = tuple(f"tenant-{number}" for number in range(6))
# The simulated device has 20 MiB; a megapixel needs 100 of it at the first memory tier, 75 at the second.
CARD_CHANGES: Final = {
    'backend = "simulated"': 'backend = "tests.chaos.choosy:ChoosyBackend"',
    "memory_mb = 0\n": "memory_mb = 0\nmemory_mb_per_megapixel = 100\ndevice_mb = 20\n",
}
CARD_TIERS: Final = "".join(f"\n[tiers.{tier}]\nvram_mb = 0\n" for tier in ("tiled", "offload", "sequential"))


class Kind(StrEnum):
    """What a task is meant to meet."""

    PLAIN = "plain"
    TIER_DOWN = "tier down"  # runs out of memory at the first tier, fits at the second
    TIERS_DOWN = "tiers down"  # fits at the last one only: a child tries two, so another attempt is needed
    REFUSED = "refused"
    CANCELLED = "cancelled"
    IMPATIENT = "impatient"  # must start within seconds, or not at all


WEIGHTS: Final = {
    Kind.PLAIN: 60,
    Kind.TIER_DOWN: 10,
    Kind.REFUSED: 8,
    Kind.CANCELLED: 15,
    Kind.IMPATIENT: 7,
}
# Each such task waits for half a minute, once for each worker that has to learn it.
PATIENT_WEIGHTS: Final = {**WEIGHTS, Kind.TIERS_DOWN: 3}
_STEPS: Final = {Kind.PLAIN: (1, 60), Kind.TIER_DOWN: (1, 20), Kind.REFUSED: (1, 10), Kind.CANCELLED: (1, 120)}
_SIDES: Final = (64, 128, 256)


@dataclass(frozen=True, slots=True)
class Wish:
    """A task before it is submitted: drawn in advance, so that the seed decides on all of them."""

    kind: Kind
    steps: int
    width: int
    height: int
    count: int
    tenant: str
    priority: int
    lane: Lane
    seed: int
    start_within: timedelta
    cancel_after: float

    @classmethod
    def draw(cls, source: random.Random, weights: Mapping[Kind, int]) -> Wish:
        """The next of the mixture."""
        kind = source.choices(list(weights), list(weights.values()))[0]
        large = kind in {Kind.TIER_DOWN, Kind.TIERS_DOWN}
        return cls(
            kind=kind,
            steps=source.randint(*_STEPS.get(kind, (1, 20))),
            width=512 if large else source.choice(_SIDES),
            height=512 if large else source.choice(_SIDES),
            count=source.choice((1, 1, 1, 2)) if not large else 2 if kind is Kind.TIERS_DOWN else 1,
            tenant=source.choice(TENANTS),
            priority=source.randint(0, 9),
            lane=source.choice(list(Lane)),
            seed=source.randrange(2**31),
            start_within=timedelta(seconds=source.uniform(2, 8)) if kind is Kind.IMPATIENT else timedelta(minutes=20),
            # While it waits, while it runs, or after its end: then the outcome that is there must stand.
            cancel_after=source.uniform(0, source.choice((3, 8, 25))),
        )

    def task(self) -> TaskMessage:
        """The task, submitted now."""
        now = utc_now()
        params = make_params(
            prompt=REFUSED if self.kind is Kind.REFUSED else "a quiet lake",
            width=self.width,
            height=self.height,
            steps=self.steps,
            count=self.count,
            seed=self.seed,
        )
        return make_task(
            task_id=new_task_id(),
            tenant_id=self.tenant,
            lane=self.lane,
            priority=self.priority,
            params=params,
            max_attempts=MAX_ATTEMPTS,
            submitted_at=now,
            start_deadline=now + self.start_within,
        )

    def allows(self, outcome: Outcome) -> bool:
        """Whether this end is a right one, as far as nobody cancelled the task."""
        code = outcome.error.code if outcome.error is not None else None
        if self.kind is Kind.REFUSED:
            return (outcome.state, code) == (TaskState.FAILED, "invalid_parameter")
        if self.kind is Kind.IMPATIENT and outcome.state is TaskState.EXPIRED:
            return outcome.started_at is None
        pictures = [(picture.width, picture.height, picture.seed) for picture in outcome.artifacts]
        wanted = [(self.width, self.height, self.seed + number) for number in range(self.count)]
        return outcome.state is TaskState.SUCCEEDED and pictures == wanted


def changed_card(card: str) -> str:
    """The simulated model's card with a small device, the lower tiers, and a backend that refuses."""
    for old, new in CARD_CHANGES.items():
        assert old in card
        card = card.replace(old, new)
    return card + CARD_TIERS
