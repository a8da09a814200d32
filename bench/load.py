"""wrk as the load generator: bounded in time, loopback only."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECTIONS: Final = 64
_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run gave. Latencies are milliseconds; ``failed`` counts answers other than 2xx and broken ones."""

    per_second: float
    p50: float
    p99: float
    requests: int
    failed: int


def post(url: str, body: Mapping[str, object], headers: Mapping[str, str], seconds: int) -> Load:
    """POST the same JSON from 64 connections for so many seconds."""
    program = shutil.which("wrk")
    if program is None:
        message = "wrk is missing: run `make setup`"
        raise FileNotFoundError(message)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_lua(body, headers))
        script.flush()
        command = [program, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", script.name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30)
    return _parse(done.stdout)


def _lua(body: Mapping[str, object], headers: Mapping[str, str]) -> str:
    lines = ['wrk.method = "POST"', f"wrk.body = {_quoted(json.dumps(body))}"]
    lines += [f"wrk.headers[ {_quoted(name)} ] = {_quoted(value)}" for name, value in headers.items()]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "[==[" + text + "]==]"


def _parse(text: str) -> Load:
    requests = int(_find(r"(\d+) requests in", text))
    errors = sum(int(number) for number in re.findall(r"(?:connect|read|write|timeout) (\d+)", text))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Load(
        per_second=float(_find(r"Requests/sec:\s+([\d.]+)", text)),
        # Lines of their own: the statistics above them end with per cents as well.
        p50=_milliseconds(_find(r"\n\s+50%\s+(\S+)", text)),
        p99=_milliseconds(_find(r"\n\s+99%\s+(\S+)", text)),
        requests=requests,
        failed=errors + (int(refused[1]) if refused else 0),
    )


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        message = f"wrk printed no {pattern!r}: {text}"
        raise ValueError(message)
    return found[1]


def _milliseconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s)", text)
    if match is None:
        message = f"not a time: {text!r}"
        raise ValueError(message)
    return float(match[1]) * _UNITS[match[2]]
