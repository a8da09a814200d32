"""A model whose code cannot even be imported."""

from __future__ import annotations

message = "a library of the wrong version"
raise RuntimeError(message)
