"""Several requests as one computation of a real child: each has its own files, equal to those that it gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.worker.errors import ReportedError
from services.worker.job import Job
from tests.support.generation import generation_request
from tests.support.runner import CONTEXT, UNLIMITED

if TYPE_CHECKING:
    from services.worker.backends.base import GenerationRequest
    from tests.support.runner import RealRunner

CARD = Path(__file__).parents[2] / "models" / "simulated" / "atelier.toml"


@pytest.fixture
def simulated(real: RealRunner) -> RealRunner:
    (real.model / "atelier.toml").write_text(CARD.read_text(encoding="utf-8"), encoding="utf-8")
    real.supervise("simulated").ensure_ready()
    return real


def request(real: RealRunner, name: str, **changes: object) -> GenerationRequest:
    folder = real.folder / name
    folder.mkdir()
    return generation_request(folder, steps=1, **changes)


def compute(real: RealRunner, *requests: GenerationRequest) -> Job:
    job = Job(job_id=requests[0].out_dir.name, context=CONTEXT, on_progress=real.progress.append)
    real.supervisor.begin(job, *requests)
    real.supervisor.wait_computed(job, UNLIMITED)
    return job


def test_each_request_of_a_job_has_its_own_files(simulated: RealRunner) -> None:
    asked = [request(simulated, f"row-{seed}", seeds=(seed, seed + 10), prompt=f"fish {seed}") for seed in (1, 2, 3)]
    job = compute(simulated, *asked)
    for row, one in enumerate(asked):
        encoded = simulated.supervisor.wait_encoded(job, row)
        assert tuple(file.seed for file in encoded.artifacts) == one.seeds
        together = [(one.out_dir / file.name).read_bytes() for file in encoded.artifacts]
        alone = request(simulated, f"alone-{row}", seeds=one.seeds, prompt=one.prompt)
        again = simulated.supervisor.wait_encoded(compute(simulated, alone))
        assert [(alone.out_dir / file.name).read_bytes() for file in again.artifacts] == together


def test_one_that_cannot_be_computed_fails_the_job(simulated: RealRunner) -> None:
    asked = [request(simulated, "sound"), request(simulated, "wrong", width=0)]
    with pytest.raises(ReportedError) as caught:
        compute(simulated, *asked)
    assert caught.value.code == "invalid_parameter"
    assert compute(simulated, request(simulated, "next")).computed.done()
