"""What stands in the venue's books: orders, positions, deals, money. Each record is a snapshot, never mended.

Prices are points (1/100,000 of a price unit), volumes cents of a unit, money cents of the account's
currency, times venue milliseconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """Which way an order or a position goes."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for BUY, -1 for SELL."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        """The side that closes this one."""
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderKind(StrEnum):
    """What a client orders, or (the last) the venue's own order that holds a position's stop and target."""

    MARKET = "MARKET"
    MARKET_RANGE = "MARKET_RANGE"
    LIMIT = "LIMIT"
    STOP = "STOP"
    STOP_LIMIT = "STOP_LIMIT"
    STOP_LOSS_TAKE_PROFIT = "STOP_LOSS_TAKE_PROFIT"

    @property
    def is_pending(self) -> bool:
        """Whether it waits for a price, not only for the next quote."""
        return self in _PENDING


_PENDING = frozenset({OrderKind.LIMIT, OrderKind.STOP, OrderKind.STOP_LIMIT})


class TimeInForce(StrEnum):
    """How long an order stands."""

    GOOD_TILL_DATE = "GOOD_TILL_DATE"
    GOOD_TILL_CANCEL = "GOOD_TILL_CANCEL"
    IMMEDIATE_OR_CANCEL = "IMMEDIATE_OR_CANCEL"
    FILL_OR_KILL = "FILL_OR_KILL"
    MARKET_ON_OPEN = "MARKET_ON_OPEN"


_AT_ONCE = frozenset({TimeInForce.IMMEDIATE_OR_CANCEL, TimeInForce.FILL_OR_KILL})


class TriggerMethod(StrEnum):
    """Which side of the quote a stop watches, and whether it needs to see its level twice in a row.

    TRADE is the side on which the order would fill: the ask for one that buys, the bid for one that sells.
    """

    TRADE = "TRADE"
    OPPOSITE = "OPPOSITE"
    DOUBLE_TRADE = "DOUBLE_TRADE"
    DOUBLE_OPPOSITE = "DOUBLE_OPPOSITE"


class OrderStatus(StrEnum):
    """Where an order stands; every status but ACCEPTED is final."""

    ACCEPTED = "ACCEPTED"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class DealStatus(StrEnum):
    """Whether a fill completed its order."""

    FILLED = "FILLED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"


class PositionStatus(StrEnum):
    """CREATED is the empty position of an order that waits for its fill."""

    CREATED = "CREATED"
    OPEN = "OPEN"
    CLOSED = "CLOSED"


class CloseReason(StrEnum):
    """What ended a position."""

    STOP = "STOP"
    TARGET = "TARGET"
    CLIENT = "CLIENT"
    STOP_OUT = "STOP_OUT"


class ExecutionKind(StrEnum):
    """What an execution event tells."""

    ACCEPTED = "ORDER_ACCEPTED"
    FILLED = "ORDER_FILLED"
    REPLACED = "ORDER_REPLACED"
    CANCELLED = "ORDER_CANCELLED"
    EXPIRED = "ORDER_EXPIRED"
    REJECTED = "ORDER_REJECTED"
    PARTIALLY_FILLED = "ORDER_PARTIAL_FILL"


@dataclass(frozen=True, slots=True)
class Order:
    """One order, a client's or a protective one."""

    order_id: int
    position_id: int
    symbol: str
    side: Side
    kind: OrderKind
    status: OrderStatus
    volume_cents: int
    arrived_ms: int
    due_ms: int  # no quote before this fills it
    updated_ms: int
    closing: bool = False
    joins: bool = False  # it names a position that stood when it arrived
    client_order_id: str = ""
    label: str = ""
    comment: str = ""
    time_in_force: TimeInForce = TimeInForce.GOOD_TILL_CANCEL
    expires_ms: int | None = None
    limit_points: int | None = None  # of LIMIT
    trigger_points: int | None = None  # of STOP and STOP_LIMIT
    base_points: int | None = None  # of MARKET_RANGE
    range_points: int | None = None  # how far from its base or trigger a MARKET_RANGE or STOP_LIMIT may fill
    trigger_method: TriggerMethod = TriggerMethod.TRADE
    is_touched: bool = False  # a DOUBLE trigger has seen its level once
    is_triggered: bool = False
    relative_stop_points: int | None = None
    relative_target_points: int | None = None
    stop_points: int | None = None  # a level of the position that it opens, or that a protective order holds
    target_points: int | None = None
    trailing: bool = False
    executed_cents: int = 0
    execution_points: float | None = None  # the average of its fills
    is_stop_out: bool = False
    error_code: str = ""

    @property
    def must_fill_at_once(self) -> bool:
        """Whether it does not wait for a second quote."""
        return self.time_in_force in _AT_ONCE

    @property
    def left_cents(self) -> int:
        """The volume that is not filled yet."""
        return self.volume_cents - self.executed_cents


