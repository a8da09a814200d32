"""Videos as files: H.264 in MP4 with reproducible bytes, a poster beside each, and results not yet written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from services.worker.backends.base import POSTER, ArtifactFile, Encoded, InvalidOutputError
from services.worker.backends.images import PNG_MEDIA_TYPE, write_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from services.worker.backends.base import GenerationRequest

MP4_MEDIA_TYPE: Final = "video/mp4"
CODEC: Final = "libx264"
_PIXELS: Final = "yuv420p"
# The index before the frames, so that a player starts before it has the whole; no version and no time in the file.
_CONTAINER: Final = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}
# One thread: the bytes depend on how many there are.
_ENCODER: Final = {"preset": "medium", "crf": "18", "threads": "1"}


def write_mp4(frames: NDArray[np.uint8], path: Path, fps: float, metadata: Mapping[str, str]) -> None:
    """Write (frames, height, width, 3) pixels of even sides; equal frames and metadata give equal bytes.

    The metadata can be read by anyone: never put a prompt or a secret there. Raises OSError.
    """
    _, height, width, _ = frames.shape
    with av.open(str(path), mode="w", format="mp4", container_options=_CONTAINER) as container:
        container.metadata.update(sorted(metadata.items()))
        stream = container.add_stream(CODEC, rate=Fraction(fps).limit_denominator(1000), options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, _PIXELS
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for pixels in frames:
            frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=_PIXELS, dst_colorspace=Colorspace.ITU709)))
        container.mux(stream.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSet:
    """One request's computed videos, one for each of its seeds. ``fps`` are frames in a second."""

    request: GenerationRequest
    model_id: str
    videos: tuple[NDArray[np.uint8], ...]
    fps: float
    timings: dict[str, float]
    receipt: dict[str, str | int | float]

    def write(self) -> Encoded:
        """Write ``<n>.mp4`` and its first frame ``<n>.png`` (n from 0) below the request's folder, in this order.

        Raises InvalidOutputError before the first one.
        """
        self._check()
        prompt_hash = hashlib.sha256(self.request.prompt.encode()).hexdigest()
        artifacts: list[ArtifactFile] = []
        for index, (seed, frames) in enumerate(zip(self.request.seeds, self.videos, strict=True)):
            metadata = {
                "task_id": self.request.task_id,
                "seed": str(seed),
                "model": self.model_id,
                "prompt_sha256": prompt_hash,
            }
            video, poster = f"{index}.mp4", f"{index}.png"
            write_mp4(frames, self.request.out_dir / video, self.fps, metadata)
            write_png(frames[0], self.request.out_dir / poster, metadata)
            count, height, width = frames.shape[:3]
            shown = ArtifactFile(
                name=poster, media_type=PNG_MEDIA_TYPE, width=width, height=height, seed=seed, role=POSTER
            )
            moving = ArtifactFile(
                name=video, media_type=MP4_MEDIA_TYPE, width=width, height=height, seed=seed, frames=count, fps=self.fps
            )
            artifacts += [moving, shown]
        return Encoded(artifacts=tuple(artifacts), timings=self.timings, receipt=self.receipt)

    def _check(self) -> None:
        if len(self.videos) != len(self.request.seeds):
            message = f"the model made {len(self.videos)} videos for {len(self.request.seeds)} seeds"
            raise InvalidOutputError(message)
        wanted = (self.request.num_frames, self.request.height, self.request.width, 3)
        for frames in self.videos:
            if frames.shape != wanted or frames.dtype != np.uint8:
                message = f"the model made {frames.dtype} frames of {frames.shape}, not uint8 of {wanted}"
                raise InvalidOutputError(message)


@dataclass(frozen=True, slots=True)
class GeneratedVideos:
    """The ``Generated`` of every video backend."""

    sets: Sequence[VideoSet]

    def encode(self) -> list[Encoded]:
        """Write the files of every request, in the requests' order."""
        return [videos.write() for videos in self.sets]
