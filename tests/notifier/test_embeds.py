"""What people are told, and in which words."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.notifier import embeds
from services.notifier.embeds import Card, card_of, characters, embed_of, first_post, fitted
from shared import messages as m
from shared.messages import ExecutionKind as Kind
from tests.builders import MONDAY, a_bar
from tests.notifier.builders import a_refusal, a_request, a_signal, an_event, an_execution


def told(message: m.Message, **arguments: object) -> dict[str, str]:
    card = card_of(message, **arguments)  # type: ignore[arg-type]
    assert card is not None
    return {"title": card.title, "text": card.description, "footer": card.footer, **dict(card.fields)}


def test_executed_order_is_told_with_size_entry_and_both_levels() -> None:
    """This is the one card that a trader must be able to check against the venue's own screen."""
    protected = an_execution(
        Kind.PROTECTED,
        price=Decimal("1.10008"),
        volume_units=Decimal(50_000),
        stop_loss_price=Decimal("1.09908"),
        take_profit_price=Decimal("1.10210"),
    )
    card = told(protected, lot_units=Decimal(100_000))
    assert card["title"] == "EURUSD: LONG executed"
    assert card["Symbol"] == "EURUSD"
    assert card["Direction"] == "LONG"
    assert card["Size"] == "50,000 units (0.5 lots)"
    assert (card["Entry"], card["SL"], card["TP"]) == ("1.10008", "1.09908", "1.10210")


def test_size_is_told_in_units_alone_where_the_lot_is_unknown() -> None:
    """A lot is the venue's term; it is never assumed."""
    assert told(an_execution(Kind.PROTECTED, volume_units=Decimal(10)))["Size"] == "10 units"


def test_fill_without_its_stop_is_a_warning_of_its_own() -> None:
    """A naked position is news at once, not when it has been mended."""
    card = card_of(an_execution(Kind.REPAIRING, price=Decimal("1.1"), reason="no stop after 2 s"))
    assert card is not None
    assert card.severity is m.Severity.WARNING
    assert "no stop after 2 s" in card.description


@pytest.mark.parametrize("kind", [Kind.SENT, Kind.ACCEPTED, Kind.FILLED, Kind.PARTIALLY_FILLED, Kind.CLOSING])
def test_steps_on_the_way_are_not_told(kind: Kind) -> None:
    """One order is one card, not five."""
    assert card_of(an_execution(kind)) is None


@pytest.mark.parametrize("kind", [Kind.REJECTED, Kind.EXPIRED, Kind.REFUSED, Kind.NOT_SENT, Kind.UNKNOWN])
def test_order_that_did_not_become_a_position_is_told_with_its_reason(kind: Kind) -> None:
    """Each of these needs eyes, and the reason is where they start."""
    card = told(an_execution(kind, reason="NOT_ENOUGH_MONEY"))
    assert card["Symbol"] == "EURUSD"
    assert "NOT_ENOUGH_MONEY" in card["text"]


@pytest.mark.parametrize(
    ("pnl", "shown", "colour"),
    [("50.5", "+50.50", embeds.GREEN), ("-1250", "-1,250.00", embeds.RED), ("0", "+0.00", embeds.GREY)],
)
def test_closed_position_is_told_with_reason_result_and_balance(pnl: str, shown: str, colour: int) -> None:
    """The sign is always there: a loss must not read like a win."""
    closed = an_execution(Kind.CLOSED, pnl=Decimal(pnl), balance=Decimal("10050.5"), reason="TAKE_PROFIT")
    card = told(closed)
    assert card["text"] == "TAKE_PROFIT"
    assert card["P&L"] == shown
    assert card["Balance"] == "10,050.50"
    made = card_of(closed)
    assert made is not None
    assert made.colour == colour


def test_blocked_signal_is_told_in_candle_words() -> None:
    """Traders say candle; the rest of the system says bar."""
    card = told(a_signal())
    assert (card["Symbol"], card["Reason"]) == ("EURUSD", "GUARD_BLOCKED")
    assert card["text"] == "M5 candle closed at 10:05 UTC; no order was made."
    assert card["Probability of profit"] == "0.410 of 0.550 needed"


@pytest.mark.parametrize(
    "quiet",
    [
        a_signal(verdict=m.Verdict.FLAT, direction=m.Direction.FLAT, reason="ALPHA_FLAT"),
        a_signal(verdict=m.Verdict.ALLOW, reason="ALLOWED"),
        a_signal(live=False),
        a_refusal(reason="STALE_SLICE"),
        a_signal(direction=m.Direction.FLAT, reason="WARMING_UP"),
        a_request(),
        a_bar(),
        an_event(severity=m.Severity.INFO),
    ],
    ids=[
        "flat",
        "allowed",
        "signal of the past",
        "refusal of the past",
        "warming up",
        "request",
        "bar",
        "small alarm",
    ],
)
def test_what_people_need_not_see_is_not_told(quiet: m.Message) -> None:
    """A channel full of noise is not read."""
    assert card_of(quiet) is None


