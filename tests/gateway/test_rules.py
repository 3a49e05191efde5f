"""What the venue would refuse is refused here, with the reason in the words of the streams."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from services.gateway.rules import refusal
from shared.contracts import Interval, TradingMode
from shared.messages import Direction
from tests.gateway.builders import a_request
from venue.book import CONTRACTS

D = Decimal
NOW = datetime(2025, 1, 7, 7, 20, tzinfo=UTC)


PRICE = D("1.10000")


def refused(request: dict[str, Any], terms: dict[str, Any], price: Decimal | None = PRICE) -> str | None:
    contract = CONTRACTS["EURUSD"].model_copy(update=terms)
    return refusal(a_request(**request), contract, NOW, price)


def test_order_within_the_terms_is_sent() -> None:
    """Each rule refuses at its limit and lets through what keeps it."""
    assert refused({}, {}) is None


@pytest.mark.parametrize(
    ("terms", "direction", "reason"),
    [
        ({"is_enabled": False}, Direction.LONG, "SYMBOL_NOT_ENABLED"),
        ({"trading_mode": TradingMode.CLOSE_ONLY}, Direction.LONG, "SYMBOL_CLOSE_ONLY"),
        ({"trading_mode": TradingMode.DISABLED}, Direction.SHORT, "SYMBOL_DISABLED"),
        ({"can_sell_short": False}, Direction.SHORT, "SHORT_SELLING_NOT_ALLOWED"),
        ({"can_sell_short": False}, Direction.LONG, None),
        ({"schedule": (Interval(start_s=0, end_s=1),)}, Direction.LONG, "MARKET_CLOSED"),
    ],
)
def test_symbol_that_does_not_trade_gets_no_order(
    terms: dict[str, Any], direction: Direction, reason: str | None
) -> None:
    """The venue says when and how a symbol may be traded."""
    assert refused({"direction": direction}, terms) == reason


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        ("1000", None),
        ("999", "VOLUME_TOO_SMALL: 999 of at least 1000"),
        ("5000", None),
        ("5001", "VOLUME_TOO_LARGE: 5001 of at most 5000"),
        ("1500", "VOLUME_OFF_STEP: 1500 is no multiple of 1000"),
    ],
)
def test_volume_is_within_bounds_and_on_the_grid(volume: str, reason: str | None) -> None:
    """The grid begins at the smallest volume."""
    terms = {"min_volume_units": D(1000), "max_volume_units": D(5000), "step_volume_units": D(1000)}
    assert refused({"volume_units": D(volume)}, terms) == reason


@pytest.mark.parametrize(
    ("distances", "terms", "reason"),
    [
        ({"stop_distance": D("0.00100")}, {"min_stop_distance": D("0.00100")}, None),
        (
            {"stop_distance": D("0.00099")},
            {"min_stop_distance": D("0.00100")},
            "STOP_TOO_CLOSE: 0.00099 of at least 0.001",
        ),
        (
            {"target_distance": D("0.00099")},
            {"min_target_distance": D("0.00100")},
            "TARGET_TOO_CLOSE: 0.00099 of at least 0.001",
        ),
        ({"stop_distance": D("0.01100")}, {"min_stop_percent": D(1)}, None),
        (
            {"stop_distance": D("0.01099")},
            {"min_stop_percent": D(1)},
            "STOP_TOO_CLOSE: 0.01099 of at least 0.011",
        ),
    ],
)
def test_levels_keep_the_venues_distance(
    distances: dict[str, Any], terms: dict[str, Any], reason: str | None
) -> None:
    """Equality is enough; a percentage is one of the price at which the order would be filled."""
    assert refused(distances, terms) == reason


def test_distance_in_percent_needs_a_quote() -> None:
    """What cannot be checked is not sent."""
    assert refused({}, {"min_target_percent": D(1)}, price=None) == "NO_QUOTE"
