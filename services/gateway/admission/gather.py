"""Many requests that wait for the same kind of answer ask together: one call of what answers, whoever they are."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

A = TypeVar("A")
R = TypeVar("R")

MOST_TOGETHER: Final = 64


class _Ticket(Generic[A, R]):
    __slots__ = ("answers", "error", "leads", "question", "turn")

    def __init__(self, question: A) -> None:
        self.question = question
        # A lock that is taken until it is this one's turn costs a third of an Event.
        self.turn = threading.Lock()
        self.turn.acquire()
        self.answers: list[R] = []
        self.error: Exception | None = None
        self.leads = False


class Gather(Generic[A, R]):
    """Whoever finds nobody asking asks at once, alone; those who come meanwhile are asked for together, by one of them.

    So a single request waits for nobody, and a crowd costs one call for each ``most`` of it. ``send`` takes the
    questions and gives as many answers, in order; when it raises, so does every question that waits by then: nobody
    waits for one failure after the other.
    """

    def __init__(self, send: Callable[[Sequence[A]], Sequence[R]], most: int = MOST_TOGETHER) -> None:
        self._send = send
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[A, R]] = []
        self._asking = False

    def ask(self, question: A) -> R:
        """The answer. Raises what ``send`` raises."""
        ticket: _Ticket[A, R] = _Ticket(question)
        with self._lock:
            self._waiting.append(ticket)
            ticket.leads, self._asking = not self._asking, True
        if not ticket.leads:
            ticket.turn.acquire()
        if ticket.leads:
            self._lead()
        if ticket.error is not None:
            raise ticket.error
        # Without an answer and an error, whoever asked for all was ended in the middle of it.
        return ticket.answers[0] if ticket.answers else self.ask(question)

    def _lead(self) -> None:
        with self._lock:
            together, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            for ticket, answer in zip(together, self._send([each.question for each in together]), strict=True):
                ticket.answers.append(answer)
        except Exception as exc:
            with self._lock:
                together, self._waiting = together + self._waiting, []
            for ticket in together:
                ticket.error = exc
            raise
        finally:
            self._hand_over()
            for ticket in together:
                if not ticket.leads:
                    ticket.turn.release()

    def _hand_over(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].turn.release()
            else:
                self._asking = False
