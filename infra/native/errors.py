"""What can go wrong with the native stack."""

from __future__ import annotations

from shared.domain.errors import AtelierError


class StackError(AtelierError):
    """The native stack could not be started, stopped or used."""

    code = "stack_error"


class DemoError(AtelierError):
    """The demonstration did not come to its end."""

    code = "demo_failed"
