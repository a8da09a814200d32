"""The trouble with TLS is found inside the errors of libraries."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.error import URLError

import pytest
from botocore.exceptions import SSLError as BotoSslError
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorTransportSetupError
from pika.exceptions import AMQPConnectionError
from psycopg import OperationalError
from sqlalchemy.exc import OperationalError as WrappedError

from shared.tls.problems import named, tls_problem


def refused(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.verify_message = message
    return error


def spoken(reason: str) -> ssl.SSLError:
    error: Any = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error  # type: ignore[no-any-return] # its attribute cannot be written otherwise


def test_it_is_found_wherever_a_library_keeps_it() -> None:
    inner = refused("self-signed certificate in certificate chain")
    expected = "its certificate is not trusted: self-signed certificate in certificate chain (see ATELIER_CA_FILE)"
    for error in (
        inner,
        AMQPConnectionError(AMQPConnectionWorkflowFailed([AMQPConnectorTransportSetupError(inner)])),
        BotoSslError(endpoint_url="https://127.0.0.1:1", error=inner),
        URLError(inner),
    ):
        assert tls_problem(error) == expected


def test_a_server_that_speaks_something_else_is_told_from_one_that_is_not_trusted() -> None:
    assert tls_problem(spoken("WRONG_VERSION_NUMBER")) == "it does not speak TLS"
    assert tls_problem(spoken("TLSV1_ALERT_PROTOCOL_VERSION")) == "TLS failed: TLSV1_ALERT_PROTOCOL_VERSION"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("connection failed: SSL error: certificate verify failed", "its certificate is not trusted"),
        ('server certificate for "a" does not match host name "b"', "its certificate is for another name"),
        ("server does not support SSL, but SSL was required", "it does not speak TLS"),
        ('no pg_hba.conf entry for host "::1", no encryption', "it speaks TLS alone; ATELIER_CA_FILE switches TLS on"),
    ],
)
def test_a_database_tells_of_it_in_text(text: str, problem: str) -> None:
    assert tls_problem(WrappedError("SELECT 1", {}, OperationalError(text))) == problem


def test_other_troubles_are_none_of_it() -> None:
    assert tls_problem(ConnectionRefusedError(111, "Connection refused")) is None
    assert tls_problem(OperationalError("connection refused")) is None
    assert named("ATELIER_X", ValueError("something"), "told so") == "told so"


def test_errors_that_hold_each_other_are_looked_at_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert tls_problem(first) is None