def test_block_that_is_no_models_decision_is_a_warning() -> None:
    """A layer that failed blocks too, and that is a fault, not an opinion."""
    card = card_of(a_signal(reason="GUARD_FAILED"))
    assert card is not None
    assert card.severity is m.Severity.WARNING


def test_refused_entry_is_told_with_reason_and_detail() -> None:
    """The reason is a word to search for, the detail a sentence to read."""
    card = told(a_refusal())
    assert (card["Symbol"], card["Reason"]) == ("EURUSD", "ASSET_LOCKED")
    assert card["text"] == "EURUSD has a position already"


@pytest.mark.parametrize("kind", ["started", "ready", "stopped", "connection", "limit", "control"])
def test_lifecycle_connection_limits_and_control_are_told_at_any_severity(kind: str) -> None:
    """Who is called by "connection lost" waits for "connected"."""
    assert told(an_event("here it is", kind=kind, severity=m.Severity.INFO))["text"] == "here it is"


@pytest.mark.parametrize("severity", [m.Severity.WARNING, m.Severity.ERROR, m.Severity.CRITICAL])
@pytest.mark.parametrize("kind", ["alarm", "degraded"])
def test_alarms_are_told_from_warnings_on(kind: str, severity: m.Severity) -> None:
    """Critical errors reach people whichever service they come from."""
    assert told(an_event("torn", kind=kind, severity=severity, details={"number": "7"}))["number"] == "7"


def test_card_names_book_and_correlation() -> None:
    """With this id the same slice is found in every log and stream."""
    signal = a_signal()
    assert told(signal, book="main")["footer"] == f"main · {signal.meta.correlation_id}"
    assert told(signal)["footer"] == str(signal.meta.correlation_id)


# --- limits ---------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=300),
    st.text(alphabet=st.characters(), max_size=20).map(lambda text: text * 500),
    st.sampled_from(["", " ", "\n\t", "🙂" * 5000, "a" * 9000, "\ud800", "é" * 1025]),
)
CARDS = st.builds(
    Card,
    message_id=st.uuids().map(str),
    severity=st.sampled_from(m.Severity),
    title=TEXTS,
    description=TEXTS,
    colour=st.just(embeds.BLUE),
    fields=st.lists(st.tuples(TEXTS, TEXTS), max_size=30).map(tuple),
    timestamp=st.just(MONDAY),
    footer=TEXTS,
)


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


@settings(max_examples=60)
@given(card=CARDS)
def test_every_card_is_within_discords_limits(card: Card) -> None:
    """Discord refuses a whole post for one text that is too long, empty or not UTF-8."""
    whole = fitted(card)
    embed = embed_of(whole)
    assert 1 <= units(embed["title"]) <= 256
    assert 1 <= units(embed["description"]) <= 4096
    assert 1 <= units(embed["footer"]["text"]) <= 2048
    assert len(embed["fields"]) <= 25
    for one in embed["fields"]:
        assert 1 <= units(one["name"]) <= 256
        assert 1 <= units(one["value"]) <= 1024
        assert one["value"].strip()
    assert characters(whole) <= 6000
    str(embed).encode("utf-8")
    assert fitted(whole) == whole


@settings(max_examples=30)
@given(cards=st.lists(CARDS.map(fitted), max_size=15))
def test_every_post_is_within_discords_limits(cards: list[Card]) -> None:
    """Six thousand characters are allowed for all cards of a post together, and ten cards."""
    sent: list[Card] = []
    while rest := cards[len(sent) :]:
        post = first_post(rest)
        assert 1 <= len(post) <= 10
        assert sum(map(characters, post)) <= 6000
        sent += post
    assert sent == cards


@given(text=st.text(alphabet="ab🙂é", min_size=1, max_size=9).map(lambda text: text * 5000))
def test_what_is_cut_ends_with_dots_and_loses_nothing_before(text: str) -> None:
    """A reader sees that there is more, and no half of a sign."""
    card = card_of(an_event(text))
    assert card is not None
    shown = card.description
    assert shown.endswith("…")
    assert text.startswith(shown[:-1])
    assert units(shown) >= 4095


def test_ids_survive_the_cut() -> None:
    """A card names the message that it tells."""
    event = an_event("x" * 10_000)
    card = card_of(event)
    assert card is not None
    assert UUID(card.message_id) == event.meta.message_id
