"""One JSON line for each event, alike for our code, gunicorn and libraries, in ECS field names.

``configure`` is called once by a composition root. Context (``task_id``, ``tenant_id``, ``request_id``, ``trace.id``)
is bound once with ``bind`` and then appears on every line of that request, task or thread.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Python names cannot hold dots, ECS names do.
_ECS_NAMES: Final = {
    "event": "message",
    "level": "log.level",
    "logger": "log.logger",
    "timestamp": "@timestamp",
    "trace_id": "trace.id",
    "exception": "error.stack_trace",
    "error_code": "error.code",
    "error_message": "error.message",
    "method": "http.request.method",
    "path": "url.path",
    "status": "http.response.status_code",
}
# One mapping, never changed in place: structlog's own context is one variable for each name, all looked at for a line.
_context: ContextVar[Mapping[str, str | int]] = ContextVar("atelier_log_context")
_NOTHING: Final[Mapping[str, str | int]] = {}
# Of the methods of a logger, those that are not called like their level.
_LEVEL_OF: Final = {"exception": "error", "warn": "warning"}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger for a module; it works before ``configure``, too."""
    return cast("FilteringBoundLogger", structlog.get_logger(**{"log.logger": name}))


def bind(**context: str | int | None) -> None:
    """Add context to every further line of this request, task or thread. None removes nothing and adds nothing."""
    _context.set(_with(context))


@contextmanager
def bound(**context: str | int | None) -> Iterator[None]:
    """Like ``bind`` for the length of a ``with`` block."""
    token = _context.set(_with(context))
    try:
        yield
    finally:
        _context.reset(token)


def unbind_all() -> None:
    """Forget the context, at the start of a request or task."""
    _context.set(_NOTHING)


def _with(context: Mapping[str, str | int | None]) -> Mapping[str, str | int]:
    added = {key: value for key, value in context.items() if value is not None}
    return {**_context.get(_NOTHING), **added}


def configure(
    service: str,
    *,
    level: str = "info",
    log_format: str = "json",
    stream: TextIO | None = None,
    for_good: bool = False,
) -> None:
    """Route everything to one stream (standard output) in one shape. ``service`` becomes ``service.name``.

    ``for_good``: what is logged from now on needs no look at whether this was called again.
    """
    out = sys.stdout if stream is None else stream
    # A fixed name tells the lines of two processes apart only together with process.pid, which logging knows already.
    common: list[Processor] = [_common_fields(service)]
    finish: list[Processor] = [_ecs_names, _render_json]
    if log_format == "console":
        finish = [structlog.dev.ConsoleRenderer(colors=out.isatty())]
    structlog.configure(
        processors=[*common, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=for_good,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(_LEVELS[level])
    # pika prints a stack for each connection that is refused; our own line says the same in a few words.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    for name in ("alembic", "boto3", "botocore", "urllib3", "s3transfer"):
        # These narrate every frame and retry; what matters is logged by the adapters that use them.
        logging.getLogger(name).setLevel(max(logging.WARNING, _LEVELS[level]))
    logging.captureWarnings(capture=True)


def _common_fields(service: str) -> Processor:
    def add(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        now = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
        level = _LEVEL_OF.get(method, method)
        return {**_context.get(_NOTHING), **event, "level": level, "timestamp": f"{now}Z", "service.name": service}

    return add


def _ecs_names(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, method, event)
    return {_ECS_NAMES.get(key, key): value for key, value in event.items()}


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, default=_fallback, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        # Half a surrogate pair, or a number of more than 64 bits: a line must never cost more than itself.
        return json.dumps(event, default=_fallback)


def _fallback(value: Any) -> str:  # noqa: ANN401 - whatever a library put into its record
    return repr(value)
