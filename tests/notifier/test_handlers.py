"""Each card once, nothing waits, nothing grows without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest

from services.notifier import handlers
from services.notifier.embeds import Card
from services.notifier.handlers import NotifierHandlers
from shared.contracts import CommissionKind, Contract
from shared.errors import InputError, UnavailableError
from shared.messages import ExecutionKind, Severity
from tests.notifier.builders import a_refusal, a_request, a_signal, an_event, an_execution

WAIT_S = 2.0


class ListOutlet:
    """Keeps what it is told, and fails or waits when it shall."""

    def __init__(self) -> None:
        self.posts: list[list[str]] = []
        self.notes: list[str] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy = asyncio.Event()
        self.told = asyncio.Event()

    @property
    def titles(self) -> list[str]:
        return [title for post in self.posts for title in post]

    async def post(self, cards: Sequence[Card], *, note: str = "") -> None:
        self.busy.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        self.posts.append([card.title for card in cards])
        self.notes.append(note)
        self.told.set()


def a_notifier(outlet: ListOutlet, spare: ListOutlet | None = None, **options: Any) -> NotifierHandlers:
    return NotifierHandlers(outlet, spare or ListOutlet(), **{"drain_grace_s": 0.2, **options})


@asynccontextmanager
async def sending(notifier: NotifierHandlers) -> AsyncIterator[asyncio.Task[None]]:
    """Run the sender; leaving the block stops it as the runtime does."""
    task = asyncio.create_task(notifier.run_sender())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(outlet: ListOutlet, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while len(outlet.titles) < count:
            outlet.told.clear()
            await outlet.told.wait()
    await asyncio.sleep(0)  # the sender notes what it has posted


async def tell(notifier: NotifierHandlers, *numbers: int, severity: Severity = Severity.ERROR) -> None:
    for number in numbers:
        event = an_event(f"{severity} {number}", service=f"s{number}", severity=severity, kind="limit")
        assert await notifier.on_event(event) == []


def named(*numbers: int) -> list[str]:
    return [f"s{number}: limit" for number in numbers]


GOODBYE = "notifier: stopped"


async def test_cards_go_out_in_order_and_in_few_posts() -> None:
    """What waited while a post was under way goes out together, ten at a time."""
    outlet = ListOutlet()
    outlet.gate.clear()
    notifier = a_notifier(outlet)
    async with sending(notifier):
        await tell(notifier, 0)
        await outlet.busy.wait()
        await tell(notifier, *range(1, 14))
        outlet.gate.set()
        await until(outlet, 14)
    assert outlet.titles == [*named(*range(14)), GOODBYE]
    assert [len(post) for post in outlet.posts][:3] == [1, 10, 3]


async def test_every_kind_of_message_is_told() -> None:
    """The four handlers lead to one queue."""
    outlet = ListOutlet()
    notifier = a_notifier(outlet)
    async with sending(notifier):
        assert await notifier.on_signal(a_signal()) == []
        assert await notifier.on_order(a_request()) == []
        assert await notifier.on_order(a_refusal()) == []
        assert await notifier.on_execution(an_execution(ExecutionKind.PROTECTED)) == []
        assert await notifier.on_event(an_event()) == []
        await until(outlet, 4)
    assert len(outlet.titles) == 4 + 1


async def test_handlers_return_at_once_while_discord_hangs() -> None:
    """Nothing in the notifier makes anybody wait."""
    outlet = ListOutlet()
    outlet.gate.clear()
    notifier = a_notifier(outlet)
    async with sending(notifier):
        async with asyncio.timeout(WAIT_S):
            await tell(notifier, *range(100))
    assert outlet.titles == []


async def test_message_delivered_twice_is_told_once() -> None:
    """A message whose commit was lost comes again, told or still queued."""
    outlet = ListOutlet()
    notifier = a_notifier(outlet)
    async with sending(notifier):
        await tell(notifier, 1, 1)
        await until(outlet, 1)
        await tell(notifier, 1, 2)
        await until(outlet, 2)
    assert outlet.titles == [*named(1, 2), GOODBYE]


async def test_undelivered_cards_go_to_the_spare_outlet_and_the_service_says_so() -> None:
    """An alert that Discord refuses is not gone, and health shows that nobody was reached."""
    outlet, spare = ListOutlet(), ListOutlet()
    notifier = a_notifier(outlet, spare)
    async with sending(notifier):
        for error in (UnavailableError("gone"), InputError("refused")):
            outlet.error = error
            await tell(notifier, len(spare.titles))
            await until(spare, len(spare.titles) + 1)
            await asyncio.sleep(0)
            assert str(error) in notifier.trouble()
        outlet.error = None
        await tell(notifier, 7)
        await until(outlet, 1)
        assert notifier.trouble() == ""
    assert spare.titles == named(0, 1)


# --- bounded --------------------------------------------------------------------------------------


async def test_full_queue_drops_the_oldest_information_first_and_announces_how_many() -> None:
    """When all cannot be told, what matters is, and people learn that something is missing."""
    outlet = ListOutlet()
    notifier = a_notifier(outlet, queue_max=4)
    await tell(notifier, 1, 2, severity=Severity.INFO)
    await tell(notifier, 3, severity=Severity.CRITICAL)
    await tell(notifier, 4, severity=Severity.INFO)
    await tell(notifier, 5, 6, severity=Severity.WARNING)
    async with sending(notifier):
        await until(outlet, 4)
    assert outlet.titles == [*named(3, 4, 5, 6), GOODBYE]
    assert outlet.notes == ["2 cards were left out: the queue was full.", ""]


async def test_information_never_displaces_an_error() -> None:
    """A flood of small things must not wash away the one that counts."""
    outlet = ListOutlet()
    notifier = a_notifier(outlet, queue_max=3)
    await tell(notifier, 1, 2, 3)
    await tell(notifier, *range(10, 60), severity=Severity.INFO)
    async with sending(notifier):
        await until(outlet, 3)
    assert outlet.titles == [*named(1, 2, 3), GOODBYE]
    assert outlet.notes[0].startswith("50 cards")


async def test_card_being_posted_is_not_dropped_and_not_counted() -> None:
    """It arrives, so it is not missing."""
    outlet = ListOutlet()
    outlet.gate.clear()
    notifier = a_notifier(outlet, queue_max=2)
    async with sending(notifier):
        await tell(notifier, 1, severity=Severity.INFO)
        await outlet.busy.wait()
        await tell(notifier, 2, 3)
        outlet.gate.set()
        await until(outlet, 2)
    assert outlet.titles == [*named(1, 3), GOODBYE]


async def test_saved_state_stays_small_and_counts_what_it_leaves_out() -> None:
    """It is written with every commit; the most severe cards are the ones to keep."""
    notifier = a_notifier(ListOutlet())
    await tell(notifier, *range(300), severity=Severity.INFO)
    await tell(notifier, *range(300, 305))
    await notifier.on_event(an_event("🙂" * 5000))
    data = notifier.snapshot()
    assert len(data) <= handlers.SNAPSHOT_BYTES_MAX
    outlet = ListOutlet()
    again = a_notifier(outlet)
    again.restore(data)
    async with sending(again):
        await until(outlet, 100)
    assert outlet.titles == [*named(*range(206, 305)), "gateway: alarm", GOODBYE]
    assert outlet.notes[0].startswith("206 cards")


async def test_very_long_cards_do_not_make_the_saved_state_large() -> None:
    """A hundred cards of the largest size would be half a megabyte."""
    notifier = a_notifier(ListOutlet())
    for number in range(100):
        await notifier.on_event(an_event("🙂" * 2000 + str(number)))
    assert len(notifier.snapshot()) <= handlers.SNAPSHOT_BYTES_MAX


# --- restarts -------------------------------------------------------------------------------------


async def test_what_was_queued_and_unsent_is_sent_after_a_restart_and_nothing_twice() -> None:
    """The streams give each message once; the state carries what lies between them and people."""
    outlet = ListOutlet()
    saved: list[bytes] = []

    async def save(state: bytes) -> None:
        saved.append(state)
        await asyncio.Event().wait()  # the process dies here

    first = a_notifier(outlet, save=save)
    await tell(first, *range(12))
    task = asyncio.create_task(first._send())
    await until(outlet, 10)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    second = a_notifier(outlet)
    second.restore(saved[0])
    async with sending(second):
        await tell(second, 5, 11, 12)  # delivered again, and a new one
        await until(outlet, 13)
    assert outlet.titles == [*named(*range(13)), GOODBYE]


async def test_state_is_saved_after_each_post_without_waiting_for_a_message() -> None:
    """The last card of the evening must not be told again in the morning."""
    outlet = ListOutlet()
    saved: list[bytes] = []

    async def save(state: bytes) -> None:
        saved.append(state)

    notifier = a_notifier(outlet, save=save)
    async with sending(notifier):
        await tell(notifier, 1)
        await until(outlet, 1)
        await asyncio.sleep(0)
        again = a_notifier(outlet)
        again.restore(saved[-1])
        async with sending(again):
            await asyncio.sleep(0.01)
    assert outlet.titles.count("s1: limit") == 1


async def test_message_told_while_the_state_is_saved_is_not_lost_to_the_older_state() -> None:
    """The saving may overtake the commit of a message; so it is repeated with the newer state."""
    outlet = ListOutlet()
    saved: list[bytes] = []

    async def save(state: bytes) -> None:
        saved.append(state)
        if len(saved) == 1:
            await tell(notifier, 2)

    notifier = a_notifier(outlet, save=save, may_send=lambda: not saved)
    await tell(notifier, 1)
    task = asyncio.create_task(notifier._send())
    await until(outlet, 1)
    await asyncio.sleep(0.01)
    task.cancel()
    assert len(saved) == 2
    assert b"s2: limit" in saved[1]


async def test_rollback_keeps_what_was_posted_and_forgets_what_was_not_committed() -> None:
    """After a failed commit the runtime goes back; the uncommitted message will come again."""
    outlet = ListOutlet()
    notifier = a_notifier(outlet)
    await tell(notifier, 1)
    committed = notifier.snapshot()
    async with sending(notifier):
        await until(outlet, 1)
        notifier.restore(committed)
        await tell(notifier, 1, 2)
        await until(outlet, 2)
    assert outlet.titles == [*named(1, 2), GOODBYE]


async def test_state_that_cannot_be_read_does_not_silence_the_notifier() -> None:
    """Alerts that begin anew are worth more than none."""
    outlet = ListOutlet()
    notifier = a_notifier(outlet)
    for state in (None, b"{", b'{"unsent": 3}'):
        notifier.restore(state)
    async with sending(notifier):
        await tell(notifier, 1)
        await until(outlet, 1)


async def test_failed_saving_does_not_stop_the_posts() -> None:
    """The next commit saves the state too."""

    async def save(state: bytes) -> None:
        raise UnavailableError("redis: gone")

    outlet = ListOutlet()
    notifier = a_notifier(outlet, save=save)
    async with sending(notifier):
        await tell(notifier, 1)
        await until(outlet, 1)
        await tell(notifier, 2)
        await until(outlet, 2)


async def test_instance_without_its_lease_sends_nothing() -> None:
    """Another one may be active, and would send the same cards."""
    outlet = ListOutlet()
    holds = False
    notifier = a_notifier(outlet, may_send=lambda: holds)
    async with sending(notifier):
        await tell(notifier, 1)
        await asyncio.sleep(0.01)
        assert outlet.titles == []
        holds = True
        await until(outlet, 1)
        holds = False
    assert outlet.titles == named(1)


# --- stopping -------------------------------------------------------------------------------------


async def test_stop_sends_what_is_queued_and_says_goodbye() -> None:
    """The notifier's own stop is told by itself: nobody else would post it."""
    outlet = ListOutlet()
    notifier = a_notifier(outlet)
    async with sending(notifier):
        await tell(notifier, *range(25))
    assert outlet.titles == [*named(*range(25)), GOODBYE]
    event = an_event("notifier stopped", service="notifier", kind="stopped")
    await notifier.on_event(event)
    assert b"notifier stopped" not in notifier.snapshot()


