"""The broker: a private RabbitMQ node with its own port mapper, cookie and folders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from infra.native.config import CHECKOUT, base_environment
from infra.native.credentials import write_private
from infra.native.ports import HOST
from infra.native.program import Program, Stage, system_program
from infra.native.readiness import all_of, amqp_probe, tcp_probe
from shared.messaging.definitions import render_definitions
from shared.messaging.topology import VHOST

if TYPE_CHECKING:
    from pathlib import Path

    from infra.native.program import Site

SERVICE_USERS: Final = ("gateway", "worker", "status", "operator")
# For tests: may do anything within the virtual host.
ADMINISTRATOR: Final = "admin"
_SOURCES: Final = CHECKOUT / "infra" / "rabbitmq"
_SCRIPTS: Final = "/usr/lib/rabbitmq/bin"


def amqp_url(site: Site, user: str) -> str:
    """The address of the broker with a user's password."""
    return f"amqp://{user}:{site.secrets.value(f'amqp-{user}')}@{HOST}:{site.ports['rabbitmq']}/{VHOST}"


def amqp_url_file(site: Site, user: str) -> Path:
    """The same in a file that only the owner may read."""
    return site.secrets.store(f"amqp-{user}.url", amqp_url(site, user))


def environment(site: Site) -> dict[str, str]:
    """The environment of the node, and of Erlang's tools that talk to it."""
    data, conf = site.layout.data("rabbitmq"), site.layout.conf
    return {
        **base_environment(),
        "HOME": str(data),  # of the cookie
        "ERL_EPMD_PORT": str(site.ports["epmd"]),
        "ERL_EPMD_ADDRESS": HOST,
        "RABBITMQ_NODENAME": f"atelier-{site.layout.digest}@localhost",
        "RABBITMQ_DIST_PORT": str(site.ports["rabbitmq-distribution"]),
        "RABBITMQ_CONFIG_FILE": str(conf / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(conf / "rabbitmq-advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(conf / "rabbitmq_enabled_plugins"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",  # else a system-wide broker's file is read
        "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
        "RABBITMQ_LOG_BASE": str(data / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(data / "pid"),
    }


def render(site: Site) -> None:
    """Write the node's configuration and definitions."""
    layout = site.layout
    layout.data("rabbitmq").mkdir(mode=0o700, parents=True, exist_ok=True)
    definitions_file = layout.secrets / "rabbitmq-definitions.json"
    own = f"\nlisteners.tcp.1 = {HOST}:{site.ports['rabbitmq']}\nload_definitions = {definitions_file}\n"
    settings = (_SOURCES / "rabbitmq.conf").read_text(encoding="utf-8")
    (layout.conf / "rabbitmq.conf").write_text(settings + own, encoding="utf-8")
    plugins = (_SOURCES / "enabled_plugins").read_text(encoding="utf-8")
    (layout.conf / "rabbitmq_enabled_plugins").write_text(plugins, encoding="utf-8")
    users = {user: site.secrets.value(f"amqp-{user}") for user in (*SERVICE_USERS, ADMINISTRATOR)}
    document = render_definitions(site.settings.models, users, site.settings.queue_type)
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    document["permissions"].append({"user": ADMINISTRATOR, "vhost": VHOST, **everything})
    write_private(definitions_file, json.dumps(document, indent=2))


def programs(site: Site) -> list[Program]:
    """The port mapper and the node."""
    epmd_port = site.ports["epmd"]
    # Two schedulers that do not spin: the node shares few cores with everything else. The mapper is ours and
    # supervised, so the node must not start one that outlives it.
    erlang = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -start_epmd false"
    loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
    return [
        Program(
            name="epmd",
            stage=Stage.NAMES,
            command=(system_program("epmd"), "-port", str(epmd_port), "-address", HOST),
            probe=tcp_probe(epmd_port),
            environment=base_environment(),
        ),
        Program(
            name="rabbitmq",
            stage=Stage.STORES,
            command=(system_program("rabbitmq-server", f"{_SCRIPTS}/rabbitmq-server"),),
            probe=all_of(*(amqp_probe(amqp_url(site, user)) for user in SERVICE_USERS)),
            environment={
                **environment(site),
                # The script then becomes the node instead of watching over it: signals and kills reach the node itself.
                "RUNNING_UNDER_SYSTEMD": "true",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{erlang} {loopback}",
            },
            stop_seconds=60,
        ),
    ]


def control_command(site: Site, arguments: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command and environment of ``rabbitmqctl`` against this node."""
    return (system_program("rabbitmqctl", f"{_SCRIPTS}/rabbitmqctl"), *arguments), environment(site)
