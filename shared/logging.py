"""One JSON line for each event, alike for our code, gunicorn and libraries, in ECS field names.

``configure`` is called once by a composition root. Context (``task_id``, ``tenant_id``, ``request_id``, ``trace.id``)
is bound once with ``bind`` and then appears on every line of that request, task or thread.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import orjson
import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars, merge_contextvars

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

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


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger for a module; it works before ``configure``, too."""
    return cast("FilteringBoundLogger", structlog.get_logger(**{"log.logger": name}))


def bind(**context: str | int | None) -> None:
    """Add context to every further line of this request, task or thread. None removes nothing and adds nothing."""
    bind_contextvars(**{key: value for key, value in context.items() if value is not None})


def bound(**context: str | int | None) -> AbstractContextManager[None]:
    """Like ``bind`` for the length of a ``with`` block."""
    return bound_contextvars(**{key: value for key, value in context.items() if value is not None})


def unbind_all() -> None:
    """Forget the context, at the start of a request or task."""
    clear_contextvars()


def configure(service: str, *, level: str = "info", log_format: str = "json", stream: TextIO | None = None) -> None:
    """Route everything to one stream (standard output) in one shape. ``service`` becomes ``service.name``."""
    out = sys.stdout if stream is None else stream
    # A fixed name tells the lines of two processes apart only together with process.pid, which logging knows already.
    common: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _service_field(service),
    ]
    finish: list[Processor] = [structlog.processors.format_exc_info, _ecs_names, _render_json]
    if log_format == "console":
        finish = [structlog.dev.ConsoleRenderer(colors=out.isatty())]
    structlog.configure(
        processors=[*common, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
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


def _service_field(service: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service.name"] = service
        return event

    return add


def _ecs_names(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {_ECS_NAMES.get(key, key): value for key, value in event.items()}


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, default=_fallback, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        # Half a surrogate pair, or a number of more than 64 bits: a line must never cost more than itself.
        return json.dumps(event, default=_fallback)


def _fallback(value: Any) -> str:  # noqa: ANN401 - whatever a library put into its record
    return repr(value)
