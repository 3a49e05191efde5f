"""Every message of the mesh, with its version. A message is a fact: frozen, complete, in the past tense.

Prices, money and volumes are Decimal; numbers of models and features are float. Times are aware, UTC.
Volumes are units of the base asset. A new field has a default and keeps the version; a changed meaning
is a new version.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from hashlib import sha1
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

BAR_LENGTH = timedelta(minutes=5)
NAMESPACE = UUID("6c1ff3a1-7f0e-5c39-9a53-0f6f1d8f6f6e")  # of this project's derived ids
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}  # two bits of a UUID are fixed

Symbol = str


class Direction(StrEnum):
    """What a signal wants, or which way a position stands."""

    LONG = "LONG"
    SHORT = "SHORT"
    FLAT = "FLAT"

    @property
    def sign(self) -> int:
        """+1, -1 or 0."""
        return 1 if self is Direction.LONG else -1 if self is Direction.SHORT else 0


def derived_id(parent: UUID, name: str) -> str:
    """Return the text of `uuid5(parent, name)`, sooner than the library: every message has such an id."""
    digest = sha1(parent.int.to_bytes(16, "big") + name.encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:12]}5{digest[13:16]}{_VARIANT[digest[16]]}{digest[17:32]}"


class Part(BaseModel):
    """A part of a message; written as JSON inside one field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Meta(Part):
    """Who a message is, and why it exists."""

    message_id: UUID  # derived from its cause or from the venue's id: a replay makes the same one
    correlation_id: UUID  # the slice, command or start that began the chain
    causation_id: UUID | None = None  # the message that directly caused this one
    event_time: AwareDatetime  # when it happened in the market; the entry id says when we wrote it

    @staticmethod
    def root(name: str, at: datetime, correlation: str | None = None) -> Meta:
        """Return the meta of a message that no message of ours caused; `name` makes it unique."""
        message_id = derived_id(NAMESPACE, name)
        return _made_meta(
            {
                "message_id": message_id,
                "correlation_id": derived_id(NAMESPACE, correlation) if correlation else message_id,
                "event_time": at,
            }
        )

    def effect(self, kind: type[Message], key: str = "", at: datetime | None = None) -> Meta:
        """Return the meta of the message of type `kind` and `key` (symbol, sequence) that follows."""
        return _made_meta(
            {
                "message_id": derived_id(self.message_id, f"{kind.__name__}:{key}"),
                "correlation_id": self.correlation_id,
                "causation_id": self.message_id,
                "event_time": at or self.event_time,
            }
        )


_made_meta: Callable[[dict[str, object]], Meta] = TypeAdapter(Meta).validator.validate_python


class Message(BaseModel):
    """One entry of a stream."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    meta: Meta
    version: int = 1


# --- bars ---------------------------------------------------------------------------------------


class BarClosed(Message):
    """A bar is complete and will not change any more. Prices are bids, in quote currency."""

    version: Literal[1] = 1
    symbol: Symbol
    timeframe: Literal["M5"] = "M5"
    open_time: AwareDatetime
    open: Decimal = Field(gt=0)
    high: Decimal = Field(gt=0)
    low: Decimal = Field(gt=0)
    close: Decimal = Field(gt=0)
    tick_volume: int = Field(ge=0)  # quote changes in the bar, not lots
    origin: Literal["live", "backfill"]  # backfill feeds features; its signals are never traded
    synthetic: bool  # no ticks: open = high = low = close = the close before
    index: int = Field(ge=0)  # place in its slice, symbol order
    slice_size: int = Field(gt=0)  # bars in the slice; the last one completes it
    account_id: str  # entry of `account` that belongs to the slice

    @property
    def close_time(self) -> datetime:
        """When the bar became known."""
        return self.open_time + BAR_LENGTH


# --- account ------------------------------------------------------------------------------------


class PositionReported(Part):
    """One open position at the venue, ours or foreign."""

    position_id: int
    symbol: Symbol
    direction: Direction
    volume_units: Decimal
    entry_price: Decimal
    entry_time: AwareDatetime
    stop_loss_price: Decimal | None
    take_profit_price: Decimal | None
    used_margin: Decimal
    unrealized_pnl: Decimal  # account currency, swap and the commission so far included
    client_order_id: str | None  # None: not ours; watched, counted, never touched


class QuoteReported(Part):
    """The latest quote of a symbol, as known to the gateway."""

    bid: Decimal
    ask: Decimal
    age_s: float = Field(ge=0)  # venue time since the last quote
    conversion: Decimal  # account currency for one unit of quote currency, at the worse side


class TradeHistory(Part):
    """What the risk model sees of a symbol's past; oldest first, zeros where there is none."""

    results: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)  # net P&L / equity before
    risk_actions: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),) * 5  # sl, tp, risk fraction


