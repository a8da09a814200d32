"""The worker's settings."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from shared.config import BrokerSettings, LogSettings, StorageSettings
from shared.contracts.base import ModelId

if TYPE_CHECKING:
    from collections.abc import Mapping

# All that the child gets from the parent's environment. No ATELIER_ variable is among them: those hold the secrets.
_CHILD_VARIABLES: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONUNBUFFERED"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "OMP_NUM_THREADS"),
)


class WorkerSettings(LogSettings, BrokerSettings, StorageSettings):
    """One worker: one model on one device."""

    worker_model: ModelId = Field(description="id of the model that this worker serves")
    worker_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", description="name of this worker"
    )
    models_dir: Path = Field(Path("models"), description="folder that holds one folder for each model")
    work_dir: Path = Field(Path(".run/work"), description="folder for temporary files, one subfolder for each worker")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, or cuda:<number>")
    memory_tier: Literal["resident", "tiled", "offload", "sequential"] = Field(
        "resident", description="how much of the model stays in the device's memory"
    )
    drain_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="seconds that the child gets to end after a stop was requested"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics on loopback; 0 for none"
    )


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the child: a short list of harmless variables, and the hubs switched off."""
    source = os.environ if environ is None else environ
    kept = {name: source[name] for name in _CHILD_VARIABLES if name in source}
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
