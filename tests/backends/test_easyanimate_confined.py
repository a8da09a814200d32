"""The EasyAnimate backend where it works: in a process that may do little, driven by its parent."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import av
from PIL import Image

from services.worker.confine import ConfinementPlan, child_folders
from services.worker.job import Job
from tests.support.generation import generation_request
from tests.support.runner import CONTEXT, UNLIMITED, RealRunner

if TYPE_CHECKING:
    from pathlib import Path


def test_a_confined_process_makes_a_video_of_a_picture(tiny_easyanimate_inp: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    real = RealRunner(work)
    shutil.copytree(tiny_easyanimate_inp, real.model, dirs_exist_ok=True)
    real.confined = ConfinementPlan(work=work, model_dir=real.model, device="cpu", backend="easyanimate")
    home = work / ".child"
    home.mkdir()
    real.environment = child_folders(home)
    supervisor = real.supervise("easyanimate")
    folder = work / "task"
    folder.mkdir()
    image = folder / "input.png"
    Image.new("RGB", (64, 48), (200, 30, 30)).save(image)
    job = Job(job_id="job-1", context=CONTEXT, on_progress=real.progress.append)
    try:
        supervisor.ensure_ready()
        supervisor.begin(job, generation_request(folder, num_frames=9, steps=2, image=image))
        supervisor.wait_computed(job, UNLIMITED)
        video, poster = supervisor.wait_encoded(job).artifacts
    finally:
        real.close()
    assert [word.phase for word in real.progress] == ["encoding", *["denoising"] * 2, "decoding"]
    assert (poster.name, poster.role, video.frames) == ("0.png", "poster", 9)
    with av.open(str(folder / video.name)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
