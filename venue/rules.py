"""What a trading request must keep to, and the words in which the venue refuses it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from shared.contracts import POINTS_PER_UNIT, Contract
from venue.money import CENTS, Quote
from venue.records import RefusedError, Side

LABEL_LENGTH_MAX = 100
COMMENT_LENGTH_MAX = 512
CLIENT_ORDER_ID_LENGTH_MAX = 50


@dataclass(frozen=True, slots=True)
class MarketRequest:
    """A client asks for a market order; the distances are counted from the fill."""

    symbol: str
    side: Side
    volume_cents: int
    client_order_id: str = ""
    label: str = ""
    comment: str = ""
    relative_stop_points: int | None = None
    relative_target_points: int | None = None


def check_texts(request: MarketRequest) -> None:
    """Refuse texts that are longer than the venue keeps."""
    for name, text, limit in (
        ("label", request.label, LABEL_LENGTH_MAX),
        ("comment", request.comment, COMMENT_LENGTH_MAX),
        ("clientOrderId", request.client_order_id, CLIENT_ORDER_ID_LENGTH_MAX),
    ):
        if len(text) > limit:
            raise RefusedError("INVALID_REQUEST", f"{name} is longer than {limit} characters")


def check_volume(contract: Contract, volume_cents: int) -> None:
    """Refuse a volume outside the contract's bounds or off its grid."""

    def lots(cents: Decimal | int) -> str:
        return f"{Decimal(cents) / CENTS / contract.lot_units:.2f}"

    smallest, largest = contract.min_volume_units * CENTS, contract.max_volume_units * CENTS
    said = f"Order volume = {lots(volume_cents)} is"
    if volume_cents < smallest:
        raise RefusedError(
            "TRADING_BAD_VOLUME", f"{said} smaller than minimum allowed volume = {lots(smallest)}."
        )
    if volume_cents > largest:
        raise RefusedError(
            "TRADING_BAD_VOLUME", f"{said} bigger than maximum allowed volume = {lots(largest)}"
        )
    step = contract.step_volume_units * CENTS
    if (volume_cents - smallest) % step:
        raise RefusedError("TRADING_BAD_VOLUME", f"{said} not a multiple of step volume = {lots(step)}")


def check_distance(contract: Contract, name: str, distance: int | None) -> None:
    """Refuse a distance from the fill that is off the grid or too small."""
    if distance is None:
        return
    tick = int(contract.tick * POINTS_PER_UNIT)
    if distance <= 0 or distance % tick:
        raise RefusedError(
            "TRADING_BAD_STOPS", f"Relative {name} = {distance} should be a positive multiple of {tick}"
        )
    if distance < contract.min_stop_distance * POINTS_PER_UNIT:
        raise RefusedError(
            "PROTECTION_IS_TOO_CLOSE_TO_MARKET", f"Relative {name} = {distance} is too close to market"
        )


def check_level(contract: Contract, side: Side, quote: Quote, name: str, level: int | None) -> None:
    """Refuse a level on the wrong side of the price that would close the position."""
    if level is None:
        return
    if level % int(contract.tick * POINTS_PER_UNIT):
        raise RefusedError("INVALID_REQUEST", f"{name} has more than {contract.digits} digits")
    closing, market = ("BID", quote.bid) if side is Side.BUY else ("ASK", quote.ask)
    above = (name == "TP") == (side is Side.BUY)
    if (level - market if above else market - level) >= 0:
        return
    shown_market, shown = (f"{points / POINTS_PER_UNIT:.{contract.digits}f}" for points in (market, level))
    raise RefusedError(
        "TRADING_BAD_STOPS",
        f"New {name} for {side} position should be {'>=' if above else '<='} current {closing} price."
        f" current {closing}: {shown_market}, {name}: {shown}",
    )
