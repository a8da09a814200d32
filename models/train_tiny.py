"""Trains the small model that follows XML prompts, on pictures that a painter draws, and writes its folder.

    python -m models.train_tiny [--out models/tiny-newbie] [--work .state/train] [--processes 2] [--steps 3400]

What is done is kept in the work folder: run it again to go on after an interruption.
Everything is drawn from one seed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from models.painter import draw_scene, paint
from models.side_by_side import side_by_side
from models.tiny_export import export
from models.tiny_flow import Pictures, load_networks, train_flow
from models.tiny_vae import Steps, load_vae, to_tensor, train_vae

SEED = 20255
PICTURES = 12_000
FLOW_STEPS = 3400
_AT_ONCE = 64


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-newbie", help="the model's folder")
    parser.add_argument("--work", type=Path, default=Path(".state/train"), help="what is kept while training")
    parser.add_argument("--processes", type=int, default=2, help="one core each")
    parser.add_argument("--steps", type=int, default=FLOW_STEPS, help="of the transformer")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    vae, flow = arguments.work / "vae.pt", arguments.work / "flow.pt"
    side_by_side(arguments.processes, train_vae, vae, SEED, Steps())
    pictures, mean, deviation = _pictures(arguments.work / "latents.pt", vae)
    side_by_side(arguments.processes, train_flow, flow, pictures, SEED, arguments.steps)
    networks, tokens = load_networks(flow)
    trained = load_vae(vae)
    # What is decoded is ``latents / scaling_factor + shift_factor``.
    trained.register_to_config(shift_factor=mean, scaling_factor=1.0 / deviation)
    export(arguments.out, networks, tokens, trained)
    print(f"{arguments.out}: written after {time.monotonic() - started:.0f} s")


def _pictures(kept: Path, checkpoint: Path) -> tuple[Pictures, float, float]:
    """Scenes with their latents, and the mean and the deviation that were taken out of these."""
    rng = np.random.default_rng(SEED)
    scenes = [draw_scene(rng) for _ in range(PICTURES)]
    if not kept.is_file():
        vae = load_vae(checkpoint)
        parts = []
        for start in range(0, PICTURES, _AT_ONCE):
            painted = to_tensor([paint(scene, rng) for scene in scenes[start : start + _AT_ONCE]])
            parts.append(vae.encode(painted).latent_dist.mode().to(torch.bfloat16))
        torch.save(torch.cat(parts), kept)
    latents = torch.load(kept, weights_only=True).float()
    mean, deviation = latents.mean().item(), latents.std().item()
    return Pictures(scenes, ((latents - mean) / deviation).to(torch.bfloat16)), mean, deviation


if __name__ == "__main__":
    main()
