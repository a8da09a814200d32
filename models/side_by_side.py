"""Training in several processes of one thread each: small networks keep them busier than one of many threads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor


def side_by_side(processes: int, job: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - passed through
    """Call ``job(rank, *arguments)`` in so many processes that can average their gradients, and wait for all."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_begin, args=(processes, str(Path(folder) / "meeting"), job, arguments), nprocs=processes)  # type: ignore[no-untyped-call] # no types


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every process's gradients by their mean."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [each.numel() for each in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _begin(rank: int, processes: int, meeting: str, job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    try:
        job(rank, *arguments)
    finally:
        dist.destroy_process_group()
