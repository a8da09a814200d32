"""How fast bad input is refused, through Nginx, and that nothing of it is ever published."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from bench.report import Row, at_most, percentile

if TYPE_CHECKING:
    from bench.servers import Bench

_ENTITIES: Final = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
PROMPTS: Final = {
    "dtd": "<!DOCTYPE x SYSTEM 'file:///etc/passwd'><caption>x</caption>",
    "billion_laughs": f"<!DOCTYPE l [<!ENTITY l0 'l'>{_ENTITIES}]><caption>&l9;</caption>",
    "entity": "<caption>&e;</caption>",
    "deep": "<a>" * 2600,
    "flood": "<caption/>" * 790,
    "huge_text": "x" * 200_000,
    "huge_markup": "<caption>" + "&amp;" * 40_000,
    "control": "a\x00b",
    "mismatch": "<caption>" + "x" * 7000,
}
BODIES: Final = {
    "malformed_json": b'{"prompt": ',
    "nested_json": b"[" * 200_000,
    "not_utf8": b'{"prompt": "\xff"}',
    "wrong_types": b'{"prompt": 1, "width": "a", "steps": []}',
    "unknown_fields": json.dumps({"prompt": "x", **{f"f{n}": n for n in range(5000)}}).encode(),
    "out_of_range": b'{"prompt": "x", "width": 100, "steps": 9999}',
}


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Target: p99 of the slowest kind under 50 ms, no answer of 5xx, nothing published."""
    rounds = 20 if quick else 60
    cases = {name: json.dumps({"prompt": prompt}).encode() for name, prompt in PROMPTS.items()} | BODIES
    bench.stack.stop_program("worker-simulated")
    bench.purge()
    slowest: dict[str, list[float]] = {name: [] for name in [*cases, "wrong_key"]}
    with bench.client() as client:
        for _ in range(rounds):
            for name, body in cases.items():
                slowest[name].append(_timed(client.post, body, {}))
            slowest["wrong_key"].append(
                _timed(client.post, b"{}", {"Authorization": "Bearer atl_00000000_" + "x" * 43})
            )
    published = {queue: depth for queue, depth in bench.depths().items() if depth}
    bench.stack.start_program("worker-simulated")
    worst = max(slowest, key=lambda name: percentile(slowest[name], 0.99))
    detail = f"slowest kind of {len(slowest)}: {worst}; published: {published or 'nothing'}"
    return [at_most("bad_input.p99", percentile(slowest[worst], 0.99), "ms", 0.0 if published else 50.0, detail)]


def _timed(post: object, body: bytes, headers: dict[str, str]) -> float:
    began = time.perf_counter()
    answer = post("/generate", content=body, headers=headers)  # type: ignore[operator] # httpx.Client.post
    elapsed = (time.perf_counter() - began) * 1000
    if not 400 <= answer.status_code < 500:  # noqa: PLR2004 - the client's fault, by HTTP
        message = f"answered {answer.status_code}: {answer.text[:200]}"
        raise RuntimeError(message)
    return elapsed
