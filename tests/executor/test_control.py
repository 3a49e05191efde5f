"""The kill switch: its table, and what it stops."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from services.executor.control import TRANSITIONS, Control, ControlState, Flattened
from services.executor.handlers import ExecutorHandlers
from shared import messages as m
from tests.executor.builders import (
    CLOSE,
    a_command,
    a_position,
    a_slice,
    an_account,
    an_execution,
    an_executor,
    an_id,
    give,
    reasons,
    restarted,
)

LATER = CLOSE + timedelta(minutes=5)


def state_of(executor: ExecutorHandlers) -> ControlState:
    return executor.state.control.state


def test_table_knows_every_pair() -> None:
    """A pair that is missing would raise in the moment when it is needed most."""
    assert set(TRANSITIONS) == set(product(ControlState, (*m.Command, *Flattened)))


@pytest.mark.parametrize("what", [m.Command.PAUSE, m.Command.FLATTEN, Flattened.FLATTENED, m.Command.HALT])
@pytest.mark.parametrize("state", [each for each in ControlState if each is not ControlState.RUNNING])
def test_only_resume_leads_back_to_running(state: ControlState, what: m.Command | Flattened) -> None:
    """A latch that opens by itself is none."""
    control = Control(state=state).after(what, who="ann", why="a test", at=CLOSE)
    assert control.state is not ControlState.RUNNING


@pytest.mark.parametrize("state", ControlState)
def test_halt_wins_and_an_operator_may_resume(state: ControlState) -> None:
    """HALTED is reached from everywhere and left by an operator alone."""
    halted = Control(state=state).after(m.Command.HALT, who="ann", why="a test", at=CLOSE)
    assert halted.state is ControlState.HALTED
    assert halted.after(m.Command.PAUSE, who="bob", why="weaker", at=CLOSE) is halted
    resumed = halted.after(m.Command.RESUME, who="ann", why="done", at=CLOSE)
    assert resumed.state is ControlState.RUNNING


@pytest.mark.parametrize(
    ("command", "reason"), [("pause", "PAUSED"), ("halt", "HALTED"), ("flatten", "PAUSED")]
)
async def test_no_entry_from_the_message_after_the_command(command: str, reason: str) -> None:
    """Each allowed signal is still answered, with the control state as reason, after a restart too."""
    executor = an_executor()
    await executor.on_command(a_command(command))
    executor = restarted(executor)
    decided = await give(executor, a_slice("EURUSD"))
    assert reasons(decided) == {"EURUSD": reason}
    assert isinstance(decided[0], m.EntryRefused)
    assert "ann" in decided[0].detail


async def test_command_between_the_signals_of_a_slice_stops_the_whole_slice() -> None:
    """What is held is not decided yet."""
    executor = an_executor()
    signals = a_slice("EURUSD", "XAUUSD")
    for signal in signals[:-1]:
        await executor.on_signal(signal)
    await executor.on_command(a_command("halt"))
    decided = await executor.on_signal(signals[-1])
    assert decided is not None
    assert reasons(decided) == {"EURUSD": "HALTED", "XAUUSD": "HALTED"}


async def test_resume_lets_the_next_slice_trade() -> None:
    """The latch opens when it is told to."""
    executor = an_executor()
    await executor.on_command(a_command("halt"))
    await executor.on_command(a_command("resume", number=2))
    assert reasons(await give(executor, a_slice("EURUSD"))) == {"EURUSD": "REQUESTED"}


async def test_every_command_is_answered_with_who_and_why() -> None:
    """Whoever gave it sees that it was obeyed, even if nothing changed; who latched first stays named."""
    executor = an_executor()
    for number in (1, 2):
        (event,) = await executor.on_command(a_command("pause", number=number))
        assert isinstance(event, m.EventReported)
        assert event.kind == "control"
        assert event.severity is m.Severity.WARNING
        assert {"state": "PAUSED", "who": "ann", "why": "a test"}.items() <= event.details.items()
    assert executor.state.control.since == CLOSE + timedelta(seconds=1)


async def test_flatten_with_nothing_open_pauses_at_once() -> None:
    """There is nothing to wait for, and no later message that would end it."""
    executor = an_executor()
    messages = await executor.on_command(a_command("flatten"))
    assert [each.details["state"] for each in messages if isinstance(each, m.EventReported)] == [
        "FLATTENING",
        "PAUSED",
    ]


async def test_flatten_closes_ours_waits_for_open_requests_and_ends_paused() -> None:
    """A request under way may still fill: its position is closed too, and only then is the book flat."""
    executor = an_executor()
    await give(executor, a_slice("EURUSD", "GBPUSD"))
    await executor.on_execution(an_execution(1, "FILLED"))
    first = await executor.on_command(a_command("flatten"))
    assert [
        (each.position_id, each.client_order_id) for each in first if isinstance(each, m.CloseRequested)
    ] == [(100, an_id("EURUSD"))]
    executor = restarted(executor)
    assert await executor.on_execution(an_execution(2, "CLOSED")) == []
    assert state_of(executor) is ControlState.FLATTENING  # GBPUSD is still open
    assert await executor.on_execution(an_execution(3, "PARTIALLY_FILLED", symbol="GBPUSD")) == []
    (second,) = await executor.on_execution(an_execution(4, "FILLED", symbol="GBPUSD"))
    assert isinstance(second, m.CloseRequested)
    assert (second.position_id, second.reason) == (101, "FLATTEN")
    (paused,) = await executor.on_execution(an_execution(5, "CLOSED", symbol="GBPUSD"))
    assert isinstance(paused, m.EventReported)
    assert paused.details["state"] == "PAUSED"
    assert state_of(executor) is ControlState.PAUSED


async def test_flatten_ends_when_the_open_request_expires() -> None:
    """Not every request becomes a position."""
    executor = an_executor()
    await give(executor, a_slice("EURUSD"))
    await executor.on_command(a_command("flatten"))
    (paused,) = await executor.on_execution(an_execution(1, "EXPIRED"))
    assert isinstance(paused, m.EventReported)
    assert paused.details["state"] == "PAUSED"


async def test_each_close_is_asked_for_once_unless_the_operator_repeats_it() -> None:
    """A close that the venue refused is not retried by itself, but it can be asked for again."""
    executor = an_executor()
    await give(executor, a_slice("EURUSD"))
    await executor.on_execution(an_execution(1, "FILLED"))
    first = await executor.on_command(a_command("flatten"))
    assert await executor.on_execution(an_execution(2, "PROTECTED")) == []
    again = await executor.on_command(a_command("flatten", number=2))
    closes = [each for each in first + again if isinstance(each, m.CloseRequested)]
    assert len(closes) == 2
    assert closes[0].meta.message_id != closes[1].meta.message_id


async def test_unreadable_state_is_halted_and_closes_ours_when_told() -> None:
    """Nothing is guessed: the control is HALTED, and the positions are learnt from the next account."""
    ours = an_account(
        execution_number=7,
        positions=(
            a_position(number=100, client_order_id=an_id()),
            a_position(number=55),
        ),
    )
    executor = an_executor(ours, an_account(close=LATER, execution_number=8))
    executor.restore(b'{"control": "what?"}')
    assert state_of(executor) is ControlState.HALTED
    assert "unreadable" in executor.trouble()
    await executor.on_execution(an_execution(7, "FILLED"))
    await executor.on_command(a_command("flatten"))
    assert state_of(executor) is ControlState.FLATTENING
    (close,) = await give(executor, a_slice())
    assert isinstance(close, m.CloseRequested)
    assert close.position_id == 100
    await executor.on_execution(an_execution(8, "CLOSED"))
    assert state_of(executor) is ControlState.PAUSED
    assert executor.trouble() == ""


async def test_resumed_unreadable_state_waits_for_the_slice_after() -> None:
    """At the first slice requests may be under way that nobody remembers; at the next they have expired."""
    executor = an_executor(an_account(), an_account(close=LATER))
    executor.restore(b"\xff\x00")
    await executor.on_command(a_command("resume"))
    assert reasons(await give(executor, a_slice("EURUSD"))) == {"EURUSD": "STATE_UNKNOWN"}
    assert reasons(await give(executor, a_slice("EURUSD", close=LATER))) == {"EURUSD": "REQUESTED"}