async def test_post_under_way_is_finished_at_a_stop_not_repeated() -> None:
    """A post that is cut off may have arrived: cutting it off would double it."""
    outlet = ListOutlet()
    outlet.gate.clear()
    notifier = a_notifier(outlet, drain_grace_s=WAIT_S)
    async with sending(notifier) as task:
        await tell(notifier, 1)
        await outlet.busy.wait()
        task.cancel()
        await asyncio.sleep(0.01)
        outlet.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert outlet.titles == [*named(1), GOODBYE]


async def test_stop_is_bounded_when_discord_hangs_and_the_rest_comes_at_the_next_start() -> None:
    """A stop must not take as long as Discord's outage."""
    outlet = ListOutlet()
    outlet.gate.clear()
    saved: list[bytes] = []

    async def save(state: bytes) -> None:
        saved.append(state)

    notifier = a_notifier(outlet, save=save, drain_grace_s=0.05)
    async with asyncio.timeout(WAIT_S), sending(notifier):
        await tell(notifier, 1)
        await outlet.busy.wait()
    assert outlet.titles == []
    outlet.gate.set()
    again = a_notifier(outlet)
    again.restore(saved[-1])
    async with sending(again):
        await until(outlet, 2)
    assert outlet.titles == [*named(1), GOODBYE, GOODBYE]


