"""Each limit: that it trips, what it stops, that reaching it is enough, that the unknown trips it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.executor import limits
from services.executor.limits import STOPS, Limit, LimitName, Policy, first_tripped
from shared import messages as m
from shared.errors import InputError
from tests.executor.builders import (
    POLICY,
    a_position,
    a_quote,
    a_slice,
    an_account,
    an_executor,
    give,
    reasons,
    restarted,
)

D = Decimal
ALL = ("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "XAUUSD")


@pytest.mark.parametrize("name", LimitName)
def test_every_limit_names_what_it_stops(name: LimitName) -> None:
    """Whoever reads the refusal knows how far it reaches."""
    assert str(STOPS[name]) in Limit(name, D(1), D(1)).text


@pytest.mark.parametrize("name", LimitName)
@pytest.mark.parametrize(
    ("value", "bound"),
    [
        (None, D(1)),
        (D(0), None),
        (D("NaN"), D(1)),
        (D(0), D("NaN")),
        (D("sNaN"), D(1)),
        (D("-Infinity"), D(1)),
    ],
)
def test_unknown_value_or_bound_trips(name: LimitName, value: Decimal | None, bound: Decimal | None) -> None:
    """NaN compares false with everything: without this rule it would pass every limit."""
    assert Limit(name, value, bound).trips
    assert Limit(name, value, bound, reaching_trips=False).trips


@pytest.mark.parametrize("name", [each for each in LimitName if each is not LimitName.RISK_PER_TRADE])
def test_reaching_the_bound_is_enough(name: LimitName) -> None:
    """Equality counts; a hair below does not."""
    assert Limit(name, D("0.05"), D("0.05")).trips
    assert not Limit(name, D("0.0499999"), D("0.05")).trips


def test_first_in_order_is_the_one_that_is_told() -> None:
    """One refusal has one reason, always the same one."""
    found = first_tripped(
        [limits.stale_slice(live=True), limits.asset_lock(1), limits.open_positions(POLICY, 9)]
    )
    assert found is not None
    assert found.name is LimitName.ASSET_LOCKED


@pytest.mark.parametrize(
    ("fraction", "trips"),
    [(0.005, False), (0.0050001, True), (0.02, True), (float("nan"), True), (None, True), (0.0, False)],
)
def test_the_whole_allowed_risk_may_be_used_and_no_more(fraction: float | None, trips: bool) -> None:
    """The models' largest knob is exactly the allowed fraction."""
    assert limits.risk_per_trade(POLICY, fraction).trips is trips


@pytest.mark.parametrize("fraction", ["0.0200001", "0", "-0.01", "NaN"])
def test_no_policy_goes_above_the_hard_limit(fraction: str) -> None:
    """A slip of the keyboard must not risk the account."""
    with pytest.raises(InputError):
        Policy(book="main", risk_fraction_max=D(fraction))


@pytest.mark.parametrize(
    ("bid", "ask", "stop", "trips"),
    [
        ("1.10000", "1.10033", "0.00099", False),  # a third: the floor of the stop
        ("1.10000", "1.10035", "0.00100", True),  # reached
        ("1.10000", "1.10034", "0.00100", False),
        ("1.10000", "1.09999", "0.00100", True),  # crossed: no price at all
        ("0", "1.1", "0.00100", True),
        ("NaN", "1.1", "0.00100", True),
        ("1.1", "1.1", "NaN", True),
        ("1.1", "1.1", "0", True),
    ],
)
def test_spread_is_measured_by_the_stop(bid: str, ask: str, stop: str, trips: bool) -> None:
    """What is a wide spread depends on how far the stop is."""
    assert limits.spread(POLICY, D(bid), D(ask), D(stop)).trips is trips


@pytest.mark.parametrize(
    ("age_s", "trips"), [(0.0, False), (9.99, False), (10.0, True), (float("nan"), True), (None, True)]
)
def test_quote_may_not_be_old(age_s: float | None, trips: bool) -> None:
    """A quote that nobody has ever sent is as old as can be."""
    assert limits.stale_quote(POLICY, age_s).trips is trips


@pytest.mark.parametrize(
    ("used", "equity", "trips"),
    [("200000", "10000", True), ("199999", "10000", False), ("NaN", "10000", True), ("0", "0", True)],
)
def test_notional_is_measured_in_equity(used: str, equity: str, trips: bool) -> None:
    """Twenty times equity, all positions together."""
    assert limits.notional(POLICY, D(used), D(equity)).trips is trips


@pytest.mark.parametrize(
    ("reserved", "free", "trips"),
    [("0", "100", False), ("100", "100", True), ("0", "0", True), ("0", "-5", True), ("0", "NaN", True)],
)
def test_reserved_margin_must_leave_some_free(reserved: str, free: str, trips: bool) -> None:
    """Two requests of one slice must not spend the same money."""
    assert limits.free_margin(D(reserved), D(free)).trips is trips


