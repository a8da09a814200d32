"""What the gateway's use cases ask of the outside, beyond the shared ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared.messaging.ports import OutboundMessage


class SubmitPublisher(Protocol):
    """Publishes under confirms, and knows whether it could now."""

    @property
    def problem(self) -> str | None:
        """Why a publish would fail now, or None."""
        ...

    def publish(self, *messages: OutboundMessage, timeout: float) -> None:
        """See shared.messaging.ports.Publisher."""
        ...
