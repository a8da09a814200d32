"""``python -m services.worker.backends.newbie.measure``: what a model costs on a device, beside what it has to cost.

Writes one JSON document. In a process of its own, so that one tier's peak of memory is not another's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from services.worker.backends.base import GenerationRequest
from services.worker.backends.newbie.backend import NewbieBackend
from services.worker.backends.newbie.placement import TIERS
from services.worker.backends.newbie.random_folder import Sizes, write_random
from services.worker.backends.newbie.text import collate

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import Sketch

MEBIBYTE: Final = 1 << 20
PROMPT: Final = (
    "<character_1><n></n><gender>1girl</gender><appearance>blue_hair, long_hair, red_eyes</appearance></character_1>"
    "<general_tags><style>anime_style</style><background>white_background</background></general_tags>"
)
CARD: Final = '[model]\nid = "measured"\nbackend = "newbie"\nlicence = "none: random weights"\n'
GUIDANCE: Final = 4.5
CFG_ROWS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The picture to measure. ``matrix`` is the side of the matrices whose rate is measured; ``repeats`` of each."""

    side: int = 1024
    steps: int = 28
    matrix: int = 8192
    repeats: int = 3


def measure(folder: Path, device: str, tiers: tuple[str, ...], work: Work) -> dict[str, Any]:
    """Measure every tier by the product's own path, then a bare loop over the same modules, and the matrix rate."""
    rows = [_tier(folder, device, tier, work) for tier in tiers]
    backend = NewbieBackend()
    backend.load(folder, device, tiers[0])
    bare, operations = _bare(backend, device, work)
    backend.unload()
    rate = matrix_rate(device, work)
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
        "side": work.side,
        "steps": work.steps,
        "tiers": rows,
        "bare_seconds": round(bare, 4),
        "operations": operations,
        "matrix_operations_per_second": round(rate),
        "roofline_seconds": round(operations / rate, 4),
    }


def matrix_rate(device: str, work: Work) -> float:
    """Operations a second of a square matrix product, the best of the repeats, in the type that the model uses."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    first, second = (torch.randn((work.matrix, work.matrix), device=device, dtype=dtype) for _ in range(2))
    seconds = min(_seconds(lambda: first @ second, device) for _ in range(work.repeats + 1))
    return 2 * work.matrix**3 / seconds


def _tier(folder: Path, device: str, tier: str, work: Work) -> dict[str, Any]:
    backend = NewbieBackend()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    loaded = backend.load(folder, device, tier)
    seconds = []
    with tempfile.TemporaryDirectory() as out:
        # One to warm up. Without a scope no prompt's features are kept.
        for seed in range(work.repeats + 1):
            call = partial(backend.generate, [_request(Path(out), work, seed)], _report, _never)
            seconds.append(_seconds(call, device))
    peak = torch.cuda.max_memory_allocated() // MEBIBYTE if device.startswith("cuda") else 0
    backend.unload()
    return {
        "tier": tier,
        "load_seconds": round(loaded.seconds, 3),
        "bytes_on_disk": loaded.bytes_on_disk,
        "first_seconds": round(seconds[0], 4),
        "seconds": round(min(seconds[1:]), 4),
        "peak_vram_mb": peak,
    }


@torch.inference_mode()
def _bare(backend: NewbieBackend, device: str, work: Work) -> tuple[float, int]:
    """Seconds and operations of the steps and the decoder alone, called one after the other."""
    parts: dict[str, Any] = dict(backend.guarded().parts)
    transformer, vae = parts["transformer"], parts["vae"]
    encoder = backend.components.encoder
    condition, mask = collate([encoder.encode(PROMPT, "xml"), encoder.encode("", "xml")])
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    side = work.side // factor
    latents = torch.randn((1, transformer.config.in_channels, side, side), device=device, dtype=transformer.dtype)
    pair, times = latents.expand(CFG_ROWS, -1, -1, -1), torch.full((CFG_ROWS,), 0.5, device=device)

    def picture() -> None:
        for _ in range(work.steps):
            transformer(pair, times, condition, mask)
        vae.decode(latents, return_dict=False)

    with FlopCounterMode(display=False) as counted:
        transformer(pair, times, condition, mask)
    step = counted.get_total_flops()
    with FlopCounterMode(display=False) as counted:
        vae.decode(latents, return_dict=False)
    seconds = min(_seconds(picture, device) for _ in range(work.repeats))
    return seconds, step * work.steps + counted.get_total_flops()


def _request(out: Path, work: Work, seed: int) -> GenerationRequest:
    return GenerationRequest(
        task_id="measured",
        prompt=PROMPT,
        negative_prompt="",
        prompt_format="xml",
        width=work.side,
        height=work.side,
        steps=work.steps,
        guidance=GUIDANCE,
        seeds=(seed,),
        num_frames=1,
        out_dir=out,
    )


def _seconds(call: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _report(phase: str, step: int = 0, steps: int = 0, sketch: Sketch | None = None) -> None:
    del phase, step, steps, sketch


def _never() -> bool:
    return False


def main(arguments: list[str]) -> int:
    """Measure a folder, or one of random weights at the published size that is made for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a model's folder; without it random weights at the full size")
    parser.add_argument("--tokenizers", type=Path, default=Path("models/tiny-newbie"), help="whose to use for those")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument("--side", type=int, default=Work().side)
    parser.add_argument("--steps", type=int, default=Work().steps)
    parser.add_argument("--matrix", type=int, default=Work().matrix)
    options = parser.parse_args(arguments)
    work = Work(side=options.side, steps=options.steps, matrix=options.matrix)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder
        if folder is None:
            folder = Path(temporary) / "newbie"
            write_random(folder, Sizes(), options.tokenizers, options.device)
            (folder / "atelier.toml").write_text(CARD, encoding="utf-8")
        found = measure(folder, options.device, tuple(options.tiers), work)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
