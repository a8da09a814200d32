"""Errors of the worker that carry a code from elsewhere."""

from __future__ import annotations

from shared.domain.errors import AtelierError, TaskError


class ReportedError(TaskError):
    """What the child reported of a job; code, retryability and stack (if it sent one) are the child's."""

    def __init__(self, code: str, message: str, *, retryable: bool, stack: str = "") -> None:
        super().__init__(message)
        self.stack = stack
        self.code = code  # type: ignore[misc] # this one class carries a code from the other process
        self.retryable = retryable  # type: ignore[misc] # likewise


class DeadlineExceededError(TaskError):
    """The task could not end before its finish deadline."""

    code = "deadline_exceeded"


class ArtifactsLostError(TaskError):
    """The pictures were made but could not be stored."""

    code = "artifacts_not_stored"
    retryable = True


class WorkFolderError(AtelierError):
    """The folder for temporary files cannot be used: full, gone, or not ours."""

    code = "work_folder_unusable"
    retryable = True


class RunnerLoadError(AtelierError):
    """The model's child process cannot be brought up."""

    code = "runner_unavailable"
