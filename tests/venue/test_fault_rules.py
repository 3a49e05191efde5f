"""Which message a fault strikes, and which faults can be asked for: rules without a venue."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InputError
from venue.fault_names import FAULTS
from venue.faults import Fault, FaultRequest, Faults, faults_of

PAGE = Path(__file__).parents[2] / "docs" / "venue.md"
NINE_MS = 1_736_154_000_000  # 2025-01-06 09:00 UTC
MINUTE_MS = 60_000


def struck(fault: Fault, times: int, symbol: str = "EURUSD", now_ms: int = NINE_MS) -> list[int]:
    """Return which of so many messages of a symbol are struck, counted from 0."""
    return [turn for turn in range(times) if fault.strikes(symbol, now_ms)]


def a_fault(**fields: Any) -> Fault:
    return Faults(seed=5).ask({"fault": "quotes_missing", **fields})


def test_count_and_skip_choose_which_messages_are_struck() -> None:
    """The third order alone, for instance."""
    fault = a_fault(skip=2, count=3)
    assert struck(fault, 10) == [2, 3, 4]
    assert (fault.met, fault.fired) == (10, 3)


def test_probability_strikes_about_as_often_as_it_says() -> None:
    """2000 draws at 0.1: 200 are expected, and four standard deviations are 54."""
    assert 146 <= len(struck(a_fault(probability=0.1), 2_000)) <= 254


def test_draws_come_from_the_seed_and_the_place_in_the_list_alone() -> None:
    """A fault that was added later changes nothing for those before it."""
    request = {"fault": "quotes_missing", "probability": 0.5}
    alone, followed, other = Faults(seed=5), Faults(seed=5), Faults(seed=6)
    first = struck(alone.ask(request), 200)
    assert struck(followed.ask(request), 200) == first
    assert struck(followed.ask(request), 200) != first
    assert struck(other.ask(request), 200) != first


def test_window_begins_with_since_and_ends_before_until() -> None:
    """Times are those of the venue, so that a window is the same at every speed."""
    fault = a_fault(since="2025-01-06T09:00:00Z", until="2025-01-06T09:01:00Z")
    times = (NINE_MS - 1, NINE_MS, NINE_MS + MINUTE_MS - 1, NINE_MS + MINUTE_MS)
    assert [fault.strikes("EURUSD", at_ms) for at_ms in times] == [False, True, True, False]


def test_strike_that_lasts_takes_all_messages_of_that_time_and_counts_once() -> None:
    """Minutes without quotes are one event, not so many single losses."""
    fault = a_fault(lasts_ms=MINUTE_MS, count=1)
    times = (NINE_MS, NINE_MS + 1, NINE_MS + MINUTE_MS - 1, NINE_MS + MINUTE_MS)
    assert [fault.strikes("EURUSD", at_ms) for at_ms in times] == [True, True, True, False]
    assert (fault.begun, fault.fired) == (1, 3)


def test_fault_of_a_symbol_leaves_the_others_alone() -> None:
    """One dead symbol is another failure than a dead feed."""
    fault = a_fault(symbol="XAUUSD")
    assert not struck(fault, 3)
    assert struck(fault, 1, symbol="XAUUSD") == [0]


def test_first_fault_that_strikes_has_the_message() -> None:
    """Otherwise two faults on one message would have to agree on what is left of it."""
    faults = Faults()
    lost = faults.ask({"fault": "fill_lost", "count": 1})
    doubled = faults.ask({"fault": "execution_doubled"})
    words = ("ProtoOAExecutionEvent", "fill", "execution")
    assert [faults.striking(words, NINE_MS) for _ in range(2)] == [lost, doubled]


def test_ended_faults_strike_no_more_and_keep_their_counts() -> None:
    """Who counts afterwards has something to count."""
    faults = Faults()
    faults.ask({"fault": "fill_lost"})
    faults.striking(("fill",), NINE_MS)
    faults.end_all()
    assert faults.striking(("fill",), NINE_MS) is None
    assert faults.fired() == {"fill_lost": 1}


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"fault": "burn"},
        {"fault": "fill_late"},  # how late?
        {"fault": "fill_lost", "delay_ms": 5},  # lost is not late
        {"fault": "fill_lost", "probabilty": 0.5},
        {"fault": "fill_lost", "probability": 0},
        {"fault": "fill_lost", "probability": float("nan")},
        {"fault": "fill_lost", "count": 0},
        {"fault": "fill_lost", "message": "fil"},
        {"fault": "fill_lost", "message": "ProtoOANewOrderReq"},  # a request is not lost on its way out
        {"fault": "order_lost", "message": "fill"},
        {"fault": "message_lost"},  # which?
        {"fault": "request_refused", "message": "request"},  # with which error?
        {"fault": "handshake_closed", "message": "fill"},
        {"fault": "maintenance"},  # for how long?
        {"fault": "fill_lost", "since": "2025-01-06T09:00:00"},  # in which zone?
        {"fault": "fill_lost", "since": "2025-01-06T09:00:00Z", "until": "2025-01-06T09:00:00Z"},
    ],
)
def test_senseless_fault_is_refused(request_: dict[str, Any]) -> None:
    """A fault that is misspelt would make a test pass for nothing."""
    with pytest.raises(InputError, match="a fault cannot be had"):
        Faults().ask(request_)


def test_file_gives_faults_in_order_and_a_seed() -> None:
    """What a file says can be read back through the control door."""
    faults = faults_of(
        """
        seed = 3

        [[fault]]
        fault = "fill_late"
        delay_ms = 2_000
        probability = 0.25
        since = 2025-01-06T09:00:00Z

        [[fault]]
        fault = "message_lost"
        message = "ProtoOATraderRes"
        """,
        seed=1,
    )
    told = faults.told()
    assert told["seed"] == 3
    assert told["fired"] == {"fill_late": 0, "message_lost": 0}
    late, lost = told["faults"]
    assert (late["message"], late["delay_ms"], late["since"]) == ("fill", 2_000, "2025-01-06T09:00:00Z")
    assert (lost["message"], lost["met"], lost["fired"]) == ("ProtoOATraderRes", 0, 0)


@pytest.mark.parametrize(
    "text", ["[[fault]", "sed = 3", "seed = -1", "fault = 3", '[[fault]]\nfault = "burn"', "seed = 'a'"]
)
def test_file_that_is_not_understood_is_refused(text: str) -> None:
    """Half a file of faults is another test than the one that was meant."""
    with pytest.raises(InputError):
        faults_of(text, seed=1)


def test_every_fault_of_the_table_can_be_had() -> None:
    """A name that needs more than can be given would be a promise without a fault."""
    options = {"delay_ms": 5, "lasts_ms": 5, "error_code": "UNKNOWN_ERROR"}
    for name, named in FAULTS.items():
        given: dict[str, Any] = {option: options[option] for option in named.needs}
        if not named.message:
            given["message"] = "request" if name.startswith("request_") else "execution"
        assert FaultRequest(fault=name, **given).fault == name


def test_page_lists_every_fault_in_the_words_of_the_table() -> None:
    """A fault that nobody can look up is never asked for."""
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    listed = {
        name: (says, message.strip("`"), needs) for name, says, message, needs in rows if name in FAULTS
    }
    assert listed == {
        name: (
            named.says,
            named.message or "to be named",
            ", ".join(f"`{option}`" for option in sorted(named.needs)) or "-",
        )
        for name, named in FAULTS.items()
    }
