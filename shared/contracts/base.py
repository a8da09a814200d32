"""What every message has in common: frozen, versioned, tolerant on the wire, one encode/decode pair with one error."""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeVar

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from shared.domain.errors import DecodeError, NewerSchemaError

TaskId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
ModelId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
Timestamp = AwareDatetime


class Contract(BaseModel):
    """A part of a message: immutable, and tolerant of fields that a newer version added."""

    # JSON has no infinity: such a number would be written as null, which nobody could read back.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False)


class Message(Contract):
    """A whole message or document with the version of its schema."""

    current_schema: ClassVar[int] = 1

    schema_version: Annotated[int, Field(alias="schema", ge=1)] = 1


M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The message as UTF-8 JSON."""
    return message.model_dump_json(by_alias=True, exclude_none=True).encode()


def decode(kind: type[M], body: bytes) -> M:
    """Read a message. Raises NewerSchemaError for a later version, DecodeError for anything else that is wrong."""
    try:
        message = kind.model_validate_json(body)
    except ValidationError as exc:
        raise _explain(kind, body, exc) from exc
    if message.schema_version > kind.current_schema:
        raise NewerSchemaError(_newer(kind, message.schema_version))
    return message


def _explain(kind: type[Message], body: bytes, error: ValidationError) -> DecodeError:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        return DecodeError(f"{kind.__name__} is not JSON: {exc}")
    version = document.get("schema") if isinstance(document, dict) else None
    if isinstance(version, int) and version > kind.current_schema:
        return NewerSchemaError(_newer(kind, version))
    reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors()[:5])
    return DecodeError(f"{kind.__name__}: {reasons}")


def _newer(kind: type[Message], version: int) -> str:
    return f"{kind.__name__} has schema {version}, this software reads up to {kind.current_schema}"
