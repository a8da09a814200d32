"""Reading a request's body, within its bound."""

from __future__ import annotations

from flask import request

from services.gateway.errors import BodyTooLargeError, UnreadableBodyError


def read_body(most_bytes: int) -> bytes:
    """The body as it came. Raises BodyTooLargeError, UnreadableBodyError."""
    try:
        body = request.get_data(cache=False)
    except Exception as exc:  # the boundary to the WSGI server: gunicorn's errors for bad chunks have no public base
        message = "the body could not be read to its end"
        raise UnreadableBodyError(message) from exc
    refuse_beyond(len(body), most_bytes)
    return body


def refuse_beyond(length: int, most_bytes: int) -> None:
    """Raise BodyTooLargeError for a body of that length, read or only declared."""
    if length > most_bytes:
        message = f"the body is larger than {most_bytes} bytes"
        raise BodyTooLargeError(message)
