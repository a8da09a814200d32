"""Seeds for requests that name none."""

from __future__ import annotations

import hashlib


def drawn_seed(task_id: str, most: int) -> int:
    """A number from 0 to ``most`` that looks random and is always the same for a task.

    A submit that is published again under its own id then asks for the very same pictures.
    """
    number = hashlib.sha256(b"atelier seed\0" + task_id.encode()).digest()
    return int.from_bytes(number) % (most + 1)