class AccountReported(Message):
    """The account as the gateway knows it. Money in the account's currency."""

    version: Literal[1] = 1
    cause: Literal["start", "slice", "execution"]
    live: bool
    currency: str
    balance: Decimal
    equity: Decimal
    used_margin: Decimal
    free_margin: Decimal
    initial_equity: Decimal
    peak_equity: Decimal
    leverage: Decimal
    positions: tuple[PositionReported, ...]
    quotes: dict[Symbol, QuoteReported]
    history: dict[Symbol, TradeHistory]
    execution_number: int  # the last execution that this account includes
    clock_offset_ms: float  # the machine's clock minus the venue's
    contracts_hash: str


# --- features -----------------------------------------------------------------------------------


class SymbolRow(Part):
    """What the later stages need of a symbol at this slice, all from the same row."""

    symbol: Symbol
    close: float
    atr: float  # Wilder, 14 bars, price units
    atr_guard: float  # simple mean of 14 true ranges, price units
    synthetic: bool
    real_bars: int  # real bars since the last run of 3 or more synthetic ones
    bid: Decimal
    ask: Decimal
    tick: Decimal
    min_stop_distance: Decimal
    history: TradeHistory


class FeaturesComputed(Message):
    """The columns of one slice: market and portfolio; a candidate trade's own columns are still zero."""

    version: Literal[1] = 1
    close_time: AwareDatetime
    live: bool
    account_id: str
    slices_seen: int
    alpha_schema: str  # name and hash of the columns, in order
    alpha: tuple[float, ...]
    guard_schema: str
    guard: tuple[float, ...]
    rows: tuple[SymbolRow, ...]


# --- signals ------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What the chain of models says of an entry."""

    ALLOW = "ALLOW"
    BLOCK = "BLOCK"
    FLAT = "FLAT"  # no entry was wanted


class OpenPosition(StrEnum):
    """What a flat or opposite signal does to a position: the policy that models were trained with."""

    HOLD = "hold"  # its stop or target ends it
    CLOSE = "close"
    REVERSE = "reverse"  # closed, and an allowed opposite entry follows


class SignalEmitted(Message):
    """What the models say of one symbol at one slice, with every number that led to it."""

    version: Literal[1] = 1
    symbol: Symbol
    index: int = Field(ge=0)
    slice_size: int = Field(gt=0)
    close_time: AwareDatetime
    live: bool
    account_id: str
    bundle: str
    bundle_sha256: str = ""  # of its manifest, which holds the checksum of every file
    direction: Direction
    verdict: Verdict
    reason: str  # ALLOWED, ALPHA_FLAT, RISK_BLOCKED, GUARD_BLOCKED, or what failed
    alpha_action: float
    alpha_threshold: float
    sl_mult: float | None = None  # stop distance in ATR, as decoded
    tp_mult: float | None = None
    risk_knob: float | None = None
    risk_fraction: float | None = None  # of equity, drawdown cap included
    stop_distance: Decimal | None = None  # price units, floored and rounded to the tick
    target_distance: Decimal | None = None
    guard_probability: float | None = None
    guard_threshold: float | None = None
    close: float
    atr: float
    bid: Decimal
    ask: Decimal
    synthetic: bool
    real_bars: int
    open_position: OpenPosition = OpenPosition.HOLD  # of the bundle


