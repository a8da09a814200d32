"""The environment variables as a model's code may have changed them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def environment() -> dict[str, str]:
    """Return a copy of all variables."""
    return dict(os.environ)


def restore_environment(before: Mapping[str, str]) -> None:
    """Set, change back and remove variables until they are as they were."""
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)
