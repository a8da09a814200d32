"""Whether what a backend says it made is what was asked for, and lies where it says."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, Final

from services.worker.backends.base import POSTER, Encoded, InvalidOutputError
from shared.domain.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.worker.backends.base import ArtifactFile, GenerationRequest

_VIDEO: Final = "video/"


def check_outputs(requests: Sequence[GenerationRequest], results: Sequence[Any]) -> None:
    """Raise BackendError where results are missing or no results at all, InvalidOutputError where they are others."""
    if [type(result) for result in results] != [Encoded] * len(requests):
        message = f"the model returned {len(results)} results for {len(requests)} requests, or other things"
        raise BackendError(message)
    for request, result in zip(requests, results, strict=True):
        made = [file.seed for file in result.artifacts if file.role != POSTER]
        if made != list(request.seeds):
            message = f"the model made pictures of {len(made)} seeds, not of the {len(request.seeds)} asked"
            raise InvalidOutputError(message)
        for file in result.artifacts:
            _check_file(request, file)


def _check_file(request: GenerationRequest, file: ArtifactFile) -> None:
    if (file.width, file.height) != (request.width, request.height):
        asked = f"{request.width}x{request.height}"
        message = f"the model made {file.width}x{file.height} where {asked} was asked for"
        raise InvalidOutputError(message)
    if file.media_type.startswith(_VIDEO) and file.frames != request.num_frames:
        message = f"the model made {file.frames} frames where {request.num_frames} were asked for"
        raise InvalidOutputError(message)
    if not _is_own_file(request.out_dir, file.name):
        message = f"{file.name!r} is no file that the model has written into its folder"
        raise InvalidOutputError(message)


def _is_own_file(folder: Path, name: str) -> bool:
    """Whether it is a regular file right in the folder, of one name, and not empty: a link could lead anywhere."""
    if "/" in name or name in {"", ".", ".."}:
        return False
    try:
        found = (folder / name).lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size > 0