# --- orders ---------------------------------------------------------------------------------------


async def test_unknown_outcome_is_told_and_so_is_how_it_ended_even_after_a_restart() -> None:
    """Who was told "unknown" must not have to look for the end."""
    outlet = ListOutlet()
    first = a_notifier(outlet)
    await first.on_execution(an_execution(ExecutionKind.UNKNOWN, 1))
    second = a_notifier(outlet)
    second.restore(first.snapshot())
    await second.on_execution(an_execution(ExecutionKind.FILLED, 2))
    await second.on_execution(an_execution(ExecutionKind.PROTECTED, 3))
    async with sending(second):
        await until(outlet, 3)
    assert outlet.titles[:3] == [
        "EURUSD: outcome unknown",
        "EURUSD: outcome resolved",
        "EURUSD: LONG executed",
    ]


async def test_lots_come_from_the_venues_terms_asked_once() -> None:
    """A lot of gold is not a lot of euros."""
    asked = 0

    async def contracts() -> dict[str, Contract]:
        nonlocal asked
        asked += 1
        terms = Contract(
            symbol="EURUSD",
            base_asset="EUR",
            quote_asset="USD",
            digits=5,
            pip_position=4,
            lot_units=Decimal(100_000),
            min_volume_units=Decimal(1000),
            max_volume_units=Decimal(10_000_000),
            step_volume_units=Decimal(1000),
            commission_kind=CommissionKind.USD_PER_LOT,
            commission_rate=Decimal("2.5"),
        )
        return {"EURUSD": terms}

    notifier = a_notifier(ListOutlet(), contracts=contracts)
    for number in (1, 2):
        protected = an_execution(ExecutionKind.PROTECTED, number, volume_units=Decimal(2000))
        await notifier.on_execution(protected)
    assert notifier.snapshot().count(b"2,000 units (0.02 lots)") == 2
    assert asked == 1


async def test_executed_order_is_told_with_the_fills_price_and_size_even_after_a_restart() -> None:
    """The venue's event about the stop has the levels alone; the fill came in an event before."""
    first, outlet = a_notifier(ListOutlet()), ListOutlet()
    filled = an_execution(ExecutionKind.FILLED, 1, price=Decimal("1.10008"), volume_units=Decimal(2000))
    await first.on_execution(filled)
    second = a_notifier(outlet)
    second.restore(first.snapshot())
    await second.on_execution(an_execution(ExecutionKind.PROTECTED, 2, stop_loss_price=Decimal("1.09")))
    state = second.snapshot()
    for shown in (b'["Entry","1.10008"]', b'["Size","2,000 units"]', b'["SL","1.09"]'):
        assert shown in state
    await second.on_execution(an_execution(ExecutionKind.CLOSED, 3))
    assert b'"fills":{}' in second.snapshot()
