"""Input images on real parts: a gateway process, the bucket, and a server on loopback that serves bad ones."""

from __future__ import annotations

import hashlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from shared.contracts.base import decode
from shared.contracts.task import TaskMessage
from shared.messaging.topology import work_queue
from shared.storage.s3 import S3Store
from tests.integration.test_gateway_process import GatewayProcess
from tests.support.pictures import HTML, SVG, bomb, claimed, picture
from tests.support.receiver import Receiver, answer, drip, flood, silent
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.receiver import Received
    from tests.support.s3 import S3Server

PNG: Final = picture("PNG", (64, 48))
MOST_BYTES: Final = 1 << 20
WORK: Final = work_queue("simulated")


class Site:
    """A gateway, its bucket, and a server that it is sent to."""

    def __init__(self, gateway: GatewayProcess, store: S3Store, receiver: Receiver) -> None:
        self.gateway, self.store, self.receiver = gateway, store, receiver

    def upload(self, body: bytes) -> httpx.Response:
        return self.gateway.client.post("/api/v1/images", content=body, headers={"Content-Type": "image/png"})

    def generate(self, image: str, **body: object) -> httpx.Response:
        document = {"prompt": "a lake", "model": "simulated", "image": image, **body}
        return self.gateway.client.post("/api/v1/generate", json=document)

    def kept(self) -> list[str]:
        return list(self.store.keys("inputs/"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(answer(body=PNG)) as receiver:
        yield receiver


@pytest.fixture
def fetch_seconds() -> str:
    return "2"


@pytest.fixture
def gateway(rabbit: RabbitServer, process_guard: ProcessGuard, tmp_path: Path) -> GatewayProcess:
    return GatewayProcess(process_guard, tmp_path, rabbit.url("gateway"))


@pytest.fixture
def site(
    gateway: GatewayProcess, s3_server: S3Server, bucket: str, receiver: Receiver, fetch_seconds: str
) -> Iterator[Site]:
    settings = s3_server.settings(bucket)
    running = gateway.spawn(
        ATELIER_S3_ENDPOINT=settings.s3_endpoint,
        ATELIER_S3_BUCKET=bucket,
        ATELIER_S3_ACCESS_KEY=settings.s3_access_key.get_secret_value(),
        ATELIER_S3_SECRET_KEY=settings.s3_secret_key.get_secret_value(),
        ATELIER_MAX_IMAGE_BYTES=str(MOST_BYTES),
        ATELIER_IMAGE_FETCH_SECONDS=fetch_seconds,
        ATELIER_IMAGE_URLS="any",
        ATELIER_IMAGE_PLACES="2",
        ATELIER_WEBHOOK_ALLOWED_NETWORKS="127.0.0.1/32",
        ATELIER_WEBHOOK_PORTS=f"80,443,{receiver.port}",
    )
    until(gateway.ready, 30, f"the gateway (see {gateway.log})")
    yield Site(gateway, S3Store(settings), receiver)
    gateway.client.close()
    gateway.guard.stop(running)


def test_an_upload_and_a_url_become_the_same_stored_image(site: Site, rabbit: RabbitServer) -> None:
    uploaded = site.upload(PNG)
    assert uploaded.status_code == 201
    sha256 = hashlib.sha256(PNG).hexdigest()
    assert uploaded.json()["image"] == f"img_{sha256}"
    assert site.kept() == [f"inputs/acme/{sha256}.png"]
    assert site.store.get(site.kept()[0]) == PNG
    for image in (uploaded.json()["image"], f"{site.receiver.url}/cat.png"):
        assert site.generate(image).status_code == 202
    assert site.kept() == [f"inputs/acme/{sha256}.png"]
    (fetched,) = site.receiver.received
    assert fetched.path == "/cat.png"
    # Nothing of ours goes out with it.
    assert fetched.headers.keys() == {"host", "accept", "accept-encoding", "connection", "user-agent"}
    with rabbit.connect() as connection:
        channel = connection.channel()
        found = [decode(TaskMessage, channel.basic_get(WORK, auto_ack=True)[2] or b"") for _ in range(2)]
    assert found[0].params.image == found[1].params.image is not None
    assert found[0].params.image.sha256 == sha256


BAD: Final[dict[str, tuple[Callable[..., None], str]]] = {
    "svg": (answer(body=SVG, content_type="image/png"), "unsupported_image"),
    "html": (answer(body=HTML, content_type="text/html"), "unsupported_image"),
    "gif": (answer(body=picture("GIF", (8, 8), "P"), content_type="image/gif"), "unsupported_image"),
    "empty": (answer(body=b""), "unsupported_image"),
    "wide": (answer(body=claimed(30_000, 8)), "image_too_large"),
    "bomb": (answer(body=bomb(9000, 5000)), "image_too_large"),
    "redirect": (answer(302, location="http://169.254.169.254/latest/meta-data"), "image_not_fetched"),
    "missing": (answer(404, body=HTML), "image_not_fetched"),
    "silent": (silent, "image_not_fetched"),
    "slow": (drip(b"x", first=b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + PNG[:50]), "image_not_fetched"),
    "cut": (flood(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + PNG, 0), "image_not_fetched"),
    "long": (flood(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n" + PNG, 1400), "image_too_large"),
    "endless": (flood(b"HTTP/1.1 200 OK\r\n\r\n" + PNG, 1400), "image_too_large"),
    "short length": (flood(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + PNG, 0), "unsupported_image"),
    "no http": (flood(PNG, 1), "image_not_fetched"),
    "endless head": (flood(b"HTTP/1.1 200 OK\r\n", 1, b"X-A: b\r\n" * 500_000), "image_not_fetched"),
}


def test_whatever_a_server_answers_is_an_image_or_a_refusal_and_nothing_waits(site: Site, rabbit: RabbitServer) -> None:
    found = {}
    for name, (behaviour, _) in BAD.items():
        site.receiver.last = behaviour
        refused = site.generate(f"{site.receiver.url}/{name.replace(' ', '-')}")
        found[name] = (refused.status_code, refused.json()["code"])
    assert found == {name: (422, code) for name, (_, code) in BAD.items()}
    assert site.kept() == []
    assert rabbit.depth(WORK) == 0
    assert "169.254" not in str(site.gateway.lines())
    for body, code in ((SVG, "unsupported_image"), (claimed(30_000, 8), "image_too_large"), (b"", "unsupported_image")):
        assert site.upload(body).json()["code"] == code
    assert site.upload(PNG + bytes(MOST_BYTES)).status_code == 413
    assert site.kept() == []


def test_inside_nobody_is_sent_to_and_nothing_is_told_of_it(site: Site) -> None:
    port = site.receiver.port
    refused = [
        site.generate(url).json()
        for url in (
            f"http://127.0.0.2:{port}/",
            f"http://[::1]:{port}/",
            "http://10.0.0.1/",
            "http://169.254.169.254/latest/meta-data",
            f"http://localhost:{port + 1 if port < 65535 else port - 1}/",
            "file:///etc/passwd",
        )
    ]
    assert {each["code"] for each in refused} <= {"image_url_refused", "invalid_parameters"}
    assert site.receiver.connections == 0


@pytest.mark.parametrize("fetch_seconds", ["20"])
def test_a_slow_server_holds_up_nobody_else_and_no_more_images_than_there_are_places(site: Site) -> None:
    go_on = threading.Event()

    def late(connection: socket.socket, received: Received) -> None:
        go_on.wait(20)
        answer(body=PNG)(connection, received)

    site.receiver.last = late
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(site.generate, f"{site.receiver.url}/{number}") for number in range(2)]
        until(lambda: site.receiver.connections == 2, 10, "both to be fetched")
        busy = site.generate(f"{site.receiver.url}/third")
        plain = site.gateway.client.post("/api/v1/generate", json={"prompt": "a lake"})
        go_on.set()
        assert (busy.status_code, busy.json()["code"]) == (503, "images_busy")
        assert plain.status_code == 202
        assert [each.result().status_code for each in waiting] == [202, 202]
    assert site.generate(f"{site.receiver.url}/again").status_code == 202


def test_an_upload_that_stalls_holds_up_nobody_else(site: Site) -> None:
    head = (
        f"POST /api/v1/images HTTP/1.1\r\nHost: g\r\nX-API-Key: {site.gateway.key}\r\n"
        "Content-Type: image/png\r\nContent-Length: 5000\r\n\r\n"
    )
    ended = threading.Event()

    def stall() -> None:
        with socket.create_connection(("127.0.0.1", site.gateway.port), timeout=30) as connection:
            connection.sendall(head.encode() + PNG[:40])
            ended.wait(20)

    threads = [threading.Thread(target=stall, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert site.upload(PNG).status_code in {201, 503}
    assert site.gateway.client.post("/api/v1/generate", json={"prompt": "a lake"}).status_code == 202
    ended.set()
    for thread in threads:
        thread.join()
    until(lambda: site.upload(PNG).status_code == 201, 10, "the places to be free again")
