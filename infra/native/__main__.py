"""``python -m infra.native``: the native stack's command line."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from infra.native.config import load_stack_settings
from infra.native.credentials import write_demo_keys
from infra.native.demo import Demo
from infra.native.logs import follow, story
from infra.native.services import admin_environment, operator_environment, view_environment
from infra.native.stack import Stack
from shared.domain.errors import AtelierError
from shared.logging import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    options = _parser().parse_args(arguments)
    # A stop from outside ends a command as Ctrl-C does, so that what it started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure("native", level="warning", log_format="console", stream=sys.stderr)
    try:
        settings = load_stack_settings(
            run_dir=options.run_dir,
            base_port=options.base_port,
            public_port=options.public_port,
            workers=options.workers,
            gateways=options.gateways,
            status_apis=options.status_apis,
        )
        command: Callable[[Stack, argparse.Namespace], int] = options.function
        return command(Stack(settings, report=_print_ready), options)
    except AtelierError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.native", description="Atelier without containers.")
    parser.add_argument("--run-dir", help="folder for everything that the stack writes")
    parser.add_argument("--base-port", help="first of the private ports")
    parser.add_argument("--public-port", help="port of the public entrance")
    parser.add_argument("--workers", help="model of each worker, comma-separated")
    parser.add_argument("--gateways", help="number of gateway processes")
    parser.add_argument("--status-apis", help="number of status API processes")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[Stack, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    up = command("up", _up, "start the stack and wait until it is ready")
    up.add_argument("--foreground", action="store_true", help="stay, and stop the stack on Ctrl-C")
    command("down", _down, "stop it and wait until nothing is left")
    command("ps", _ps, "list its programs")
    command("wait", _wait, "wait until every program is ready")
    command("render", _render, "write the configurations, start nothing")
    logs = command("logs", _logs, "print a task's story, or follow everything")
    logs.add_argument("--task", default="", help="id of a task")
    admin = command("admin", _admin, "tenants and API keys")
    admin.add_argument("arguments", nargs=argparse.REMAINDER, help="of python -m services.gateway.admin")
    dead = command("dead", _dead, "list, show, replay or drop the tasks that were given up")
    dead.add_argument("arguments", nargs=argparse.REMAINDER, help="of python -m services.worker.ops dead")
    rebuild = command("rebuild", _rebuild, "make the view of every ended task again from the bucket")
    rebuild.add_argument("arguments", nargs=argparse.REMAINDER, help="of python -m services.status.rebuild")
    demo = command("demo", _demo, "make one picture and show where it is")
    demo.add_argument("--keep", action="store_true", help="leave the stack running")
    return parser


def _up(stack: Stack, options: argparse.Namespace) -> int:
    stack.up()
    print(f"\nAtelier is at {stack.settings.base_url}")
    print(f"keys: {stack.site.layout.demo_file}    logs: {stack.site.layout.logs}")
    if not options.foreground:
        print("stop it with: make down")
        return 0
    print("Ctrl-C stops it", flush=True)
    try:
        while stack.is_running:
            signal.sigtimedwait({signal.SIGCHLD}, 1.0)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
    stack.down()
    return 0


def _down(stack: Stack, _options: argparse.Namespace) -> int:
    print("stopped" if stack.down() else "nothing was running")
    return 0


def _ps(stack: Stack, _options: argparse.Namespace) -> int:
    states = stack.states()
    for state in states:
        print(f"{state.name:<24}{state.state:<10}{state.description}")
    if not states:
        print("nothing is running")
    return 0


def _wait(stack: Stack, _options: argparse.Namespace) -> int:
    stack.wait_ready()
    return 0


def _render(stack: Stack, _options: argparse.Namespace) -> int:
    stack.render()
    print(stack.site.layout.conf)
    return 0


def _dead(stack: Stack, options: argparse.Namespace) -> int:
    command = (sys.executable, "-m", "services.worker.ops", "dead", *options.arguments)
    return subprocess.run(command, env=operator_environment(stack.site), check=False).returncode


def _rebuild(stack: Stack, options: argparse.Namespace) -> int:
    command = (sys.executable, "-m", "services.status.rebuild", *options.arguments)
    return subprocess.run(command, env=view_environment(stack.site), check=False).returncode


def _admin(stack: Stack, options: argparse.Namespace) -> int:
    stack.site.layout.make()
    write_demo_keys(stack.settings, stack.site.layout, stack.site.secrets)  # a stack that never ran has no store yet
    command = (sys.executable, "-m", "services.gateway.admin", *options.arguments)
    return subprocess.run(command, env=admin_environment(stack.site), check=False).returncode


def _logs(stack: Stack, options: argparse.Namespace) -> int:
    if not options.task:
        for line in follow(stack.site.layout.logs):
            print(line, flush=True)
        return 0
    lines = story(stack.site.layout.logs, options.task)
    for line in lines:
        print(line)
    if not lines:
        print(f"no log line names task {options.task}", file=sys.stderr)
    return 0 if lines else 1


def _demo(stack: Stack, options: argparse.Namespace) -> int:
    own = not stack.is_running
    if own:
        stack.up()
    try:
        Demo(stack.demo_info, stack.settings.models[0], stack.site.layout.run / "demo").run()
    finally:
        if own and not options.keep:
            print("stopping the stack (KEEP=1 leaves it running)", flush=True)
            stack.down()
    return 0


def _print_ready(name: str, seconds: float) -> None:
    print(f"  ready  {name:<24}{seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
