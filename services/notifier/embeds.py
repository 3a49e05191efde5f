"""Messages as cards for people: what is worth telling, in words, within Discord's limits.

This is the one place that says candle instead of bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from shared.messages import (
    Direction,
    EntryRefused,
    EventReported,
    ExecutionKind,
    ExecutionReported,
    Message,
    Severity,
    SignalEmitted,
    Verdict,
)
from shared.streams import decimal_text

TITLE_MAX: Final = 256
DESCRIPTION_MAX: Final = 4096
FIELDS_MAX: Final = 25
FIELD_NAME_MAX: Final = 256
FIELD_VALUE_MAX: Final = 1024
FOOTER_MAX: Final = 256  # Discord takes 2048; a footer is an id here, and the rest is for the text
POST_CHARACTERS_MAX: Final = 6000  # of all cards of a post together
POST_CARDS_MAX: Final = 10
INLINE_MAX: Final = 40  # a longer value gets a line of its own
_NOTHING: Final = "—"  # where there is no text: Discord refuses an empty one

GREEN: Final = 0x2ECC71
RED: Final = 0xE74C3C
AMBER: Final = 0xF1C40F
BLUE: Final = 0x3498DB
GREY: Final = 0x95A5A6

MODEL_BLOCKS: Final = frozenset({"RISK_BLOCKED", "GUARD_BLOCKED"})  # any other block: something failed
STALE_SLICE: Final = "STALE_SLICE"  # the reason of refusing what belongs to a slice that is not live
_ALWAYS_TOLD: Final = frozenset({"started", "ready", "stopped", "connection", "limit", "control"})
_COLOURS: Final = {
    Severity.INFO: BLUE,
    Severity.WARNING: AMBER,
    Severity.ERROR: RED,
    Severity.CRITICAL: RED,
}


@dataclass(frozen=True, slots=True)
class Card:
    """One thing told to people; its id is that of the message it tells."""

    message_id: str
    severity: Severity
    title: str
    description: str
    colour: int
    fields: tuple[tuple[str, str], ...]
    timestamp: datetime
    footer: str  # the book and the correlation id: what to search the logs and streams for


def card_of(message: Message, *, book: str = "", lot_units: Decimal | None = None) -> Card | None:
    """Return the card of a message, or None of a message that people need not see.

    An executed order is told at PROTECTED, not at FILLED: only then do stop and target stand at the
    venue. A fill whose stop is missing is told at REPAIRING, as a warning, so that no fill stays untold
    for longer than the protection time. Where the venue's word on the stop leaves out entry and size,
    the caller completes the message from the fill.

    A block is told where an entry was wanted. What stops the chain before a direction is found is one
    alarm of its service, not a card for each symbol at each slice.

    Args:
        message: any message of the mesh.
        book: the book's name, shown beside the correlation id.
        lot_units: units in one lot of the message's symbol, where they are known.
    """
    match message:
        case SignalEmitted():
            card = _signal_card(message)
        case EntryRefused():
            card = _refusal_card(message)
        case ExecutionReported():
            card = _execution_card(message, lot_units)
        case EventReported():
            card = _event_card(message)
        case _:
            card = None
    return _signed(card, book) if card else None


def resolution_card(execution: ExecutionReported, *, book: str = "") -> Card:
    """Return the card that says how an order of unknown outcome turned out."""
    text = f"The outcome of this order is known now: {execution.kind}."
    title = f"{execution.symbol}: outcome resolved"
    return _signed(_order_card(execution, Severity.WARNING, title, text, BLUE), book)


def _signal_card(signal: SignalEmitted) -> Card | None:
    if signal.verdict is not Verdict.BLOCK or signal.direction is Direction.FLAT or not signal.live:
        return None
    fields = [("Symbol", signal.symbol), ("Direction", signal.direction.value), ("Reason", signal.reason)]
    if signal.guard_probability is not None:
        needed = "" if signal.guard_threshold is None else f" of {signal.guard_threshold:.3f} needed"
        fields.append(("Probability of profit", f"{signal.guard_probability:.3f}{needed}"))
    return _card(
        signal,
        Severity.INFO if signal.reason in MODEL_BLOCKS else Severity.WARNING,
        f"{signal.symbol}: {signal.direction} blocked",
        f"M5 candle closed at {signal.close_time:%H:%M} UTC; no order was made.",
        GREY if signal.reason in MODEL_BLOCKS else AMBER,
        fields,
    )


def _refusal_card(refused: EntryRefused) -> Card | None:
    if (
        refused.reason == STALE_SLICE
    ):  # a backfill after a pause refuses hundreds: no news, no trade was possible
        return None
    fields = [("Symbol", refused.symbol), ("Reason", refused.reason), ("Order", refused.client_order_id)]
    title = f"{refused.symbol}: {refused.direction} not traded"
    return _card(refused, Severity.INFO, title, refused.detail or refused.reason, GREY, fields)


def _execution_card(execution: ExecutionReported, lot_units: Decimal | None) -> Card | None:
    symbol, reason = execution.symbol, execution.reason or "no reason given"
    match execution.kind:
        case ExecutionKind.PROTECTED:
            title = f"{symbol}: {execution.direction} executed"
            return _order_card(
                execution,
                Severity.INFO,
                title,
                "Filled; its protection stands at the venue.",
                GREEN,
                _trade_fields(execution, lot_units),
            )
        case ExecutionKind.REPAIRING:
            text = (
                f"Filled without the stop it should have; it is being set, or the position closed. {reason}"
            )
            fields = _trade_fields(execution, lot_units)
            return _order_card(
                execution, Severity.WARNING, f"{symbol}: stop being repaired", text, AMBER, fields
            )
        case ExecutionKind.UNKNOWN:
            text = f"It may have reached the venue: the symbol is locked, the venue is being asked. {reason}"
            return _order_card(execution, Severity.ERROR, f"{symbol}: outcome unknown", text, RED)
        case ExecutionKind.REJECTED:
            return _order_card(execution, Severity.WARNING, f"{symbol}: order rejected", reason, AMBER)
        case ExecutionKind.EXPIRED:
            return _order_card(execution, Severity.WARNING, f"{symbol}: order expired unsent", reason, AMBER)
        case ExecutionKind.REFUSED:
            return _order_card(execution, Severity.WARNING, f"{symbol}: order not sent", reason, AMBER)
        case ExecutionKind.NOT_SENT:
            text = f"Resolved: the venue has never seen this order. {reason}"
            return _order_card(execution, Severity.WARNING, f"{symbol}: order not sent", text, AMBER)
        case ExecutionKind.CLOSED:
            return _closed_card(execution, reason)
        case _:
            return None


def _closed_card(execution: ExecutionReported, reason: str) -> Card:
    pnl = execution.pnl
    fields = [
        ("P&L", None if pnl is None else f"{pnl:+,.2f}"),
        ("Balance", None if execution.balance is None else f"{execution.balance:,.2f}"),
        ("Exit", _price(execution.price)),
    ]
    colour = GREY if not pnl else GREEN if pnl > 0 else RED
    title = f"{execution.symbol}: {execution.direction} closed"
    return _order_card(execution, Severity.INFO, title, reason, colour, fields)


def _trade_fields(execution: ExecutionReported, lot_units: Decimal | None) -> list[tuple[str, str | None]]:
    return [
        ("Size", _size(execution.volume_units, lot_units)),
        ("Entry", _price(execution.price)),
        ("SL", _price(execution.stop_loss_price)),
        ("TP", _price(execution.take_profit_price)),
    ]


def _event_card(event: EventReported) -> Card | None:
    if event.severity is Severity.INFO and event.kind not in _ALWAYS_TOLD:
        return None
    return _card(
        event,
        event.severity,
        f"{event.service}: {event.kind}",
        event.text,
        _COLOURS[event.severity],
        list(event.details.items()),
    )


def _order_card(
    execution: ExecutionReported,
    severity: Severity,
    title: str,
    text: str,
    colour: int,
    fields: Iterable[tuple[str, str | None]] = (),
) -> Card:
    head = [("Symbol", execution.symbol), ("Direction", execution.direction.value)]
    return _card(
        execution, severity, title, text, colour, [*head, *fields, ("Order", execution.client_order_id)]
    )


def _card(
    message: Message,
    severity: Severity,
    title: str,
    text: str,
    colour: int,
    fields: Iterable[tuple[str, str | None]],
) -> Card:
    return Card(
        message_id=str(message.meta.message_id),
        severity=severity,
        title=title,
        description=text,
        colour=colour,
        fields=tuple([(name, value) for name, value in fields if value is not None]),
        timestamp=message.meta.event_time,
        footer=str(message.meta.correlation_id),
    )


def _signed(card: Card, book: str) -> Card:
    return fitted(card, footer=f"{book} · {card.footer}" if book else card.footer)


def _price(price: Decimal | None) -> str | None:
    return None if price is None else format(price, "f")


def _size(units: Decimal | None, lot_units: Decimal | None) -> str | None:
    if units is None:
        return None
    text = f"{units.normalize():,f} units"
    if not lot_units:
        return text
    return f"{text} ({decimal_text(round(units / lot_units, 4))} lots)"


# --- Discord's limits -----------------------------------------------------------------------------


def fitted(card: Card, *, footer: str | None = None) -> Card:
    """Return the card within Discord's limits, with another footer: what is too long is cut, with '…'."""
    title, length = _cut(card.title, TITLE_MAX)
    footer, footer_length = _cut(card.footer if footer is None else footer, FOOTER_MAX)
    left = POST_CHARACTERS_MAX - length - footer_length
    description, length = _cut(card.description, min(DESCRIPTION_MAX, left))
    left -= length
    fields = []
    for name, value in card.fields[:FIELDS_MAX]:
        if left < 2:
            break
        name, length = _cut(name, min(FIELD_NAME_MAX, left - 1))
        left -= length
        value, length = _cut(value, min(FIELD_VALUE_MAX, left))
        left -= length
        fields.append((name, value))
    return Card(
        message_id=card.message_id,
        severity=card.severity,
        title=title,
        description=description,
        colour=card.colour,
        fields=tuple(fields),
        timestamp=card.timestamp,
        footer=footer,
    )


