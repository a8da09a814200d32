"""Where a task's client is called back, and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.gateway.errors import CallbackRefusedError
from shared.domain.callbacks import CALLBACK_EVENTS, callback_event
from shared.domain.errors import UrlRefusedError
from shared.domain.outbound import parse_url
from shared.domain.plans import is_anonymous

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.gateway.api.schemas import GenerateRequest
    from shared.auth.ports import Principal
    from shared.domain.outbound import OutboundPolicy
    from shared.domain.task import EventType

Callback = tuple[str | None, tuple["EventType", ...] | None]


def callback_of(request: GenerateRequest, principal: Principal, policy: OutboundPolicy) -> Callback:
    """The URL and the events: the request's, or else the tenant's. Raises CallbackRefusedError.

    Names are not resolved here: what a name leads to is decided when it is called.
    """
    url = request.callback_url
    events = None if request.callback_events is None else _events(request.callback_events)
    if url is None:
        if principal.callback_url is None and events is not None:
            message = "there is no callback_url, and the tenant has none"
            raise CallbackRefusedError(message, field="callback_events")
        return principal.callback_url, events or principal.callback_events
    if is_anonymous(principal.tenant_id):
        message = "callbacks are signed, which takes a tenant with an API key"
        raise CallbackRefusedError(message)
    try:
        parse_url(url, policy)
    except UrlRefusedError as exc:
        raise CallbackRefusedError(exc.message) from exc
    return url, events


def _events(names: Sequence[str]) -> tuple[EventType, ...]:
    kinds = []
    for name in names:
        kind = callback_event(name)
        if kind is None:
            message = f"nobody is called back for {name!r}; there are {', '.join(sorted(CALLBACK_EVENTS))}"
            raise CallbackRefusedError(message, field="callback_events")
        kinds.append(kind)
    return tuple(dict.fromkeys(kinds))
