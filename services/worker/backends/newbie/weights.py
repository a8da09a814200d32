"""Safetensors files as one mapping that reads a tensor when it is asked for, and models that are filled from one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from safetensors import safe_open

from services.worker.backends.newbie.names import some_of
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

SUFFIX: Final = ".safetensors"
META: Final = "meta"


class WeightFiles(Mapping[str, "Tensor"]):
    """The tensors of one component, of one file or of several. Nothing is kept: every look reads the file.

    On torch's meta device nothing is read but the files' headers.

    Raises ConfigurationError where two files hold the same name, SafetensorError for a file that is none.
    """

    def __init__(self, files: Sequence[Path], device: torch.device | str = "cpu") -> None:
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._unread = str(device) == META
        if not files:
            message = f"no {SUFFIX} files"
            raise ConfigurationError(message)
        for file in files:
            opened = self._stack.enter_context(
                safe_open(file, framework="pt", device="cpu" if self._unread else str(device))
            )
            names = set(opened.keys())
            if twice := names & self._files.keys():
                message = f"{file.name} holds names that another file has, too: {some_of(twice)}"
                raise ConfigurationError(message)
            self._files.update(dict.fromkeys(sorted(names), opened))

    def __enter__(self) -> Self:
        """Open already; here for the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._stack.close()

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor."""
        if self._unread:
            return torch.empty(self.shape(name), device=META)
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor; nothing is read for it."""
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        """Names, file by file."""
        return iter(self._files)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it. Raises ConfigurationError where there is none."""
        if name not in self._files:
            message = f"the weights hold no {name}"
            raise ConfigurationError(message)
        return tuple(self._files[name].get_slice(name).get_shape())


def fill(model: Any, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> None:  # noqa: ANN401 - any module
    """Put the tensors into a model that was built without weights, all of them and no other.

    Raises ConfigurationError that names some of the keys that differ.
    """
    # Copied: a tensor that lies in the file's memory, or in another one's, may be anywhere, and kernels round by that.
    own = {name: value.to(dtype, copy=True) for name, value in tensors}
    found = model.load_state_dict(own, strict=False, assign=True)
    problems = [
        f"{len(keys)} {kind} keys ({some_of(keys)})"
        for kind, keys in (("missing", found.missing_keys), ("unexpected", found.unexpected_keys))
        if keys
    ]
    if problems:
        message = f"weights and configuration differ: {'; '.join(problems)}"
        raise ConfigurationError(message)