# --- through the handlers: the entry is refused by that name, and after a restart too ----------------

Case = tuple[dict[str, Any], dict[str, Any]]

TRIPPED: dict[LimitName, Case] = {
    LimitName.STALE_SLICE: ({"live": False}, {}),
    LimitName.SYNTHETIC_BAR: ({"real_bars": 13}, {}),
    LimitName.STALE_QUOTE: ({}, {"quotes": {"EURUSD": a_quote(age_s=10)}}),
    LimitName.ASSET_LOCKED: ({}, {"positions": (a_position(),)}),
    LimitName.OPEN_POSITIONS: ({}, {"positions": tuple(a_position("AUDUSD", number=n) for n in range(5))}),
    LimitName.RISK_PER_TRADE: ({"risk_fraction": 0.006}, {}),
    LimitName.SPREAD: ({"stop_distance": D("0.00020")}, {}),
    LimitName.NOTIONAL: ({}, {"positions": (a_position("AUDUSD", used_margin=D(2_000)),)}),
    LimitName.FREE_MARGIN: ({}, {"free_margin": D(0)}),
}
PASSED: dict[LimitName, Case] = {
    LimitName.SYNTHETIC_BAR: ({"real_bars": 14}, {}),
    LimitName.STALE_QUOTE: ({}, {"quotes": {"EURUSD": a_quote(age_s=9.9)}}),
    LimitName.ASSET_LOCKED: ({}, {"positions": (a_position("GBPUSD"),)}),
    LimitName.OPEN_POSITIONS: ({}, {"positions": tuple(a_position("AUDUSD", number=n) for n in range(4))}),
    LimitName.RISK_PER_TRADE: ({"risk_fraction": 0.005}, {}),
    LimitName.SPREAD: ({"stop_distance": D("0.00024")}, {}),
    LimitName.NOTIONAL: ({}, {"positions": (a_position("AUDUSD", used_margin=D(1_900)),)}),
    LimitName.FREE_MARGIN: ({}, {"free_margin": D(1_000)}),
}


@pytest.mark.parametrize("name", TRIPPED)
async def test_limit_refuses_the_entry_by_its_name_before_and_after_a_restart(name: LimitName) -> None:
    """A limit that a restart lifts is none."""
    signal, account = TRIPPED[name]
    entry = an_account(**account)
    executor = an_executor(entry)
    decided = await give(restarted(executor, entry), a_slice("EURUSD", **signal))
    assert reasons(decided) == {"EURUSD": name}
    (refused,) = decided
    assert isinstance(refused, m.EntryRefused)
    assert refused.detail.startswith(name)
    assert decided == await give(executor, a_slice("EURUSD", **signal))


@pytest.mark.parametrize("name", PASSED)
async def test_just_below_the_limit_is_traded(name: LimitName) -> None:
    """A limit that always trips would pass every test above."""
    signal, account = PASSED[name]
    decided = await give(an_executor(an_account(**account)), a_slice("EURUSD", **signal))
    assert reasons(decided) == {"EURUSD": "REQUESTED"}


async def test_synthetic_bar_is_not_traded_whatever_stood_before() -> None:
    """Nobody traded at that price."""
    decided = await give(an_executor(), a_slice("XAUUSD", synthetic=True, real_bars=100))
    assert reasons(decided) == {"XAUUSD": "SYNTHETIC_BAR"}


async def test_symbol_without_a_quote_is_not_traded() -> None:
    """Missing is as old as can be."""
    decided = await give(an_executor(an_account(quotes={})), a_slice("EURUSD"))
    assert reasons(decided) == {"EURUSD": "STALE_QUOTE"}


async def test_limit_of_one_symbol_leaves_the_others_alone() -> None:
    """It stops what it says it stops, and no more."""
    account = an_account(positions=(a_position("EURUSD"),))
    decided = reasons(await give(an_executor(account), a_slice(*ALL)))
    assert decided.pop("EURUSD") == "ASSET_LOCKED"
    assert set(decided.values()) == {"REQUESTED"}


async def test_stale_slice_stops_all_and_reserves_nothing() -> None:
    """Bars that were fetched later are history; their account is of another time."""
    executor = an_executor(an_account(live=False))
    decided = await give(executor, a_slice(*ALL, live=False))
    assert set(reasons(decided).values()) == {"STALE_SLICE"}
    assert executor.state.ledger.requests == {}
    assert executor.state.day is None


async def test_foreign_position_of_unknown_size_stops_all_entries() -> None:
    """Exposure that cannot be measured is not zero."""
    account = an_account(positions=(a_position("BTCUSD", used_margin=D(0)),))
    decided = await give(an_executor(account), a_slice("EURUSD"))
    assert reasons(decided) == {"EURUSD": "NOTIONAL"}
