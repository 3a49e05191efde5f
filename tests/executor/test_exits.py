"""What a flat or opposite signal does to our position, by policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from services.executor.handlers import ExecutorHandlers
from services.executor.policy import Policy
from services.executor.settings import ExecutorSettings
from shared import messages as m
from tests.executor.builders import (
    CLOSE,
    POLICY,
    a_command,
    a_position,
    a_signal,
    an_account,
    an_execution,
    an_executor,
    an_id,
    give,
    reasons,
    restarted,
)

D = Decimal
LATER, LATEST = CLOSE + timedelta(minutes=5), CLOSE + timedelta(minutes=10)
OURS = a_position(number=100, client_order_id=an_id(), used_margin=D(100))
LONG, SHORT, FLAT = m.Direction.LONG, m.Direction.SHORT, m.Direction.FLAT
ALLOW, BLOCK, NONE = m.Verdict.ALLOW, m.Verdict.BLOCK, m.Verdict.FLAT


def policy(open_position: str) -> Policy:
    return replace(POLICY, open_position=m.OpenPosition(open_position))


def accounts(*positions: m.PositionReported, **changes: Any) -> list[m.AccountReported]:
    return [
        an_account(close=LATER, execution_number=1, positions=positions, **changes),
        an_account(close=LATEST, execution_number=1, positions=positions, **changes),
    ]


async def holding(how: str, *positions: m.PositionReported, **changes: Any) -> ExecutorHandlers:
    """Return an executor whose request of the first slice was filled."""
    executor = an_executor(an_account(), *accounts(*(positions or (OURS,)), **changes), policy=policy(how))
    await signalled(executor, LONG, ALLOW, how=how)
    await executor.on_execution(an_execution(1, "FILLED"))
    return executor


async def signalled(
    executor: ExecutorHandlers,
    direction: m.Direction,
    verdict: m.Verdict,
    *,
    how: str,
    close: Any = CLOSE,
    **changes: Any,
) -> list[m.Message]:
    """Give a book of one symbol its next signal."""
    signal = a_signal(
        close=close, slice_size=1, direction=direction, verdict=verdict, open_position=how, **changes
    )
    return await give(executor, [signal])


def kinds(messages: list[m.Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


WHAT_ENDS_A_LONG = [(SHORT, ALLOW), (SHORT, BLOCK), (FLAT, NONE)]


@pytest.mark.parametrize(("direction", "verdict"), WHAT_ENDS_A_LONG)
async def test_position_is_left_to_its_levels_by_default(direction: m.Direction, verdict: m.Verdict) -> None:
    """The models were trained so: a position that is cut short is another trade than the one they judged."""
    executor = await holding("hold")
    decided = await signalled(executor, direction, verdict, how="hold", close=LATER)
    assert "CloseRequested" not in kinds(decided)


@pytest.mark.parametrize("how", ["close", "reverse"])
@pytest.mark.parametrize(("direction", "verdict"), WHAT_ENDS_A_LONG)
async def test_flat_or_opposite_signal_closes(how: str, direction: m.Direction, verdict: m.Verdict) -> None:
    """Alpha has changed its mind; whether the opposite entry is allowed is another question."""
    executor = await holding(how)
    closing, *rest = await signalled(executor, direction, verdict, how=how, close=LATER)
    assert isinstance(closing, m.CloseRequested)
    assert (closing.position_id, closing.client_order_id, closing.reason) == (100, an_id(), "SIGNAL")
    assert reasons(rest) == ({"EURUSD": "ASSET_LOCKED"} if (how, verdict) == ("close", ALLOW) else {})


async def test_closing_is_asked_for_once_while_the_position_stands() -> None:
    """The gateway goes on trying; over a restart too."""
    executor = await holding("close")
    await signalled(executor, FLAT, NONE, how="close", close=LATER)
    new = restarted(executor, *accounts(OURS), policy=policy("close"))
    assert await signalled(new, FLAT, NONE, how="close", close=LATEST) == []
    assert new.state.leaving == (100,)


async def test_what_is_gone_is_forgotten() -> None:
    """The memory does not grow with every trade."""
    executor = an_executor(
        an_account(), accounts(OURS)[0], an_account(close=LATEST, execution_number=2), policy=policy("close")
    )
    await signalled(executor, LONG, ALLOW, how="close")
    await executor.on_execution(an_execution(1, "FILLED"))
    await signalled(executor, FLAT, NONE, how="close", close=LATER)
    await executor.on_execution(an_execution(2, "CLOSED"))
    await signalled(executor, FLAT, NONE, how="close", close=LATEST)
    assert executor.state.leaving == ()


@pytest.mark.parametrize(
    ("direction", "verdict", "changes"),
    [
        (LONG, ALLOW, {}),  # the same direction
        (LONG, BLOCK, {}),
        (FLAT, BLOCK, {}),  # no opinion: a model failed
        (FLAT, NONE, {"live": False}),
        (FLAT, NONE, {"synthetic": True}),
    ],
)
async def test_signal_that_says_nothing_new_closes_nothing(
    direction: m.Direction, verdict: m.Verdict, changes: dict[str, Any]
) -> None:
    """An error is no opinion, and an old or invented bar is no news."""
    executor = await holding("close")
    decided = await signalled(executor, direction, verdict, how="close", close=LATER, **changes)
    assert "CloseRequested" not in kinds(decided)


@pytest.mark.parametrize("label", [None, "by hand", "TG-other-20250106T1005-EURUSD"])
async def test_position_of_somebody_else_is_never_closed(label: str | None) -> None:
    """It is watched and counted."""
    executor = await holding("close", a_position(number=7, client_order_id=label))
    assert await signalled(executor, FLAT, NONE, how="close", close=LATER) == []


@pytest.mark.parametrize(("command", "closes"), [("pause", True), ("halt", False)])
async def test_signals_still_close_while_paused_and_not_while_halted(command: str, closes: bool) -> None:
    """A pause lets what is open run as it would; a halt takes the hands off."""
    executor = await holding("close")
    await executor.on_command(a_command(command))
    decided = await signalled(executor, FLAT, NONE, how="close", close=LATER)
    assert ("CloseRequested" in kinds(decided)) is closes


@pytest.mark.parametrize(
    ("trained", "set_to"), [("hold", "close"), ("reverse", "hold"), ("close", "reverse")]
)
async def test_models_of_another_policy_are_not_traded(trained: str, set_to: str) -> None:
    """What they learnt does not hold for what would be done."""
    executor = an_executor(an_account(), *accounts(OURS), policy=policy(set_to))
    decided = await signalled(executor, LONG, ALLOW, how=trained)
    assert reasons(decided) == {"EURUSD": "POLICY_MISMATCH"}
    assert isinstance(decided[0], m.EntryRefused)
    assert trained in decided[0].detail
    assert set_to in decided[0].detail


async def test_models_of_another_policy_close_nothing() -> None:
    """The mismatch is the same for both ways of acting on a signal."""
    executor = await holding("close")
    assert await signalled(executor, FLAT, NONE, how="reverse", close=LATER) == []


async def test_reversal_is_asked_for_once_its_position_is_closed() -> None:
    """Two positions in one symbol never stand beside each other; a restart in between forgets nothing."""
    executor = await holding("reverse")
    (closing,) = await signalled(executor, SHORT, ALLOW, how="reverse", close=LATER)
    assert isinstance(closing, m.CloseRequested)
    executor = restarted(executor, *accounts(OURS), policy=policy("reverse"))
    assert await executor.on_execution(an_execution(2, "CLOSING")) == []
    closed = an_execution(3, "CLOSED")
    (request,) = await executor.on_execution(closed)
    assert isinstance(request, m.OrderRequested)
    assert (request.client_order_id, request.direction) == (an_id(close=LATER), SHORT)
    assert request.valid_until == LATER + timedelta(seconds=20)
    assert request.meta.causation_id == closed.meta.message_id
    assert request.meta.correlation_id == a_signal(close=LATER).meta.correlation_id
    assert executor.state.reversals == {}
    assert an_id(close=LATER) in executor.state.ledger.requests
    assert await executor.on_execution(an_execution(4, "CLOSED")) == []


async def test_reversal_is_sized_as_if_its_position_were_gone() -> None:
    """Its margin is free by then, and its symbol is not locked by itself."""
    executor = await holding("reverse", OURS, free_margin=D(900), used_margin=D(100))
    await signalled(executor, SHORT, ALLOW, how="reverse", close=LATER)
    (kept,) = executor.state.reversals.values()
    assert kept.bound_by == "FREE_MARGIN"
    assert D(489) < kept.reserved_margin <= D(500)  # half of 1,000, not of 900


async def test_reversal_that_a_limit_refuses_still_closes() -> None:
    """The close follows the opinion, the entry the limits."""
    executor = await holding("reverse")
    closing, refused = await signalled(
        executor, SHORT, ALLOW, how="reverse", close=LATER, risk_fraction=0.006
    )
    assert isinstance(closing, m.CloseRequested)
    assert reasons([refused]) == {"EURUSD": "RISK_PER_TRADE"}
    assert executor.state.reversals == {}


async def test_another_position_in_the_symbol_locks_the_reversal() -> None:
    """Only ours goes away."""
    executor = await holding("reverse", a_position(number=7), OURS)
    _, refused = await signalled(executor, SHORT, ALLOW, how="reverse", close=LATER)
    assert reasons([refused]) == {"EURUSD": "ASSET_LOCKED"}


async def test_reversal_whose_position_stands_at_the_next_slice_is_given_up() -> None:
    """Every allowed signal has one recorded outcome, and what was reserved is free again."""
    executor = await holding("reverse")
    await signalled(executor, SHORT, ALLOW, how="reverse", close=LATER)
    assert an_id(close=LATER) in executor.state.ledger.requests
    (refused,) = await signalled(executor, LONG, BLOCK, how="reverse", close=LATEST)
    assert isinstance(refused, m.EntryRefused)
    assert (refused.client_order_id, refused.reason) == (an_id(close=LATER), "NOT_CLOSED")
    assert executor.state.reversals == {}
    assert executor.state.ledger.requests == {}
    assert await executor.on_execution(an_execution(2, "CLOSED")) == []


async def test_stop_given_before_the_closing_refuses_the_reversal() -> None:
    """It was decided before the stop and would leave after it."""
    executor = await holding("reverse")
    await signalled(executor, SHORT, ALLOW, how="reverse", close=LATER)
    await executor.on_command(a_command("halt"))
    (refused,) = await executor.on_execution(an_execution(2, "CLOSED"))
    assert reasons([refused]) == {"EURUSD": "HALTED"}
    assert executor.state.ledger.requests == {}


async def test_flattening_ends_though_a_reversal_was_waiting() -> None:
    """Its refusal frees the slot that would keep the book from being flat."""
    executor = await holding("reverse")
    await signalled(executor, SHORT, ALLOW, how="reverse", close=LATER)
    assert kinds(await executor.on_command(a_command("flatten"))) == ["EventReported", "CloseRequested"]
    refused, paused = await executor.on_execution(an_execution(2, "CLOSED"))
    assert reasons([refused]) == {"EURUSD": "FLATTENING"}
    assert isinstance(paused, m.EventReported)
    assert paused.details["state"] == "PAUSED"


async def test_closing_of_another_position_asks_for_nothing() -> None:
    """The reversal waits for its own."""
    executor = await holding("reverse")
    await signalled(executor, SHORT, ALLOW, how="reverse", close=LATER)
    assert await executor.on_execution(an_execution(2, "CLOSED", position_id=7)) == []
    assert await executor.on_execution(an_execution(3, "CLOSED", position_id=None)) == []


def test_policy_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the default is what the models of this repository were trained with."""
    assert ExecutorSettings(_env_file=None).policy().open_position is m.OpenPosition.HOLD
    monkeypatch.setenv("EXECUTOR_OPEN_POSITION", "reverse")
    assert ExecutorSettings(_env_file=None).policy().open_position is m.OpenPosition.REVERSE
