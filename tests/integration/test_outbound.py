"""Requests to servers that somebody else names, over real sockets."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from shared.domain.errors import (
    AddressRefusedError,
    ConnectionFailedError,
    InvalidAnswerError,
    NameUnresolvedError,
    OutboundTimeoutError,
    UrlRefusedError,
)
from shared.domain.outbound import OutboundPolicy, parse_networks
from shared.http.outbound import Outbound, OutboundAnswer, OutboundRequest, Patience
from tests.support.ports import free_port
from tests.support.processes import require
from tests.support.receiver import Receiver, answer, drip, flood, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

NAME = "receiver.invalid"  # a name that never resolves: whoever asks the system again fails
HERE = "127.0.0.1/32"
OK = b"HTTP/1.1 200 OK\r\n"
IMPATIENT = Patience(connect=0.5, whole=0.5)


def outbound(
    *ports: int,
    resolver: Callable[[str], Sequence[str]] | None = None,
    patience: Patience | None = None,
    tls: ssl.SSLContext | None = None,
    networks: str = HERE,
) -> Outbound:
    policy = OutboundPolicy(ports=frozenset(ports), allowed_networks=parse_networks(networks))
    return Outbound(policy, patience, resolver=resolver or (lambda _name: ["127.0.0.1"]), tls=tls)


def post(client: Outbound, url: str, most_bytes: int = 65536) -> OutboundAnswer:
    headers = {"Content-Type": "text/plain"}
    return client.send(OutboundRequest(method="POST", url=url, headers=headers, body=b"hello", most_bytes=most_bytes))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def test_a_request_arrives_with_its_names_host_and_the_answer_comes_back(receiver: Receiver) -> None:
    receiver.last = answer(201, body=b"made", x_extra="1")
    got = post(outbound(receiver.port), f"http://{NAME}:{receiver.port}/a/b?c=%20d")
    assert (got.status, got.body, got.complete, got.headers["x-extra"]) == (201, b"made", True, "1")
    (received,) = receiver.received
    assert (received.path, received.body) == ("/a/b?c=%20d", b"hello")
    assert received.headers["host"] == f"{NAME}:{receiver.port}"
    assert received.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    "addresses", [["127.0.0.2"], ["127.0.0.1", "10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["169.254.169.254"]]
)
def test_a_name_with_any_address_that_is_not_public_is_not_connected_to(
    receiver: Receiver, addresses: list[str]
) -> None:
    with pytest.raises(AddressRefusedError):
        post(outbound(receiver.port, resolver=lambda _name: addresses), f"http://{NAME}:{receiver.port}/")
    assert receiver.connections == 0


def test_a_name_is_asked_once_and_its_second_answer_counts_the_second_time(receiver: Receiver) -> None:
    # As a hostile name server does: the first answer passes the check, the next one leads inside.
    answers = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]]
    asked: list[str] = []

    def resolver(name: str) -> list[str]:
        asked.append(name)
        return answers[len(asked) - 1]

    with Receiver(host="127.0.0.2", port=receiver.port) as inside:
        client = outbound(receiver.port, resolver=resolver)
        assert post(client, f"http://{NAME}:{receiver.port}/").status == 200
        assert asked == [NAME]
        with pytest.raises(AddressRefusedError):
            post(client, f"http://{NAME}:{receiver.port}/")
        assert inside.connections == 0
    assert receiver.connections == 1


def test_a_redirect_is_an_answer_and_not_followed(receiver: Receiver) -> None:
    with Receiver() as inside:
        receiver.last = answer(302, Location=f"{inside.url}/secret")
        got = post(outbound(receiver.port, inside.port), receiver.url)
        assert got.status == 302
        assert inside.connections == 0


def test_proxies_of_the_environment_are_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert post(outbound(receiver.port), receiver.url).status == 200
        assert proxy.connections == 0


@pytest.mark.parametrize(
    "behaviour",
    [silent, drip(OK), drip(b"x", first=OK + b"X-Long: "), drip(b"X: y\r\n", first=OK)],
    ids=["silent", "head", "one field", "fields"],
)
def test_a_receiver_that_takes_for_ever_is_left(receiver: Receiver, behaviour: object) -> None:
    receiver.last = behaviour  # type: ignore[assignment] # one of several kinds of functions
    with pytest.raises((OutboundTimeoutError, InvalidAnswerError)):
        post(outbound(receiver.port, patience=IMPATIENT), receiver.url)


def test_a_body_that_takes_for_ever_takes_nothing_from_the_answer(receiver: Receiver) -> None:
    receiver.last = drip(b"x", first=OK + b"Content-Length: 1000000\r\n\r\nbegin")
    got = post(outbound(receiver.port, patience=IMPATIENT), receiver.url)
    assert (got.status, got.complete) == (200, False)
    assert got.body.startswith(b"begin")


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000000\r\n\r\n", b"\r\n"])
def test_of_a_gigabyte_only_the_beginning_is_read(receiver: Receiver, framing: bytes) -> None:
    receiver.last = flood(OK + framing, 16_000)
    got = post(outbound(receiver.port), receiver.url)
    assert (got.status, len(got.body), got.complete) == (200, 65536, False)


@pytest.mark.parametrize(
    "behaviour",
    [
        flood(b"not HTTP at all\r\n\r\n", 1),
        flood(OK, 10_000, b"X: " + b"y" * 1000 + b"\r\n"),
        flood(b"HTTP/1.1 100 Continue\r\n\r\n", 100_000, b"HTTP/1.1 100 Continue\r\n\r\n"),
        flood(b"HTTP/1.1 200 " + b"x" * 100_000, 100),
    ],
    ids=["no HTTP", "head without end", "continue without end", "line without end"],
)
def test_what_is_no_answer_of_reasonable_size_is_none(receiver: Receiver, behaviour: object) -> None:
    receiver.last = behaviour  # type: ignore[assignment] # one of several kinds of functions
    with pytest.raises((InvalidAnswerError, ConnectionFailedError)):
        post(outbound(receiver.port), receiver.url)


def test_a_body_that_is_cut_off_is_not_complete(receiver: Receiver) -> None:
    receiver.last = flood(OK + b"Content-Length: 100\r\n\r\nshort", 0)
    got = post(outbound(receiver.port), receiver.url)
    assert (got.body, got.complete) == (b"short", False)


def test_chunks_are_read_to_their_end(receiver: Receiver) -> None:
    receiver.last = flood(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 0)
    got = post(outbound(receiver.port), receiver.url)
    assert (got.body, got.complete) == (b"abcde", True)


def test_where_nobody_listens_or_everybody_hangs_up_there_is_no_connection(receiver: Receiver) -> None:
    port = free_port()
    with pytest.raises(ConnectionFailedError):
        post(outbound(port), f"http://127.0.0.1:{port}/")
    receiver.last = flood(b"", 0)
    with pytest.raises(ConnectionFailedError):
        post(outbound(receiver.port), receiver.url)


def test_the_next_address_is_tried_where_the_first_refuses(receiver: Receiver) -> None:
    client = outbound(receiver.port, resolver=lambda _name: ["::1", "127.0.0.1"], networks=f"{HERE},::1")
    assert post(client, f"http://{NAME}:{receiver.port}/").status == 200


def test_a_name_that_cannot_be_resolved_or_not_in_time_is_told(receiver: Receiver) -> None:
    def unknown(_name: str) -> list[str]:
        raise OSError(-2, "Name or service not known")

    def slow(_name: str) -> list[str]:
        time.sleep(5)
        return ["127.0.0.1"]

    for resolver, error in ((unknown, NameUnresolvedError), (slow, OutboundTimeoutError)):
        with pytest.raises(error):
            post(outbound(receiver.port, resolver=resolver, patience=IMPATIENT), f"http://{NAME}:{receiver.port}/")
    assert receiver.connections == 0


def test_what_no_url_may_be_is_not_even_resolved() -> None:
    def never(_name: str) -> list[str]:
        raise AssertionError

    with pytest.raises(UrlRefusedError):
        post(outbound(80, resolver=never), f"http://user@{NAME}/")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    program = require(shutil.which("openssl"), "openssl")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key),
            *("-out", certificate, "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


class TestTls:
    @pytest.fixture
    def secured(self, certificate: tuple[Path, Path]) -> Iterator[tuple[Receiver, ssl.SSLContext, list[str]]]:
        key, chain = certificate
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(chain, key)
        asked: list[str] = []
        server.sni_callback = lambda _socket, name, _context: asked.append(name)
        with Receiver(tls=server) as receiver:
            yield receiver, ssl.create_default_context(cafile=str(chain)), asked

    def test_the_certificate_is_the_names_while_the_address_is_pinned(
        self, secured: tuple[Receiver, ssl.SSLContext, list[str]]
    ) -> None:
        receiver, trusted, asked = secured
        got = post(outbound(receiver.port, tls=trusted), f"https://{NAME}:{receiver.port}/")
        assert (got.status, asked) == (200, [NAME])

    def test_another_name_or_a_stranger_to_us_is_refused(
        self, secured: tuple[Receiver, ssl.SSLContext, list[str]]
    ) -> None:
        receiver, trusted, _ = secured
        for url, tls in (
            (f"https://other.invalid:{receiver.port}/", trusted),
            (f"https://{NAME}:{receiver.port}/", None),
        ):
            with pytest.raises(ConnectionFailedError):
                post(outbound(receiver.port, tls=tls), url)
        assert receiver.received == []

    def test_a_handshake_that_does_not_come_is_not_waited_for(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(OutboundTimeoutError):
                post(outbound(port, patience=IMPATIENT), f"https://{NAME}:{port}/")
