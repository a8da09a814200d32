"""Atelier's own processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from infra.native import rabbitmq, redis_server, seaweedfs
from infra.native.config import CHECKOUT, base_environment
from infra.native.credentials import tenants_url, write_demo_keys
from infra.native.ports import HOST
from infra.native.program import Program, Stage
from infra.native.readiness import http_probe

if TYPE_CHECKING:
    from infra.native.program import Site


def render(site: Site) -> None:
    """Write what the services read at their start."""
    write_demo_keys(site.settings, site.layout, site.secrets)
    site.layout.data("status").mkdir(mode=0o700, parents=True, exist_ok=True)
    for user in rabbitmq.SERVICE_USERS:
        rabbitmq.amqp_url_file(site, user)


def programs(site: Site) -> list[Program]:
    """Gateways and their ledger, status APIs, the status consumer, sweeper and sender of callbacks, workers."""
    return [
        *_gateways(site),
        _ledger(site),
        *_status_apis(site),
        *_status_consumers(site),
        _sweeper(site),
        _webhooks(site),
        *_workers(site),
    ]


def _gateways(site: Site) -> list[Program]:
    environment = {
        **_base(site),
        **_broker(site, "gateway"),
        **_redis(site),
        **_keys(site),
        **_models(site),
        **seaweedfs.service_environment(site, "gateway"),
    }
    return [
        _web(f"gateway-{number}", "services.gateway", port, environment)
        for number, port in enumerate(site.ports.gateways, 1)
    ]


def _ledger(site: Site) -> Program:
    port = site.ports["gateway-ledger"]
    own = {
        **_operator(site),
        **_redis(site),
        "ATELIER_METRICS_PORT": str(port),
        "ATELIER_STATUS_URL": f"http://{HOST}:{site.ports.status_apis[0]}",
    }
    return Program(
        name="gateway-ledger",
        stage=Stage.SERVICES,
        command=(sys.executable, "-m", "services.gateway.ledger"),
        probe=http_probe(port, "/readyz"),
        environment={**_base(site), **_broker(site, "gateway"), **own},
    )


def _status_apis(site: Site) -> list[Program]:
    environment = {**_base(site), **_broker(site, "status"), **_view(site), **_keys(site), **_operator(site)}
    return [
        _web(f"status-api-{number}", "services.status", port, environment)
        for number, port in enumerate(site.ports.status_apis, 1)
    ]


def _web(name: str, package: str, port: int, environment: dict[str, str]) -> Program:
    gunicorn = str(Path(sys.prefix) / "bin" / "gunicorn")
    config = ("--config", f"python:{package}.gunicorn_conf", "--bind", f"{HOST}:{port}")
    # Heartbeat files in memory; a control socket would be one more way in that nobody uses.
    private = ("--worker-tmp-dir", "/dev/shm", "--no-control-socket")  # noqa: S108 - names are made by mkstemp
    return Program(
        name=name,
        stage=Stage.SERVICES,
        command=(gunicorn, *config, *private, f"{package}.wsgi:build()"),
        probe=http_probe(port, "/readyz"),
        environment=environment,
        stop_seconds=35,
    )


def _status_consumers(site: Site) -> list[Program]:
    environment = {**_base(site), **_broker(site, "status"), **_view(site)}
    return [
        Program(
            name="status-consumer" if number == 1 else f"status-consumer-{number}",
            stage=Stage.SERVICES,
            command=(sys.executable, "-m", "services.status.consumer"),
            probe=http_probe(port, "/readyz"),
            environment={**environment, "ATELIER_METRICS_PORT": str(port)},
        )
        for number, port in enumerate(site.ports.status_consumers, 1)
    ]


def _sweeper(site: Site) -> Program:
    port = site.ports["status-sweeper"]
    own = {"ATELIER_METRICS_PORT": str(port)}
    return Program(
        name="status-sweeper",
        stage=Stage.SERVICES,
        command=(sys.executable, "-m", "services.status.sweeper"),
        probe=http_probe(port, "/readyz"),
        environment={**_base(site), **_broker(site, "status"), **_view(site), **_plans(site), **own},
    )


def _webhooks(site: Site) -> Program:
    port = site.ports["status-webhooks"]
    own = {
        "ATELIER_DATABASE_URL": _view(site)["ATELIER_DATABASE_URL"],
        "ATELIER_TENANTS_URL": tenants_url(site.layout),
        "ATELIER_METRICS_PORT": str(port),
    }
    return Program(
        name="status-webhooks",
        stage=Stage.SERVICES,
        command=(sys.executable, "-m", "services.status.webhooks"),
        probe=http_probe(port, "/readyz"),
        environment={**_base(site), **own},
        stop_seconds=25,  # callbacks under way may take 15 s
    )


def _workers(site: Site) -> list[Program]:
    shared = {
        **_base(site),
        **_broker(site, "worker"),
        **_models(site),
        **seaweedfs.service_environment(site, "worker"),
    }
    programs: list[Program] = []
    counts: dict[str, int] = {}
    for model, port in zip(site.settings.workers, site.ports.workers, strict=True):
        counts[model] = counts.get(model, 0) + 1
        name = f"worker-{model}" if counts[model] == 1 else f"worker-{model}-{counts[model]}"
        own = {
            "ATELIER_WORKER_MODEL": model,
            "ATELIER_WORKER_ID": name,
            "ATELIER_WORK_DIR": str(site.layout.work / name),
            "ATELIER_METRICS_PORT": str(port),
        }
        programs.append(
            Program(
                name=name,
                stage=Stage.SERVICES,
                command=(sys.executable, "-m", "services.worker"),
                probe=http_probe(port, "/readyz"),
                environment={**shared, **own},
                stop_seconds=45,
            )
        )
    return programs


def operator_environment(site: Site) -> dict[str, str]:
    """The variables of the operators' tools."""
    return {**_base(site), **_broker(site, "operator"), **seaweedfs.service_environment(site, "operator")}


