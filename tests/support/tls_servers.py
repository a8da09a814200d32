"""Servers that speak TLS, beside those of tests/support that do not."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

import boto3
import psycopg
import redis
from botocore.config import Config

from services.gateway.redis_client import connect
from shared.tls.addresses import redis_address
from tests.support.ports import LOOPBACK, free_port
from tests.support.postgres import PostgresProcess
from tests.support.rabbit import RabbitProcess
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Process
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from shared.config import StorageSettings
    from tests.support.certificates import Authority
    from tests.support.processes import ProcessGuard

# The name of their certificate.
SERVER: Final = "server"


class TlsRabbit(RabbitProcess):
    """A broker with a second port for TLS; the plain one is for looking."""

    def __init__(self, folder: Path, guard: ProcessGuard, authority: Authority) -> None:
        super().__init__(folder, guard)
        self.tls_port = free_port()
        settings = {
            "listeners.ssl.1": f"{LOOPBACK}:{self.tls_port}",
            "ssl_options.cacertfile": authority.ca_file,
            "ssl_options.certfile": authority.certificate(SERVER),
            "ssl_options.keyfile": authority.key(SERVER),
            "ssl_options.verify": "verify_none",
            "ssl_options.fail_if_no_peer_cert": "false",
            "ssl_options.versions.1": "tlsv1.3",
            "ssl_options.versions.2": "tlsv1.2",
        }
        with (folder / "rabbitmq.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def tls_url(self, user: str) -> str:
        """The AMQP URL of a user over TLS."""
        return self.url(user).replace("amqp://", "amqps://").replace(f":{self.port}/", f":{self.tls_port}/")


class TlsPostgres(PostgresProcess):
    """A database server that serves over TLS alone; a password is not asked for."""

    def __init__(self, folder: Path, guard: ProcessGuard, authority: Authority) -> None:
        super().__init__(folder, guard)
        data = folder / "data"
        for source, name in ((authority.certificate(SERVER), "server.crt"), (authority.key(SERVER), "server.key")):
            shutil.copy(source, data / name)
            owner = data.stat()
            os.chown(data / name, owner.st_uid, owner.st_gid)
            (data / name).chmod(0o600)
        with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("ssl = on\nssl_min_protocol_version = 'TLSv1.2'\n")
        (data / "pg_hba.conf").write_text(f"hostssl all all {LOOPBACK}/32 trust\n", encoding="utf-8")
        self.ca_file = authority.ca_file

    def tls_url(self, database: str, *, host: str = LOOPBACK) -> str:
        """The address of a database, by any name; the way to it is the same."""
        return f"{self.url(database).replace(f'@{LOOPBACK}', f'@{host}')}?hostaddr={LOOPBACK}"

    def create_database(self) -> str:
        """A new empty database; returns its name."""
        name = f"test_{time.monotonic_ns()}"
        url = f"{self.tls_url('postgres')}&sslmode=verify-full&sslrootcert={self.ca_file}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return name


class TlsS3(S3Process):
    """An S3 service over HTTPS."""

    def __init__(self, program: Path, folder: Path, guard: ProcessGuard, authority: Authority) -> None:
        super().__init__(program, folder, guard)
        self._authority = authority

    @property
    def endpoint(self) -> str:
        """The address of the S3 service."""
        return super().endpoint.replace("http://", "https://")

    def settings(self, bucket: str, *, public: bool = False) -> StorageSettings:
        """Settings of a service that uses this bucket."""
        return super().settings(bucket, public=public).model_copy(update={"ca_file": self._authority.ca_file})

    def client(self) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        """A plain client with every right."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            verify=str(self._authority.ca_file),
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def _options(self) -> list[str]:
        cert, key = self._authority.certificate(SERVER), self._authority.key(SERVER)
        return [*super()._options(), f"-s3.cert.file={cert}", f"-s3.key.file={key}"]


class TlsRedis:
    """A Redis with a port for TLS alone."""

    def __init__(self, program: str, folder: Path, guard: ProcessGuard, authority: Authority) -> None:
        self.port, self.plain_port = free_port(), free_port()
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "redis.log"
        self._ca_file = authority.ca_file
        self._command = [
            *(program, "--bind", LOOPBACK, "--port", str(self.plain_port), "--tls-port", str(self.port)),
            *("--tls-cert-file", str(authority.certificate(SERVER)), "--tls-key-file", str(authority.key(SERVER))),
            *("--tls-ca-cert-file", str(authority.ca_file), "--tls-auth-clients", "no"),
            *("--tls-protocols", "TLSv1.2 TLSv1.3", "--save", "", "--appendonly", "no"),
        ]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"rediss://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self._guard.spawn(self._command, log=self._log)
        until(self._answers, 20, f"Redis on port {self.port} (see {self._log})")

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._guard.kill(self._process)

    def empty(self) -> None:
        """Forget everything."""
        self._client().flushall()

    def _client(self) -> redis.Redis:
        return connect(redis_address(self.url, self._ca_file), 1.0)

    def _answers(self) -> bool:
        try:
            return bool(self._client().ping())
        except redis.RedisError:
            return False
