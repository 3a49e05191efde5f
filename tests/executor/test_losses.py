"""Loss limits: what loss is counted from, on balance or equity, and the presets of evaluation accounts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given as given_that
from hypothesis import strategies as st

from services.executor.control import ControlState
from services.executor.handlers import ExecutorHandlers
from services.executor.limits import LimitName
from services.executor.losses import Basis, Kind, LossMemory, LossRule, Of, in_money, measured, memories_after
from services.executor.policy import Policy
from services.executor.presets import PRESETS
from services.executor.settings import ExecutorSettings
from shared import messages as m
from shared.errors import InputError
from tests.executor.builders import (
    INPUTS,
    POLICY,
    a_command,
    a_slice,
    an_account,
    an_execution,
    an_executor,
    give,
    reasons,
    restarted,
)

D = Decimal
NAME = LimitName.DRAWDOWN
FIVE_MINUTES = timedelta(minutes=5)
MORNING = datetime(2025, 1, 6, 10, 5, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def a_rule(kind: Kind = Kind.DAY, fraction: str = "0.05", **words: Any) -> LossRule:
    return LossRule(NAME, kind, D(fraction), **words)


def money(equity: str, balance: str | None = None, initial: str = "10000") -> m.AccountReported:
    return an_account(
        equity=D(equity), balance=D(balance or equity), initial_equity=D(initial), peak_equity=D(initial)
    )


def after(rule: LossRule, *slices: tuple[str, m.AccountReported]) -> LossMemory:
    memories: dict[LimitName, LossMemory] = {}
    for moment, account in slices:
        memories = memories_after((rule,), memories, at(moment), account)
    return memories[NAME]


def loss(rule: LossRule, *slices: tuple[str, m.AccountReported]) -> Decimal | None:
    return measured(rule, after(rule, *slices), slices[-1][1])[0]


# --- by day -----------------------------------------------------------------------------------------


def test_day_begins_with_the_equity_at_the_roll() -> None:
    """The slice that closes at the roll is the first of the new day."""
    memory = after(a_rule(), ("2025-01-06T21:55", money("10000")), ("2025-01-06T22:00", money("9900")))
    assert (memory.level_gain, memory.date) == (D(-100), date(2025, 1, 7))


def test_day_begins_with_the_last_equity_known_before_the_roll() -> None:
    """Over the weekend or a stop nobody sees the roll: a gap at the opening counts as loss of the new day."""
    slices = ("2025-01-03T21:55", money("10000")), ("2025-01-05T22:05", money("9600"))
    assert loss(a_rule(), *slices) == D("0.04")


@pytest.mark.parametrize(
    ("equity", "initial", "expected"), [("4900", "5000", "0.02"), ("19200", "20000", "0.04")]
)
def test_money_paid_in_or_out_is_neither_profit_nor_loss(equity: str, initial: str, expected: str) -> None:
    """A withdrawal must not trip the limit, a deposit must not hide a loss."""
    slices = ("2025-01-06T10:00", money("10000")), ("2025-01-06T10:05", money(equity, initial=initial))
    assert loss(a_rule(), *slices) == D(expected)


@pytest.mark.parametrize("equity", ["0", "-5"])
def test_loss_of_nothing_is_unknown_and_latches(equity: str) -> None:
    """A fraction of zero is no number, and the limit trips."""
    slices = (("2025-01-06T10:00", money(equity)),)
    assert loss(a_rule(), *slices) is None
    assert after(a_rule(), *slices).reached


def test_limit_stays_reached_until_the_day_rolls() -> None:
    """A position that recovers does not open the book again; the next day does."""
    down, up = ("2025-01-06T10:05", money("9400")), ("2025-01-06T10:10", money("10000"))
    start = ("2025-01-06T10:00", money("10000"))
    assert after(a_rule(), start, down, up).reached
    assert loss(a_rule(), start, down, up) == D("0.05")
    assert not after(a_rule(), start, down, up, ("2025-01-06T22:00", money("10000"))).reached


@pytest.mark.parametrize(
    ("level", "expected"), [(Basis.EQUITY, "0.02"), (Basis.BALANCE, "0.01"), (Basis.HIGHER, "0.02")]
)
def test_day_may_begin_with_balance_or_equity(level: Basis, expected: str) -> None:
    """With open positions at the roll they differ, and so do evaluation accounts."""
    slices = (
        ("2025-01-06T22:00", money("10000", "9900")),
        ("2025-01-06T22:05", money("9800", "9900")),
    )
    assert loss(a_rule(level=level, of=Of.INITIAL), *slices) == D(expected)


# --- in total -------------------------------------------------------------------------------------


def test_static_limit_counts_from_the_initial_equity() -> None:
    """Profit made before is room; a peak changes nothing."""
    slices = ("2025-01-06T10:00", money("12000")), ("2025-01-06T10:05", money("9700"))
    assert loss(a_rule(Kind.STATIC), *slices) == D("0.03")


def test_trailing_limit_counts_from_the_highest_equity() -> None:
    """Floating profit raises it at once, and it never falls."""
    slices = [("2025-01-06T10:00", money("10000")), ("2025-01-06T10:05", money("12500", "10000"))]
    slices += [("2025-01-06T10:10", money("11875"))]
    assert loss(a_rule(Kind.TRAILING), *slices) == D("0.05")
    assert loss(
        a_rule(Kind.TRAILING, level=Basis.BALANCE), *slices[:2], ("2025-01-06T10:10", money("9500"))
    ) == D("0.05")


def test_trailing_limit_begins_with_the_peak_that_the_account_knows() -> None:
    """A book that is taken over does not forget how high it stood."""
    account = an_account(equity=D(9_500), peak_equity=D(12_500))
    memories = memories_after((a_rule(Kind.TRAILING),), {}, MORNING, account)
    assert measured(a_rule(Kind.TRAILING), memories[NAME], account)[0] == D("0.24")


def test_daily_trailing_limit_counts_from_the_highest_level_at_a_roll() -> None:
    """A profit that is gone before the day rolls raises nothing."""
    rule = a_rule(Kind.TRAILING_DAILY, of=Of.INITIAL, level=Basis.BALANCE)
    day = [("2025-01-06T10:00", money("10000")), ("2025-01-06T12:00", money("10400"))]
    assert loss(rule, *day, ("2025-01-06T13:00", money("9800"))) == D("0.02")
    rolled = [*day, ("2025-01-06T22:00", money("10400"))]
    assert loss(rule, *rolled, ("2025-01-06T22:05", money("10100"))) == D("0.03")
    lower = [*rolled, ("2025-01-07T22:00", money("10200"))]
    assert loss(rule, *lower, ("2025-01-07T22:05", money("10100"))) == D("0.03")


def test_limit_that_locks_does_not_rise_above_the_initial_equity() -> None:
    """With 6 % of 10,000 allowed it trails up to a level of 10,600 and then stays at 10,000."""
    rule = a_rule(Kind.TRAILING, "0.06", of=Of.INITIAL, locks_at_initial=True)
    for equity, trips_at in (("10000", 9400), ("10300", 9700), ("10600", 10000), ("15000", 10000)):
        account = money(equity)
        memory = after(rule, ("2025-01-06T10:00", money("10000")), ("2025-01-06T10:05", account))
        assert in_money(rule, memory, account).trips_at == trips_at


def test_limit_on_balance_does_not_see_open_positions() -> None:
    """Only closed trades are held against it."""
    rule = a_rule(Kind.STATIC, measured=Basis.BALANCE)
    assert loss(rule, ("2025-01-06T10:00", money("9000", "9900"))) == D("0.01")


@pytest.mark.parametrize("name", ["equity", "balance", "initial_equity", "peak_equity"])
def test_unknown_money_changes_no_memory(name: str) -> None:
    """What a limit has remembered of better days stays; the measure of now trips by itself."""
    before = {NAME: after(a_rule(), ("2025-01-06T10:00", money("10000")))}
    account = money("9000").model_copy(update={name: D("NaN")})
    assert memories_after((a_rule(),), before, MORNING, account) == before


@pytest.mark.parametrize("fraction", ["0", "1.01", "-0.1", "NaN"])
def test_loss_limit_that_is_none_is_refused(fraction: str) -> None:
    """More than everything cannot be lost."""
    with pytest.raises(InputError):
        a_rule(fraction=fraction)


EQUITIES = st.lists(st.decimals(1, 30_000, places=2), min_size=1, max_size=30)


@given_that(equities=EQUITIES, kind=st.sampled_from(Kind), of=st.sampled_from(Of), locks=st.booleans())
def test_trips_exactly_where_it_says(equities: Sequence[Decimal], kind: Kind, of: Of, locks: bool) -> None:
    """The money at which a limit trips is what a trader watches: it is the same rule."""
    rule = a_rule(kind, of=of, locks_at_initial=locks)
    memory = after(
        rule,
        *(
            ((MORNING + n * timedelta(hours=3)).replace(tzinfo=None).isoformat(), money(str(each)))
            for n, each in enumerate(equities)
        ),
    )
    account = money(str(equities[-1]))
    fresh = memory.model_copy(update={"reached": False})
    value, bound = measured(rule, fresh, account)
    if value is None or bound is None:
        return
    trips_at = in_money(rule, fresh, account).trips_at
    assert (value >= bound) is (account.equity <= trips_at)


@given_that(equities=EQUITIES, kind=st.sampled_from([Kind.TRAILING, Kind.TRAILING_DAILY]))
def test_trailing_level_never_falls(equities: Sequence[Decimal], kind: Kind) -> None:
    """Else a loss would make room for the next one."""
    rule, memories, levels = a_rule(kind), dict[LimitName, LossMemory](), []
    for n, equity in enumerate(equities):
        memories = memories_after((rule,), memories, MORNING + n * timedelta(hours=3), money(str(equity)))
        levels.append(memories[NAME].level_gain)
    assert levels == sorted(levels)


# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_both_limits_and_a_source(name: str) -> None:
    """Without a page to compare with, a number is only a rumour: then it says that it is assumed."""
    preset = PRESETS[name]
    assert [rule.name for rule in preset.losses] == [LimitName.PRESET_DAY_LOSS, LimitName.PRESET_DRAWDOWN]
    assert preset.source.startswith(("https://", "assumed"))


def of_preset(name: str, index: int, *slices: tuple[str, m.AccountReported]) -> Decimal:
    """Return the equity at which a preset's limit trips after some slices."""
    rule = PRESETS[name].losses[index]
    memories: dict[LimitName, LossMemory] = {}
    for moment, account in slices:
        memories = memories_after((rule,), memories, at(moment), account)
    return in_money(rule, memories[rule.name], slices[-1][1]).trips_at


