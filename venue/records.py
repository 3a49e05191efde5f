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
    """A client's market order, or the venue's own order that holds a position's stop and target."""

    MARKET = "MARKET"
    STOP_LOSS_TAKE_PROFIT = "STOP_LOSS_TAKE_PROFIT"


class OrderStatus(StrEnum):
    """Where an order stands; every status but ACCEPTED is final."""

    ACCEPTED = "ACCEPTED"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


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


class ExecutionKind(StrEnum):
    """What an execution event tells."""

    ACCEPTED = "ORDER_ACCEPTED"
    FILLED = "ORDER_FILLED"
    REPLACED = "ORDER_REPLACED"
    CANCELLED = "ORDER_CANCELLED"
    REJECTED = "ORDER_REJECTED"


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
    client_order_id: str = ""
    label: str = ""
    comment: str = ""
    relative_stop_points: int | None = None
    relative_target_points: int | None = None
    stop_points: int | None = None
    target_points: int | None = None
    executed_cents: int = 0
    execution_points: int | None = None
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """One position; the account is hedged, so every opening order has its own."""

    position_id: int
    symbol: str
    side: Side
    status: PositionStatus
    opening_order_id: int
    opened_volume_cents: int
    volume_cents: int  # what is still open
    entry_points: int
    opened_ms: int
    updated_ms: int
    label: str = ""
    comment: str = ""
    stop_points: int | None = None
    target_points: int | None = None
    protective_order_id: int | None = None
    due_protection_ms: int | None = None  # a protective order on its way, late by a fault
    due_stop_points: int | None = None
    due_target_points: int | None = None
    commission_cents: int = 0  # of the part still open, so far; a cost is negative
    swap_cents: int = 0
    used_margin_cents: int = 0
    margin_rate: float = 0.0
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
    volume_cents: int
    price_points: int
    created_ms: int
    executed_ms: int
    commission_cents: int
    margin_rate: float
    base_to_usd_rate: float
    entry_points: int | None = None
    gross_cents: int | None = None
    swap_cents: int | None = None
    round_trip_commission_cents: int | None = None
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


Record = Order | Position | Deal | BalanceChange | StopChange | Refusal


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


class RefusedError(Exception):
    """A trading request breaks a rule of the venue; nothing happened."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
