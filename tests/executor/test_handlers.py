"""The executor's handlers: holding a slice, numbered executions, memory over a restart, settings."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from services.executor.days import Roll, Window
from services.executor.handlers import ExecutorHandlers
from services.executor.policy import Policy
from services.executor.settings import ExecutorSettings
from shared.errors import InputError, InvariantError, UnavailableError
from tests.executor.builders import (
    CLOSE,
    POLICY,
    FakeStreams,
    a_position,
    a_signal,
    a_slice,
    an_account,
    an_execution,
    an_executor,
    an_id,
    give,
    reasons,
    restarted,
)

D = Decimal
LATER = CLOSE + timedelta(minutes=5)


async def test_slice_without_its_account_is_tried_again_and_then_decided_once() -> None:
    """The same delivery comes again: nothing is doubled by the first try."""
    streams = FakeStreams()
    account = streams.accounts.pop("1736157900000-0")
    executor = ExecutorHandlers(streams, POLICY)
    signals = a_slice("EURUSD")
    with pytest.raises(UnavailableError):
        await give(executor, signals)
    streams.accounts["1736157900000-0"] = account
    decided = await executor.on_signal(signals[-1])
    assert decided is not None
    assert reasons(decided) == {"EURUSD": "REQUESTED"}


async def test_restore_forgets_a_slice_that_is_not_complete() -> None:
    """What was not committed is delivered again from its first signal."""
    executor = an_executor()
    for signal in a_slice("EURUSD")[:3]:
        await executor.on_signal(signal)
    executor.restore(executor.snapshot())
    assert reasons(await give(executor, a_slice("EURUSD"))) == {"EURUSD": "REQUESTED"}


async def test_slice_with_a_hole_is_refused_as_a_whole() -> None:
    """Symbols that do not see each other would be decided as if they were alone."""
    executor = an_executor()
    await executor.on_signal(a_signal("EURUSD"))
    with pytest.raises(InputError, match=r"\[1, 2, 3\]"):
        await executor.on_signal(a_signal("XAUUSD"))
    assert reasons(await give(executor, a_slice("EURUSD"))) == {"EURUSD": "REQUESTED"}


async def test_signals_of_a_slice_that_was_put_aside_do_not_mix_with_the_next() -> None:
    """Its last signal went to the dead letters; those before it are held no longer."""
    executor = an_executor(an_account(close=LATER))
    for signal in a_slice("EURUSD")[:4]:
        await executor.on_signal(signal)
    assert reasons(await give(executor, a_slice("GBPUSD", close=LATER))) == {"GBPUSD": "REQUESTED"}


async def test_book_of_one_symbol_decides_at_once() -> None:
    """The last signal of a slice may be its first."""
    decided = await an_executor().on_signal(a_signal(slice_size=1))
    assert decided is not None
    assert reasons(decided) == {"EURUSD": "REQUESTED"}


async def test_execution_read_twice_changes_nothing() -> None:
    """Its number says so."""
    executor = an_executor()
    await executor.on_execution(an_execution(1, "FILLED"))
    await executor.on_execution(an_execution(2, "CLOSED"))
    before = executor.snapshot()
    assert await executor.on_execution(an_execution(1, "FILLED")) == []
    assert executor.snapshot() == before


async def test_missing_execution_stops_the_executor() -> None:
    """What it said may be that we hold a position."""
    executor = an_executor()
    with pytest.raises(InvariantError, match="execution 2 follows 0"):
        await executor.on_execution(an_execution(2))


@pytest.mark.parametrize(
    "label", ["", "manual", "TG-main-x", "TG-main-2-20250106T1005-EURUSD", "TG-main-20259906T1005-EURUSD"]
)
async def test_execution_of_another_owner_is_counted_but_not_ours(label: str) -> None:
    """Another book's name may begin like ours: its positions are never closed by us."""
    executor = an_executor()
    await executor.on_execution(an_execution(1, "FILLED", client_order_id=label))
    assert executor.state.ledger.positions == {}
    assert executor.state.ledger.requests == {}
    assert executor.state.ledger.last_execution == 1


async def test_two_positions_with_one_label_are_both_ours_until_each_is_closed() -> None:
    """The gateway closes the younger one; a flatten in between must reach both."""
    executor = an_executor()
    await executor.on_execution(an_execution(1, "FILLED"))
    await executor.on_execution(an_execution(2, "FILLED", position_id=900))
    assert executor.state.ledger.positions.keys() == {100, 900}
    await executor.on_execution(an_execution(3, "CLOSED", position_id=900))
    assert executor.state.ledger.positions.keys() == {100}
    await executor.on_execution(an_execution(4, "CLOSED", position_id=None))
    assert executor.state.ledger.positions == {}


async def test_not_sent_may_still_turn_out_filled() -> None:
    """The venue was asked twice and wrong twice: the position is ours all the same."""
    executor = an_executor(
        an_account(),
        an_account(close=LATER, execution_number=1),
    )
    await give(executor, a_slice("EURUSD"))
    await executor.on_execution(an_execution(1, "NOT_SENT"))
    await give(executor, a_slice(close=LATER))
    await executor.on_execution(an_execution(2, "FILLED"))
    assert executor.state.ledger.positions.keys() == {100}
    assert executor.state.ledger.requests == {}


