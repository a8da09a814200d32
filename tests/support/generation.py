"""Builders for what backends take and report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.worker.backends.base import GenerationRequest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from services.worker.backends.base import Sketch

XML_PROMPT = """<character_1>
<n>$character_1$</n>
<gender>1girl</gender>
<appearance>chibi, red_eyes, blue_hair, long_hair \\(blue\\)</appearance>
</character_1>

<general_tags>
<count>1girl, solo</count>
<background>white_background & sky</background>
</general_tags>"""


def generation_request(out_dir: Path, **changes: Any) -> GenerationRequest:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "task_id": "0196f0c4-0000-7000-8000-000000000001",
        "prompt": XML_PROMPT,
        "negative_prompt": "",
        "prompt_format": "xml",
        "width": 64,
        "height": 48,
        "steps": 3,
        "guidance": 4.5,
        "seeds": (7,),
        "num_frames": 1,
        "out_dir": out_dir,
        **changes,
    }
    return GenerationRequest(**fields)


@dataclass
class Progress:
    """Records what was reported, and asks for an end after ``cancel_after`` steps."""

    cancel_after: int | None = None
    seen: list[tuple[str, int, int]] = field(default_factory=list)
    sketching: bool = False
    sketches: list[NDArray[np.uint8]] = field(default_factory=list)

    def report(self, phase: str, step: int = 0, steps: int = 0, sketch: Sketch | None = None) -> None:
        self.seen.append((phase, step, steps))
        if self.sketching and sketch is not None:
            self.sketches.append(sketch())

    def cancelled(self) -> bool:
        steps = sum(phase == "denoising" for phase, _, _ in self.seen)
        return self.cancel_after is not None and steps >= self.cancel_after
