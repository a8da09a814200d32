"""What this worker's finished tasks taught, kept over restarts: seconds and memory of a task, the tier that it fits."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.contracts.task import Predicted
from shared.contracts.worker_report import TierReport
from shared.domain.experience import Experience
from shared.domain.prediction import estimate, first_fitting, meets_oom
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.contracts.model_card import ModelCard
    from shared.contracts.task import Params
    from shared.domain.prediction import Shape, TierPrice

log = get_logger(__name__)

_SAVE_EVERY_SECONDS: Final = 5.0
# What of a card changes no cost.
_FREE: Final = {"defaults", "limits"}


class Learner:
    """Predicts and learns; any thread may call it. It forgets when the card's costs, the revision or the device change.

    ``path``: the file that keeps what was learnt; None keeps nothing. Trouble with it is logged and stops nobody.
    """

    def __init__(
        self,
        card: ModelCard,
        device_name: str,
        path: Path | None,
        *,
        revision: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._card = card
        self._path = path
        self._clock = clock
        self._key = {
            "model": card.id,
            "card": hashlib.sha256(card.model_dump_json(exclude=_FREE).encode()).hexdigest(),
            "revision": revision,
            "device": device_name,
        }
        self._lock = threading.Lock()
        self._experience = self._restored()
        self._saved_at = clock()
        self._unsaved = False
        self._version = 0

    @property
    def version(self) -> int:
        """Grows with everything that is learnt."""
        return self._version

    def predict(self, params: Params, tier: str | None = None) -> Predicted:
        """The p95 of GPU seconds and memory at a tier; by default at the first that is not known to run out."""
        shape, prices = self._card.shape(params), self._prices()
        chosen = next((price for price in prices if price.name == tier), None) or _first_open(prices, shape)
        expected = estimate(chosen, shape)
        return Predicted(gpu_seconds=expected.seconds, vram_mb=round(expected.memory_mb))

    def tier_for(self, params: Params, capacity_mb: float | None) -> str:
        """The first tier that fits; when none does by the figures, the last one: it has the best chance."""
        prices = self._prices()
        expected = first_fitting(prices, self._card.shape(params), capacity_mb)
        return prices[-1].name if expected is None else expected.tier

    def fits(self, params: Params, capacity_mb: float | None) -> bool:
        """Whether any tier fits by the figures."""
        return first_fitting(self._prices(), self._card.shape(params), capacity_mb) is not None

    def usual_need_mb(self) -> int:
        """MiB that 95 % of the last tasks needed; of the default request before there were any."""
        with self._lock:
            return round(self._experience.usual_need_mb(self._card.default_shape))

    def observe(self, params: Params, tier: str, seconds: float, peak_mb: float | None) -> None:
        """A task was computed at a tier: GPU seconds, and the peak of memory in MiB where it is known."""
        with self._lock:
            if not self._experience.observe(tier, self._card.shape(params), seconds, peak_mb):
                log.warning("observation_ignored", tier=tier, seconds=seconds, peak_mb=peak_mb)
                return
            self._learnt()

    def remember_oom(self, params: Params, tier: str) -> None:
        """A task ran out of memory at a tier; neither it nor a larger one is predicted to fit there again."""
        with self._lock:
            if self._experience.remember_oom(tier, self._card.shape(params)):
                self._learnt()

    def tiers(self) -> tuple[TierReport, ...]:
        """What each tier costs here, for the worker's report."""
        with self._lock:
            experience = self._experience
            return tuple(TierReport.of(price, experience.count(price.name)) for price in experience.prices())

    def close(self) -> None:
        """Keep what was learnt since the last time."""
        with self._lock:
            if self._unsaved:
                self._save()

    def _prices(self) -> tuple[TierPrice, ...]:
        with self._lock:
            return self._experience.prices()

    def _learnt(self) -> None:
        self._experience.prices()  # worked out here and now, so that a prediction never waits for it
        self._version += 1
        self._unsaved = True
        if self._clock() - self._saved_at >= _SAVE_EVERY_SECONDS:
            self._save()

    def _save(self) -> None:
        self._saved_at = self._clock()
        self._unsaved = False
        if self._path is None:
            return
        try:
            _replace(self._path, json.dumps({"key": self._key, "experience": self._experience.as_dict()}))
        except OSError as exc:
            log.warning("experience_not_saved", path=str(self._path), error_message=repr(exc))

    def _restored(self) -> Experience:
        prices = self._card.prices
        if self._path is None or not self._path.exists():
            return Experience(prices)
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            if not isinstance(document, dict) or document.get("key") != self._key:
                log.info("experience_foreign", path=str(self._path))
                return Experience(prices)
            return Experience.from_dict(prices, document["experience"])
        except (OSError, ValueError, KeyError, RecursionError) as exc:
            log.warning("experience_unreadable", path=str(self._path), error_message=repr(exc)[:200])
            return Experience(prices)


def _first_open(prices: tuple[TierPrice, ...], shape: Shape) -> TierPrice:
    return next((price for price in prices if not meets_oom(price, shape)), prices[-1])


def _replace(path: Path, text: str) -> None:
    """Write in one step, so that a worker killed meanwhile leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
