"""What an address may say of TLS, and what completes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.tls.addresses import amqp_address, postgresql_address, redis_address, split_amqp_address

if TYPE_CHECKING:
    from collections.abc import Callable

CA = Path("/etc/atelier/our ca.crt")
QUOTED = "/etc/atelier/our%20ca.crt"
DATABASE = "postgresql://status:pass%40word@database/status"


def test_an_encrypted_hop_is_told_whom_to_trust() -> None:
    assert amqp_address("amqps://g:p@broker/atelier", CA) == f"amqps://g:p@broker/atelier?cacertfile={QUOTED}"
    assert redis_address("rediss://:p@cache:6380/0", CA) == f"rediss://:p@cache:6380/0?ssl_ca_certs={QUOTED}"
    assert postgresql_address(DATABASE, CA) == f"{DATABASE}?sslmode=verify-full&sslrootcert={QUOTED}"


def test_what_the_address_names_itself_goes_first() -> None:
    assert amqp_address("amqps://broker/a?cacertfile=/own.crt", CA) == "amqps://broker/a?cacertfile=/own.crt"
    assert redis_address("rediss://cache/0?ssl_ca_certs=/own.crt", CA) == "rediss://cache/0?ssl_ca_certs=/own.crt"
    named = f"{DATABASE}?sslrootcert=/own.crt"
    assert postgresql_address(named, CA) == f"{named}&sslmode=verify-full"
    assert postgresql_address(named, None) == f"{named}&sslmode=verify-full"


def test_a_plain_hop_stays_plain() -> None:
    assert amqp_address("amqp://broker/atelier?heartbeat=5", CA) == "amqp://broker/atelier?heartbeat=5"
    assert redis_address("redis://cache/0", CA) == "redis://cache/0"
    assert postgresql_address("sqlite:////srv/status.db", CA) == "sqlite:////srv/status.db"
    assert postgresql_address(DATABASE, None) == f"{DATABASE}?sslmode=disable"
    assert postgresql_address(f"{DATABASE}?sslmode=disable", CA) == f"{DATABASE}?sslmode=disable"


def test_without_a_file_the_system_is_trusted() -> None:
    assert amqp_address("amqps://broker/atelier", None) == "amqps://broker/atelier"
    assert redis_address("rediss://cache/0", None) == "rediss://cache/0"
    wanted = f"{DATABASE}?sslmode=verify-full"
    assert postgresql_address(wanted, None) == f"{wanted}&sslrootcert=system"


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", ""])
def test_no_mode_of_a_database_leaves_out_the_verification(mode: str) -> None:
    with pytest.raises(ValueError, match="sslmode must be verify-full"):
        postgresql_address(f"{DATABASE}?sslmode={mode}", CA)


@pytest.mark.parametrize(
    ("complete", "url"),
    [
        (amqp_address, "amqps://broker/atelier?ssl_options={'verify_mode':0}"),
        (redis_address, "rediss://cache/0?ssl_cert_reqs=none"),
        (redis_address, "rediss://cache/0?ssl_check_hostname=false"),
        (postgresql_address, f"{DATABASE}?ssl_min_protocol_version=TLSv1"),
    ],
)
def test_no_option_weakens_it(complete: Callable[[str, Path], str], url: str) -> None:
    with pytest.raises(ValueError, match="certificates are always verified") as refused:
        complete(url, CA)
    assert "pass" not in str(refused.value)


def test_the_broker_client_gets_the_address_without_the_file() -> None:
    whole = amqp_address("amqps://g:p%40@broker/atelier?heartbeat=5", CA)
    assert split_amqp_address(whole) == ("amqps://g:p%40@broker/atelier?heartbeat=5", str(CA))
    assert split_amqp_address("amqp://broker/atelier") == ("amqp://broker/atelier", None)


def test_what_is_no_address_is_left_to_whoever_uses_it() -> None:
    assert amqp_address("amqps://[broken/atelier", None) == "amqps://[broken/atelier"
