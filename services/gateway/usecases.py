"""Submitting a task: resolve and check every parameter, then publish the task and its first event, both confirmed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from services.gateway.admission.ports import Application
from services.gateway.bounds import outside
from services.gateway.callbacks import callback_of
from services.gateway.errors import (
    ExceedsTimeError,
    InvalidParametersError,
    ModelNotAllowedError,
    ModelUnavailableError,
    SubmitUnknownError,
    SubmitVoidedError,
    UnknownModelError,
)
from services.gateway.plans import refuse_beyond_plan
from services.gateway.results.cache import Found
from services.gateway.retrying import tried_again
from shared.contracts.event import ended_event
from shared.contracts.task import Params, TaskMessage
from shared.domain.errors import BrokerError, PublishUnknownError, RequestError, StorageError, UnroutableError
from shared.domain.outbound import OutboundPolicy
from shared.domain.prediction import longest_admissible_seconds
from shared.domain.task import DEFAULT_MAX_ATTEMPTS, Lane
from shared.http.errors import FieldError
from shared.logging import bind, get_logger
from shared.messaging import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.gateway.admission.ports import Admission, Admitted
    from services.gateway.api.schemas import GenerateRequest
    from services.gateway.ends import Ends
    from services.gateway.idempotency.ports import Turn
    from services.gateway.images.intake import Images
    from services.gateway.ports import SubmitPublisher
    from services.gateway.prompt.check import PromptCheck
    from services.gateway.prompt.validate import PromptFormat
    from services.gateway.results.cache import ResultCache, Wish
    from services.gateway.scheduling import Forecast, Scheduling
    from shared.auth.ports import Principal
    from shared.clock import Clock
    from shared.contracts.model_card import ModelCard
    from shared.contracts.outcome import Outcome
    from shared.contracts.task import Predicted
    from shared.domain.plans import Plan

log = get_logger(__name__)
T = TypeVar("T")

# JSON clients in many languages keep integers exactly only up to here, so seeds that we draw stay below.
LARGEST_DRAWN_SEED: Final = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitPolicy:
    """What a submit is bound by. Times are seconds, and ``clock`` tells what time it is.

    ``prompts`` checks prompts, ``images`` takes input images.
    ``draw_seed`` makes a seed out of a task's id and the largest allowed one.
    ``outbound`` says where clients may be called back.
    ``max_waiting`` tasks may wait for a model, of which the last ``vip_reserve`` places are for the VIP lane.
    """

    cards: Mapping[str, ModelCard]
    prompts: PromptCheck
    images: Images
    default_model: str
    publish_timeout: float
    start_within: float
    finish_within: float
    max_run: float
    draw_seed: Callable[[str, int], int]
    clock: Clock
    outbound: OutboundPolicy = field(default_factory=OutboundPolicy)
    max_waiting: int = 1000
    vip_reserve: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A task that the broker holds, and what its admission found.

    With an ``outcome`` it has ended already: its work was done before.
    """

    task: TaskMessage
    admitted: Admitted
    forecast: Forecast
    found: Found = Found.BYPASS
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose request it is, and how it is traced."""

    principal: Principal
    request_id: str
    traceparent: str


class Submitter:
    """The use case behind every way to submit."""

    def __init__(
        self,
        *,
        policy: SubmitPolicy,
        publisher: SubmitPublisher,
        admission: Admission,
        scheduling: Scheduling,
        results: ResultCache,
        ends: Ends,
    ) -> None:
        self._policy = policy
        self._publisher = publisher
        self._admission = admission
        self._scheduling = scheduling
        self._results = results
        self._ends = ends

    def submit(
        self, request: GenerateRequest, caller: Caller, turn: Turn, origin: TaskMessage | None = None
    ) -> Accepted:
        """Accept a task, or another try of ``origin``: when this returns, the broker holds it and its queued event.

        With an id that was published before, nothing is doubled: it is the same task again. What nobody confirms and
        no later request can complete is cancelled.

        Raises RequestError for the client's faults, BrokerError when nothing (or nothing certain) was accepted,
        StorageError when it comes with an image that could not be stored or found.
        """
        plan, task_id = caller.principal.plan, turn.task_id
        card, params = self._checked(request, caller.principal, task_id)
        unplaced = self._task(task_id, request, params, card, caller)
        if origin is not None:
            unplaced = tried_again(origin, unplaced)
        bind(task_id=task_id)
        application = self._application(unplaced, card, caller.principal, again=origin is not None)
        admitted = self._admission.admit(application)
        task = unplaced.model_copy(update={"priority": self._scheduling.priority(plan, admitted)})
        if origin is not None and admitted.held:
            # Asked for before, and not ended: one more message would be one more copy for workers to sort out.
            return Accepted(task=task, admitted=admitted, forecast=self._forecast(task, admitted))
        if request.image is not None:
            task = self._illustrated(task, request, application, caller.principal)
        found, made = self._results.find(task)
        outcome = None if made is None else self._ends.reuse(task, made)
        if made is not None and outcome is None:
            found = Found.UNAVAILABLE
        try:
            self._publish(task, outcome)
        except SubmitUnknownError:
            if turn.repeatable or outcome is not None:
                raise  # it may run: its place stays taken until its lease, or its event, says otherwise
            outcome = self._void(task)
        except BrokerError:
            self._admission.withdraw(application)
            raise
        log.info("task_submitted", model=task.model, lane=task.lane, priority=task.priority, found=found)
        forecast = self._forecast(task, admitted)
        return Accepted(task=task, admitted=admitted, forecast=forecast, found=found, outcome=outcome)

    def _illustrated(
        self, task: TaskMessage, request: GenerateRequest, application: Application, principal: Principal
    ) -> TaskMessage:
        """The task with its image, which is only fetched for what is admitted."""
        try:
            image = self._policy.images.bring(request.image or "", task.tenant_id)
        except (RequestError, StorageError):
            self._admission.withdraw(application)
            raise
        params = task.params.model_copy(update={"image": image})
        key = self._results.key(principal, task.model, params, _wish(request))
        return task.model_copy(update={"params": params, "cache_key": key})

    def _forecast(self, task: TaskMessage, admitted: Admitted) -> Forecast:
        return self._scheduling.forecast(task.model, task.predicted.gpu_seconds, admitted)

    def _void(self, task: TaskMessage) -> Outcome:
        """The end that the task has by now; raises unless it is one of its own."""
        standing = self._ends.void(task)
        if standing is None:
            raise SubmitUnknownError(task.task_id)
        if standing.error is not None and standing.error.code == SubmitVoidedError.code:
            raise SubmitVoidedError
        return standing

    def _publish(self, task: TaskMessage, outcome: Outcome | None) -> None:
        # Of a task that has ended its end is all that there is to tell; the ledger gives its place back by it.
        told = messages.submit(task, task.submitted_at) if outcome is None else (messages.event(ended_event(outcome)),)
        try:
            self._publisher.publish(*told, timeout=self._policy.publish_timeout)
        except PublishUnknownError as exc:
            raise SubmitUnknownError(task.task_id) from exc
        except UnroutableError as exc:
            raise ModelUnavailableError(exc.message) from exc

    def _application(self, task: TaskMessage, card: ModelCard, principal: Principal, *, again: bool) -> Application:
        plan, policy = principal.plan, self._policy
        reserve = 0 if plan.lane is Lane.VIP else policy.vip_reserve
        return Application(
            task_id=task.task_id,
            tenant_id=task.tenant_id,
            model=task.model,
            subject=principal.key_prefix,
            gpu_seconds=task.predicted.gpu_seconds,
            rates=plan.rates,
            concurrency=plan.concurrency,
            queued=plan.queued,
            gpu_seconds_per_day=plan.gpu_seconds_per_day,
            bound=policy.max_waiting - reserve,
            falls_at=self._scheduling.falls_at(card, plan),
            again=again,
        )

    def _checked(self, request: GenerateRequest, principal: Principal, task_id: str) -> tuple[ModelCard, Params]:
        plan, card = principal.plan, self._card(request.model)
        if not plan.allows_model(card.id):
            message = f"the plan {plan.name} does not include the model {card.id}"
            raise ModelNotAllowedError(message)
        prompt_format = self._policy.prompts.prompt(request.prompt, card)
        self._policy.images.check(request.image, card, principal.tenant_id)
        params = self._resolve(request, card, prompt_format, task_id)
        refuse_beyond_plan(params, plan)
        return card, params

    def _price(self, card: ModelCard, params: Params, finish_within: float) -> Predicted:
        predicted = self._scheduling.price(card, params)
        longest = longest_admissible_seconds(self._policy.max_run, finish_within)
        if predicted.gpu_seconds > longest:
            raise ExceedsTimeError(predicted.gpu_seconds, longest)
        return predicted

    def _times(self, request: GenerateRequest, plan: Plan) -> tuple[float, float]:
        """Seconds to the start and to the end: the plan's, or the service's own; a request may shorten them."""
        finish = plan.finish_within or self._policy.finish_within
        start = plan.start_within or self._policy.start_within
        if request.finish_within is not None:
            finish = min(finish, request.finish_within)
        if request.start_within is not None:
            start = min(start, request.start_within)
        return min(start, finish), finish

    def _card(self, model: str | None) -> ModelCard:
        name = self._policy.default_model if model is None else model
        card = self._policy.cards.get(name)
        if card is None:
            known = ", ".join(self._policy.cards)
            message = f"there is no model {name[:64]!r}; there are {known}"
            raise UnknownModelError(message, FieldError(message=message, field="model"))
        return card

    def _resolve(self, request: GenerateRequest, card: ModelCard, prompt_format: PromptFormat, task_id: str) -> Params:
        defaults = card.defaults
        count = _or(request.count, defaults.count)
        most = LARGEST_DRAWN_SEED - count
        seed = self._policy.draw_seed(task_id, most) if request.seed is None else request.seed
        params = Params(
            prompt=request.prompt,
            prompt_format=prompt_format,
            negative_prompt=_or(request.negative_prompt, defaults.negative_prompt),
            width=_or(request.width, defaults.width),
            height=_or(request.height, defaults.height),
            steps=_or(request.steps, defaults.steps),
            guidance=_or(request.guidance, defaults.guidance),
            seed=seed,
            count=count,
            num_frames=_or(request.num_frames, defaults.num_frames),
        )
        errors = tuple(outside(params, card))
        if errors:
            raise InvalidParametersError(*errors)
        self._policy.prompts.negative(params.negative_prompt, prompt_format, card)
        return params

    def _task(
        self, task_id: str, request: GenerateRequest, params: Params, card: ModelCard, caller: Caller
    ) -> TaskMessage:
        now = self._policy.clock()
        start_within, finish_within = self._times(request, caller.principal.plan)
        callback, events = callback_of(request, caller.principal, self._policy.outbound)
        return TaskMessage(
            task_id=task_id,
            tenant_id=caller.principal.tenant_id,
            lane=caller.principal.lane,
            model=card.id,
            params=params,
            max_attempts=DEFAULT_MAX_ATTEMPTS,
            submitted_at=now,
            start_deadline=now + timedelta(seconds=start_within),
            finish_deadline=now + timedelta(seconds=finish_within),
            predicted=self._price(card, params, finish_within),
            callback=callback,
            callback_events=events,
            cache_key=self._results.key(caller.principal, card.id, params, _wish(request)),
            request_id=caller.request_id,
            traceparent=caller.traceparent,
        )


def _wish(request: GenerateRequest) -> Wish:
    # A seed that was drawn for this task alone is nobody else's.
    return "off" if request.cache == "auto" and request.seed is None else request.cache


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
