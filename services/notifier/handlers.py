"""The notifier: tells people what happened, once each, and never makes anybody wait.

A handler only puts a card into a bounded queue; a task of its own posts. Unsent cards are part of the
state that is saved with each commit, and the state is saved again after each post. So a card is neither
lost nor repeated by a restart, with one exception: a crash between a post and the saving after it may
repeat the cards of that one post.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import Any, Final, Protocol

from pydantic import TypeAdapter, ValidationError

from services.notifier.embeds import POST_CARDS_MAX, Card, card_of, first_post, resolution_card
from shared.clock import utc_now
from shared.contracts import Contract
from shared.errors import InputError, UnavailableError
from shared.log import get_logger
from shared.messages import (
    EntryRefused,
    EventReported,
    ExecutionKind,
    ExecutionReported,
    Message,
    Meta,
    OrderRequested,
    Severity,
    SignalEmitted,
)

QUEUE_MAX: Final = 1000
SNAPSHOT_CARDS_MAX: Final = 100  # unsent cards that are saved: the state is written with every commit
SNAPSHOT_BYTES_MAX: Final = 64 * 1024
POSTED_KEPT: Final = 64  # ids of the last posted cards: more than can be read again after a crash
ORDERS_KEPT: Final = 100  # orders of which something is remembered until they end
SAVES_MAX: Final = 5  # tries to save a state that changes meanwhile
LEASE_WAIT_S: Final = 0.1

_RANK: Final = {severity: rank for rank, severity in enumerate(Severity)}

log = get_logger("notifier")


class Outlet(Protocol):
    """Where cards go."""

    async def post(self, cards: Sequence[Card], *, note: str = "") -> None:
        """Deliver the cards, in this order, with a line above them.

        Raises:
            UnavailableError: it did not answer, after all its own retries.
            InputError: it refused them, and would again.
        """


Contracts = Callable[[], Awaitable[Mapping[str, Contract]]]
Save = Callable[[bytes], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Fill:
    """At which price and how much of an order was filled."""

    price: Decimal | None
    volume_units: Decimal | None


@dataclass(frozen=True, slots=True)
class NotifierState:
    """What outlives a restart."""

    unsent: tuple[Card, ...] = ()
    posted: tuple[str, ...] = ()  # message ids, oldest first
    unknown: tuple[str, ...] = ()  # orders whose outcome is not known
    fills: dict[str, Fill] = field(default_factory=dict)  # by order: what the stop's own event may leave out
    dropped: int = 0  # cards left out and not announced yet


_STATE: Final = TypeAdapter(NotifierState)


class NotifierHandlers:
    """Makes cards of messages and sends them."""

    def __init__(
        self,
        outlet: Outlet,
        spare: Outlet,
        *,
        book: str = "",
        contracts: Contracts | None = None,
        save: Save | None = None,
        may_send: Callable[[], bool] = lambda: True,
        queue_max: int = QUEUE_MAX,
        drain_grace_s: float = 3.0,
    ) -> None:
        """Wire.

        Args:
            outlet: where cards go.
            spare: where they go when the outlet fails; must not fail.
            book: the book's name, shown on each card.
            contracts: asks for the venue's terms, to tell sizes in lots too.
            save: saves the state outside a commit.
            may_send: whether this instance is surely the active one.
            queue_max: cards that may wait.
            drain_grace_s: how long a stop waits for the last posts.
        """
        self._outlet, self._spare, self._book = outlet, spare, book
        self._contracts, self._save, self._may_send = contracts, save, may_send
        self._queue_max, self._drain_grace_s = queue_max, drain_grace_s
        self._queue: OrderedDict[str, Card] = OrderedDict()
        self._in_flight: frozenset[str] = frozenset()
        self._posted: OrderedDict[str, None] = OrderedDict()
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self._fills: OrderedDict[str, Fill] = OrderedDict()
        self._dropped = 0
        self._lots: dict[str, Decimal] = {}
        self._trouble = ""
        self._version = 0  # grows with every change of the state
        self._snapshot = (-1, b"")  # the last one, and of which version it is
        self._wake = asyncio.Event()
        self._stopping = False

    # --- messages in ----------------------------------------------------------------------------

    async def on_signal(self, signal: SignalEmitted) -> list[Message]:
        """Tell a blocked entry."""
        return self._tell(card_of(signal, book=self._book))

    async def on_order(self, order: OrderRequested | EntryRefused) -> list[Message]:
        """Tell a refused entry; a requested one is told when it is executed."""
        return self._tell(card_of(order, book=self._book))

    async def on_execution(self, execution: ExecutionReported) -> list[Message]:
        """Tell what happened to an order or position."""
        execution = self._completed(execution)
        lot_units = await self._lot_units(execution)
        card = card_of(execution, book=self._book, lot_units=lot_units)
        order = execution.client_order_id
        if execution.kind is ExecutionKind.UNKNOWN:
            self._unknown[order] = None
            _keep_last(self._unknown, ORDERS_KEPT)
            self._version += 1
        elif order in self._unknown:
            del self._unknown[order]
            self._version += 1
            card = card or resolution_card(execution, book=self._book)
        return self._tell(card)

    def _completed(self, execution: ExecutionReported) -> ExecutionReported:
        """Return the execution with its fill's price and size: the stop's own event may leave them out."""
        order = execution.client_order_id
        match execution.kind:
            case ExecutionKind.FILLED:
                self._fills[order] = Fill(execution.price, execution.volume_units)
                _keep_last(self._fills, ORDERS_KEPT)
                self._version += 1
            case ExecutionKind.PROTECTED | ExecutionKind.REPAIRING:
                if fill := self._fills.get(order):
                    known = {"price": execution.price, "volume_units": execution.volume_units}
                    missing = {name: getattr(fill, name) for name, value in known.items() if value is None}
                    return execution.model_copy(update=missing)
            case ExecutionKind.CLOSED:
                if self._fills.pop(order, None):
                    self._version += 1
        return execution

    async def on_event(self, event: EventReported) -> list[Message]:
        """Tell starts, stops, connections, limits, control changes and alarms."""
        if event.service == "notifier" and event.kind == "stopped":
            return []  # told by `run_sender` itself: this comes when nobody posts any more
        return self._tell(card_of(event, book=self._book))

    async def _lot_units(self, execution: ExecutionReported) -> Decimal | None:
        if self._contracts and execution.volume_units is not None and execution.symbol not in self._lots:
            self._lots = {symbol: terms.lot_units for symbol, terms in (await self._contracts()).items()}
        return self._lots.get(execution.symbol)

    def _tell(self, card: Card | None) -> list[Message]:
        if card and card.message_id not in self._queue and card.message_id not in self._posted:
            self._queue[card.message_id] = card
            self._version += 1
            if len(self._queue) > self._queue_max:
                self._drop_one()
            self._wake.set()
        return []

    def _drop_one(self) -> None:
        """Drop the oldest of the least severe cards; never one that is being posted."""
        waiting = [card for card in self._queue.values() if card.message_id not in self._in_flight]
        dropped = min(waiting, key=lambda card: _RANK[card.severity])
        del self._queue[dropped.message_id]
        self._dropped += 1
        log.warning("card.dropped", title=dropped.title, severity=dropped.severity, queue=len(self._queue))

    # --- cards out ------------------------------------------------------------------------------

    async def run_sender(self) -> None:
        """Post what is queued until cancelled; then say goodbye and drain for a bounded time.

        A post under way is not cut off by the stop: whether it arrived would be unknown, and the next
        start would repeat it.
        """
        self._stopping = False
        sender = asyncio.create_task(self._send(), name="sender")
        try:
            await asyncio.shield(sender)
        except asyncio.CancelledError:
            self._stopping = True
            self._tell(self._goodbye())
            self._wake.set()
            try:
                await asyncio.wait_for(sender, self._drain_grace_s)
            except TimeoutError:
                log.warning("sender.not_drained", cards=len(self._queue), grace_s=self._drain_grace_s)
                await self._save_now()  # the goodbye too comes at the next start
            raise

    def _goodbye(self) -> Card | None:
        now = utc_now()
        meta = Meta.root(f"{self._book}:notifier:goodbye:{now.isoformat()}", now)
        text = "notifier stopped; what happens meanwhile is told at its next start"
        return card_of(
            EventReported(meta=meta, service="notifier", kind="stopped", text=text), book=self._book
        )

    async def _send(self) -> None:
        while True:
            while not self._queue and not self._stopping:
                self._wake.clear()
                await self._wake.wait()
            if self._may_send() and self._queue:
                await self._post()
            elif self._stopping:
                return
            else:
                await asyncio.sleep(LEASE_WAIT_S)

    async def _post(self) -> None:
        cards = first_post(islice(self._queue.values(), POST_CARDS_MAX))
        self._in_flight = frozenset(card.message_id for card in cards)
        dropped = self._dropped
        note = f"{dropped} cards were left out: the queue was full." if dropped else ""
        try:
            await self._deliver(cards, note)
        finally:
            self._in_flight = frozenset()
        for card in cards:
            self._queue.pop(card.message_id, None)
            self._posted[card.message_id] = None
        _keep_last(self._posted, POSTED_KEPT)
        self._dropped = max(0, self._dropped - dropped)
        self._version += 1
        await self._save_now()

    async def _deliver(self, cards: Sequence[Card], note: str) -> None:
        try:
            await self._outlet.post(cards, note=note)
        except (UnavailableError, InputError) as error:
            self._trouble = f"alerts are not delivered: {error}"
            log.error("alerts.not_delivered", cards=len(cards), error=str(error))  # noqa: TRY400 - expected
            await self._spare.post(cards, note=note)
        else:
            self._trouble = ""

    async def _save_now(self) -> None:
        """Save what was posted; again when a commit may have been overtaken meanwhile."""
        for _ in range(SAVES_MAX if self._save else 0):
            version = self._version
            try:
                assert self._save  # noqa: S101 - for the type checker: the range is empty without it
                await self._save(self.snapshot())
            except UnavailableError as error:
                log.warning("state.not_saved", error=str(error))
                return
            if version == self._version:
                return

    def trouble(self) -> str:
        """Return why alerts do not get through, or nothing."""
        return self._trouble

    # --- state ----------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return the state, small: of a long queue the most severe and newest cards."""
        if self._snapshot[0] != self._version:
            self._snapshot = (self._version, self._dumped())
        return self._snapshot[1]

    def _dumped(self) -> bytes:
        waiting = tuple(self._queue.values())
        kept = min(len(waiting), SNAPSHOT_CARDS_MAX)
        while True:
            state = NotifierState(
                unsent=waiting if kept == len(waiting) else _best(waiting, kept),
                posted=tuple(self._posted),
                unknown=tuple(self._unknown),
                fills=self._fills,
                dropped=self._dropped + len(waiting) - kept,
            )
            data = _STATE.dump_json(state)
            if len(data) <= SNAPSHOT_BYTES_MAX or not kept:
                return data
            kept //= 2

    def restore(self, data: bytes | None) -> None:
        """Become the state of the last commit. What this process has posted stays posted."""
        try:
            state = _STATE.validate_json(data) if data else NotifierState()
        except ValidationError as error:
            # alerts that begin anew are worth more than a notifier that does not start
            log.error("state.unreadable", problems=error.error_count())  # noqa: TRY400 - the count says it
            state = NotifierState()
        self._posted = OrderedDict.fromkeys((*state.posted, *self._posted))
        _keep_last(self._posted, POSTED_KEPT)
        self._queue = OrderedDict(
            (card.message_id, card) for card in state.unsent if card.message_id not in self._posted
        )
        self._unknown = OrderedDict.fromkeys(state.unknown)
        self._fills = OrderedDict(state.fills)
        self._dropped = state.dropped
        self._version += 1
        self._wake.set()


def _best(cards: Sequence[Card], count: int) -> tuple[Card, ...]:
    """Return the most severe and newest cards, in their order."""
    best = heapq.nlargest(count, enumerate(cards), key=lambda one: (_RANK[one[1].severity], one[0]))
    return tuple(card for _, card in sorted(best, key=lambda one: one[0]))


def _keep_last(known: OrderedDict[str, Any], count: int) -> None:
    while len(known) > count:
        known.popitem(last=False)
