"""What the worker's parent and its child say to each other. Standard library only: the child may be another Python.

Every message travels as one frame of JSON with the protocol's version and the launch id of the child it belongs to, so
that a late word of a dead child is recognised and dropped. Pictures go by file, never through this channel.
"""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from services.worker.backends.base import ArtifactFile, Encoded, GenerationRequest, Memory
from shared.domain.errors import DecodeError
from shared.domain.task import PREVIEW_MAX_CHARS, Phase

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

VERSION: Final = 4
_MOST_FRAME_BYTES: Final = 16 * 1024**2
_SHOWN_CHARS: Final = 200
_PREVIEW_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/webp"})
_PREVIEW_MOST_PIXELS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Parent to child: compute these requests (one job) at a memory tier, or with "" at the one it was loaded at."""

    job: str
    requests: tuple[GenerationRequest, ...]
    tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Parent to child: stop that job at its next step."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Parent to child: end the running job at its next step, write what is computed, unload and exit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Child to parent: the model is loaded, at ``tier``: a lower one than asked for where that one did not fit."""

    seconds: float
    bytes_on_disk: int
    receipt: dict[str, str | int | float] = field(default_factory=dict)
    tier: str
    memory: Memory
    confinement: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A small picture in base64. Sides are pixels."""

    media_type: str
    data: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Child to parent: what the job is doing, now and then with a picture of how far it has come."""

    job: str
    phase: str
    step: int
    steps: int
    preview: Preview | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """Child to parent: the device is free for the next job; this one's files are still being written.

    ``tier`` is the one that did it, and ``memory`` what that took.
    """

    job: str
    tier: str
    memory: Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Child to parent: the job's files are written."""

    job: str
    results: tuple[Encoded, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Child to parent: the job (or, with an empty job, loading) failed.

    ``tier`` is the last one that was tried. The child goes on, unless ``fatal``: then it takes no further job and ends.
    """

    job: str
    code: str
    message: str
    retryable: bool
    stack: str = ""
    tier: str = ""
    fatal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewPace:
    """At most one preview in so many steps (0: none at all) and so many seconds, the first ones included."""

    every_steps: int = 5
    every_seconds: float = 2.0

    def to_argument(self) -> str:
        """The pace as text."""
        return f"{self.every_steps}/{self.every_seconds!r}"

    @classmethod
    def from_argument(cls, text: str) -> PreviewPace:
        """Read what ``to_argument`` wrote."""
        steps, _, seconds = text.partition("/")
        return cls(every_steps=int(steps), every_seconds=float(seconds))


ParentWord = Generate | Cancel | Stop
ChildWord = Ready | Progress | Computed | Done | Failed
Word = ParentWord | ChildWord

_KINDS: Final[dict[str, type[Word]]] = {
    kind.__name__: kind for kind in (Generate, Cancel, Stop, Ready, Progress, Computed, Done, Failed)
}
_Kinds = type | tuple[type, ...]
_SIMPLE: Final[dict[str, _Kinds]] = {"str": str, "int": int, "float": (int, float), "bool": bool}
_FACTS: Final[dict[str, _Kinds]] = {
    "dict[str, str]": str,
    "dict[str, float]": (int, float),
    "dict[str, str | int | float]": (str, int, float),
}
# What is calculated with and written down: no number without end, and none that is none.
_LARGEST_NUMBER: Final = 2**64
T = TypeVar("T", bound="Word | ArtifactFile | Encoded | Memory | Preview")


class Channel:
    """One end of the socket pair. Sending is thread-safe; one thread receives."""

    def __init__(self, connection: Connection, launch_id: str) -> None:
        self._connection = connection
        self._launch_id = launch_id
        self._sending = threading.Lock()

    def send(self, word: Word) -> None:
        """Send one message. Raises OSError when the other side is gone."""
        document = {"v": VERSION, "launch": self._launch_id, "kind": type(word).__name__, "body": asdict(word)}
        # A model's error text may hold half of a surrogate pair, which nothing after us could write down.
        frame = json.dumps(document, default=str, ensure_ascii=False).encode(errors="replace")
        with self._sending:
            self._connection.send_bytes(frame)

    def receive(self) -> Word | None:
        """The next message, or None for one that belongs to another launch.

        Raises EOFError at the end, OSError for a broken channel or a frame that is too long, DecodeError.
        """
        frame = self._connection.recv_bytes(_MOST_FRAME_BYTES)
        try:
            document = json.loads(frame)
            if document["launch"] != self._launch_id:
                return None
            if document["v"] != VERSION:
                message = f"the other side speaks protocol version {document['v']}, this one {VERSION}"
                raise DecodeError(message)
            return _checked(_KINDS[document["kind"]](**_revive(document["kind"], document["body"])))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
            message = f"not a message of the worker protocol: {exc!r}"
            raise DecodeError(message) from exc


def _revive(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    if kind == Generate.__name__:
        body["requests"] = tuple(_request(r) for r in body["requests"])
    if kind in {Ready.__name__, Computed.__name__}:
        body["memory"] = _checked(Memory(**body["memory"]))
    if kind == Progress.__name__:
        body["phase"] = Phase(body["phase"])
        body["preview"] = None if body.get("preview") is None else _small(_checked(Preview(**body["preview"])))
    if kind == Done.__name__:
        body["results"] = tuple(
            _checked(Encoded(**{**r, "artifacts": tuple(_checked(ArtifactFile(**a)) for a in r["artifacts"])}))
            for r in body["results"]
        )
        if not body["results"]:
            message = "no results"
            raise ValueError(message)
    return body


def _request(body: dict[str, Any]) -> GenerationRequest:
    folder, image = Path(body["out_dir"]), body["image"]
    if image is not None and Path(image).parent != folder:
        message = "an image outside of its task's folder"
        raise ValueError(message)
    paths = {"out_dir": folder, "image": None if image is None else Path(image)}
    return GenerationRequest(**{**body, "seeds": tuple(body["seeds"]), **paths})


def _small(preview: Preview) -> Preview:
    """What is passed on to clients is a picture, by its own word at least, and within the bounds of an event."""
    sides = min(preview.width, preview.height), max(preview.width, preview.height)
    if not (preview.media_type in _PREVIEW_TYPES and sides[0] > 0 and sides[1] <= _PREVIEW_MOST_PIXELS):
        message = f"no preview: {preview.media_type[:_SHOWN_CHARS]!r} of {preview.width}x{preview.height}"
        raise ValueError(message)
    if not 0 < len(preview.data) <= PREVIEW_MAX_CHARS:
        message = f"a preview of {len(preview.data)} characters"
        raise ValueError(message)
    base64.b64decode(preview.data, validate=True)
    return preview


def _checked(made: T) -> T:
    """Dataclasses do not check their fields' types, and a model's code may report anything."""
    for item in fields(made):
        value, kind = getattr(made, item.name), str(item.type)
        if kind in _FACTS:
            right = isinstance(value, dict) and all(_is(entry, _FACTS[kind]) for entry in value.values())
        else:
            right = kind not in _SIMPLE or _is(value, _SIMPLE[kind])
        if not right:
            message = f"{type(made).__name__}.{item.name} is {str(value)[:_SHOWN_CHARS]!r}"
            raise TypeError(message)
    return made


def _is(value: object, kind: _Kinds) -> bool:
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER:
        return False
    return isinstance(value, kind)
