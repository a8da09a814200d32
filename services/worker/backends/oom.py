"""What a library's exception means: memory that does not suffice, a device that is lost, or neither.

Told by type and text alone, so that this module needs no torch and knows the errors of every backend's libraries.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from services.worker.backends.base import OutOfMemoryError, StateLostError

if TYPE_CHECKING:
    from collections.abc import Iterator

# torch.OutOfMemoryError is also torch.cuda.OutOfMemoryError; numpy's own error is a MemoryError.
_MEMORY_TYPES: Final = frozenset({"torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"})
_MEMORY_TEXTS: Final = (
    "cuda out of memory",
    "hip out of memory",
    "cuda error: out of memory",
    "cuda driver error: out of memory",
    "cudaerrormemoryallocation",
    "cuda_error_out_of_memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "cufft_alloc_failed",
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "not enough memory: you tried to allocate",
    "unable to allocate memory",
    "cannot allocate memory (os error 12)",
    # The caching allocator asks NVML while it writes its out-of-memory message; where NVML cannot answer, this escapes.
    "nvml_success == r internal assert failed",
)
_FATAL_TEXTS: Final = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "illegal address",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ecc",
    "uncorrectable nvlink",
    "hardware stack error",
    "cuda error: unknown error",
    "gpu is lost",
    "device has fallen off the bus",
    "cudnn_status_execution_failed",
    "cublas_status_execution_failed",
)
_BUGS: Final = (ValueError, TypeError, LookupError, AttributeError, AssertionError, NotImplementedError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or what it was raised from, is a want of memory on the device or on the host."""
    return not is_fatal(error) and any(_wants_memory(one) for one in _causes(error))


def is_fatal(error: BaseException) -> bool:
    """Whether the process can compute no more: its device context is broken, or its state is lost."""
    return any(isinstance(one, StateLostError) or _says(one, _FATAL_TEXTS) for one in _causes(error))


def _wants_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return _type_names(error) & _MEMORY_TYPES != set() or _says(error, _MEMORY_TEXTS)


def _says(error: BaseException, texts: tuple[str, ...]) -> bool:
    # Libraries raise these as RuntimeError or a class of their own; in a bug such words are about something else.
    if isinstance(error, _BUGS):
        return False
    said = str(error).lower()
    return any(text in said for text in texts)


def _type_names(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was explicitly raised from; what it merely happened beside says nothing of it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__
