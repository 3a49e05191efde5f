"""Small builders of requests, events and bars; each argument is what a test cares about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from services.gateway.access import Credentials
from services.gateway.journal import Journal
from services.gateway.slices import Bar
from services.gateway.tokens import Tokens
from services.gateway.transport import Address
from shared import messages as m

D = Decimal

CLOSE = datetime(2025, 1, 7, 7, 20, tzinfo=UTC)
STEP_MS = 300_000


def address_of(ready: dict[str, Any]) -> Address:
    """Return where a venue is that has said so itself."""
    return Address(ready["host"], ready["port"], Path(ready["ca_file"]))


def credentials_of(ready: dict[str, Any], tokens: Path) -> Credentials:
    """Return who we are there; the token pairs are kept in that folder."""
    pair = Tokens(tokens, ready["access_token"], ready["refresh_token"])
    return Credentials(ready["client_id"], ready["client_secret"], ready["account_id"], pair)


def an_id(symbol: str = "EURUSD", *, close: datetime = CLOSE, book: str = "main") -> str:
    return f"TG-{book}-{close:%Y%m%dT%H%M}-{symbol}"


def a_request(
    symbol: str = "EURUSD", *, close: datetime = CLOSE, book: str = "main", **changes: Any
) -> m.OrderRequested:
    order = an_id(symbol, close=close, book=book)
    values: dict[str, Any] = {
        "meta": m.Meta.root(f"request:{order}", close, f"slice:{close.isoformat()}"),
        "client_order_id": order,
        "symbol": symbol,
        "direction": m.Direction.LONG,
        "volume_units": D(10) if symbol == "XAUUSD" else D(10_000),
        "stop_distance": D("20.00") if symbol == "XAUUSD" else D("0.00500"),
        "target_distance": D("30.00") if symbol == "XAUUSD" else D("0.00700"),
        "valid_until": close + timedelta(days=30),
        "risk_fraction": 0.005,
        "sl_mult": 1.0,
        "tp_mult": 2.0,
        "equity": D(10_000),
        "reserved_margin": D(100),
        "bound_by": "risk",
        "account_id": "1-0",
        "inputs": {},
    }
    return m.OrderRequested(**(values | changes))


def a_closing(request: m.OrderRequested, *, position_id: int = 1) -> m.CloseRequested:
    return m.CloseRequested(
        meta=request.meta.effect(m.CloseRequested),
        client_order_id=request.client_order_id,
        symbol=request.symbol,
        position_id=position_id,
        reason="FLATTEN",
        inputs={},
    )


def an_execution(
    number: int, kind: m.ExecutionKind, request: m.OrderRequested, **details: Any
) -> m.ExecutionReported:
    return m.ExecutionReported(
        meta=request.meta.effect(m.ExecutionReported, str(number)),
        number=number,
        kind=kind,
        client_order_id=request.client_order_id,
        symbol=request.symbol,
        direction=request.direction,
        **details,
    )


def a_bar(symbol: str, index: int, close: int = 110_000, *, volume: int = 1) -> Bar[int]:
    """Return the bar of the index-th five minutes."""
    return Bar(symbol, index * STEP_MS, 110_000, max(110_000, close), min(110_000, close), close, volume)


def a_journal(path: Path) -> Journal:
    """Return a journal that is open."""
    journal = Journal(path)
    journal.open()
    return journal


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def with_unknown(message: Any, field: str, number: int) -> Any:
    """Return the message as it is parsed when an enum field holds a number newer than our definitions."""
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    assert descriptor.type == FieldDescriptor.TYPE_ENUM
    message.ClearField(field)
    encoded = message.SerializePartialToString() + varint(descriptor.number << 3) + varint(number)
    parsed = type(message)()
    parsed.ParseFromString(encoded)
    return parsed
