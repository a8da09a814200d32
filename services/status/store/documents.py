"""Models as the documents that rows hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from pydantic import BaseModel


def document_of(model: BaseModel) -> str:
    """A model as JSON without what is None; pydantic's own would be the same and takes half as long again."""
    try:
        return orjson.dumps(_present(model), default=_present).decode()
    except TypeError:  # a number beyond 64 bits
        return model.model_dump_json(exclude_none=True)


def _present(model: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in model.__dict__.items() if value is not None}
