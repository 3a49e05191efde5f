"""What a slice is made of."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.slices import Bar, build_history, fill_slice
from shared.errors import InputError

SYMBOLS = ("EURUSD", "XAUUSD")
STEP_MS = 300_000


def a_bar(symbol: str, time_ms: int, close: int = 110_000) -> Bar[int]:
    return Bar(symbol, time_ms, close - 5, close + 10, close - 10, close, 7)


def test_symbol_without_a_bar_gets_a_flat_synthetic_one_at_its_close_before() -> None:
    """Gold's daily break must not stop the other four, and invents no price."""
    bar = a_bar("EURUSD", STEP_MS)
    filled = fill_slice(STEP_MS, {"EURUSD": bar}, {"EURUSD": 1, "XAUUSD": 290_000_000}, SYMBOLS)
    gold = 290_000_000
    assert filled == (bar, Bar("XAUUSD", STEP_MS, gold, gold, gold, gold, 0, synthetic=True))


def test_slice_keeps_the_type_of_its_prices() -> None:
    """The live gateway may count in Decimal: nothing is computed, only copied."""
    price = Decimal("1.10000")
    bar = Bar("EURUSD", 0, price, price, price, price, 1)
    filled = fill_slice(0, {"EURUSD": bar}, {"XAUUSD": Decimal("2900.00")}, SYMBOLS)
    assert filled[1].close == Decimal("2900.00")


def test_slice_without_any_bar_does_not_exist() -> None:
    """A weekend is no run of synthetic slices."""
    with pytest.raises(InputError, match="does not exist"):
        fill_slice(0, {}, dict.fromkeys(SYMBOLS, 1), SYMBOLS)


def test_missing_bar_without_a_close_before_is_an_error() -> None:
    """A price is never guessed."""
    with pytest.raises(InputError, match="XAUUSD has no bar and no close"):
        fill_slice(0, {"EURUSD": a_bar("EURUSD", 0)}, {}, SYMBOLS)


def test_bar_of_another_time_is_refused() -> None:
    """A late bar in the wrong slice would move a price through time."""
    with pytest.raises(InputError, match="bar of 300000"):
        fill_slice(0, {"EURUSD": a_bar("EURUSD", STEP_MS)}, {"XAUUSD": 1}, SYMBOLS)


def test_history_begins_where_every_symbol_has_had_a_bar() -> None:
    """Before that a synthetic bar has no price; from there on every slice is complete."""
    euro = [a_bar("EURUSD", k * STEP_MS) for k in (0, 1, 3)]
    gold = [a_bar("XAUUSD", k * STEP_MS, 290_000_000) for k in (2, 9)]
    history = build_history({"EURUSD": euro, "XAUUSD": gold})
    assert history.open_time_ms.tolist() == [2 * STEP_MS, 3 * STEP_MS, 9 * STEP_MS]
    assert history.synthetic.tolist() == [[True, False], [False, True], [True, False]]
    assert history.values[0, 1].tolist() == [2899.99995, 2900.0001, 2899.9999, 2900.0, 7.0]
    assert history.values[0, 0].tolist() == [1.1, 1.1, 1.1, 1.1, 0.0]


def test_two_bars_of_one_symbol_and_time_are_an_error() -> None:
    """Which of them is true is not for us to say."""
    with pytest.raises(InputError, match="two bars"):
        build_history({"EURUSD": [a_bar("EURUSD", 0), a_bar("EURUSD", 0)]})


def test_symbol_that_never_has_a_bar_makes_no_history() -> None:
    """Five columns of nothing would train a model on nothing."""
    with pytest.raises(InputError, match="never has a bar"):
        build_history({"EURUSD": [a_bar("EURUSD", 0)], "XAUUSD": []})


@given(present=st.lists(st.sets(st.sampled_from(SYMBOLS), min_size=1), min_size=1, max_size=20))
def test_history_is_what_the_live_rule_gives_slice_by_slice(present: list[set[str]]) -> None:
    """Training must see the very bars that a live start would have seen."""
    present = [set(SYMBOLS), *present]
    bars = {
        s: [a_bar(s, k * STEP_MS, 100 + k) for k, there in enumerate(present) if s in there] for s in SYMBOLS
    }
    history = build_history(bars)
    closes: dict[str, int] = {}
    for k, there in enumerate(present):
        live = fill_slice(k * STEP_MS, {s: a_bar(s, k * STEP_MS, 100 + k) for s in there}, closes, SYMBOLS)
        closes = {bar.symbol: bar.close for bar in live}
        assert history.values[k, :, 3].tolist() == [bar.close / 100_000 for bar in live]
        assert history.synthetic[k].tolist() == [bar.synthetic for bar in live]
