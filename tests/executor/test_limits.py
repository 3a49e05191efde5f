"""Each limit: that it trips, what it stops, that reaching it is enough, that the unknown trips it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.executor import rules
from services.executor.days import Window
from services.executor.exits import without
from services.executor.handlers import ExecutorHandlers
from services.executor.limits import Limit, LimitName, Rule, Stops, short
from services.executor.losses import Kind, LossMemory, LossRule
from services.executor.policy import Policy
from services.executor.reservations import Ledger, Request
from services.executor.rules import RULES
from services.executor.situation import Situation
from services.executor.state import ExecutorState
from shared import messages as m
from shared.errors import InputError
from tests.executor.builders import (
    CLOSE,
    INPUTS,
    POLICY,
    a_position,
    a_quote,
    a_signal,
    a_slice,
    an_account,
    an_execution,
    an_executor,
    give,
    reasons,
    restarted,
)
from venue.book import CONTRACTS

D = Decimal
ALL = ("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "XAUUSD")
FIVE_MINUTES = timedelta(minutes=5)
BEFORE = CLOSE - FIVE_MINUTES
HALF_PERCENT = D("0.005")


def limit_at(value: Decimal | None, bound: Decimal | None, reaching_trips: bool) -> Limit:
    """Return a limit that measures what it is told to."""
    rule: Rule[None] = Rule(
        LimitName.SPREAD, Stops.THIS_ENTRY, lambda _: (value, bound), reaching_trips=reaching_trips
    )
    limit = rule.limit(None)
    assert limit is not None
    return limit


def test_every_limit_is_in_the_table_once() -> None:
    """A name without a rule would be a promise without a guard."""
    assert sorted(rule.name for rule in RULES) == sorted(LimitName)


def test_every_limit_is_explained() -> None:
    """Whoever reads a refusal can look up what it means, which setting moves it and when it ends."""
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    assert [name for name in LimitName if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("reaching_trips", [True, False])
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
def test_unknown_value_or_bound_trips(
    value: Decimal | None, bound: Decimal | None, reaching_trips: bool
) -> None:
    """NaN compares false with everything: without this rule it would pass every limit."""
    assert limit_at(value, bound, reaching_trips).trips


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_reaching_the_bound_is_enough(rule: Any) -> None:
    """Equality counts, but for the risk of a trade, which may be used up; a hair below never does."""
    at, below = (limit_at(D(v), D("0.05"), rule.reaching_trips) for v in ("0.05", "0.049"))
    assert at.trips is (rule.name is not LimitName.RISK_PER_TRADE)
    assert not below.trips


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_limit_says_value_bound_and_what_it_stops(rule: Any) -> None:
    """Whoever reads the refusal knows how far it reaches."""
    text = Limit(rule.name, rule.stops, D("0.0512345678"), None, trips=True).text
    assert text == f"{rule.name} 0.051235, limit unknown: stops {rule.stops}"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "unknown"), (D("NaN"), "NaN"), (D("1E+3"), "1000"), (D("0.0500"), "0.05")]
)
def test_values_are_written_for_a_reader(value: Decimal | None, text: str) -> None:
    """Neither exponents nor a row of zeros."""
    assert short(value) == text


@pytest.mark.parametrize("fraction", ["0.0200001", "0", "-0.01", "NaN"])
def test_no_policy_goes_above_the_hard_limit(fraction: str) -> None:
    """A slip of the keyboard must not risk the account."""
    with pytest.raises(InputError):
        Policy(book="main", risk_fraction_max=D(fraction))


def test_the_hard_limit_itself_is_allowed() -> None:
    """Two percent a trade is what a policy may say at most."""
    assert Policy(book="main", risk_fraction_max=D("0.02")).risk_fraction_max == D("0.02")


# --- through the handlers: the entry is refused by that name, and after a restart too ----------------


@dataclass(frozen=True)
class Case:
    """A slice, and what came before it."""

    signal: dict[str, Any] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    before: tuple[str, ...] | None = None  # symbols wanted at the slice before; None: there is none
    closed: tuple[str, ...] = ()  # results of trades that ended before
    close: datetime = CLOSE


def foreign(count: int) -> dict[str, Any]:
    return {"positions": tuple(a_position("AUDUSD", number=n, used_margin=D(1)) for n in range(count))}


def one_foreign(margin: int) -> dict[str, Any]:
    return {"positions": (a_position("AUDUSD", used_margin=D(margin)),)}


def late(seconds: float) -> dict[str, Any]:
    return {"meta": m.Meta.root("late", CLOSE + timedelta(seconds=seconds))}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def losing(name: LimitName, kind: Kind) -> dict[str, Any]:
    return {"losses": (LossRule(name, kind, D("0.05")),)}


OFFICE = {"sessions": (Window.parse("10:10-20:00"), Window.parse("22:00-01:00"))}
LONDON_GAIN = D("0.001")  # of a cent on 10,000: what separates just below from reached

TRIPPED: dict[LimitName, Case] = {
    LimitName.STALE_SLICE: Case(signal={"live": False}),
    LimitName.LATE_SLICE: Case(account=late(20)),
    LimitName.CLOCK_OFFSET: Case(account={"clock_offset_ms": -2000.0}),
    LimitName.DAY_LOSS: Case(before=(), account={"equity": D(9_500)}),
    LimitName.DRAWDOWN: Case(
        before=(), account={"equity": D(9_000)}, policy=losing(LimitName.DRAWDOWN, Kind.TRAILING)
    ),
    LimitName.PRESET_DAY_LOSS: Case(
        before=(), account={"equity": D(9_500)}, policy=losing(LimitName.PRESET_DAY_LOSS, Kind.DAY)
    ),
    LimitName.PRESET_DRAWDOWN: Case(
        account={"equity": D(9_500)}, policy=losing(LimitName.PRESET_DRAWDOWN, Kind.STATIC)
    ),
    LimitName.LOSING_STREAK: Case(closed=("-1", "2", "-1", "-1", "-1", "-1", "-1")),
    LimitName.SESSION: Case(policy=OFFICE),
    LimitName.ROLLOVER: Case(close=at("2025-01-06T21:55")),
    LimitName.WEEKEND: Case(close=at("2025-01-10T21:00")),
    LimitName.SYNTHETIC_BAR: Case(signal={"real_bars": 13}),
    LimitName.STALE_QUOTE: Case(account={"quotes": {"EURUSD": a_quote(age_s=10)}}),
    LimitName.ASSET_LOCKED: Case(account={"positions": (a_position(),)}),
    LimitName.OPEN_POSITIONS: Case(account=foreign(5)),
    LimitName.ORDERS_PER_HOUR: Case(before=("GBPUSD", "USDJPY"), policy={"orders_per_hour_max": 2}),
    LimitName.RISK_PER_TRADE: Case(signal={"risk_fraction": 0.0050001}),
    LimitName.SPREAD: Case(account={"quotes": {"EURUSD": a_quote(ask=D("1.10035"))}}),
    LimitName.NOTIONAL: Case(account=one_foreign(2_000)),
    LimitName.CURRENCY_EXPOSURE: Case(
        account={"positions": (a_position("GBPUSD", volume_units=D(50_000)),)},
        policy={"sizing": replace(POLICY.sizing, currency_exposure_max=D("6.3506"))},
    ),
    LimitName.MARGIN_USE: Case(account={"used_margin": D(8_000), "free_margin": D(2_000)}),
    LimitName.FREE_MARGIN: Case(account={"free_margin": D(0)}),
}
PASSED: dict[LimitName, Case] = {
    LimitName.LATE_SLICE: Case(account=late(19.999)),
    LimitName.CLOCK_OFFSET: Case(account={"clock_offset_ms": 1999.9}),
    LimitName.DAY_LOSS: Case(before=(), account={"equity": D("9500.01")}),
    LimitName.DRAWDOWN: Case(
        before=(), account={"equity": D("9500.01")}, policy=losing(LimitName.DRAWDOWN, Kind.TRAILING)
    ),
    LimitName.PRESET_DAY_LOSS: Case(
        before=(), account={"equity": D("9500.01")}, policy=losing(LimitName.PRESET_DAY_LOSS, Kind.DAY)
    ),
    LimitName.PRESET_DRAWDOWN: Case(
        account={"equity": D("9500.01")}, policy=losing(LimitName.PRESET_DRAWDOWN, Kind.STATIC)
    ),
    LimitName.LOSING_STREAK: Case(closed=("-1", "-1", "-1", "-1", "0")),
    LimitName.SESSION: Case(policy=OFFICE, close=at("2025-01-06T10:10")),
    LimitName.ROLLOVER: Case(close=at("2025-01-06T21:50")),
    LimitName.WEEKEND: Case(close=at("2025-01-10T20:55")),
    LimitName.SYNTHETIC_BAR: Case(signal={"real_bars": 14}),
    LimitName.STALE_QUOTE: Case(account={"quotes": {"EURUSD": a_quote(age_s=9.9)}}),
    LimitName.ASSET_LOCKED: Case(account={"positions": (a_position("GBPUSD"),)}),
    LimitName.OPEN_POSITIONS: Case(account=foreign(4)),
    LimitName.ORDERS_PER_HOUR: Case(before=("GBPUSD", "USDJPY"), policy={"orders_per_hour_max": 3}),
    LimitName.RISK_PER_TRADE: Case(signal={"risk_fraction": 0.005}),
    LimitName.SPREAD: Case(account={"quotes": {"EURUSD": a_quote(ask=D("1.10034"))}}),
    LimitName.NOTIONAL: Case(account=one_foreign(1_900)),
    LimitName.CURRENCY_EXPOSURE: Case(
        account={"positions": (a_position("GBPUSD", volume_units=D(50_000)),)},
        policy={"sizing": replace(POLICY.sizing, currency_exposure_max=D("6.6"))},
    ),
    LimitName.MARGIN_USE: Case(account={"used_margin": D("7999.99"), "free_margin": D(2_000)}),
    LimitName.FREE_MARGIN: Case(account={"free_margin": D(1_000)}),
}


async def prepared(case: Case) -> tuple[ExecutorHandlers, list[m.AccountReported], Policy]:
    """Return an executor that has seen what came before, and the account of the slice itself."""
    policy = replace(POLICY, **case.policy)
    number = len(case.closed)
    accounts = [an_account(close=BEFORE, execution_number=0)] if case.before is not None else []
    entry = an_account(close=case.close, **({"execution_number": number} | case.account))
    executor = an_executor(*accounts, policy=policy)
    if case.before is not None:
        await give(executor, a_slice(*case.before, close=BEFORE))
    for n, pnl in enumerate(case.closed, start=1):
        await executor.on_execution(an_execution(n, "CLOSED", pnl=D(pnl), close=case.close - FIVE_MINUTES))
    return executor, [entry], policy


async def decided(case: Case, *, restart: bool = False) -> list[m.Message]:
    executor, accounts, policy = await prepared(case)
    account = accounts[0]
    new = an_executor(policy=policy)
    new.restore(executor.snapshot())
    executor = new if restart else executor
    signals = a_slice("EURUSD", close=case.close, **case.signal)
    executor._streams.accounts = {signals[0].account_id: account}  # type: ignore[attr-defined]
    return [each for each in await give(executor, signals) if not isinstance(each, m.EventReported)]


@pytest.mark.parametrize("name", TRIPPED)
async def test_limit_refuses_the_entry_by_its_name_before_and_after_a_restart(name: LimitName) -> None:
    """Each case just reaches its bound. A limit that a restart lifts is none."""
    (refused,) = await decided(TRIPPED[name])
    assert isinstance(refused, m.EntryRefused)
    assert (refused.reason, refused.symbol) == (name, "EURUSD")
    assert refused.detail.startswith(f"{name} ")
    assert await decided(TRIPPED[name], restart=True) == [refused]


@pytest.mark.parametrize("name", PASSED)
async def test_just_below_the_limit_is_traded(name: LimitName) -> None:
    """A limit that always trips would pass every test above."""
    assert reasons(await decided(PASSED[name])) == {"EURUSD": "REQUESTED"}
    assert reasons(await decided(PASSED[name], restart=True)) == {"EURUSD": "REQUESTED"}


def test_every_limit_is_tried_from_both_sides() -> None:
    """A stale slice has no other side: it is live or it is not."""
    assert set(TRIPPED) == set(LimitName)
    assert set(PASSED) == set(LimitName) - {LimitName.STALE_SLICE}


# --- what is not a number trips: such a value cannot come from a stream, but a bug could make it ------

NAN = D("NaN")
BAD_QUOTE = a_quote().model_copy(update={"age_s": float("nan"), "bid": NAN, "ask": NAN})
UNKNOWN: dict[LimitName, tuple[dict[str, Any], dict[str, Any]]] = {
    LimitName.CLOCK_OFFSET: ({"clock_offset_ms": float("nan")}, {}),
    LimitName.DAY_LOSS: ({"equity": NAN}, {}),
    LimitName.DRAWDOWN: ({"equity": NAN}, {}),
    LimitName.STALE_QUOTE: ({"quotes": {"EURUSD": BAD_QUOTE}}, {}),
    LimitName.RISK_PER_TRADE: ({}, {"risk_fraction": float("nan")}),
    LimitName.SPREAD: ({"quotes": {"EURUSD": BAD_QUOTE}}, {}),
    LimitName.NOTIONAL: ({"equity": NAN}, {}),
    LimitName.CURRENCY_EXPOSURE: ({"equity": NAN}, {}),
    LimitName.MARGIN_USE: ({"used_margin": NAN}, {}),
    LimitName.FREE_MARGIN: ({"free_margin": NAN}, {}),
}


def seen(account: dict[str, Any], signal: dict[str, Any], state: ExecutorState | None = None) -> Situation:
    return Situation(
        signal=a_signal().model_copy(update=signal),
        account=an_account().model_copy(update=account),
        state=state or ExecutorState(),
        contracts=CONTRACTS,
        policy=POLICY,
        inputs=INPUTS,
        is_known=True,
    )


def limit_of(name: LimitName, situation: Situation) -> Limit:
    (rule,) = (rule for rule in RULES if rule.name is name)
    limit = rule.limit(situation)
    assert limit is not None
    return limit


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_a_number_trips(name: LimitName) -> None:
    """Whatever computed it: the entry is refused, and the executor does not fall over."""
    account, signal = UNKNOWN[name]
    assert limit_of(name, seen(account, signal)).trips


@pytest.mark.parametrize("equity", ["0", "-1"])
@pytest.mark.parametrize("name", [LimitName.NOTIONAL, LimitName.CURRENCY_EXPOSURE, LimitName.MARGIN_USE])
def test_nothing_is_measured_by_an_equity_that_is_gone(name: LimitName, equity: str) -> None:
    """A part of nothing is no number, and a part of a debt would be below every bound."""
    assert limit_of(name, seen({"equity": D(equity)}, {})).trips


@pytest.mark.parametrize(
    ("bid", "ask", "stop", "trips"),
    [
        ("1.10000", "1.10033", "0.00099", False),  # a third: the floor of the stop
        ("1.10000", "1.09999", "0.00100", True),  # crossed: no price at all
        ("0", "1.1", "0.00100", True),
        ("1.1", "1.1", "NaN", True),
        ("1.1", "1.1", "0", True),
        ("1.1", "1.1", "0.00100", False),
    ],
)
def test_spread_is_measured_by_the_stop(bid: str, ask: str, stop: str, trips: bool) -> None:
    """What is a wide spread depends on how far the stop is."""
    quotes = {"EURUSD": a_quote().model_copy(update={"bid": D(bid), "ask": D(ask)})}
    assert limit_of(LimitName.SPREAD, seen({"quotes": quotes}, {"stop_distance": D(stop)})).trips is trips


def test_what_is_measured_once_a_slice_is_changed_by_no_entry() -> None:
    """Another symbol, slots reserved, a position taken for closed: what is of the slice stands as it was."""
    held = a_position("GBPUSD", used_margin=D(500), unrealized_pnl=D(-80))
    memory = LossMemory(date=CLOSE.date(), level_gain=D(10), latest_gain=D(5))
    losses = {LimitName.DAY_LOSS: memory, LimitName.DRAWDOWN: memory}
    before = seen({"positions": (held,)}, {}, ExecutorState(losses=losses))
    request = Request(
        symbol="EURUSD", direction=m.Direction.LONG, close_time=CLOSE, margin=D(900), notional=D(90_000)
    )
    ledger = Ledger(requests={"TG-main-x": request, "TG-main-y": request})
    state = ExecutorState(ledger=ledger, losses=losses, requested=(CLOSE,))
    after = replace(without(held, before), state=state, signal=a_signal("USDJPY"))
    moved = {rule.name for rule in RULES if rule.of_book and rule.limit(before) != rule.limit(after)}
    assert moved >= {LimitName.OPEN_POSITIONS, LimitName.ORDERS_PER_HOUR, LimitName.NOTIONAL}
    assert not moved & {rule.name for rule in RULES if rule.of_slice}


def test_a_policy_without_a_loss_limit_has_none() -> None:
    """What is not in force is not shown either."""
    situation = seen({}, {})
    names = [limit.name for _, limit in rules.of_book(situation)]
    assert LimitName.PRESET_DRAWDOWN not in names
    assert LimitName.SESSION not in names
    assert LimitName.DRAWDOWN in names


@pytest.mark.parametrize(
    ("symbol", "direction", "held", "exposure"),
    [
        ("EURUSD", m.Direction.LONG, ("GBPUSD", m.Direction.LONG), "63506"),  # both owe dollars
        ("EURUSD", m.Direction.SHORT, ("GBPUSD", m.Direction.LONG), "0"),  # one earns what the other owes
        ("EURUSD", m.Direction.LONG, ("USDJPY", m.Direction.SHORT), "50003.3333"),  # both owe dollars
        ("GBPUSD", m.Direction.LONG, ("EURUSD", m.Direction.LONG), "55004"),
        ("EURUSD", m.Direction.SHORT, ("EURUSD", m.Direction.SHORT), "55004"),
        ("USDJPY", m.Direction.LONG, ("EURUSD", m.Direction.SHORT), "55004"),
        ("USDCHF", m.Direction.LONG, ("XAUUSD", m.Direction.LONG), "0"),
        ("EURUSD", m.Direction.LONG, ("AUDUSD", m.Direction.SHORT), "11000"),  # terms unknown: counts in full
    ],
)
def test_exposure_is_counted_by_currency_and_direction(
    symbol: str, direction: m.Direction, held: tuple[str, m.Direction], exposure: str
) -> None:
    """Five dollar pairs in one direction are one bet, and a hedge is none."""
    volume = D(10) if held[0] == "XAUUSD" else D(50_000)
    position = a_position(held[0], direction=held[1], volume_units=volume)
    situation = seen({"positions": (position,)}, {"symbol": symbol, "direction": direction})
    found = situation.currency_exposure
    assert found is not None
    assert abs(found - D(exposure)) < 1


@pytest.mark.parametrize(
    ("account", "signal"),
    [
        ({}, {"symbol": "AUDUSD"}),  # no terms
        ({}, {"direction": m.Direction.FLAT}),
        ({"positions": (a_position("AUDUSD", used_margin=D(0)),)}, {}),  # of unknown size
    ],
)
def test_exposure_that_cannot_be_counted_is_not_known(
    account: dict[str, Any], signal: dict[str, Any]
) -> None:
    """And neither is the room that is left for a size."""
    situation = seen(account, signal)
    assert situation.currency_exposure is None
    assert situation.funds.currency_exposure.is_nan()


def test_account_in_francs_finds_its_rate_from_dollars() -> None:
    """One dollar costs what USDCHF asks."""
    quotes = {"USDCHF": a_quote("USDCHF", conversion=D(1))}
    assert seen({"currency": "CHF", "quotes": quotes}, {}).usd_conversion == D("0.88013")


async def test_currency_exposure_caps_the_size_before_it_stops_entries() -> None:
    """The last trade that fits is made smaller, and says why."""
    policy = replace(POLICY, sizing=replace(POLICY.sizing, currency_exposure_max=D(6)))
    request, refused = await give(
        an_executor(policy=policy), a_slice("EURUSD", "USDCHF", direction=m.Direction.LONG)
    )
    assert isinstance(request, m.OrderRequested)
    assert request.bound_by == "RISK"
    # long USDCHF earns the dollars that long EURUSD owes: its room is 6 x 10,000 + 51,703
    assert isinstance(refused, m.OrderRequested)
    assert refused.bound_by == "RISK"
    first, second = await give(an_executor(policy=policy), a_slice("EURUSD", "GBPUSD"))
    assert isinstance(second, m.OrderRequested)
    assert (second.bound_by, second.volume_units) == ("CURRENCY_EXPOSURE", D(6_000))
    assert isinstance(first, m.OrderRequested)


# --- how far a limit reaches ----------------------------------------------------------------------


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


BOOK_LIMITS = [rule.name for rule in RULES if rule.of_book]


@pytest.mark.parametrize("name", [LimitName.CLOCK_OFFSET, LimitName.DAY_LOSS, LimitName.ROLLOVER])
async def test_limit_of_the_book_stops_every_symbol(name: LimitName) -> None:
    """It does not matter what the model wants to trade."""
    executor, (account,), _ = await prepared(TRIPPED[name])
    signals = a_slice(*ALL, close=TRIPPED[name].close)
    executor._streams.accounts = {signals[0].account_id: account}  # type: ignore[attr-defined]
    assert reasons(await give(executor, signals)) == dict.fromkeys(ALL, name)


async def test_stale_slice_stops_all_and_reserves_nothing() -> None:
    """Bars that were fetched later are history; their account is of another time."""
    executor = an_executor(an_account(live=False))
    decided = await give(executor, a_slice(*ALL, live=False))
    assert set(reasons(decided).values()) == {"STALE_SLICE"}
    assert executor.state.ledger.requests == {}
    assert executor.state.losses == {}
    assert executor.state.standing == {}


async def test_foreign_position_of_unknown_size_stops_all_entries() -> None:
    """Exposure that cannot be measured is not zero."""
    account = an_account(positions=(a_position("BTCUSD", used_margin=D(0)),))
    decided = await give(an_executor(account), a_slice("EURUSD"))
    assert reasons(decided) == {"EURUSD": "NOTIONAL"}


# --- published: how far each limit is -------------------------------------------------------------


async def test_distance_of_every_limit_of_the_book_is_kept_with_the_state() -> None:
    """A trader sees how much room is left before anything is refused, after a restart too."""
    executor = an_executor(an_account(equity=D(9_800), balance=D(9_900)))
    await give(executor, a_slice())
    standing = restarted(executor).state.standing
    off = {LimitName.PRESET_DAY_LOSS, LimitName.PRESET_DRAWDOWN, LimitName.SESSION}
    assert set(standing) == set(BOOK_LIMITS) - off
    drawdown = standing[LimitName.DRAWDOWN]
    assert (drawdown.value, drawdown.bound, drawdown.trips) == (D("0.02"), D("0.10"), False)
    assert drawdown.money is not None
    assert (drawdown.money.level, drawdown.money.trips_at) == (D(10_000), D(9_000))
    assert standing[LimitName.OPEN_POSITIONS].money is None


async def test_what_trips_is_told_once_and_its_end_too() -> None:
    """An alarm at every slice is one that nobody reads; silence after it leaves a book standing idle."""
    closes = [CLOSE + n * FIVE_MINUTES for n in range(4)]
    offsets = (0.0, 5_000.0, 6_000.0, 0.0)
    accounts = [
        an_account(close=close, clock_offset_ms=offset) for close, offset in zip(closes, offsets, strict=True)
    ]
    executor = an_executor(*accounts)
    told = []
    for close in closes:
        executor = restarted(executor, *accounts)
        for message in await give(executor, a_slice(close=close)):
            assert isinstance(message, m.EventReported)
            told.append((message.severity, message.text, close))
    assert told == [
        (m.Severity.ERROR, "CLOCK_OFFSET 5000, limit 2000: stops all entries while it lasts", closes[1]),
        (m.Severity.INFO, "CLOCK_OFFSET stops nothing any more", closes[3]),
    ]


async def test_orders_of_the_hour_before_do_not_count() -> None:
    """The count goes with the time: an order is out of it an hour after its slice."""
    policy = replace(POLICY, orders_per_hour_max=1)
    closes = [CLOSE, CLOSE + timedelta(minutes=55), CLOSE + timedelta(minutes=60)]
    executor = an_executor(*(an_account(close=close) for close in closes), policy=policy)
    found = [
        reasons(await give(executor, a_slice(symbol, close=close)))[symbol]
        for symbol, close in zip(("EURUSD", "GBPUSD", "USDJPY"), closes, strict=True)
    ]
    assert found == ["REQUESTED", "ORDERS_PER_HOUR", "REQUESTED"]
    assert executor.state.requested == (closes[2],)  # what counts no more is forgotten
