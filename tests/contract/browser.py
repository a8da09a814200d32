"""What every look into a queue must do; run on the fake and on the real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.messaging.topology import DEAD
from tests.support.builders import outbound

if TYPE_CHECKING:
    from shared.messaging.ports import Delivery, Publisher, QueueBrowser

SECONDS = 10.0


class Desk:
    """A publisher, a browser of ``tasks.dead``, and how many messages lie there that nobody holds."""

    publisher: Publisher
    browser: QueueBrowser
    # Whether what comes back in great numbers, or from a connection that died, is where it was.
    keeps_order = True

    def ready(self) -> int:
        raise NotImplementedError

    def park(self, *bodies: bytes) -> None:
        for body in bodies:
            self.publisher.publish(outbound(DEAD, "reason", body), timeout=SECONDS)

    def seen(self, page: int = 100) -> list[Delivery]:
        """Everything, in one look of several pages."""
        found: list[Delivery] = []
        with self.browser.look() as look:
            while more := look.page(page):
                assert len(more) <= page
                found += more
        return found

    def bodies(self, page: int = 100) -> list[bytes]:
        return [delivery.body for delivery in self.seen(page)]

    def numbered_bodies(self, page: int = 100) -> list[bytes]:
        """The bodies, in the order of their numbers where the queue has mixed them up."""
        bodies = self.bodies(page)
        return bodies if self.keeps_order else sorted(bodies, key=lambda body: int(body.split()[1]))


class Stumbled(Exception):  # noqa: N818 - not an error of the code under test
    """Whoever looks fails in the middle."""


def numbered(count: int) -> list[bytes]:
    return [f"letter {number}".encode() for number in range(count)]


class BrowserContract:
    """Inherit and provide the ``desk`` fixture."""

    @pytest.mark.parametrize("page", [1, 3, 100])
    def test_looking_shows_everything_in_order_and_changes_nothing(self, desk: Desk, page: int) -> None:
        desk.park(*numbered(10))
        for _ in range(3):
            assert desk.bodies(page) == numbered(10)
            assert desk.ready() == 10

    def test_a_message_is_shown_as_it_was_sent(self, desk: Desk) -> None:
        desk.publisher.publish(outbound(DEAD, "why", b"x", headers={"a": "b"}, type="dead-letter"), timeout=SECONDS)
        (first,), (second,) = desk.seen(), desk.seen()
        assert (first.exchange, first.routing_key, first.type, first.message_id) == (DEAD, "why", "dead-letter", "x")
        assert first.headers["a"] == "b"
        assert (first.redelivered, second.redelivered) == (False, True)

    def test_what_is_taken_out_is_gone_and_the_others_keep_their_order(self, desk: Desk) -> None:
        desk.park(*numbered(10))
        with desk.browser.look() as look:
            page = look.page(4) + look.page(4)
            for delivery in (page[5], page[0], page[3]):
                look.take_out(delivery)
        left = [body for number, body in enumerate(numbered(10)) if number not in {0, 3, 5}]
        assert desk.ready() == 7
        assert desk.bodies() == left

    def test_an_empty_queue_shows_nothing(self, desk: Desk) -> None:
        assert desk.seen() == []

    def test_a_look_that_asks_for_nothing_changes_nothing(self, desk: Desk) -> None:
        desk.park(b"one")
        with desk.browser.look():
            pass
        assert desk.bodies() == [b"one"]

    def test_what_arrives_meanwhile_is_left_for_the_next_look_and_lies_behind(self, desk: Desk) -> None:
        desk.park(*numbered(2))
        with desk.browser.look() as look:
            assert len(look.page(1)) == 1
            desk.park(b"late")
            assert [delivery.body for delivery in look.page(10)] == [b"letter 1"]
            assert look.page(10) == []
        assert desk.bodies() == [*numbered(2), b"late"]

    def test_an_error_in_the_middle_puts_everything_back_but_what_was_taken_out(self, desk: Desk) -> None:
        desk.park(*numbered(5))

        def stumble() -> None:
            with desk.browser.look() as look:
                look.take_out(look.page(3)[1])
                raise Stumbled

        with pytest.raises(Stumbled):
            stumble()
        assert desk.bodies() == [b"letter 0", b"letter 2", b"letter 3", b"letter 4"]

    def test_a_look_that_is_under_way_hides_what_it_has_shown_from_others(self, desk: Desk) -> None:
        desk.park(*numbered(3))
        with desk.browser.look() as look:
            look.page(2)
            assert desk.ready() == 1
        assert desk.ready() == 3

    def test_a_thousand_are_shown_twice_without_loss_or_reorder(self, desk: Desk) -> None:
        desk.park(*numbered(1000))
        assert desk.numbered_bodies() == numbered(1000)
        assert desk.numbered_bodies(7) == numbered(1000)
        assert desk.ready() == 1000
