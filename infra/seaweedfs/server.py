"""SeaweedFS as an S3 server: its bucket, and an identity with a key of its own for each service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

BUCKET: Final = "atelier"
REGION: Final = "us-east-1"
RIGHTS: Final = {
    "gateway": ("Read", "List", "Write"),
    "worker": ("Read", "List", "Write"),
    "status": ("Read", "List", "Write"),
    "operator": ("Read", "List"),
}


def access_key(user: str) -> str:
    """The name of the secret that holds a user's access key."""
    return f"s3-{user}-access-key"


def secret_key(user: str) -> str:
    """The name of the secret that holds a user's secret key."""
    return f"s3-{user}-secret-key"


def key_names() -> tuple[str, ...]:
    """The names of all those secrets."""
    return tuple(name(user) for user in RIGHTS for name in (access_key, secret_key))


def identities(secrets: Mapping[str, str]) -> str:
    """The file of identities. It holds the secrets, which ``secrets`` has by their names."""
    document = [
        {
            "name": user,
            "credentials": [{"accessKey": secrets[access_key(user)], "secretKey": secrets[secret_key(user)]}],
            "actions": [f"{right}:{BUCKET}" for right in rights],
        }
        for user, rights in RIGHTS.items()
    ]
    return json.dumps({"identities": document}, indent=2)
