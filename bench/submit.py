"""Submit throughput: the bare view, the publish path alone, the real gateway, Celery; interleaved in one run."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import httpx

from bench.load import Load, post
from bench.report import Row, at_least, plain, spread
from bench.servers import gunicorn

if TYPE_CHECKING:
    from bench.servers import Bench

ROUNDS: Final = 5
_FALLBACKS: Final = "atelier_gateway_ledger_fallbacks_total "
PROMPT: Final = """<character_1>
<n>$character_1$</n>
<gender>1girl</gender>
<appearance>chibi, red_eyes, blue_hair, long_hair</appearance>
<clothing>school_uniform, serafuku</clothing>
<expression>happy, smile</expression>
<action>standing, holding, holding_briefcase</action>
<position>center_left</position>
</character_1>
<character_2>
<n></n>
<gender>1girl</gender>
<appearance>chibi, green_eyes, blonde_hair, twintails</appearance>
<clothing>school_uniform</clothing>
<position>center_right</position>
</character_2>
<general_tags>
<count>2girls, multiple_girls</count>
<style>anime_style, digital_art</style>
<background>white_background, simple_background</background>
<atmosphere>cheerful, rock & roll</atmosphere>
<quality>high_resolution, detailed</quality>
<objects>briefcase</objects>
</general_tags>"""


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Targets: publish path >= 0.5 of the bare view and >= 1.6 of Celery; with every check >= 0.3 of the bare view."""
    seconds = 3 if quick else 6
    others = ("worker-simulated", "status-consumer", "gateway-ledger")
    for program in others:
        bench.stack.stop_program(program)
    try:
        with ExitStack() as stack:
            urls = _servers(bench, stack)
            runs = {name: _warm(bench, url) for name, url in urls.items()}
            for _ in range(ROUNDS):
                for name, url in urls.items():
                    runs[name].append(_one(bench, url, seconds))
                    bench.purge()
            alone = _decided_alone(bench)
    finally:
        for program in others:
            bench.stack.start_program(program)
    return [*_rows(runs), plain("submit.decided_without_redis", alone, "submits", "of the first gateway")]


def _decided_alone(bench: Bench) -> float:
    text = httpx.get(f"{bench.gateway_url}/metrics").raise_for_status().text
    values = (line.split()[1] for line in text.splitlines() if line.startswith(_FALLBACKS))
    return sum(float(value) for value in values)


def _servers(bench: Bench, stack: ExitStack) -> dict[str, str]:
    amqp = bench.environment("gateway-1")["ATELIER_AMQP_URL_FILE"]
    with open(amqp, encoding="utf-8") as file:  # noqa: PTH123 - a path from the environment
        url = file.read().strip()
    environment = {"BENCH_AMQP_URL": url, "BENCH_CELERY_URL": bench.bench_vhost()}
    made = {
        name: stack.enter_context(
            gunicorn(f"bench.apps.{module}:build()", bench.free_port(), environment, bench.folder / f"{module}.log")
        )
        for name, module in (("bare", "bare"), ("publish", "publish"), ("celery", "celery_submit"))
    }
    return {**made, "gateway": bench.gateway_url, "nginx": bench.url}


def _warm(bench: Bench, url: str) -> list[Load]:
    _one(bench, url, 2)
    bench.purge()
    return []


def _one(bench: Bench, url: str, seconds: int) -> Load:
    load = post(f"{url}/generate", {"prompt": PROMPT}, bench.headers, seconds)
    if load.failed:
        message = f"{url}: {load.failed} of {load.requests} requests failed"
        raise RuntimeError(message)
    return load


def _rows(runs: dict[str, list[Load]]) -> list[Row]:
    rate = {name: statistics.median(load.per_second for load in loads) for name, loads in runs.items()}
    detail = {name: spread([load.per_second for load in loads]) for name, loads in runs.items()}
    rows = [
        at_least("submit.publish_vs_bare", rate["publish"], rate["bare"], "req/s", 0.5, detail["publish"]),
        at_least("submit.publish_vs_celery", rate["publish"], rate["celery"], "req/s", 1.6, detail["celery"]),
        at_least("submit.checked_vs_bare", rate["gateway"], rate["bare"], "req/s", 0.3, detail["gateway"]),
        at_least("submit.checked_vs_celery", rate["gateway"], rate["celery"], "req/s", 1.0, "Celery checks nothing"),
        plain("submit.nginx_two_gateways", rate["nginx"], "req/s", detail["nginx"]),
    ]
    for name, loads in runs.items():
        p50, p99 = (statistics.median(getattr(load, which) for load in loads) for which in ("p50", "p99"))
        rows.append(plain(f"submit.{name}_p50", p50, "ms", f"64 connections; p99 {p99:.1f} ms"))
    return rows
