"""What the venue would refuse is not sent: each rule with the reason that the streams will show. Pure."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from services.gateway.schedule import why_closed
from shared.contracts import Contract, TradingMode
from shared.messages import Direction, OrderRequested


def refusal(request: OrderRequested, contract: Contract, at: datetime, price: Decimal | None) -> str | None:
    """Return why an order is not sent, or None if the symbol's terms allow it.

    Args:
        request: the order.
        contract: the terms of its symbol.
        at: the venue's time.
        price: the price it would be filled at, for distances in percent; None: there is no quote.
    """
    return (
        _mode_refusal(request, contract)
        or why_closed(contract, at)
        or _volume_refusal(request.volume_units, contract)
        or _distance_refusal(request, contract, price)
    )


def _mode_refusal(request: OrderRequested, contract: Contract) -> str | None:
    if not contract.is_enabled:
        return "SYMBOL_NOT_ENABLED"
    if contract.trading_mode is not TradingMode.ENABLED:
        return f"SYMBOL_{contract.trading_mode}"
    if request.direction is Direction.SHORT and not contract.can_sell_short:
        return "SHORT_SELLING_NOT_ALLOWED"
    return None


def _volume_refusal(volume: Decimal, contract: Contract) -> str | None:
    if volume < contract.min_volume_units:
        return f"VOLUME_TOO_SMALL: {volume} of at least {contract.min_volume_units}"
    if volume > contract.max_volume_units:
        return f"VOLUME_TOO_LARGE: {volume} of at most {contract.max_volume_units}"
    if (volume - contract.min_volume_units) % contract.step_volume_units:
        return f"VOLUME_OFF_STEP: {volume} is no multiple of {contract.step_volume_units}"
    return None


def _distance_refusal(request: OrderRequested, contract: Contract, price: Decimal | None) -> str | None:
    for name, distance, least, percent in (
        ("STOP", request.stop_distance, contract.min_stop_distance, contract.min_stop_percent),
        ("TARGET", request.target_distance, contract.min_target_distance, contract.min_target_percent),
    ):
        if percent:
            if price is None:
                return "NO_QUOTE"
            least = max(least, price * percent / 100)
        if distance < least:
            return f"{name}_TOO_CLOSE: {distance} of at least {least.normalize():f}"
    return None