def test_published_example_of_the_trailing_total_loss() -> None:
    """Worked by the firm: 100,000, then 104,000 at midnight, then 103,000: 90,000, 94,000, 94,000."""
    days = [
        ("2025-01-06T10:00", money("100000", initial="100000")),
        ("2025-01-06T23:00", money("104000", initial="100000")),
        ("2025-01-07T23:00", money("103000", initial="100000")),
    ]
    found = [of_preset("ftmo-1-step", 1, *days[:n]) for n in (1, 2, 3)]
    assert found == [90_000, 94_000, 94_000]


def test_published_daily_loss_counts_from_the_balance_at_midnight_in_prague() -> None:
    """5 % of the initial capital below it; open positions at midnight do not lower the level."""
    slices = [
        ("2025-01-06T10:00", money("100000", initial="100000")),
        ("2025-01-06T23:00", money("101000", "104000", initial="100000")),
        ("2025-01-07T00:05", money("102000", "104000", initial="100000")),
    ]
    assert of_preset("ftmo-2-step", 0, *slices[:1]) == 95_000
    assert of_preset("ftmo-2-step", 0, *slices) == 99_000
    assert of_preset("ftmo-2-step", 1, *slices) == 90_000


def test_published_daily_loss_counts_from_the_higher_of_balance_and_equity() -> None:
    """At 17:00 in New York, 5 % of that level."""
    slices = [
        ("2025-01-06T21:55", money("100000", initial="100000")),
        ("2025-01-06T22:00", money("102000", "101000", initial="100000")),
    ]
    assert of_preset("the5ers-high-stakes", 0, *slices) == D("96900")


