"""The order desk: takes requests, and puts together all that an order's path needs.

An order is journalled before its first byte leaves and is never sent twice. From then on `answers` takes what
the venue says, `protection` sees to the stop, `closing` ends positions, `reconcile` asks the venue's books
about all that was not said; what happened goes through `executions` into the journal and the `outbox`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.gateway import orders, rules
from services.gateway.account import AccountKeeper
from services.gateway.answers import Answers
from services.gateway.background import Alarms, Background, EventWriter
from services.gateway.changes import Changes, TermsWriter
from services.gateway.closing import Closing
from services.gateway.context import Context
from services.gateway.executions import Executions, Happening
from services.gateway.journal import Journal
from services.gateway.line import Line
from services.gateway.outbox import Outbox, Publisher
from services.gateway.protection import Protection
from services.gateway.reconcile import Reconcile
from services.gateway.recovery import BookReader, Recovery
from services.gateway.session import Session
from services.gateway.timing import Timing
from shared import streams
from shared.errors import UnavailableError
from shared.log import get_logger
from shared.messages import Command, ExecutionKind, OrderRequested, Severity

log = get_logger("gateway.desk")


class Bus(Publisher, EventWriter, TermsWriter, BookReader, Protocol):
    """What the desk needs of the bus."""

    def holds_lease(self) -> bool:
        """Whether this instance may act."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the desk waits, in seconds."""

    protection_s: float  # of the venue's, for a stop
    order_answer_s: float  # of the venue's
    absent_after_s: float  # of the machine's, between two looks for an order


