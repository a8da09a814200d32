"""Errors of the worker that carry a code from elsewhere."""

from __future__ import annotations

from shared.domain.errors import AtelierError, StorageError, TaskError


class ReportedError(TaskError):
    """What the child reported of a job; code and retryability are the child's, the stack is for operators."""

    def __init__(self, code: str, message: str, *, retryable: bool, stack: str = "", tier: str = "") -> None:
        super().__init__(message)
        self.stack = stack
        self.tier = tier
        self.code = code  # type: ignore[misc] # this one class carries a code from the other process
        self.retryable = retryable  # type: ignore[misc] # likewise


class TaskCancelledError(TaskError):
    """The task was cancelled while it was computed."""

    code = "cancelled"


class DrainedError(TaskError):
    """The worker was told to stop and could not finish in time."""

    code = "drained"
    retryable = True


class BatchFailedError(TaskError):
    """What was computed together failed, for whatever reason of one of them; each is tried again, alone."""

    code = "batch_failed"
    retryable = True
    reason: TaskError | None = None

    @classmethod
    def of(cls, error: TaskError) -> BatchFailedError:
        """What failed, which stays known as the reason."""
        failed = cls(f"computed together with others: {error.code}: {error.message}")
        failed.reason = error
        return failed


class HostOutOfMemoryError(TaskError):
    """The kernel killed the child process because the host, or the worker's own limit, ran out of memory."""

    code = "host_out_of_memory"
    retryable = True


class DeadlineExceededError(TaskError):
    """The task could not end before its finish deadline."""

    code = "deadline_exceeded"


class ArtifactsLostError(TaskError):
    """The pictures were made but could not be stored."""

    code = "artifacts_not_stored"
    retryable = True


class InputImageLostError(TaskError):
    """The image that the task starts from is gone, or another one lies in its place."""

    code = "input_image_lost"


class InputImageUnavailableError(TaskError):
    """The image that the task starts from could not be read from the store."""

    code = "input_image_unavailable"
    retryable = True


class StoreTooLateError(StorageError):
    """The store did not come back before the worker had to end."""


class WorkFolderError(AtelierError):
    """The folder for temporary files cannot be used: full, gone, or not ours."""

    code = "work_folder_unusable"
    retryable = True


class WorkFolderExceededError(TaskError):
    """The model wrote more than its folder may hold."""

    code = "work_folder_exceeded"


class RunnerLoadError(AtelierError):
    """The model's child process cannot be brought up."""

    code = "runner_unavailable"
