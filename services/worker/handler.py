"""One delivery from arrival to the point where the device is free again; what follows is the finisher's."""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.worker.backends.base import GenerationRequest
from services.worker.companions import Companions
from services.worker.computing import Bounds, Computing, budget_seconds
from services.worker.errors import DeadlineExceededError, WorkFolderError
from services.worker.inputs import fetch_input
from services.worker.precedence import Precedence
from services.worker.settling import Execution
from shared.contracts.base import decode
from shared.contracts.outcome import Claim, ErrorInfo
from shared.contracts.task import TaskMessage
from shared.domain.errors import BrokerError, DecodeError, NewerSchemaError, RunnerCrashedError, StorageError, TaskError
from shared.domain.settle import (
    COPY_WAIT_SECONDS,
    TWIN_WAIT_SECONDS,
    Claimant,
    ClaimFacts,
    Contested,
    Start,
    copy_wait_seconds,
    decide_contested,
    decide_start,
)
from shared.ids import new_execution_id
from shared.logging import bind, bound, get_logger, unbind_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.worker.companions import Companion
    from services.worker.computing import Running
    from services.worker.ports import EventSink, Plan, Planner, Runner, Teacher
    from services.worker.sandbox import Sandboxes
    from services.worker.settling import Settling
    from services.worker.twins import Twins
    from services.worker.vigil import Vigil
    from shared.clock import Clock
    from shared.messaging.ports import Delivery
    from shared.storage.records import TaskRecords
    from shared.storage.work_index import Twin

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Who works, by which clock, where, and with what room."""

    worker_id: str
    clock: Clock
    sandboxes: Sandboxes
    vigil: Vigil
    planner: Planner
    teacher: Teacher
    twins: Twins
    precedence: Precedence = field(default_factory=Precedence)
    companions: Companions = field(default_factory=Companions)
    max_run_seconds: float = 6 * 3600.0
    silence_floor_seconds: float = 60.0
    min_free_mib: int = 0


class TaskHandler:
    """Decides what a delivery needs and, when that is a start, claims and computes it."""

    def __init__(
        self, *, records: TaskRecords, settling: Settling, runner: Runner, events: EventSink, place: Workplace
    ) -> None:
        self._records = records
        self._settling = settling
        self._runner = runner
        self._place = place
        self._clock = place.clock
        # So that a scope says nothing to who knows the tenants' ids.
        self._salt = secrets.token_bytes(16)
        bounds = Bounds(max_run_seconds=place.max_run_seconds, silence_floor_seconds=place.silence_floor_seconds)
        self._computing = Computing(runner, events, place.precedence, place.clock, bounds)
        # Any thread may call these two.
        self.cancel, self.interrupt = self._computing.cancel, self._computing.interrupt

    def handle(self, delivery: Delivery) -> Running | None:
        """Settle the delivery, or compute its task and return it to be finished.

        Raises BrokerError, StorageError or WorkFolderError when it could not be settled. A task, claim or outcome that
        cannot be read goes back to the broker, from where the status service parks it.
        """
        unbind_all()
        self._place.precedence.start()
        try:
            return self._handle(delivery)
        except NewerSchemaError:
            self._settling.defer_newer(delivery)
        except DecodeError as exc:
            self._settling.reject(delivery, exc.message)
        finally:
            self._place.precedence.done()
        return None

    @property
    def planner(self) -> Planner:
        """What knows the device's room."""
        return self._place.planner

    def give_back(self, delivery: Delivery) -> None:
        """Nothing was begun, or its claim says so: the message goes back to its place."""
        self._settling.give_back(delivery)

    def _handle(self, delivery: Delivery) -> Running | None:
        task = decode(TaskMessage, delivery.body)
        bind(**task.log_context())
        log.info("delivery_taken", redelivered=delivery.redelivered, priority=delivery.priority)
        if self._start(task) is Start.CLAIM:
            twin = self._place.twins.ahead_of(task)
            if twin is not None:
                self._follow(delivery, task, twin)
                return None
            plan = self._place.planner.plan(task)
            if plan is None:
                self._settling.hand_on(delivery, seconds=COPY_WAIT_SECONDS)
                return None
            # Waiting for room took its time.
            if self._start(task) is Start.CLAIM:
                return self._begin(delivery, task, plan)
        self._end_unstarted(delivery, task)
        return None

    def _follow(self, delivery: Delivery, task: TaskMessage, twin: Twin) -> None:
        if twin.outcome is not None:
            self._settling.reuse(delivery, task, twin.outcome)
        else:
            log.info("twin_awaited", twin=twin.task_id)
            self._settling.hand_on(delivery, seconds=TWIN_WAIT_SECONDS)

    def _start(self, task: TaskMessage) -> Start:
        return decide_start(self._clock(), task.start_deadline, task.finish_deadline, task.attempt)

    def _end_unstarted(self, delivery: Delivery, task: TaskMessage) -> None:
        outcome = self._records.outcome(task.task_id)
        if outcome is not None:
            self._settling.repeat(delivery, outcome)
        elif self._start(task) is Start.EXPIRE:
            running = self._settling.expire(delivery, task)
            if running is not None:
                self._settle_contested(delivery, task, running)
        else:
            error = DeadlineExceededError("the task could not finish before its finish deadline")
            self._settling.fail_unstarted(delivery, task, new_execution_id(), error)

    def _begin(self, delivery: Delivery, task: TaskMessage, plan: Plan) -> Running | None:
        if not self._runner.ready:
            # It died while the task waited for room. A claim now would burn an attempt for nothing.
            self._settling.give_back(delivery)
            return None
        place = self._place
        found, plan = place.companions.of(task, plan, place.planner, self._clock)
        waiting = deque(found)
        try:
            running = self._claim(delivery, task, plan)
            if running is not None:
                running.beside = tuple(self._claim_beside(waiting, plan))
        finally:
            for companion in waiting:
                self._settling.give_back(companion.delivery)
        if running is None:
            return None
        rows = [(row.execution.task, row.folder) for row in (running, *running.beside)]
        try:
            requests = [self._request(each, folder) for each, folder in rows]
        except (TaskError, WorkFolderError) as exc:
            # Tasks with an image are computed alone.
            running.error = exc
            return running
        return self._computing.compute(running, requests)

    def _claim_beside(self, waiting: deque[Companion], plan: Plan) -> Iterator[Running]:
        """Claim companions one after the other; whatever keeps one of them back is its own affair."""
        while waiting:
            delivery, task = waiting.popleft()
            with bound(**task.log_context()):
                log.info("delivery_taken", redelivered=delivery.redelivered, priority=delivery.priority)
                try:
                    running = self._claim(delivery, task, plan)
                except (BrokerError, StorageError, WorkFolderError, DecodeError) as exc:
                    log.warning("delivery_failed", error_code=exc.code, error_message=exc.message)
                    self._settling.give_back(delivery)
                    continue
            if running is not None:
                yield running

    def _claim(self, delivery: Delivery, task: TaskMessage, plan: Plan) -> Running | None:
        place, execution = self._place, new_execution_id()
        # The folder comes before the claim, so that a full disk burns no attempt.
        if not place.sandboxes.has_room(place.min_free_mib):
            message = f"less than {place.min_free_mib} MiB of disk are free"
            raise WorkFolderError(message)
        folder = place.sandboxes.create(task.tenant_id, task.task_id, task.attempt, execution)
        with ExitStack() as undo:
            undo.callback(place.sandboxes.remove, folder)
            place.vigil.hold(execution, task.task_id)
            undo.callback(place.vigil.let_go, execution)
            mine = Claim(
                task_id=task.task_id,
                attempt=task.attempt,
                execution=execution,
                worker=place.worker_id,
                at=self._clock(),
                run_budget_seconds=budget_seconds(task, plan),
            )
            outcome, standing = self._records.begin(mine)
            if outcome is not None:
                self._settling.repeat(delivery, outcome)
                return None
            if standing.execution != execution:
                self._settle_contested(delivery, task, standing)
                return None
            undo.pop_all()
        return self._computing.prepare(Execution(delivery=delivery, task=task, claim=mine), folder, plan)

    def _settle_contested(self, delivery: Delivery, task: TaskMessage, claim: Claim) -> None:
        now = self._clock()
        here = self._place.vigil.holds(claim.execution)
        facts = ClaimFacts(
            mark=claim.mark,
            age_seconds=(now - claim.at).total_seconds(),
            budget_seconds=claim.run_budget_seconds,
            claimant=Claimant.HERE if here else self._records.claimant(claim, now),
        )
        # Read after the lease: an execution that its lease lists no more has committed before.
        outcome = self._records.outcome(task.task_id)
        if outcome is not None:
            self._settling.repeat(delivery, outcome)
            return
        decision = decide_contested(
            facts, redelivered=delivery.redelivered, attempt=task.attempt, max_attempts=task.max_attempts
        )
        log.info("claim_contested", decision=decision, claimed_by=claim.worker, claimant=facts.claimant)
        if decision is Contested.COMPLETE_EXPIRY:
            self._settling.complete_expiry(delivery, task, claim)
        elif decision is Contested.WAIT_FOR_COPY:
            self._settling.hand_on(delivery, seconds=copy_wait_seconds(facts.claimant))
        elif decision is Contested.NEXT_ATTEMPT:
            died = RunnerCrashedError(f"attempt {task.attempt} ended with its worker")
            info = ErrorInfo(code="worker_lost", message=died.message)
            self._settling.next_attempt(delivery, task, info, delay_seconds=0)
        else:
            self._settling.exhausted(delivery, task)

    def _request(self, task: TaskMessage, folder: Path) -> GenerationRequest:
        params, image = task.params, task.params.image
        store, sandboxes = self._records.store, self._place.sandboxes
        return GenerationRequest(
            task_id=task.task_id,
            prompt=params.prompt,
            negative_prompt=params.negative_prompt,
            prompt_format=params.prompt_format,
            width=params.width,
            height=params.height,
            steps=params.steps,
            guidance=params.guidance,
            seeds=params.seeds,
            num_frames=params.num_frames,
            out_dir=folder,
            quality=params.made_quality,
            scope=hashlib.blake2b(task.tenant_id.encode(), key=self._salt, digest_size=16).hexdigest(),
            image=None if image is None else fetch_input(store, sandboxes, image, folder),
        )