async def test_reservations_survive_a_restart() -> None:
    """A process that dies between request and fill must not trade the symbol twice."""
    accounts = an_account(), an_account(close=LATER)
    executor = an_executor(*accounts)
    await give(executor, a_slice("EURUSD"))
    executor = restarted(executor, *accounts)
    decided = await give(executor, a_slice("EURUSD", close=LATER))
    assert reasons(decided) == {"EURUSD": "ASSET_LOCKED"}


async def test_memory_stays_small() -> None:
    """What is settled is forgotten: the state is written with every commit."""
    executor = an_executor(
        *(an_account(close=CLOSE + n * timedelta(minutes=5), execution_number=n) for n in range(50))
    )
    for n in range(50):
        close = CLOSE + n * timedelta(minutes=5)
        await give(executor, a_slice("EURUSD", close=close))
        await executor.on_execution(an_execution(n + 1, "EXPIRED", close=close))
    assert len(executor.state.ledger.requests) == 1


async def test_settled_request_that_is_forgotten_is_not_adopted_again() -> None:
    """Its position is protected and closed later, under the same id: it holds no slot any more."""
    ours = a_position(number=100, client_order_id=an_id())
    third = CLOSE + timedelta(minutes=10)
    executor = an_executor(
        an_account(),
        an_account(close=LATER, execution_number=1, positions=(ours,)),
        an_account(close=third, execution_number=4),
    )
    await give(executor, a_slice("EURUSD"))
    await executor.on_execution(an_execution(1, "FILLED"))
    await give(executor, a_slice(close=LATER))
    for number, kind in enumerate(("CLOSING", "UNKNOWN", "CLOSED"), start=2):
        await executor.on_execution(an_execution(number, kind))
    assert reasons(await give(executor, a_slice("EURUSD", close=third))) == {"EURUSD": "REQUESTED"}


async def test_snapshot_is_plain_json() -> None:
    """Whoever opens `redis-cli` understands it."""
    executor = an_executor()
    await give(executor, a_slice("EURUSD"))
    saved = json.loads(executor.snapshot())
    assert saved["control"]["state"] == "RUNNING"
    assert saved["ledger"]["requests"][an_id()]["symbol"] == "EURUSD"


@pytest.mark.parametrize("data", [None, b""])
async def test_fresh_book_is_running(data: bytes | None) -> None:
    """Nothing was saved, so nothing is lost."""
    executor = an_executor()
    executor.restore(data)
    assert reasons(await give(executor, a_slice("EURUSD"))) == {"EURUSD": "REQUESTED"}


async def test_terms_are_read_once_and_again_when_they_change() -> None:
    """The account entry says which terms it goes with; with others nothing is sized."""
    streams = FakeStreams(an_account(), an_account(close=LATER, contracts_hash="another"))
    executor = ExecutorHandlers(streams, POLICY)
    await give(executor, a_slice("EURUSD"))
    assert streams.reads == 1
    decided = await give(executor, a_slice("GBPUSD", close=LATER))
    assert reasons(decided) == {"GBPUSD": "CONTRACT_UNKNOWN"}
    assert streams.reads == 2


def test_settings_default_to_the_policy() -> None:
    """One set of defaults: what training and the simulation take is what runs."""
    settings = ExecutorSettings(_env_file=None)
    assert settings.policy() == Policy(book="main")


def test_settings_reach_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that nobody reads would be a promise to the trader who made it."""
    given = {
        "SESSIONS": "07:00-12:00, 22:00-01:00",
        "ON_LOSS_LIMIT": "flatten",
        "DAY_ROLL_ZONE": "UTC",
        "DAY_ROLL_HOUR": "0",
        "CURRENCY_EXPOSURE_MAX": "6",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"EXECUTOR_{name}", value)
    policy = ExecutorSettings(_env_file=None).policy()
    assert policy.sessions == (Window.parse("07:00-12:00"), Window.parse("22:00-01:00"))
    assert policy.flatten_on_loss
    assert {rule.roll for rule in policy.losses} == {Roll("UTC", 0)}
    assert policy.sizing.currency_exposure_max == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RISK_FRACTION_MAX", "0.0201"),
        ("RISK_FRACTION_MAX", "0"),
        ("RISK_FRACTION_MAX", "NaN"),
        ("MAX_OPEN_POSITIONS", "0"),
        ("DAY_LOSS_FRACTION_MAX", "0"),
        ("DRAWDOWN_FRACTION_MAX", "1.5"),
        ("PRESET", "ftmo"),
        ("SESSIONS", "7-20"),
        ("SESSION_ZONE", "London"),
        ("ON_LOSS_LIMIT", "ignore"),
        ("DAY_ROLL_ZONE", "New York"),
        ("DAY_ROLL_HOUR", "24"),
        ("QUOTE_AGE_MAX_S", "Infinity"),
    ],
)
def test_settings_that_would_disarm_a_limit_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong setting stops the start, not the trade."""
    monkeypatch.setenv(f"EXECUTOR_{name}", value)
    with pytest.raises(ValidationError):
        ExecutorSettings(_env_file=None)
