"""The JSON that clients send: strict in types, closed to unknown fields."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.gateway.errors import InvalidParametersError, MalformedJsonError
from shared.domain.outbound import LONGEST_URL
from shared.http.errors import FieldError

_LARGEST_SEED = 2**63 - 1
_MOST_ERRORS = 20

Side = Annotated[int, Field(gt=0, le=100_000)]
EventName = Annotated[str, Field(max_length=32)]
Within = Annotated[float, Field(ge=1, le=604_800)]


class GenerateRequest(BaseModel):
    """What to make. What is absent is taken from the model's card; sides are pixels.

    ``image`` is what to start from: an id that ``POST /api/v1/images`` answered with, or a URL.
    ``start_within`` and ``finish_within`` (seconds) can only shorten what the plan gives. ``cache`` says which earlier
    result will do: that of the same seed where one is given, that of any seed, or none. What becomes of the task is
    told to ``callback_url``, for ``callback_events`` or for its end; without a URL to the tenant's own, if it has one.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

    prompt: str
    model: str | None = None
    negative_prompt: str | None = None
    width: Side | None = None
    height: Side | None = None
    steps: Annotated[int, Field(gt=0, le=100_000)] | None = None
    guidance: Annotated[float, Field(ge=0, le=1000)] | None = None
    seed: Annotated[int, Field(ge=0, le=_LARGEST_SEED)] | None = None
    count: Annotated[int, Field(gt=0, le=1000)] | None = None
    num_frames: Annotated[int, Field(gt=0, le=100_000)] | None = None
    image: Annotated[str, Field(min_length=1, max_length=LONGEST_URL)] | None = None
    callback_url: str | None = None
    callback_events: Annotated[list[EventName], Field(min_length=1, max_length=16)] | None = None
    start_within: Within | None = None
    finish_within: Within | None = None
    cache: Literal["auto", "any", "off"] = "auto"


class RetryRequest(BaseModel):
    """Nothing: a retry asks for what its task asked for."""

    model_config = ConfigDict(extra="forbid")


R = TypeVar("R", bound=BaseModel)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a request body is. Raises MalformedJsonError with the place."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        message = f"the body is not JSON: {exc.msg} (line {exc.lineno}, column {exc.colno})"
        raise MalformedJsonError(message, FieldError(message=exc.msg, line=exc.lineno)) from exc
    if not isinstance(document, dict):
        message = "the body must be a JSON object"
        raise MalformedJsonError(message)
    return document


def parse(kind: type[R], document: dict[str, Any]) -> R:
    """Check a request's fields. Raises InvalidParametersError with those at fault."""
    try:
        return kind.model_validate(_bounded(document, kind))
    except ValidationError as exc:
        raise InvalidParametersError(*_explain(exc)) from exc


def _bounded(document: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    # pydantic makes an error for each of a flood of unknown fields, 60 ms in a body of allowed size.
    if len(document) <= len(kind.model_fields) + _MOST_ERRORS:
        return document
    known = {name: document[name] for name in kind.model_fields if name in document}
    return known | dict(islice((item for item in document.items() if item[0] not in known), _MOST_ERRORS))


def _explain(error: ValidationError) -> list[FieldError]:
    return [_field_error(dict(one)) for one in error.errors(include_url=False, include_input=False)[:_MOST_ERRORS]]


def _field_error(error: dict[str, Any]) -> FieldError:
    field = ".".join(str(part)[:64] for part in error["loc"])
    message = "unknown field" if error["type"] == "extra_forbidden" else str(error["msg"])
    return FieldError(message=message, field=field)
