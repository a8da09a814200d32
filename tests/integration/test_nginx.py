"""A real nginx with the rendered configuration, before two small upstreams that say what they received."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from infra.native.entrance import local_entrance, nginx_command
from infra.nginx.entrance import BODY_LIMIT_BYTES, IMAGE_LIMIT_BYTES, nginx_conf
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TASK_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


@dataclass
class Received:
    upstream: str
    method: str
    path: str
    headers: dict[str, str]


class Upstream:
    """Answers everything with its name. ``behave`` may replace the answer by an accident."""

    def __init__(self, name: str, journal: list[Received]) -> None:
        self.behaviour = ""
        self.release = threading.Event()
        handler = type("Handler", (_Handler,), {"upstream": self, "name": name, "journal": journal})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    upstream: Upstream
    name: str
    journal: list[Received]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.journal.append(Received(self.name, self.command, self.path, dict(self.headers.items())))
        behaviour = self.upstream.behaviour
        if behaviour == "die":
            # As a process that is killed while it works on the request: the connection ends without an answer.
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if behaviour == "stream":
            # As a stream of events: a piece at once, the next much later.
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"first\n")
            self.wfile.flush()
            self.upstream.release.wait(10)
            self.wfile.write(b"second\n")
            self.close_connection = True
            return
        if behaviour == "hold":
            self.upstream.release.wait(10)
        body = json.dumps({"upstream": self.name}).encode()
        self.send_response(503 if behaviour == "refuse" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", "from-upstream")
        if behaviour == "name the task":
            self.send_header("X-Task-Id", TASK_ID)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        pass


@dataclass
class Front:
    client: httpx.Client
    port: int
    access_log: Path
    gateways: list[Upstream]
    status: Upstream
    journal: list[Received] = field(default_factory=list)

    def raw(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(request)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        return received

    def log_line(self, **wanted: object) -> dict[str, Any]:
        """The access log line with these fields, once it is written."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for line in self.access_log.read_text().splitlines():
                record: dict[str, Any] = json.loads(line)
                if wanted.items() <= record.items():
                    return record
            time.sleep(0.05)
        pytest.fail(f"no line with {wanted} in {self.access_log.read_text()}")


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with _front(tmp_path) as it:
        yield it


@contextlib.contextmanager
def _front(folder: Path, **replacements: str) -> Iterator[Front]:
    journal: list[Received] = []
    gateways = [Upstream("gateway-1", journal), Upstream("gateway-2", journal)]
    status = Upstream("status-1", journal)
    port = _free_port()
    text = nginx_conf(
        local_entrance(
            listen=port,
            gateways=[gateway.port for gateway in gateways],
            status_apis=[status.port],
            run=folder,
            access_log=str(folder / "access.log"),
        )
    )
    for old, new in replacements.items():
        assert f"{old} " in text
        text = re.sub(rf"\b{old} [^;]+;", f"{old} {new};", text)
    conf = folder / "nginx.conf"
    conf.write_text(text)
    with (folder / "nginx.log").open("w") as log:
        process = subprocess.Popen(nginx_command(conf), stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
            _wait_until_open(port, folder / "nginx.log")
            yield Front(client, port, folder / "access.log", gateways, status, journal)
    finally:
        process.terminate()
        process.wait(10)
        for upstream in (*gateways, status):
            upstream.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_open(port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.02)
    pytest.fail(f"nginx does not listen: {log.read_text()}")


def assert_problem(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["code"] == body["error"]["code"]
    assert body["detail"] == body["error"]["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert len(answer.headers.get_list("x-request-id")) == 1


def test_requests_go_to_the_gateway_with_the_fewest_open_ones(front: Front) -> None:
    for gateway in front.gateways:
        gateway.behaviour = "hold"
    first = threading.Thread(target=lambda: front.client.get("/v1/models"))
    first.start()
    deadline = time.monotonic() + 10
    while not front.journal and time.monotonic() < deadline:
        time.sleep(0.01)
    busy, idle = front.gateways if front.journal[0].upstream == "gateway-1" else reversed(front.gateways)
    idle.behaviour = ""
    for _ in range(6):
        front.client.get("/v1/models")
    busy.release.set()
    first.join()
    upstreams = [received.upstream for received in front.journal]
    assert upstreams[1:] == [({"gateway-1", "gateway-2"} - {upstreams[0]}).pop()] * 6


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/generate", "gateway"),
        ("/api/v1/generate", "gateway"),
        ("/v1/images/generations", "gateway"),
        ("/healthz", "gateway"),
        ("/status/x", "status"),
        ("/api/v1/tasks", "status"),
        ("/api/v1/tasks/x/artifacts/0?wait=1", "status"),
        ("/api/v1/webhooks?state=pending", "status"),
        ("/api/v1/webhooks/x/replay", "status"),
    ],
)
def test_a_path_leads_to_its_service_unchanged(front: Front, path: str, service: str) -> None:
    assert front.client.get(path).json()["upstream"].startswith(service)
    assert front.journal[0].path == path


@pytest.mark.parametrize(
    ("method", "path", "service"),
    [
        ("DELETE", f"/api/v1/tasks/{TASK_ID}", "status"),
        ("POST", f"/api/v1/tasks/{TASK_ID}/retry", "gateway"),
        ("POST", f"/api/v1/tasks/{TASK_ID}/retry/more", "status"),
        ("GET", "/api/v1/webhooks", "status"),
        ("POST", "/api/v1/webhooks/msg_1/replay", "status"),
        ("GET", "/api/v1/events", "status"),
        ("GET", f"/api/v1/tasks/{TASK_ID}/events", "status"),
    ],
)
def test_what_is_done_to_a_task_leads_to_who_does_it(front: Front, method: str, path: str, service: str) -> None:
    assert front.client.request(method, path).json()["upstream"].startswith(service)
    assert (front.journal[0].method, front.journal[0].path) == (method, path)


@pytest.mark.parametrize("path", ["/api/v1/events", f"/api/v1/tasks/{TASK_ID}/events"])
def test_a_stream_passes_piece_by_piece(front: Front, path: str) -> None:
    front.status.behaviour = "stream"
    with front.client.stream("GET", path) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first\n"
        front.status.release.set()
        assert next(pieces) == b"second\n"


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/readyz",
        "/",
        "/nothing",
        "/status/../metrics",
        "/v1/..//readyz",
        "/status/%2e%2e/metrics",
        "/api/v1/admin/tasks?state=open",
        "/api/v1/tasks/../admin/tasks",
        "//metrics",
    ],
)
def test_what_is_not_public_is_a_404_and_reaches_no_service(front: Front, path: str) -> None:
    received = front.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.1 404 ")
    assert b"Content-Type: application/problem+json\r\n" in received
    assert front.journal == []


