"""Parked messages for people and for programs. A prompt is shown only when it is asked for.

What comes from outside is printed without control characters: a message must not write to the operator's terminal.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

from services.worker.dead.usecases import Fate

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.dead.parked import Parked
    from services.worker.dead.usecases import Result

HEADING: Final = f"{'parked at':<20}  {'id':<36}  {'tenant':<16}  {'model':<16}  {'reason':<20}  tries  detail"
_DETAIL_CHARS: Final = 80
_SECRET_CHARS: Final = 12
_UNKNOWN: Final = "-"
_WORDS: Final = {
    Fate.REPLAYED: "replayed",
    Fate.ALREADY_REPLAYED: "replayed before, removed",
    Fate.WOULD_REPLAY: "would replay",
    Fate.DROPPED: "dropped",
    Fate.WOULD_DROP: "would drop",
    Fate.REFUSED: "refused",
}


def summary(parked: Parked) -> dict[str, Any]:
    """What a listing says of one, as a JSON document. What is not known is null."""
    return _without_prompts(_summary(parked), parked)


def _summary(parked: Parked) -> dict[str, Any]:
    task = parked.task
    return {
        "id": parked.ident,
        "form": parked.form,
        "parked_at": parked.parked_at.isoformat() if parked.parked_at is not None else None,
        "parked_by": parked.parked_by,
        "tenant_id": task.tenant_id if task is not None else None,
        "model": task.model if task is not None else None,
        "reason": parked.reason,
        "detail": parked.detail,
        "attempt": task.attempt if task is not None else None,
        "max_attempts": task.max_attempts if task is not None else None,
        "retry_of": task.retry_of if task is not None else None,
    }


def everything(parked: Parked, *, prompt: bool) -> dict[str, Any]:
    """All that is known of one, as a JSON document; ``prompt``: with the prompts, and a raw body's bytes as base64."""
    last_error, origin = parked.last_error, parked.origin
    document = {
        **_summary(parked),
        "task": _task(parked, prompt=prompt),
        "attempts": [each.model_dump(mode="json") for each in parked.attempts],
        "last_error": last_error.model_dump() if last_error is not None else None,
        "stack": parked.stack,
        "origin": origin.model_dump() if origin is not None else None,
        "body": _body(parked.body, whole=prompt) if parked.body is not None else None,
    }
    return document if prompt else _without_prompts(document, parked)


def result(done: Result) -> dict[str, Any]:
    """What became of one, as a JSON document."""
    document = {
        "id": done.parked.ident,
        "fate": done.fate,
        "retried_as": done.retried_as,
        "why": done.why,
        "reason": done.parked.reason,
    }
    return _without_prompts(document, done.parked)


def summary_line(parked: Parked) -> str:
    """One line of a listing, under HEADING."""
    document, at, task = summary(parked), parked.parked_at, parked.task
    known = {name: plain(str(value)) if value is not None else _UNKNOWN for name, value in document.items()}
    when = f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if at is not None else _UNKNOWN
    tries = f"{task.attempt}/{task.max_attempts}" if task is not None else _UNKNOWN
    return (
        f"{when:<20}  {known['id']:<36}  {known['tenant_id']:<16}  {known['model']:<16}  {known['reason']:<20}  "
        f"{tries:<5}  {known['detail'][:_DETAIL_CHARS]}"
    )


def result_line(done: Result) -> str:
    """One line for each message that was replayed, dropped or refused."""
    line = f"{_WORDS[done.fate]} {plain(done.parked.ident)}"
    if done.retried_as is not None:
        line += f" as {done.retried_as}"
    why = plain(result(done)["why"])
    return f"{line}: {why}" if why else line


def report(parked: Parked, *, prompt: bool) -> str:
    """All that is known of one, for people."""
    document = everything(parked, prompt=prompt)
    attempts, stack = document.pop("attempts"), document.pop("stack")
    lines = [line for name, value in document.items() if value is not None for line in _field(name, value, "")]
    for attempt in attempts:
        lines += [f"attempt {attempt['number']}:"]
        lines += [
            line
            for name, value in attempt.items()
            if name != "number" and value is not None
            for line in _field(name, value, "  ")
        ]
    if stack:
        lines += ["stack:", *(f"  {plain(line)}" for line in stack.splitlines())]
    return "\n".join(lines)


def as_json(document: dict[str, Any]) -> str:
    """One line of JSON; everything beyond ASCII is escaped."""
    return json.dumps(document)


def plain(text: str) -> str:
    """The text in one line, with what cannot be printed escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _field(name: str, value: object, indent: str) -> list[str]:
    if isinstance(value, dict):
        inner = [line for key, each in value.items() if each is not None for line in _field(key, each, f"{indent}  ")]
        return [f"{indent}{name}:", *inner]
    return [f"{indent}{name}: {plain(str(value))}"]


def _task(parked: Parked, *, prompt: bool) -> dict[str, Any] | None:
    if parked.task is None:
        return None
    document = parked.task.model_dump(mode="json", by_alias=True)
    if not prompt:
        for name in ("prompt", "negative_prompt"):
            document["params"][name] = f"({len(document['params'][name])} characters, shown with --prompt)"
    return document


def _without_prompts(document: dict[str, Any], parked: Parked) -> dict[str, Any]:
    """An error's text or a stack may repeat the prompt; a very short one is no secret and everywhere."""
    if parked.task is None:
        return document
    params = parked.task.params
    prompts = [text for text in (params.prompt, params.negative_prompt) if len(text) >= _SECRET_CHARS]
    forms = [form for text in prompts for form in (text, repr(text)[1:-1])]
    hidden: dict[str, Any] = _mapped(document, lambda text: reduce(_hide, forms, text))
    return hidden


def _hide(text: str, secret: str) -> str:
    return text.replace(secret, "(prompt)")


def _mapped(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - a JSON document
    if isinstance(value, dict):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


def _body(body: bytes, *, whole: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    # It may well be a task with its prompt.
    return document | {"base64": base64.b64encode(body).decode()} if whole else document