@dataclass(frozen=True, slots=True)
class Position:
    """One position: of one opening order in a hedged account, of a symbol in a netted one."""

    position_id: int
    symbol: str
    side: Side
    status: PositionStatus
    opening_order_id: int
    opened_volume_cents: int
    volume_cents: int  # what is still open
    entry_points: float  # whole, but for the average of several fills
    opened_ms: int
    updated_ms: int
    label: str = ""
    comment: str = ""
    stop_points: int | None = None
    target_points: int | None = None
    trailing: bool = False
    trail_points: int | None = None  # what a trailing stop keeps between itself and the closing price
    trigger_method: TriggerMethod = TriggerMethod.TRADE  # of the stop
    protective_order_id: int | None = None
    due_protection_ms: int | None = None  # a protective order on its way, late by a fault
    due_stop_points: int | None = None
    due_target_points: int | None = None
    commission_cents: int = 0  # of the part still open, so far; a cost is negative
    swap_cents: int = 0
    used_margin_cents: int = 0
    margin_rate: float = 0.0  # deposit currency for a unit of the base, when it was opened
    usd_rate: float = 0.0  # US dollars for the same
    closed_ms: int | None = None
    close_reason: CloseReason | None = None


@dataclass(frozen=True, slots=True)
class Deal:
    """One fill. The fields of a round trip stand only on a deal that closes."""

    deal_id: int
    order_id: int
    position_id: int
    symbol: str
    side: Side
    asked_cents: int  # the volume that was to be filled
    volume_cents: int  # the volume that was
    price_points: int
    created_ms: int
    executed_ms: int
    commission_cents: int
    margin_rate: float
    base_to_usd_rate: float
    status: DealStatus = DealStatus.FILLED
    entry_points: float | None = None
    gross_cents: int | None = None
    swap_cents: int | None = None
    round_trip_commission_cents: int | None = None
    conversion_fee_cents: int | None = None  # a cost is negative
    balance_cents: int | None = None
    balance_version: int | None = None
    quote_to_deposit_rate: float | None = None


@dataclass(frozen=True, slots=True)
class BalanceChange:
    """One move of the balance, numbered from 1."""

    balance_version: int
    at_ms: int
    delta_cents: int
    balance_cents: int
    reason: str
    deal_id: int | None = None


@dataclass(frozen=True, slots=True)
class StopChange:
    """From this moment on a position has this stop and this target (None: it has none)."""

    change_id: int
    position_id: int
    at_ms: int
    stop_points: int | None
    target_points: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A trading request that was refused, so that a missing order can be explained."""

    refusal_id: int
    at_ms: int
    request: str
    symbol: str
    code: str
    description: str
    client_order_id: str = ""
    position_id: int | None = None


@dataclass(frozen=True, slots=True)
class MarginCall:
    """A margin level of which the client wants to be told when the account falls to it."""

    call_id: int  # 1 to 3
    threshold_percent: float
    updated_ms: int
    told_ms: int | None = None  # when it last was


Record = Order | Position | Deal | BalanceChange | StopChange | Refusal | MarginCall


@dataclass(frozen=True, slots=True)
class Execution:
    """Something happened to an order; the records are as they stood at that moment."""

    kind: ExecutionKind
    at_ms: int
    order: Order
    position: Position
    deal: Deal | None = None
    by_server: bool = False
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class SwapCharged:
    """A position was kept over the day's end."""

    at_ms: int
    position: Position


@dataclass(frozen=True, slots=True)
class StopTrailed:
    """A trailing stop followed the price."""

    at_ms: int
    position: Position
    order: Order


@dataclass(frozen=True, slots=True)
class MarginMoved:
    """A position binds another margin, because another of its symbol was opened or closed."""

    at_ms: int
    position: Position


@dataclass(frozen=True, slots=True)
class MarginCalled:
    """The margin level has fallen to a threshold."""

    at_ms: int
    call: MarginCall


@dataclass(frozen=True, slots=True)
class BalanceMoved:
    """Money was put into the account or taken out."""

    at_ms: int
    change: BalanceChange
    equity_cents: int


Notice = SwapCharged | StopTrailed | MarginMoved | MarginCalled | BalanceMoved
Happening = Execution | Notice


class RefusedError(Exception):
    """A trading request breaks a rule of the venue; nothing happened."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
