"""Signatures of callbacks as Standard Webhooks has them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING

from shared.auth.webhook_secrets import secret_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from shared.auth.store.ports import WebhookSecret


def signed_headers(webhook_id: str, at: datetime, body: bytes, secrets: Sequence[WebhookSecret]) -> dict[str, str]:
    """The three header fields: the id, the time of this try, and one signature for each secret."""
    timestamp = str(int(at.timestamp()))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = (hmac.digest(secret_bytes(secret.text), signed, "sha256") for secret in secrets)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(signature).decode()}" for signature in signatures),
    }