class Desk:
    """One book's orders and account."""

    def __init__(
        self, journal: Journal, bus: Bus, timing: Timing, patience: Patience, halt_file: Path
    ) -> None:
        self._journal = journal
        self._bus = bus
        self._timing = timing
        self._halt_file = halt_file
        self.line = Line()
        self.background = Background(self.line.ask_books)
        self.alarms = Alarms(bus, timing, self.background)
        self.account = AccountKeeper(journal, timing)
        self.outbox = Outbox(journal, bus, timing)
        self.recovery = Recovery(journal, bus, timing)
        self.outbox.on_loss = self.recovery.ask
        self.context = context = Context(
            journal, self.account, self.line, timing, self.background, self.alarms
        )
        self.executions = Executions(context, self.outbox)
        self.changes = Changes(context, bus)
        self.closing = Closing(context, self.executions)
        protection = Protection(context, self.executions, self.closing, patience.protection_s)
        self.answers = Answers(context, self.executions, protection, patience.order_answer_s)
        self.reconcile = Reconcile(
            context, self.executions, self.answers, protection, self.closing, patience.absent_after_s
        )

    # --- start and connection -------------------------------------------------------------------

    async def start(self, last_account_id: str | None) -> None:
        """Take up what was journalled and not published.

        Raises:
            InputError: the journal is not this book's.
        """
        await self.outbox.start()
        self.account.start(last_account_id)

    async def go_online(self, session: Session) -> None:
        """Take over a fresh session, its quotes known; first comes what its books say of our orders."""
        self.line.go_on(session)
        await self.reconcile.now()
        self.line.up.set()
        if self.account.refusal:
            self.alarms.tell_soon(f"{self.account.refusal}: no order will be sent", Severity.CRITICAL)

    async def start_trading(self) -> None:
        """Let orders leave: the gap is filled, and the books are compared once more behind it."""
        await self.reconcile.now()
        self.line.trading.set()

    def go_offline(self) -> None:
        """The connection has ended."""
        self.line.go_down()

    # --- requests -------------------------------------------------------------------------------

    async def place(self, requests: Sequence[OrderRequested], control: Command | None) -> None:
        """Send orders, each unless the journal knows it. After a crash this runs again and sends nothing.

        What was read together is journalled together: one write to the disk before the first byte leaves,
        and one for what happened, after the last.

        Raises:
            UnavailableError: the session ended or was away meanwhile; nothing was sent.
        """
        fresh = [r for r in requests if self._journal.order(r.client_order_id) is None]
        if not fresh:
            return
        taken_s = self._timing.monotonic_s()
        await self._wait_for_trading(fresh)
        refused, wanted = self._sort_out(fresh, control)
        session = self.line.session
        if wanted and (session is None or session.link.ended.is_set()):
            raise UnavailableError("the session ended while the orders were checked")
        happened = refused
        if wanted and session is not None:
            happened = await self._send(wanted, session, taken_s) + refused
        await self.executions.record_all(happened)
        for sent in happened:
            if sent.kind is ExecutionKind.SENT and session is not None:
                self.answers.expect(sent.request, session)

    async def _send(
        self, wanted: Sequence[OrderRequested], session: Session, taken_s: float
    ) -> list[Happening]:
        """Journal orders and let them leave; return which have left."""
        labels = {request.client_order_id for request in wanted}
        self.line.sent_here |= labels
        await self._journal.begin(wanted, self._timing.now_ms())
        if not self._bus.holds_lease() or session.link.ended.is_set():
            self.line.sent_here -= labels
            self.line.ask_books()  # journalled, not sent: the venue's books will say so
            return []
        sent = []
        for request in wanted:
            sent_s = self._timing.monotonic_s()
            contract = session.contracts[request.symbol]
            session.send_market_order(
                request.client_order_id,
                request.symbol,
                request.direction,
                request.volume_units,
                stop_points=orders.relative_points(request.stop_distance, contract),
                target_points=orders.relative_points(request.target_distance, contract),
            )
            latency = self._latency(request, taken_s, sent_s)
            sent.append(Happening(request, ExecutionKind.SENT, {"latency_ms": latency}))
        return sent

    async def _wait_for_trading(self, requests: Sequence[OrderRequested]) -> None:
        """Wait for a session as long as one of the requests is worth it."""
        if self.line.trading.is_set():
            return
        until_ms = max(streams.milliseconds(request.valid_until) for request in requests)
        left_s = max(0, until_ms - self._timing.now_ms()) / 1000
        if await self._timing.within_venue(left_s, self.line.trading):
            raise UnavailableError("the connection is back: a stop given meanwhile comes first")
        log.warning("order.no_connection", orders=[request.client_order_id for request in requests])

    def _sort_out(
        self, requests: Sequence[OrderRequested], control: Command | None
    ) -> tuple[list[Happening], list[OrderRequested]]:
        """Return what is refused, and why, and what is to be sent: at most one order a symbol."""
        refused: list[Happening] = []
        wanted: dict[str, OrderRequested] = {}
        for request in requests:
            refusal = self._refusal(request, control)
            if refusal is None and request.symbol in wanted:
                refusal = ExecutionKind.REFUSED, "ASSET_LOCKED"
            if refusal is None:
                wanted[request.symbol] = request
            else:
                refused.append(Happening(request, refusal[0], {"reason": refusal[1]}))
        return refused, list(wanted.values())

    def _refusal(self, request: OrderRequested, control: Command | None) -> tuple[ExecutionKind, str] | None:
        """Return why a request is not sent, or None."""
        if orders.is_expired(request.valid_until, streams.from_milliseconds(self._timing.now_ms())):
            return ExecutionKind.EXPIRED, "VALID_UNTIL_PASSED"
        session = self.line.session
        if session is None:
            return ExecutionKind.EXPIRED, "NO_CONNECTION"
        reason = self._control_refusal(control) or self._market_refusal(request, session)
        return (ExecutionKind.REFUSED, reason) if reason else None

    def _control_refusal(self, control: Command | None) -> str | None:
        if control is not None:
            return f"CONTROL_{control.name}"
        return "HALT_FILE" if self._halt_file.exists() else None

    def _market_refusal(self, request: OrderRequested, session: Session) -> str | None:
        """Say what the venue would refuse, or what another order or position stands in the way of."""
        if self.account.refusal:
            return self.account.refusal
        contract = session.contracts.get(request.symbol)
        if contract is None:
            return "UNKNOWN_SYMBOL"
        if self.account.has_position_in(request.symbol) or self._is_unresolved(request.symbol):
            return "ASSET_LOCKED"
        now = streams.from_milliseconds(self._timing.now_ms())
        price = self.account.entry_price(request.symbol, request.direction)
        return rules.refusal(request, contract, now, price)

    def _is_unresolved(self, symbol: str) -> bool:
        return any(r.request.symbol == symbol for r in self._journal.orders(*orders.UNRESOLVED))

    def _latency(self, request: OrderRequested, taken_s: float, sent_s: float) -> dict[str, float] | None:
        """Return how long the parts of the way from the closing quote to the order's bytes took, in ms."""
        times = self.outbox.slice_times.get(request.account_id)
        if times is None:  # a slice of before a restart
            return None
        closed_s, written_s = times
        parts = {"slice": written_s - closed_s, "decision": taken_s - written_s, "send": sent_s - taken_s}
        return {name: round(1000 * part, 3) for name, part in {**parts, "total": sent_s - closed_s}.items()}