def view_environment(site: Site) -> dict[str, str]:
    """The variables of commands that work on the view and the bucket."""
    return {**_base(site), **_view(site)}


def admin_environment(site: Site) -> dict[str, str]:
    """The variables of the gateway's admin commands."""
    return {**_base(site), **_keys(site)}


def _base(site: Site) -> dict[str, str]:
    return {
        **base_environment(),
        **site.settings.environment,
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        "ATELIER_LOG_FORMAT": "json",
    }


def _broker(site: Site, user: str) -> dict[str, str]:
    return {
        "ATELIER_AMQP_URL_FILE": str(site.layout.secrets / f"amqp-{user}.url"),
        "ATELIER_QUEUE_TYPE": site.settings.queue_type,
    }


def _redis(site: Site) -> dict[str, str]:
    return {"ATELIER_REDIS_URL_FILE": str(redis_server.redis_url_file(site))}


def _plans(site: Site) -> dict[str, str]:
    return {
        "ATELIER_TENANTS_URL": tenants_url(site.layout),
        "ATELIER_PLANS_FILE": str(site.settings.plans_file),
    }


def _keys(site: Site) -> dict[str, str]:
    return {
        **_plans(site),
        "ATELIER_KEY_PEPPER_FILE": str(site.secrets.path("key-pepper")),
    }


def _operator(site: Site) -> dict[str, str]:
    return {"ATELIER_OPERATOR_KEY_FILE": str(site.secrets.path("operator-key"))}


def _models(site: Site) -> dict[str, str]:
    return {
        "ATELIER_MODELS": ",".join(site.settings.models),
        "ATELIER_MODELS_DIR": str(CHECKOUT / "models"),
    }


def _view(site: Site) -> dict[str, str]:
    """Where the status processes find the view and the results."""
    given = site.settings.status_database
    url = given.get_secret_value() if given else f"sqlite:///{site.layout.data('status') / 'status.db'}"
    return {"ATELIER_DATABASE_URL": url, **seaweedfs.service_environment(site, "status")}
