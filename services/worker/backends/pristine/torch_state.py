"""Torch's state for the whole process or thread. Where torch was never imported there is none, and none is imported."""

from __future__ import annotations

import sys
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from services.worker.backends.pristine.setting import Setting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_FLAGS: Final = (
    "cudnn.enabled",
    "cudnn.benchmark",
    "cudnn.benchmark_limit",
    "cudnn.deterministic",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "mkldnn.enabled",
    "mkldnn.deterministic",
    "fp32_precision",
    "cuda.matmul.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
)
_ATTENTION: Final = ("flash", "mem_efficient", "math", "cudnn")
# Inference mode can only be left by entering its opposite; the guard of that must outlive everything.
_ENTERED: Final[list[Any]] = []


def torch_settings() -> Iterator[Setting]:
    """Return every setting of the torch that is loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    yield from _modes(torch)
    yield from _numerics(torch)
    yield from _global_hooks(torch)
    yield Setting("torch_random", torch.get_rng_state, torch.set_rng_state, comparable=False)
    if torch.cuda.is_initialized():
        cuda = torch.cuda
        yield Setting("cuda_random", cuda.get_rng_state_all, cuda.set_rng_state_all, comparable=False)
        yield Setting("cuda_device", cuda.current_device, cuda.set_device)


def _modes(torch: ModuleType) -> Iterator[Setting]:
    def set_inference_mode(mode: bool) -> None:  # noqa: FBT001 - the value of a setting
        context = torch.inference_mode(mode)
        context.__enter__()
        _ENTERED.append(context)

    def set_default_device(device: object) -> None:
        # None takes the function mode away that any explicit device installs.
        torch.set_default_device(None)
        if torch.get_default_device() != device:
            torch.set_default_device(device)

    yield Setting("inference_mode", torch.is_inference_mode_enabled, set_inference_mode)
    yield Setting("grad_mode", torch.is_grad_enabled, torch.set_grad_enabled)
    yield Setting("default_dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Setting("default_device", torch.get_default_device, set_default_device)
    for device in ("cpu", "cuda"):
        yield Setting(f"autocast_{device}", partial(_autocast, torch, device), partial(_set_autocast, torch, device))


def _autocast(torch: ModuleType, device: str) -> tuple[bool, Any]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _set_autocast(torch: ModuleType, device: str, before: tuple[bool, Any]) -> None:
    torch.set_autocast_enabled(device, before[0])
    torch.set_autocast_dtype(device, before[1])


def _numerics(torch: ModuleType) -> Iterator[Setting]:
    yield Setting(
        "deterministic",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda before: torch.use_deterministic_algorithms(before[0], warn_only=before[1]),
    )
    yield Setting("threads", torch.get_num_threads, torch.set_num_threads)
    # It cannot be read, and is off in every new thread.
    yield Setting("flush_denormal", lambda: None, lambda _: torch.set_flush_denormal(False), comparable=False)
    for kind in _ATTENTION:
        read, write = getattr(torch.backends.cuda, f"{kind}_sdp_enabled"), f"enable_{kind}_sdp"
        yield Setting(f"attention_{kind}", read, getattr(torch.backends.cuda, write))
    yield Setting(
        "float32_matmul_precision", lambda: _matmul_precision(torch), lambda value: _set_matmul_precision(torch, value)
    )
    for flag in _FLAGS:
        path, _, name = flag.rpartition(".")
        holder = attrgetter(path)(torch.backends) if path else torch.backends
        yield Setting(flag, partial(getattr, holder, name), partial(setattr, holder, name))


def _matmul_precision(torch: ModuleType) -> str | None:
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:
        # Torch refuses to say where a backend's own precision was set beside it; those are settings of their own.
        return None


def _set_matmul_precision(torch: ModuleType, value: str | None) -> None:
    if value is not None:
        torch.set_float32_matmul_precision(value)


def _global_hooks(torch: ModuleType) -> Iterator[Setting]:
    holder = torch.nn.modules.module
    for name, value in vars(holder).items():
        if name.startswith("_global_") and isinstance(value, dict):
            yield Setting(name.lstrip("_"), partial(dict, value), partial(_refill, value))
    name = "_global_is_full_backward_hook"
    yield Setting(name.lstrip("_"), partial(getattr, holder, name), partial(setattr, holder, name))


def _refill(hooks: dict[Any, Any], before: dict[Any, Any]) -> None:
    hooks.clear()
    hooks.update(before)
