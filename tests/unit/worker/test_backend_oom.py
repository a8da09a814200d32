from __future__ import annotations

import errno

import pytest

from services.worker.backends.base import OutOfMemoryError, StateLostError
from services.worker.backends.oom import is_fatal, is_out_of_memory
from shared.domain.errors import BackendError


def torch_error(name: str) -> type[RuntimeError]:
    """A class that calls itself torch's, as torch's own does: this tier has no torch."""
    return type(name, (RuntimeError,), {"__module__": "torch"})


def raised_from(error: BaseException) -> BackendError:
    outer = BackendError("the pipeline failed")
    outer.__cause__ = error
    return outer


SHORT = [
    OutOfMemoryError(),
    MemoryError("Unable to allocate 728. TiB"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    torch_error("OutOfMemoryError")("CUDA out of memory. Tried to allocate 20.00 GiB"),
    torch_error("AcceleratorError")("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000 bytes"),
    RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:1131, please report a bug"),
    raised_from(MemoryError()),
    raised_from(raised_from(RuntimeError("HIP out of memory"))),
]
BUGS = [
    RuntimeError("the tensor is sad"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("INTERNAL ASSERT FAILED at graph.cpp:3, please report a bug"),
    ValueError("CUDA out of memory is not a sampler"),
    KeyError("cublas_status_alloc_failed"),
    OSError(errno.ENOSPC, "No space left on device"),
    BackendError("the model is not loaded"),
]
LOST = [
    RuntimeError("CUDA error: device-side assert triggered"),
    torch_error("AcceleratorError")("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: misaligned address"),
    raised_from(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")),
    StateLostError(),
]


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_a_want_of_memory_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_fatal(error)


@pytest.mark.parametrize("error", BUGS, ids=repr)
def test_a_bug_is_neither_a_want_of_memory_nor_a_lost_device(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_fatal(error)


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_lost_device_is_no_want_of_memory(error: Exception) -> None:
    assert is_fatal(error)
    assert not is_out_of_memory(error)


def test_what_an_error_merely_happened_beside_says_nothing() -> None:
    error = RuntimeError("the tensor is sad")
    error.__context__ = MemoryError()
    assert not is_out_of_memory(error)


def test_errors_that_name_each_other_come_to_an_end() -> None:
    first, second = RuntimeError("one"), RuntimeError("other")
    first.__cause__, second.__cause__ = second, first
    assert not is_out_of_memory(first)


def test_a_lost_device_outweighs_the_memory_it_was_short_of() -> None:
    error = RuntimeError("CUDA error: device-side assert triggered")
    error.__cause__ = MemoryError()
    assert is_fatal(error)
    assert not is_out_of_memory(error)