def first_post(cards: Iterable[Card]) -> tuple[Card, ...]:
    """Return as many of the first cards as one post takes: at least one, if there is any."""
    post: list[Card] = []
    left = POST_CHARACTERS_MAX
    for card in cards:
        left -= characters(card)
        if len(post) == POST_CARDS_MAX or (post and left < 0):
            break
        post.append(card)
    return tuple(post)


def characters(card: Card) -> int:
    """Return what Discord counts of a card."""
    texts = [card.title, card.description, card.footer, *(text for field in card.fields for text in field)]
    return _length("".join(texts))


def embed_of(card: Card) -> Mapping[str, Any]:
    """Return the card as the embed of a Discord post."""
    return {
        "title": card.title,
        "description": card.description,
        "color": card.colour,
        "timestamp": card.timestamp.isoformat(),
        "footer": {"text": card.footer},
        "fields": [
            {"name": name, "value": value, "inline": len(value) <= INLINE_MAX} for name, value in card.fields
        ],
    }


def _length(text: str) -> int:
    """Return UTF-16 units: never less than what Discord counts, whichever way it counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _cut(text: str, limit: int) -> tuple[str, int]:
    """Return text that can be shown, of at most `limit` units and never empty, and how many it has."""
    if text.isascii() and text.isprintable():  # as most of it is
        text = text.strip() or _NOTHING
        if len(text) <= limit:
            return text, len(text)
    text = text.encode(errors="replace").decode()  # lone surrogates have no UTF-8
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)
    text = text.strip() or _NOTHING
    if _length(text) > limit:
        text = text.encode("utf-16-le")[: 2 * (limit - 1)].decode("utf-16-le", errors="ignore") + "…"
    return text, _length(text)