def test_preset_holds_beside_the_limits_of_the_book(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tighter one stops first, whoever set it."""
    monkeypatch.setenv("EXECUTOR_PRESET", "trailing-equity")
    monkeypatch.setenv("EXECUTOR_DRAWDOWN_FRACTION_MAX", "0.04")
    rules = ExecutorSettings(_env_file=None).policy().losses
    assert {rule.name: rule.fraction_max for rule in rules} == {
        LimitName.DAY_LOSS: D("0.05"),
        LimitName.DRAWDOWN: D("0.04"),
        LimitName.PRESET_DAY_LOSS: D("0.04"),
        LimitName.PRESET_DRAWDOWN: D("0.06"),
    }


# --- through the handlers -------------------------------------------------------------------------


def falling(*equities: str) -> list[m.AccountReported]:
    return [an_account(close=MORNING + n * FIVE_MINUTES, equity=D(each)) for n, each in enumerate(equities)]


async def slices(
    executor: ExecutorHandlers, count: int, *wanted: str, first: int = 0
) -> list[list[m.Message]]:
    return [
        await give(executor, a_slice(*wanted, close=MORNING + n * FIVE_MINUTES))
        for n in range(first, first + count)
    ]


async def test_day_loss_stops_all_entries_and_is_announced_once_a_day() -> None:
    """Reaching the limit is enough; neither a restart nor a recovery lifts or repeats it."""
    accounts = falling("10000", "9500", "9400", "10100")
    executor = an_executor(*accounts)
    nothing, (event, refused) = await slices(executor, 2, "EURUSD")
    assert reasons(nothing) == {"EURUSD": "REQUESTED"}
    assert isinstance(event, m.EventReported)
    assert (event.kind, event.severity) == ("limit", m.Severity.CRITICAL)
    assert "until the day rolls" in event.text
    assert reasons([refused]) == {"EURUSD": "DAY_LOSS"}
    executor = restarted(executor, *accounts)
    for again in await slices(executor, 2, "EURUSD", "USDJPY", first=2):
        assert reasons(again) == {"EURUSD": "DAY_LOSS", "USDJPY": "DAY_LOSS"}
        assert len(again) == 2


async def test_loss_of_the_day_before_does_not_count() -> None:
    """At the roll the new day begins with the equity it finds."""
    roll = at("2025-01-06T22:00")
    policy = replace(POLICY, rollover_before_min=0, rollover_after_min=0)
    executor = an_executor(an_account(close=MORNING), an_account(close=roll, equity=D(9_400)), policy=policy)
    await give(executor, a_slice(close=MORNING))
    assert reasons(await give(executor, a_slice("EURUSD", close=roll))) == {"EURUSD": "REQUESTED"}


TOTAL = replace(POLICY, losses=(LossRule(LimitName.DRAWDOWN, Kind.TRAILING, D("0.10")),))


async def test_drawdown_stops_all_entries_until_an_operator_resumes() -> None:
    """A recovery does not lift it, nor does a restart; a resume does, if the loss is not there any more."""
    accounts = falling("10000", "9000", "9900", "9900", "9000", "9000")
    executor = an_executor(*accounts, policy=TOTAL)
    await slices(executor, 2)
    executor = restarted(executor, *accounts, policy=TOTAL)
    (still,) = await slices(executor, 1, "EURUSD", first=2)
    assert reasons(still) == {"EURUSD": "DRAWDOWN"}
    await executor.on_command(a_command("resume"))
    executor = restarted(executor, *accounts, policy=TOTAL)
    (lifted,) = await slices(executor, 1, "EURUSD", first=3)
    assert reasons(lifted) == {"EURUSD": "REQUESTED"}
    (event, _), (_,) = await slices(executor, 2, "GBPUSD", first=4)
    assert isinstance(event, m.EventReported)


async def test_resume_does_not_lift_what_lasts_for_the_day() -> None:
    """Nor a drawdown that is still there: another setting does, or another day."""
    accounts = falling("10000", "9500", "9500", "9500")
    executor = an_executor(*accounts)
    await slices(executor, 2)
    await executor.on_command(a_command("resume"))
    (again,) = await slices(executor, 1, "EURUSD", first=2)
    assert reasons(again) == {"EURUSD": "DAY_LOSS"}
    assert len(again) == 1  # it was told before
    total = an_executor(*falling("10000", "9000", "9000"), policy=TOTAL)
    await slices(total, 2)
    await total.on_command(a_command("resume"))
    ((event, refused),) = await slices(total, 1, "EURUSD", first=2)
    assert isinstance(event, m.EventReported)
    assert reasons([refused]) == {"EURUSD": "DRAWDOWN"}


FLATTENING = replace(POLICY, flatten_on_loss=True)


async def test_loss_limit_that_flattens_closes_ours_and_pauses() -> None:
    """Where the firm's rule ends the account, what is open is closed before it gets there."""
    accounts = [
        *falling("10000"),
        an_account(close=MORNING + FIVE_MINUTES, equity=D(9_500), execution_number=1),
    ]
    executor = an_executor(*accounts, policy=FLATTENING)
    await slices(executor, 1, "EURUSD")
    await executor.on_execution(an_execution(1, "FILLED", close=MORNING))
    (messages,) = await slices(executor, 1, "GBPUSD", first=1)
    limit, control, refused, close = messages
    assert isinstance(limit, m.EventReported)
    assert isinstance(control, m.EventReported)
    assert (control.details["state"], control.details["who"]) == ("FLATTENING", "executor")
    assert control.details["why"].startswith("DAY_LOSS 0.05")
    assert json.loads(control.details["inputs"]) == INPUTS
    assert reasons([refused]) == {"GBPUSD": "FLATTENING"}
    assert isinstance(close, m.CloseRequested)
    await executor.on_execution(an_execution(2, "CLOSED", close=MORNING))
    assert executor.state.control.state is ControlState.PAUSED


async def test_a_limit_flattens_once_and_never_lifts_a_halt() -> None:
    """Whoever resumes a book that lost its day gets refusals, not a flattening at every slice."""
    executor = an_executor(*falling("10000", "9500", "9400", "9300"), policy=FLATTENING)
    await slices(executor, 2)
    assert executor.state.control.state is ControlState.PAUSED
    await executor.on_command(a_command("resume"))
    (messages,) = await slices(executor, 1, "EURUSD", first=2)
    assert reasons(messages) == {"EURUSD": "DAY_LOSS"}
    halted = an_executor(*falling("10000", "9500"), policy=FLATTENING)
    await halted.on_command(a_command("halt"))
    await slices(halted, 2)
    assert halted.state.control.state is ControlState.HALTED


async def test_limit_that_is_no_loss_never_flattens() -> None:
    """A clock that is wrong is no reason to sell; nor is the end of a loss limit's day."""
    clock = an_account(close=MORNING, clock_offset_ms=5_000)
    executor = an_executor(clock, policy=FLATTENING)
    await slices(executor, 1)
    assert executor.state.control.state is ControlState.RUNNING
    tomorrow = MORNING + timedelta(days=1)
    accounts = [*falling("10000", "9500"), an_account(close=tomorrow, equity=D(9_500))]
    executor = an_executor(*accounts, policy=FLATTENING)
    await slices(executor, 2)
    await executor.on_command(a_command("resume"))
    (ended,) = await give(executor, a_slice(close=tomorrow))
    assert isinstance(ended, m.EventReported)
    assert ended.text == "DAY_LOSS stops nothing any more"
    assert executor.state.control.state is ControlState.RUNNING


async def test_limits_that_trip_together_are_told_apart() -> None:
    """Each has its own id, and the money it was measured on; none is taken for a repetition."""
    executor = an_executor(*falling("10000", "8900"))
    _, told = await slices(executor, 2)
    details = [each.details for each in told if isinstance(each, m.EventReported)]
    assert details == [
        {"limit": name, "equity": "8900", "balance": "10000"} for name in ("DAY_LOSS", "DRAWDOWN")
    ]
    assert len({each.meta.message_id for each in told}) == 2


def test_default_policy_keeps_positions() -> None:
    """They have their stops; closing them at once is a choice."""
    assert Policy(book="main").flatten_on_loss is False
