"""Messages that the notifier tells; each argument is what a test cares about."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from shared import messages as m
from tests.builders import MONDAY

CLOSE = MONDAY + timedelta(minutes=5)


def an_event(text: str = "hello", **changes: Any) -> m.EventReported:
    values: dict[str, Any] = {
        "meta": m.Meta.root(f"event:{text}", MONDAY),
        "service": "gateway",
        "kind": "alarm",
        "severity": m.Severity.ERROR,
        "text": text,
    }
    return m.EventReported(**{**values, **changes})


def an_execution(kind: m.ExecutionKind, number: int = 1, **changes: Any) -> m.ExecutionReported:
    values: dict[str, Any] = {
        "meta": m.Meta.root(f"execution:{number}", MONDAY),
        "number": number,
        "kind": kind,
        "client_order_id": "TG-main-20250106T1005-EURUSD",
        "symbol": "EURUSD",
        "direction": m.Direction.LONG,
    }
    return m.ExecutionReported(**{**values, **changes})


def a_signal(**changes: Any) -> m.SignalEmitted:
    values: dict[str, Any] = {
        "meta": m.Meta.root("signal:EURUSD", CLOSE, f"slice:{CLOSE.isoformat()}"),
        "symbol": "EURUSD",
        "index": 0,
        "slice_size": 5,
        "close_time": CLOSE,
        "live": True,
        "account_id": "1-0",
        "bundle": "b",
        "direction": m.Direction.LONG,
        "verdict": m.Verdict.BLOCK,
        "reason": "GUARD_BLOCKED",
        "alpha_action": 0.8,
        "alpha_threshold": 0.33,
        "guard_probability": 0.41,
        "guard_threshold": 0.55,
        "close": 1.1,
        "atr": 0.001,
        "bid": Decimal("1.1"),
        "ask": Decimal("1.10008"),
        "synthetic": False,
        "real_bars": 500,
    }
    return m.SignalEmitted(**{**values, **changes})


def a_refusal(**changes: Any) -> m.EntryRefused:
    values: dict[str, Any] = {
        "meta": m.Meta.root("refusal:EURUSD", CLOSE),
        "client_order_id": "TG-main-20250106T1005-EURUSD",
        "symbol": "EURUSD",
        "direction": m.Direction.LONG,
        "reason": "ASSET_LOCKED",
        "detail": "EURUSD has a position already",
        "account_id": "1-0",
        "inputs": {},
    }
    return m.EntryRefused(**{**values, **changes})


def a_request() -> m.OrderRequested:
    return m.OrderRequested(
        meta=m.Meta.root("request:EURUSD", CLOSE),
        client_order_id="TG-main-20250106T1005-EURUSD",
        symbol="EURUSD",
        direction=m.Direction.LONG,
        volume_units=Decimal(50_000),
        stop_distance=Decimal("0.001"),
        target_distance=Decimal("0.002"),
        valid_until=CLOSE + timedelta(seconds=20),
        risk_fraction=0.005,
        sl_mult=1.0,
        tp_mult=2.0,
        equity=Decimal(10_000),
        reserved_margin=Decimal(500),
        bound_by="risk",
        account_id="1-0",
        inputs={},
    )
