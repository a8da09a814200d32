"""What a round of the lifecycle came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """``objects`` of ``tasks`` whose time is over; ``others`` are old leads, leases, probes and input images."""

    tasks: int = 0
    objects: int = 0
    others: int = 0
    unreadable: int = 0
