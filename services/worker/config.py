"""The worker's settings."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from shared.config import BrokerSettings, LogSettings, MetricsSettings, StorageSettings
from shared.contracts.base import ModelId

if TYPE_CHECKING:
    from collections.abc import Mapping

# All that the child gets from the parent's environment. No ATELIER_ variable is among them: those hold the secrets.
_CHILD_VARIABLES: Final = (
    *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "OMP_NUM_THREADS"),
)


def _listed(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class WorkerSettings(LogSettings, MetricsSettings, BrokerSettings, StorageSettings):
    """One worker: one model on one device."""

    worker_model: ModelId = Field(description="id of the model that this worker serves")
    worker_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="name of this worker",
    )
    models_dir: Path = Field(Path("models"), description="folder that holds one folder for each model")
    work_dir: Path = Field(Path(".run/work"), description="folder for temporary files, one subfolder for each worker")
    device: str = Field(
        "cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda:<number>, or auto: the GPU that is idlest"
    )
    confinement: Literal["require", "try", "off"] = Field(
        "try", description="lock the model's process in: require (refuse a host that cannot), try, or off"
    )
    read_folders: Annotated[tuple[Path, ...], BeforeValidator(_listed)] = Field(
        (), description="further folders that the model's process may read, with commas between"
    )
    require_readonly_models: bool = Field(False, description="refuse a model folder that this user can change")  # noqa: FBT003 - a default
    max_file_mib: Annotated[int, Field(ge=0)] = Field(
        4096, description="largest file, in MiB, that the model's process may write; 0 for no bound"
    )
    max_work_mib: Annotated[int, Field(gt=0)] = Field(
        8192, description="MiB that the model's process may keep on disk before its task is stopped"
    )
    min_free_mib: Annotated[int, Field(ge=0)] = Field(
        512, description="MiB of free disk below which no task is started"
    )
    device_headroom_mb: Annotated[int, Field(ge=0)] = Field(
        512, description="MiB of the device's memory that stay free beside every task"
    )
    fake_device_file: Path | None = Field(None, description="for tests: a JSON file of made-up devices")
    memory_tier: Literal["resident", "tiled", "offload", "sequential"] = Field(
        "resident", description="how much of the model stays in the device's memory"
    )
    max_batch: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="how many waiting tasks of one tenant and shape are computed together; 1 for never"
    )
    drain_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0,
        description="seconds that a running task gets after a stop was requested before it is handed back",
    )
    max_run_seconds: Annotated[float, Field(ge=120, lt=72000)] = Field(
        21600.0, description="a task that makes progress may take this long; below the broker's 24 h for an ack"
    )
    silence_floor_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="a task may go this long without a sign of progress, and longer where one step takes longer"
    )
    recycle_after_tasks: Annotated[int, Field(ge=0)] = Field(
        0, description="replace the model's process after so many tasks; 0 for never"
    )
    recycle_leaked_mb: Annotated[int, Field(ge=0)] = Field(
        2048,
        description="replace the model's process when it holds so many MiB more than after one task; 0: never",
    )
    recycle_fragmented_mb: Annotated[int, Field(ge=0)] = Field(
        0, description="replace the model's process when it reserves so many MiB more than it uses; 0 for never"
    )
    fault_point: str | None = Field(
        None, description="for tests: die before or after a step, such as 'after create outcome.json'"
    )


def visible_devices(environ: Mapping[str, str] | None = None) -> str | None:
    """CUDA_VISIBLE_DEVICES, which whoever started the worker may have set to give it some of a host's GPUs."""
    return (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the child: a short list of harmless variables, and the hubs switched off."""
    source = os.environ if environ is None else environ
    kept = {name: source[name] for name in _CHILD_VARIABLES if name in source}
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
