"""Nginx with TLS on both sides: its clients', and that of services whose certificates it verifies."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest

from infra.native.entrance import local_entrance, nginx_command
from infra.nginx.entrance import GATEWAY, STATUS_API, Tls, nginx_conf
from shared.tls.contexts import client_context, server_context
from tests.support.certificates import Authority, make_authority
from tests.support.ports import LOOPBACK, free_ports
from tests.support.waiting import until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

ENTRANCE = "nginx"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""

    def do_GET(self) -> None:
        body = self.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        pass


@contextlib.contextmanager
def service(name: str, context: ssl.SSLContext | None) -> Iterator[int]:
    """A server that answers with its name, at a port."""
    server = ThreadingHTTPServer((LOOPBACK, 0), type("Handler", (_Handler,), {"name": name}))
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The stack's authority, with its servers."""
    return make_authority(tmp_path_factory.mktemp("shown"), ENTRANCE, GATEWAY, STATUS_API, "elsewhere")


@contextlib.contextmanager
def entrance(folder: Path, shown: Authority, gateway: int, status_api: int) -> Iterator[tuple[httpx.Client, int]]:
    """Nginx before both: a client of it, and the port of its plain look at health."""
    port, health = free_ports(2)
    tls = Tls(
        certificate=shown.certificate(ENTRANCE),
        key=shown.key(ENTRANCE),
        ca_file=shown.ca_file,
        health=f"{LOOPBACK}:{health}",
    )
    plan = local_entrance(port, [gateway], [status_api], folder, str(folder / "access.log"))
    conf = folder / "nginx.conf"
    conf.write_text(nginx_conf(replace(plan, tls=tls)))
    with (folder / "nginx.log").open("w") as log:
        process = subprocess.Popen(nginx_command(conf), stdout=log, stderr=log)
    base_url = f"https://{LOOPBACK}:{port}"
    with httpx.Client(base_url=base_url, verify=client_context(shown.ca_file), timeout=20, trust_env=False) as client:

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return bool(client.get("/nothing").status_code)
            return False

        try:
            until(answers, 20, f"nginx (see {folder}/nginx.log)")
            yield client, health
        finally:
            process.terminate()
            process.wait(10)


def context_of(authority: Authority, name: str) -> ssl.SSLContext:
    return server_context(authority.certificate(name), authority.key(name))


def test_both_sides_are_verified(tmp_path: Path, shown: Authority) -> None:
    with (
        service("gateway", context_of(shown, GATEWAY)) as gateway,
        service("status", context_of(shown, STATUS_API)) as status_api,
        entrance(tmp_path, shown, gateway, status_api) as (client, health),
    ):
        assert [client.get("/api/v1/models").text for _ in range(3)] == ["gateway"] * 3
        assert client.get("/status/0199").text == "status"
        assert httpx.get(f"http://{LOOPBACK}:{health}/healthz", trust_env=False).text == "gateway"
        assert httpx.get(f"http://{LOOPBACK}:{health}/api/v1/models", trust_env=False).status_code == 404


@pytest.mark.parametrize("wrong", ["another authority", "another name", "plain text"])
def test_a_service_that_is_not_trusted_is_a_502_and_the_others_work(
    tmp_path: Path, shown: Authority, stranger: Authority, wrong: str
) -> None:
    contexts = {
        "another authority": context_of(stranger, GATEWAY),
        "another name": context_of(shown, "elsewhere"),
        "plain text": None,
    }
    with (
        service("gateway", contexts[wrong]) as gateway,
        service("status", context_of(shown, STATUS_API)) as status_api,
        entrance(tmp_path, shown, gateway, status_api) as (client, _),
    ):
        answer = client.get("/api/v1/models")
        assert (answer.status_code, answer.json()["code"]) == (502, "bad_gateway")
        assert client.get("/status/0199").text == "status"
        until(lambda: "/api/v1/models" in (tmp_path / "access.log").read_text(), 10, "the line of the access log")
        lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
        (refused,) = [line for line in lines if line["url.path"] == "/api/v1/models"]
        assert refused["upstream.address"] == f"{LOOPBACK}:{gateway}"


def test_clients_that_trust_another_authority_or_speak_plain_text_get_nothing(
    tmp_path: Path, shown: Authority, stranger: Authority
) -> None:
    with (
        service("gateway", context_of(shown, GATEWAY)) as gateway,
        entrance(tmp_path, shown, gateway, gateway) as (client, _),
    ):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{client.base_url}/healthz", verify=client_context(stranger.ca_file), trust_env=False)
        plain = httpx.get(str(client.base_url.copy_with(scheme="http")), trust_env=False)
        assert (plain.status_code, plain.json()["code"]) == (400, "bad_request")
