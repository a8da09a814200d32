"""The parts of a model: what hangs on its modules is put back, and weights that changed are found."""

from __future__ import annotations

import sys
from collections import OrderedDict
from enum import Enum
from functools import partial
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Container = dict[Any, Any] | list[Any] | set[Any]

# Of what a module holds that is no module: the object, its attributes, and the containers among those.
_DEPTH: Final = 2
# Every weight is read at up to so many places, so that the check costs the same for any size.
_PLACES: Final = 1024
_BITS: Final = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
_OPAQUE: Final = (type, Enum, ModuleType, FunctionType, MethodType, BuiltinFunctionType, partial)


class _Print(NamedTuple):
    """What tells one tensor's state. ``place`` is left out where weights move."""

    version: int
    kind: tuple[object, ...]
    place: tuple[object, ...]


class Part:
    """One named part as it was: its attributes and containers by identity, its tensors by sampled content."""

    def __init__(self, root: object, *, still: bool) -> None:
        self._still = still
        self._containers: list[tuple[Container, Container]] = []
        self._tensors: list[Tensor] = []
        self._seen: set[int] = set()
        self._walk(root, _DEPTH)
        self._asked = [(tensor, tensor.requires_grad, tensor.grad) for tensor in self._tensors if tensor.is_leaf]
        self._prints = [self._print(tensor) for tensor in self._tensors]
        views = _sampled(self._tensors)
        # Views of weights that move would show, and keep, the place that they have left.
        self._views = views if still else None
        self._content = _content(views) if views else []

    def restore(self) -> bool:
        """Put everything back that is not a weight's content; returns whether anything had changed."""
        changed = [_put_back(container, before) for container, before in self._containers]
        for tensor, wanted, grad in self._asked:
            changed.append(tensor.requires_grad != wanted or tensor.grad is not grad)
            tensor.grad = grad
            tensor.requires_grad_(wanted)
        return any(changed)

    def dirty(self) -> bool:
        """Whether a weight, a buffer or another tensor is not what it was; only loading it anew helps."""
        if [self._print(tensor) for tensor in self._tensors] != self._prints:
            return True
        views = _sampled(self._tensors) if self._views is None else self._views
        now = _content(views) if views else []
        return len(now) != len(self._content) or not all(map(_equal, now, self._content))

    def _print(self, tensor: Tensor) -> _Print:
        place = (tensor.device, tensor.data_ptr()) if self._still else ()
        version = -1 if tensor.is_inference() else tensor._version  # noqa: SLF001 - torch has no public name for it
        return _Print(version, (tensor.dtype, tensor.shape, tensor.stride()), place)

    def _walk(self, value: object, depth: int) -> None:
        if id(value) in self._seen or isinstance(value, _OPAQUE):
            return
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            self._seen.add(id(value))
            self._tensors.append(value)
            return
        module = torch is not None and isinstance(value, torch.nn.Module)
        if depth < 0 and not module:
            return
        for container in _containers(value):
            self._seen.add(id(value))
            if not isinstance(container, tuple):
                self._containers.append((container, _copy(container)))
            # A module's own tables of weights, buffers, hooks and modules are always looked into.
            for inner in container.values() if isinstance(container, dict) else container:
                self._walk(inner, _DEPTH if module else depth - 1)


def _equal(now: Tensor, before: Tensor) -> bool:
    # After a failed forward an offloaded block may have stayed on the device.
    return now.device == before.device and bool(sys.modules["torch"].equal(now, before))


def _containers(value: object) -> Iterator[Container | tuple[Any, ...]]:
    if isinstance(value, dict | list | set | tuple):
        yield value
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and attributes:
        yield attributes


def _copy(container: Container) -> Container:
    if isinstance(container, dict):
        return dict(container.items())
    return list(container) if isinstance(container, list) else set(container)


def _put_back(container: Container, before: Container) -> bool:
    """Compare by identity, because tensors and arrays do not compare to a truth value."""
    if len(container) == len(before) and _identical(container, before):
        return False
    if isinstance(container, dict) and isinstance(before, dict):
        # The class's own methods are avoided: some configurations refuse to be changed.
        base: Any = OrderedDict if isinstance(container, OrderedDict) else dict
        base.clear(container)
        for key, value in before.items():
            base.__setitem__(container, key, value)
    elif isinstance(container, list):
        container[:] = before
    elif isinstance(container, set):
        container.clear()
        container.update(before)
    return True


def _identical(container: Container, before: Container) -> bool:
    if isinstance(container, dict) and isinstance(before, dict):
        return all(map(is_, container.values(), before.values())) and all(map(is_, container, before))
    if isinstance(container, set):
        return {*map(id, container)} == {*map(id, before)}
    return all(map(is_, container, before))


def _sampled(tensors: list[Tensor]) -> list[Tensor]:
    """Views of some places of every tensor, as whole numbers: those compare bit by bit, NaN included."""
    if not tensors:
        return []
    torch = sys.modules["torch"]
    views = []
    with torch.inference_mode():
        for tensor in tensors:
            if tensor.is_meta or tensor.is_sparse or not tensor.numel():
                continue
            real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
            bits = real.reshape(-1).view(getattr(torch, _BITS[real.element_size()]))
            views.append(bits[:: max(1, len(bits) // _PLACES)])
    return views


def _content(views: list[Tensor]) -> list[Tensor]:
    """Copy what the views show, joined by device and type: few calls of the device for any number of tensors."""
    torch = sys.modules["torch"]
    groups: dict[Any, list[Tensor]] = {}
    for view in views:
        groups.setdefault((view.device, view.dtype), []).append(view)
    with torch.inference_mode():
        return [torch.cat(group) for group in groups.values()]