# --- orders -------------------------------------------------------------------------------------


class OrderRequested(Message):
    """The executor wants this market order; its slot and margin are reserved."""

    version: Literal[1] = 1
    client_order_id: str = Field(max_length=50)
    symbol: Symbol
    direction: Direction
    volume_units: Decimal = Field(gt=0)
    stop_distance: Decimal = Field(gt=0)
    target_distance: Decimal = Field(gt=0)
    valid_until: AwareDatetime  # venue time; after it the request expires unsent
    risk_fraction: float
    sl_mult: float
    tp_mult: float
    equity: Decimal
    reserved_margin: Decimal
    bound_by: str  # which cap set the size
    account_id: str
    inputs: dict[str, str]  # stream -> last id read when this was decided


class EntryRefused(Message):
    """An allowed signal was not traded, and this is why."""

    version: Literal[1] = 1
    client_order_id: str
    symbol: Symbol
    direction: Direction
    reason: str
    detail: str
    account_id: str
    inputs: dict[str, str]


class CloseRequested(Message):
    """One of our positions shall be closed at the market."""

    version: Literal[1] = 1
    client_order_id: str
    symbol: Symbol
    position_id: int
    reason: str
    inputs: dict[str, str]


class PolicyAdopted(Message):
    """By these settings the executor decides from here on; written whenever it starts."""

    version: Literal[1] = 1
    settings: dict[str, JsonValue]  # by name; all that decide, and no other
    inputs: dict[str, str]  # stream -> last id that was decided by what held before


# --- executions ---------------------------------------------------------------------------------


class ExecutionKind(StrEnum):
    """What happened to a request or a position."""

    SENT = "SENT"
    ACCEPTED = "ACCEPTED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    PROTECTED = "PROTECTED"  # stop and target stand at the venue
    REPAIRING = "REPAIRING"  # no stop in time: ours is on its way
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    REFUSED = "REFUSED"  # the gateway did not send it: control state, lock or contract
    UNKNOWN = "UNKNOWN"  # may have reached the venue: reconciling, never resent
    NOT_SENT = "NOT_SENT"  # resolved: the venue has never seen it
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


class ExecutionReported(Message):
    """What happened to a request or position; numbered by the gateway's journal, without gaps."""

    version: Literal[1] = 1
    number: int = Field(gt=0)
    kind: ExecutionKind
    client_order_id: str
    symbol: Symbol
    direction: Direction
    order_id: int | None = None
    position_id: int | None = None
    price: Decimal | None = None
    volume_units: Decimal | None = None
    stop_loss_price: Decimal | None = None
    take_profit_price: Decimal | None = None
    pnl: Decimal | None = None  # net: gross + swap + commission + conversion fee
    balance: Decimal | None = None
    reason: str = ""
    latency_ms: dict[str, float] | None = None  # of SENT: closing quote to bytes, by part


# --- events, commands, dead letters -------------------------------------------------------------


class Severity(StrEnum):
    """How much a human should care."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


EventKind = Literal["started", "ready", "degraded", "stopped", "connection", "limit", "alarm", "control"]


class EventReported(Message):
    """Something happened to a service: started, ready, stopped, connection, limit, alarm."""

    version: Literal[1] = 1
    service: str
    kind: EventKind
    severity: Severity = Severity.INFO
    text: str
    details: dict[str, str] = Field(default_factory=dict)


class Command(StrEnum):
    """What an operator can order."""

    PAUSE = "pause"
    RESUME = "resume"
    FLATTEN = "flatten"
    HALT = "halt"


class CommandGiven(Message):
    """An operator's order to the mesh."""

    version: Literal[1] = 1
    command: Command
    who: str
    why: str


class DeadLettered(Message):
    """An entry that could not be handled, with its error."""

    version: Literal[1] = 1
    stream: str
    entry_id: str
    group: str
    error: str
    fields: dict[str, str]
