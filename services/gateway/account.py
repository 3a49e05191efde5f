"""The account as it stands: positions, quotes, balance and peak, and its entries for the streams."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Literal

from services.gateway.journal import Journal
from services.gateway.session import Session
from services.gateway.terms import Trader
from services.gateway.timing import Timing
from services.gateway.translate import VenueEvent
from shared import streams
from shared.account import AccountModel, Position
from shared.bus import Output
from shared.errors import InvariantError
from shared.messages import AccountReported, Direction, ExecutionKind, ExecutionReported, Meta, OrderRequested

POSITIONS_REMEMBERED = 1_000  # whose late events are told from news; the oldest are forgotten


class AccountKeeper:
    """Keeps the account of one book; there is none before the first session."""

    def __init__(self, journal: Journal, timing: Timing) -> None:
        self._journal = journal
        self._timing = timing
        self._last_id = (0, 0)
        self._model: AccountModel | None = None
        self._balance_version = 0
        self._peak_remembered: Decimal | None = None  # what the journal has
        self._position_ms: dict[int, int] = {}  # when the venue last changed a position, by its own time
        self.events_followed = 0
        self.refusal = ""  # why nothing can be traded on it; "" if it can

    @property
    def is_open(self) -> bool:
        """Whether there has been a session."""
        return self._model is not None

    @property
    def model(self) -> AccountModel:
        """The account itself.

        Raises:
            InvariantError: there was no session yet.
        """
        if self._model is None:
            raise InvariantError("the account was asked for before the first session")
        return self._model

    def start(self, last_id: str | None) -> None:
        """Go on behind the last entry of the stream."""
        self._last_id = streams.id_parts(last_id) if last_id else (0, 0)

    async def open(self, session: Session) -> None:
        """Make the account of the first session, or give it the terms of a later one."""
        trader = session.trader
        if self._model is None:
            initial = Decimal(self._journal.fact("initial_equity") or trader.balance)
            await self._journal.remember(initial_equity=str(initial))
            self._model = AccountModel(
                currency=trader.currency,
                leverage=trader.leverage,
                balance=trader.balance,
                initial_equity=initial,
                peak_equity=Decimal(self._journal.fact("peak_equity") or initial),
                contracts=session.contracts,
            )
            for event in self._journal.events():
                record = self._journal.order(event.client_order_id)
                if record is not None:
                    self.remember_trade(event, record.request)
        self._model.contracts = session.contracts
        self.take_trader(trader)

    # --- what happens ---------------------------------------------------------------------------

    def follow(self, event: VenueEvent) -> None:
        """Take over what an execution event says of a position and the balance."""
        self.events_followed += 1
        if event.position_id is not None and not self._is_news(event.position_id, event.position_ms):
            return
        if event.position is not None:
            position = event.position
            if position.client_order_id is None and event.client_order_id is not None:
                position = replace(position, client_order_id=event.client_order_id)
            self.model.positions[position.position_id] = position
        elif event.position_gone and event.position_id is not None:
            self.model.positions.pop(event.position_id, None)
        if event.balance is not None:
            self._take_balance(event.balance, event.balance_version)

    def _is_news(self, position_id: int, at_ms: int) -> bool:
        """Whether this is not older than what is known: an event that comes late must undo nothing."""
        if not at_ms:
            return True  # it does not say; the venue's books will
        known_ms = self._position_ms.get(position_id, 0)
        self._position_ms[position_id] = max(at_ms, known_ms)
        if len(self._position_ms) > POSITIONS_REMEMBERED:
            del self._position_ms[next(iter(self._position_ms))]
        return at_ms >= known_ms

    def take_trader(self, trader: Trader) -> None:
        """Take over what the venue says of the account itself."""
        self.model.leverage, self.refusal = trader.leverage, trader.refusal
        self._take_balance(trader.balance, trader.balance_version)

    def _take_balance(self, balance: Decimal, version: int) -> None:
        """An event that comes late or twice must not bring an old balance back."""
        if version == 0 or version >= self._balance_version:
            self.model.balance, self._balance_version = balance, version

    def remember_trade(self, event: ExecutionReported, request: OrderRequested) -> None:
        """Keep what the risk model sees of past trades."""
        if event.kind is ExecutionKind.FILLED:
            self.model.add_risk_action(
                request.symbol, request.sl_mult, request.tp_mult, request.risk_fraction
            )
        elif event.kind is ExecutionKind.CLOSED and event.pnl is not None:
            self.model.add_result(request.symbol, event.pnl, request.equity)

    def has_new_peak(self) -> bool:
        """Whether the highest equity is not kept yet."""
        return self.model.peak_equity != self._peak_remembered

    async def remember_peak(self) -> None:
        """Keep the highest equity over a restart."""
        peak = self.model.peak_equity
        if peak != self._peak_remembered:
            await self._journal.remember(peak_equity=str(peak))
            self._peak_remembered = peak

    # --- what it says ---------------------------------------------------------------------------

    def position(self, position_id: int) -> Position | None:
        """Return an open position."""
        return self._model.positions.get(position_id) if self._model else None

    def position_of(self, client_order_id: str) -> Position | None:
        """Return the open position of one of our orders; of two the older."""
        positions = self._model.positions.values() if self._model else ()
        ours = [p for p in positions if p.client_order_id == client_order_id]
        return min(ours, key=lambda p: p.position_id, default=None)

    def has_position_in(self, symbol: str) -> bool:
        """Whether a position is open in the symbol, ours or foreign."""
        return self._model is not None and any(p.symbol == symbol for p in self._model.positions.values())

    def entry_price(self, symbol: str, direction: Direction) -> Decimal | None:
        """Return the price at which a position would be opened now; None without a quote."""
        quote = self.model.quotes.get(symbol)
        if quote is None:
            return None
        return quote.ask if direction is Direction.LONG else quote.bid

    def entry(
        self, meta: Meta, cause: Literal["start", "slice", "execution"], number: int, *, live: bool
    ) -> Output:
        """Return the account as it is now, with the id it will have.

        Args:
            meta: of what it follows.
            cause: what made us say it.
            number: of the last execution that it includes.
            live: whether it may be traded on.
        """
        now_ms = self._timing.now_ms()
        last_ms, last_sequence = self._last_id
        self._last_id = (now_ms, 0) if now_ms > last_ms else (last_ms, last_sequence + 1)
        entry = self.model.report(
            meta.effect(AccountReported, f"{cause}:{number}"),
            cause=cause,
            live=live,
            now_ms=now_ms,
            execution_number=number,
            clock_offset_ms=round(self._timing.clock_offset_ms(), 1),
        )
        return Output(entry, f"{self._last_id[0]}-{self._last_id[1]}")
