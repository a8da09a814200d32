"""The picture that a task starts from, in a real child that is locked in as far as this kernel can."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.worker.confine import ConfinementPlan
from services.worker.errors import ReportedError
from services.worker.job import Job
from tests.support.generation import generation_request
from tests.support.pictures import SVG, bomb, picture
from tests.support.runner import CONTEXT, UNLIMITED

if TYPE_CHECKING:
    from services.worker.backends.base import Encoded
    from tests.support.runner import RealRunner

CARD = Path(__file__).parents[2] / "models" / "simulated" / "atelier.toml"


def generate(real: RealRunner, body: bytes) -> Encoded:
    folder = real.folder / hashlib.sha256(body).hexdigest()[:8]
    folder.mkdir()
    image = folder / "input.png"
    image.write_bytes(body)
    job = Job(job_id=folder.name, context=CONTEXT, on_progress=real.progress.append)
    real.supervisor.begin(job, generation_request(folder, image=image))
    real.supervisor.wait_computed(job, UNLIMITED)
    return real.supervisor.wait_encoded(job)


def test_a_child_reads_what_a_client_sent_and_outlives_what_is_no_picture(real: RealRunner) -> None:
    shutil.copy(CARD, real.model)
    real.confined = ConfinementPlan(
        mode="try", work=real.folder, model_dir=real.model, device="cpu", backend="simulated"
    )
    real.supervise("simulated").ensure_ready()
    child = real.child()
    whole = picture("PNG", (20, 10), colour=(0, 0, 255))
    assert generate(real, whole).receipt["input_image_sha256"] == hashlib.sha256(whole).hexdigest()
    for body in (SVG, whole[:45], bomb(9000, 5000), b""):
        with pytest.raises(ReportedError) as caught:
            generate(real, body)
        assert (caught.value.code, caught.value.retryable) == ("invalid_parameter", False)
    assert generate(real, picture("WEBP", (9, 9))).artifacts
    assert real.child() == child