def test_a_request_id_is_made_and_handed_on(front: Front) -> None:
    answers = [front.client.get("/healthz") for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids == [received.headers["X-Request-Id"] for received in front.journal]
    assert len(set(ids)) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


def test_a_well_formed_request_id_is_kept(front: Front) -> None:
    answer = front.client.get("/healthz", headers={"X-Request-Id": "caller.made_this-1"})
    assert answer.headers.get_list("x-request-id") == ["caller.made_this-1"]
    assert front.journal[0].headers["X-Request-Id"] == "caller.made_this-1"


@pytest.mark.parametrize(
    "bad", ["short", "x" * 65, "has spaces in it", 'quote"quote"', "line\tbreak12", "ümlaut-12345"]
)
def test_a_malformed_request_id_is_replaced(front: Front, bad: str) -> None:
    answer = front.client.get("/healthz", headers={b"X-Request-Id": bad.encode()})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert front.journal[0].headers["X-Request-Id"] == answer.headers["x-request-id"]


def test_what_a_client_claims_of_its_address_is_overwritten(front: Front) -> None:
    claims = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
    front.client.get("/healthz", headers=claims)
    seen = front.journal[0].headers
    assert (seen["X-Forwarded-For"], seen["X-Real-IP"]) == ("127.0.0.1", "127.0.0.1")
    assert "Forwarded" not in seen


def test_a_body_over_the_limit_is_a_413_problem(front: Front) -> None:
    allowed = front.client.post("/generate", content=b"x" * BODY_LIMIT_BYTES)
    assert allowed.status_code == 200
    answer = front.client.post("/generate", content=b"x" * (BODY_LIMIT_BYTES + 1))
    assert_problem(answer, 413)
    assert len(front.journal) == 1


def test_a_chunked_body_over_the_limit_is_a_413_problem(front: Front) -> None:
    answer = front.client.post("/generate", content=(b"x" * 65536 for _ in range(8)))
    assert_problem(answer, 413)
    assert front.journal == []


def test_an_image_may_be_larger_than_a_request_and_has_a_limit_of_its_own(front: Front) -> None:
    allowed = front.client.post("/api/v1/images", content=b"x" * IMAGE_LIMIT_BYTES)
    assert allowed.status_code == 200
    assert_problem(front.client.post("/api/v1/images", content=b"x" * (IMAGE_LIMIT_BYTES + 1)), 413)
    (arrived,) = front.journal
    assert (arrived.path, arrived.headers["Content-Length"]) == ("/api/v1/images", str(IMAGE_LIMIT_BYTES))


def test_an_address_uploads_two_images_at_once_and_what_is_not_whole_reaches_nobody(front: Front) -> None:
    head = b"POST /api/v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", front.port), 5))
            connection.sendall(head + bytes(300_000))
        until(lambda: front.client.post("/api/v1/images", content=b"x").status_code == 503, 10, "the third's refusal")
        assert front.client.post("/generate", content=b"{}").status_code == 200
    assert "600000" not in [each.headers["Content-Length"] for each in front.journal]


def test_a_404_is_a_problem_that_names_the_path(front: Front) -> None:
    answer = front.client.post("/nothing/here?secret=1", content=b"{}")
    assert_problem(answer, 404)
    assert answer.json()["instance"] == "/nothing/here"
    assert "retry-after" not in answer.headers


