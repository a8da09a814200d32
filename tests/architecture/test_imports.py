"""Dependencies point inwards, libraries stay behind their adapters, and importing a module does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.architecture.source import ROOT, Module, modules

# Library -> where it may be imported.
CONFINED = {
    "pika": ("shared.messaging.", "bench.fairness.broker"),
    "boto3": ("shared.storage.s3",),
    "botocore": ("shared.storage.s3",),
    "flask": ("shared.http.", "services.gateway.", "services.status.", "bench."),
    "gunicorn": ("shared.http.gunicorn_logging", "services.gateway.gunicorn_conf", "services.status.gunicorn_conf"),
    "gevent": (
        "shared.messaging.gevent_",
        "shared.http.gathered_lines",
        "services.status.streams.connection",
        "bench.",
    ),
    "sqlalchemy": (
        "services.status.store.",
        "shared.auth.store.",
        "shared.sql.",
    ),  # each database has one owner, and one place
    "alembic": ("shared.auth.store.migrations.", "services.status.store.migrations.", "shared.sql.migrations"),
    "psycopg": (),  # SQLAlchemy loads it by the address
    "lxml": ("services.gateway.prompt.",),
    "torch": ("services.worker.backends.", "models."),
    "diffusers": ("services.worker.backends.", "models."),
    "transformers": ("services.worker.backends.", "models."),
    "tokenizers": ("services.worker.backends.", "services.gateway.prompt.tokens", "models."),
    "safetensors": ("services.worker.backends.", "models."),
    "PIL": ("services.worker.backends.", "models.", "bench.follow"),
    "av": ("services.worker.backends.videos",),
    "pynvml": ("services.worker.nvml",),
    "celery": ("bench.",),
    "matplotlib": ("bench.fairness.plots",),
}
SERVICES = ("gateway", "status", "worker")


def names() -> list[str]:
    return [module.name for module in modules()]


def test_there_is_something_to_check() -> None:
    assert {"shared.domain.task", "services.gateway.app", "services.worker.handler", "infra.native.stack"} <= set(
        names()
    )


@pytest.mark.parametrize("library", sorted(CONFINED))
def test_a_library_stays_where_it_belongs(library: str) -> None:
    outside = [
        module.name
        for module in modules()
        if any(name == library or name.startswith(f"{library}.") for name in module.imports())
        and not module.name.startswith(CONFINED[library])
    ]
    assert outside == []


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_imports_another(service: str) -> None:
    others = tuple(f"services.{other}" for other in SERVICES if other != service)
    wrong = [
        (module.name, name)
        for module in modules()
        if module.name.startswith(f"services.{service}")
        for name in module.imports()
        if name.startswith(others)
    ]
    assert wrong == []


def test_shared_knows_no_service_and_the_core_knows_nothing_outside() -> None:
    allowed = {
        "shared.": ("shared.",),
        "shared.domain.": ("shared.domain.",),
        "shared.contracts.": ("shared.domain.", "shared.contracts.", "shared.ids"),
    }
    wrong = [
        (module.name, name)
        for module in modules()
        for prefix, may in allowed.items()
        if module.name.startswith(prefix)
        for name in module.imports()
        if name.startswith(("shared.", "services.", "infra.", "bench.")) and not name.startswith(may)
    ]
    assert wrong == []


def test_the_domain_uses_the_standard_library_alone() -> None:
    wrong = [
        (module.name, name)
        for module in modules()
        if module.name.startswith("shared.domain")
        for name in module.imports()
        if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("shared.domain")
    ]
    assert wrong == []


_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def test_only_config_modules_read_the_environment() -> None:
    readers = {
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Attribute) and node.attr in _ENVIRONMENT)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and {a.name for a in node.names} & _ENVIRONMENT)
    }
    assert {name for name in readers if name.rsplit(".", 1)[-1] != "config" and not name.startswith("bench")} == set()


def test_only_command_lines_print() -> None:
    printers = {
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    allowed = ("bench.", "models.", "infra.native.__main__", "infra.native.demo", "services.gateway.admin")
    assert {name for name in printers if not name.startswith(allowed)} == set()


def test_there_is_no_import_cycle() -> None:
    known = {module.name: module for module in modules()}
    graph = {name: {target for target in module.imports() if target in known} for name, module in known.items()}
    done: set[str] = set()
    for start in graph:
        cycle = _cycle_from(start, graph, done, [])
        assert cycle is None, " -> ".join(cycle or [])


def _cycle_from(name: str, graph: dict[str, set[str]], done: set[str], path: list[str]) -> list[str] | None:
    if name in path:
        return [*path[path.index(name) :], name]
    if name in done:
        return None
    for target in graph[name] - {name}:
        cycle = _cycle_from(target, graph, done, [*path, name])
        if cycle is not None:
            return cycle
    done.add(name)
    return None


# What imports torch, or does something when it is run.
NETWORKS = tuple(f"services.worker.backends.{name}" for name in ("easyanimate", "networks", "newbie", "pipeline"))
NOT_IMPORTED = ("models.", *NETWORKS, "bench.")


def importable(module: Module) -> bool:
    return not module.name.endswith("__main__") and not module.name.startswith(NOT_IMPORTED)


def test_importing_everything_connects_nowhere_reads_no_settings_and_needs_no_torch() -> None:
    targets = [module.name for module in modules() if importable(module)]
    code = (
        "import importlib, socket, sys, threading\n"
        "def refuse(*a, **k): raise RuntimeError('a socket while importing')\n"
        "socket.socket.connect = refuse\n"
        f"for name in {targets!r}: importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={}
    )
    assert done.returncode == 0, done.stderr
