"""Settings: read once from the environment into a frozen object. A bad value is reported with its variable's name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from shared.domain.errors import ConfigurationError
from shared.domain.outbound import OutboundPolicy, parse_networks, parse_ports
from shared.messaging.topology import QueueType
from shared.tls.addresses import amqp_address, postgresql_address, redis_address
from shared.tls.contexts import client_context, server_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

PREFIX = "ATELIER_"


class Settings(BaseModel):
    """Field ``x`` is the variable ``ATELIER_X``, or the content of the file that ``ATELIER_X_FILE`` names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LogSettings(Settings):
    """What is logged, and how."""

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["json", "console"] = Field("json", description="json lines, or coloured text for a terminal")


def _completed_by(complete: Callable[[str, Path | None], str]) -> AfterValidator:
    def check(url: SecretStr, info: ValidationInfo) -> SecretStr:
        return SecretStr(complete(url.get_secret_value(), info.data.get("ca_file")))

    return AfterValidator(check)


BrokerAddress = Annotated[SecretStr, _completed_by(amqp_address)]
RedisAddress = Annotated[SecretStr, _completed_by(redis_address)]
DatabaseAddress = Annotated[SecretStr, _completed_by(postgresql_address)]


class TrustSettings(Settings):
    """Whom a process trusts among the servers that it talks to. The addresses of those are completed by it."""

    ca_file: Path | None = Field(
        None,
        description="certificates (PEM) to trust in broker, Redis, PostgreSQL, S3 and status API; else the system's",
    )

    @field_validator("ca_file")
    @classmethod
    def _usable(cls, path: Path | None) -> Path | None:
        try:
            client_context(path)
        except ConfigurationError as exc:
            raise ValueError(exc.message) from exc
        return path


class ServerSettings(Settings):
    """How a web server is spoken to."""

    tls_certificate_file: Path | None = Field(
        None, description="the server's certificate and those above it, in PEM form; HTTPS is spoken only when set"
    )
    tls_key_file: Path | None = Field(None, description="the key to it")

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        certificate, key = self.tls_certificate_file, self.tls_key_file
        if certificate is not None and key is not None:
            try:
                server_context(certificate, key)
            except ConfigurationError as exc:
                raise ValueError(exc.message) from exc
        elif certificate is not None or key is not None:
            message = "ATELIER_TLS_CERTIFICATE_FILE and ATELIER_TLS_KEY_FILE belong together"
            raise ValueError(message)
        return self


class BrokerSettings(TrustSettings):
    """Where the broker is."""

    amqp_url: BrokerAddress = Field(
        description="amqp(s)://user:password@host:port/vhost; several nodes are host1:port,host2:port"
    )
    queue_type: QueueType = Field(
        QueueType.CLASSIC, description="what the broker's durable queues are: classic, or quorum on several nodes"
    )


class MetricsSettings(Settings):
    """Where a process without a web framework tells how it is."""

    metrics_host: str = Field("127.0.0.1", min_length=1, description="address that the port below is opened at")
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics; 0 for none"
    )


class StorageSettings(TrustSettings):
    """Where artifacts and outcomes are kept."""

    s3_endpoint: str = Field(description="address of the S3 service, http(s)://host:port")
    s3_bucket: str = Field("atelier", description="bucket of claims, artifacts and outcomes")
    s3_region: str = Field("us-east-1", description="region that requests are signed for")
    s3_access_key: SecretStr = Field(description="access key of this service")
    s3_secret_key: SecretStr = Field(description="secret key of this service")
    s3_public_endpoint: str | None = Field(
        None, description="address that clients reach the S3 service at; presigned URLs are given out only when set"
    )


class PlanSettings(TrustSettings):
    """Who the tenants are, and what their plans allow."""

    tenants_url: DatabaseAddress = Field(
        description="where tenants and keys are kept: sqlite:////<absolute path> or postgresql://user:password@host/name"
    )
    plans_file: Path = Field(Path("plans.toml"), description="what each plan allows")


class AuthSettings(PlanSettings):
    """How API keys are checked."""

    key_pepper: SecretStr = Field(description="secret that API keys are hashed with")
    # A revocation counts after this long and the seconds that one look-up takes; 10 s are promised.
    key_fresh_seconds: Annotated[float, Field(gt=0, le=6)] = Field(
        5.0, description="how long the tenant store's word on a key counts"
    )
    key_stale_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        300.0, description="how long it counts while the tenant store cannot be reached"
    )
    trusted_proxies: Annotated[int, Field(ge=0, le=8)] = Field(
        1, description="proxies in front that write X-Forwarded-For; 0 where clients connect directly"
    )
    auth_failures_per_minute: Annotated[int, Field(ge=1, le=100_000)] = Field(
        30, description="unknown keys that one address may send to one process in a minute, or at once"
    )


class OutboundSettings(Settings):
    """Where clients may be called back."""

    webhook_allowed_networks: str = Field(
        "", description="networks that are called back besides the public ones, such as 127.0.0.0/8; for tests"
    )
    webhook_ports: str = Field("80,443", description="ports, and ranges of them, that may be called back")

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _networks(cls, text: str) -> str:
        parse_networks(text)
        return text

    @field_validator("webhook_ports")
    @classmethod
    def _ports(cls, text: str) -> str:
        parse_ports(text)
        return text

    @property
    def outbound_policy(self) -> OutboundPolicy:
        """Both, as the rules have them."""
        return OutboundPolicy(
            ports=parse_ports(self.webhook_ports), allowed_networks=parse_networks(self.webhook_allowed_networks)
        )


class ModelSettings(Settings):
    """Which models are served."""

    models: str = Field(description="comma-separated ids of the models that are served")
    models_dir: Path = Field(Path("models"), description="folder that holds one folder for each model")

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The ids, in order."""
        return tuple(part.strip() for part in self.models.split(",") if part.strip())


S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Read settings from the environment.

    Every ``ATELIER_X_FILE`` stands for ``ATELIER_X`` with the file's content. Raises ConfigurationError that names each
    variable which is missing or wrong, and never shows a value.
    """
    source = os.environ if environ is None else environ
    known = {f"{PREFIX}{name.upper()}": name for name in kind.model_fields}
    values: dict[str, Any] = {name: source[variable] for variable, name in known.items() if source.get(variable)}
    for variable, name in known.items():
        path = source.get(f"{variable}_FILE")
        if path and not variable.endswith("_FILE"):
            values[name] = _read_secret(f"{variable}_FILE", path)
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        reasons = "; ".join(f"{_variable(kind, error['loc'])}: {error['msg']}" for error in exc.errors())
        raise ConfigurationError(reasons) from None  # the cause would repeat the values, secrets among them


def _variable(kind: type[Settings], location: tuple[int | str, ...]) -> str:
    return f"{PREFIX}{str(location[0]).upper()}" if location else kind.__name__


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as exc:
        message = f"{variable}: {exc.strerror}"
        raise ConfigurationError(message) from exc
    except UnicodeDecodeError:
        message = f"{variable}: the file is not UTF-8 text"
        raise ConfigurationError(message) from None  # the cause holds the file's bytes