def test_a_path_that_would_break_json_is_left_out_of_the_problem(front: Front) -> None:
    received = front.raw(b'GET /no"thing\\x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    assert json.loads(received.partition(b"\r\n\r\n")[2])["instance"] == "/"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBig: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: " + b"a" * 65536 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 400),
        (b"GET /status/x HTTP/1.1\r\nHost: x\r\n" + (b"X-Filler: " + b"a" * 4084 + b"\r\n") * 16 + b"\r\n", 431),
    ],
)
def test_what_is_not_proper_http_is_answered_with_a_problem(front: Front, request_bytes: bytes, status: int) -> None:
    head, _, body = front.raw(request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    problem = json.loads(body)
    assert problem["status"] == status
    assert f"X-Request-Id: {problem['request_id']}".encode() in head


def test_no_gateway_at_all_is_a_502_problem_with_retry_after(front: Front) -> None:
    for gateway in front.gateways:
        gateway.close()
    answer = front.client.post("/generate", json={})
    assert_problem(answer, 502)
    assert answer.headers["retry-after"] == "5"


def test_a_gateway_that_is_too_slow_is_a_504_problem_and_is_asked_once(tmp_path: Path) -> None:
    with _front(tmp_path, proxy_read_timeout="300ms") as front:
        for gateway in front.gateways:
            gateway.behaviour = "hold"
        answer = front.client.post("/generate", json={})
        assert_problem(answer, 504)
        assert answer.headers["retry-after"] == "5"
        assert len(front.journal) == 1


def test_a_post_is_not_sent_again_when_the_gateway_dies_in_the_middle(front: Front) -> None:
    for gateway in front.gateways:
        gateway.behaviour = "die"
    assert_problem(front.client.post("/generate", json={}), 502)
    assert len(front.journal) == 1


def test_a_gateway_that_is_down_is_passed_over_for_posts_too(front: Front) -> None:
    front.gateways[0].close()
    answers = [front.client.post("/generate", json={}) for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 10
    assert {received.upstream for received in front.journal} == {"gateway-2"}


def test_a_service_s_own_error_passes_unchanged(front: Front) -> None:
    for gateway in front.gateways:
        gateway.behaviour = "refuse"
    answer = front.client.post("/generate", json={})
    assert (answer.status_code, answer.json()) == (503, {"upstream": front.journal[0].upstream})
    assert answer.headers["x-request-id"] != "from-upstream"
    assert len(front.journal) == 1


def test_a_request_is_one_json_line_without_query_string_or_key(front: Front) -> None:
    front.client.get(
        f"/status/{TASK_ID}?token=query-secret",
        headers={"X-Request-Id": "log-line-1", "Authorization": "Bearer key-secret"},
    )
    record = front.log_line(request_id="log-line-1")
    seconds = record.pop("http.request.seconds")
    assert 0 <= seconds < 10
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", record.pop("@timestamp"))
    assert record == {
        "log.level": "info",
        "message": "http_request",
        "service.name": "nginx",
        "request_id": "log-line-1",
        "task_id": TASK_ID,
        "http.request.method": "GET",
        "url.path": f"/status/{TASK_ID}",
        "http.response.status_code": 200,
        "http.response.bytes": 24,
        "source.address": "127.0.0.1",
        "upstream.address": f"127.0.0.1:{front.status.port}",
        "upstream.status": "200",
    }
    assert "secret" not in front.access_log.read_text()


def test_the_task_that_a_gateway_names_is_logged_and_nobody_else_has_one(front: Front) -> None:
    front.client.get("/healthz", headers={"X-Request-Id": "no-task-1"})
    for gateway in front.gateways:
        gateway.behaviour = "name the task"
    front.client.post("/generate", json={}, headers={"X-Request-Id": "with-task-1"})
    assert front.log_line(request_id="with-task-1")["task_id"] == TASK_ID
    assert "task_id" not in front.log_line(request_id="no-task-1")


def test_a_refused_request_is_logged_with_the_path_that_was_asked_for(front: Front) -> None:
    front.raw(b'GET /no"thing\\x?q HTTP/1.1\r\nHost: x\r\nX-Request-Id: not-found-1\r\nConnection: close\r\n\r\n')
    record = front.log_line(request_id="not-found-1")
    assert (record["url.path"], record["http.response.status_code"]) == ('/no"thing\\x', 404)
    front.raw(b"nonsense\r\n\r\n")
    assert front.log_line(**{"http.response.status_code": 400})["url.path"] == ""


def test_a_failed_request_is_logged_as_it_was_asked_and_without_its_query_string(front: Front) -> None:
    for gateway in front.gateways:
        gateway.close()
    front.client.post("/generate?token=query-secret", json={}, headers={"X-Request-Id": "bad-gateway-1"})
    record = front.log_line(request_id="bad-gateway-1")
    assert (record["http.request.method"], record["url.path"]) == ("POST", "/generate")
    assert (record["http.response.status_code"], record["log.level"]) == (502, "error")
    assert record["upstream.status"] == "502, 502"
    logs = [path.read_text() for path in front.access_log.parent.glob("*.log")]
    assert len(logs) == 2
    assert not any("secret" in log for log in logs)
