"""``python -m services.gateway.admin tenant|key|webhook-secret|migrate``: who may use the service.

A key or secret is shown once, when it is made. Gateways and status services follow a change within ten seconds.
Changes are logged on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from services.gateway.config import AdminSettings
from shared.auth.administration import Administration, NewKey
from shared.auth.errors import AdministrationError, TenantStoreError
from shared.auth.plans import load_plans
from shared.auth.store.ports import ApiKey, Tenant, TenantState, WebhookSecret
from shared.auth.store.sql import open_store
from shared.clock import utc_now
from shared.config import load_settings
from shared.domain.errors import ConfigurationError
from shared.lifecycle import ExitCode
from shared.logging import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[["Administration", argparse.Namespace], object]

Record = Tenant | ApiKey | WebhookSecret
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_REFUSED: Final = 1


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret as it is shown, once, and its record or its new tenant's."""

    text: str
    owner: Tenant | WebhookSecret


def main(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit status."""
    options = _parser().parse_args(arguments)
    configure("gateway-admin", stream=sys.stderr)
    try:
        result = _run(options)
    except ConfigurationError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return ExitCode.CONFIGURATION
    except TenantStoreError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return ExitCode.DEPENDENCY
    except AdministrationError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return _REFUSED
    if options.json:
        print(json.dumps(_document(result), indent=2))
    else:
        for line in _lines(result):
            print(line)
    return ExitCode.OK


def _run(options: argparse.Namespace) -> object:
    settings = load_settings(AdminSettings)
    plans = load_plans(settings.plans_file)
    store = open_store(settings.tenants_url.get_secret_value())
    pepper = None if settings.key_pepper is None else settings.key_pepper.get_secret_value()
    actor = pwd.getpwuid(os.getuid()).pw_name
    try:
        administration = Administration(
            store, plans, pepper, clock=utc_now, actor=actor, outbound=settings.outbound_policy
        )
        return options.run(administration, options)
    finally:
        store.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="services.gateway.admin", description=__doc__)
    subjects = parser.add_subparsers(dest="subject", required=True)
    migrate = subjects.add_parser("migrate", help="make the store, or bring it up to date")
    migrate.set_defaults(run=lambda _administration, _options: ())
    migrate.add_argument("--json", action="store_true", help="print JSON")
    _add_tenant_commands(subjects.add_parser("tenant", help="tenants").add_subparsers(required=True))
    _add_key_commands(subjects.add_parser("key", help="API keys").add_subparsers(required=True))
    secrets = subjects.add_parser("webhook-secret", help="what callbacks are signed with")
    _add_webhook_secret_commands(secrets.add_subparsers(required=True))
    return parser


def _command(commands: Any, name: str, text: str, run: Run) -> argparse.ArgumentParser:  # noqa: ANN401 - argparse's own
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="print JSON")
    return command


def _add_tenant_commands(commands: Any) -> None:  # noqa: ANN401 - argparse's own type is private
    create = _command(
        commands, "create", "make a tenant, and show the secret that its callbacks are signed with", _create_tenant
    )
    set_plan = _command(
        commands, "set-plan", "give another plan", lambda a, o: a.set_plan(o.tenant, o.plan, dict(o.set))
    )
    _command(commands, "list", "show every tenant", lambda a, _: a.tenants())
    suspend = _command(
        commands, "suspend", "refuse all its keys", lambda a, o: a.set_state(o.tenant, TenantState.SUSPENDED)
    )
    resume = _command(
        commands, "resume", "accept its keys again", lambda a, o: a.set_state(o.tenant, TenantState.ACTIVE)
    )
    set_callback = _command(
        commands,
        "set-callback",
        "call it back at a URL where a request names none",
        lambda a, o: a.set_callback(o.tenant, o.url, o.events),
    )
    for command in (create, set_plan, suspend, resume, set_callback):
        command.add_argument("tenant", help="id: lower-case letters, digits, - and _")
    create.add_argument("--plan", required=True, help="a plan of the plans file")
    create.add_argument("--name", default="", help="who it is")
    set_plan.add_argument("plan", help="a plan of the plans file")
    set_callback.add_argument("url", nargs="?", help="an https:// or http:// URL; without it there are none")
    set_callback.add_argument("--events", nargs="+", help="such as started succeeded; every end where none is named")
    for command in (create, set_plan):
        command.add_argument(
            "--set",
            action="append",
            default=[],
            type=_override,
            metavar="NAME=VALUE",
            help="a value in place of the plan's, such as queued=500; replaces all that were set before",
        )


def _add_key_commands(commands: Any) -> None:  # noqa: ANN401 - argparse's own type is private
    create = _command(commands, "create", "make a key and show it once", _create_key)
    create.add_argument("--tenant", required=True, help="the tenant's id")
    create.add_argument("--plan", help="make the tenant with this plan if there is none")
    create.add_argument("--name", default="", help="what the key is for")
    create.add_argument("--expires-in", type=_duration, help="such as 90d or 12h; without it the key never expires")
    listing = _command(commands, "list", "show every key's prefix and state", lambda a, o: a.keys(o.tenant))
    listing.add_argument("--tenant", help="of this tenant alone")
    rotate = _command(
        commands, "rotate", "make a key in place of another", lambda a, o: a.rotate_key(o.prefix, grace=o.grace)
    )
    rotate.add_argument("--grace", type=_duration, default=timedelta(days=1), help="how long the old key works (1d)")
    revoke = _command(commands, "revoke", "end a key", lambda a, o: a.revoke_key(o.prefix))
    for command in (rotate, revoke):
        command.add_argument("prefix", help="the 8 digits after atl_")


def _add_webhook_secret_commands(commands: Any) -> None:  # noqa: ANN401 - argparse's own type is private
    create = _command(
        commands,
        "create",
        "make one more and show it once",
        lambda a, o: _new_secret(a.create_webhook_secret(o.tenant)),
    )
    rotate = _command(
        commands,
        "rotate",
        "make one in place of the others",
        lambda a, o: _new_secret(a.create_webhook_secret(o.tenant, overlap=o.overlap)),
    )
    rotate.add_argument(
        "--overlap", type=_duration, default=timedelta(days=1), help="how long the others sign beside it (1d)"
    )
    listing = _command(commands, "list", "show ids and states", lambda a, o: a.webhook_secrets(o.tenant))
    for command in (create, rotate, listing):
        command.add_argument("tenant", help="the tenant's id")
    revoke = _command(commands, "revoke", "end one", lambda a, o: a.revoke_webhook_secret(o.id))
    revoke.add_argument("id", help="as `webhook-secret list` shows it")


def _create_tenant(administration: Administration, options: argparse.Namespace) -> NewSecret:
    tenant = administration.create_tenant(options.tenant, options.plan, name=options.name, **dict(options.set))
    return NewSecret(administration.create_webhook_secret(tenant.id).text, tenant)


def _new_secret(secret: WebhookSecret) -> NewSecret:
    return NewSecret(secret.text, secret)


def _create_key(administration: Administration, options: argparse.Namespace) -> NewKey:
    if options.plan is not None:
        administration.ensure_tenant(options.tenant, options.plan)
    return administration.create_key(options.tenant, name=options.name, lifetime=options.expires_in)


def _override(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        message = f"{text!r} is not NAME=VALUE"
        raise argparse.ArgumentTypeError(message)
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value  # a word, such as a lane


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        message = f"{text!r} is not a time such as 30s, 15m, 12h or 90d"
        raise argparse.ArgumentTypeError(message)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _document(result: object) -> object:
    if isinstance(result, NewKey):
        return {"key": result.text, **_record(result.record)}
    if isinstance(result, NewSecret):
        return {"webhook_secret": result.text, **_record(result.owner)}
    if isinstance(result, Tenant | ApiKey | WebhookSecret):
        return _record(result)
    return [_record(each) for each in _several(result)]


def _record(record: Record) -> dict[str, Any]:
    values = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(record).items()
        if name not in {"hash", "text"}
    }
    return values if isinstance(record, Tenant) else {**values, "state": _state(record)}


def _lines(result: object) -> list[str]:
    if isinstance(result, NewKey):
        return [result.text]
    if isinstance(result, NewSecret):
        return [*([_line(result.owner)] if isinstance(result.owner, Tenant) else []), result.text]
    return [_line(each) for each in _several(result if isinstance(result, list) else [result])]


def _several(result: object) -> list[Record]:
    kinds = Tenant | ApiKey | WebhookSecret
    return [each for each in result if isinstance(each, kinds)] if isinstance(result, list) else []


def _line(record: Record) -> str:
    if isinstance(record, Tenant):
        overrides = " ".join(f"{name}={json.dumps(value)}" for name, value in record.overrides.items())
        return f"{record.id}  {record.plan:<10}  {record.state:<9}  {record.name}  {overrides}".rstrip()
    if isinstance(record, WebhookSecret):
        return f"{record.id}  {_state(record):<8}  {record.tenant_id}"
    return f"{record.prefix}  {_state(record):<8}  {record.tenant_id}  {record.name}".rstrip()


def _state(key: ApiKey | WebhookSecret) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "active"
    return "expired" if key.expires_at <= utc_now() else "expiring"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
