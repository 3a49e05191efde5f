"""The order in which the executor read its streams, from what it wrote."""

from __future__ import annotations

import json

import pytest

from shared import streams
from shared.bus import Delivery
from shared.errors import InvariantError
from shared.streams import Stream
from sim.schedule import READ, Read, Step, causes_of, schedule


def an_entry(stream: Stream, entry_id: str, **fields: str) -> Delivery:
    return Delivery(stream, entry_id, {"message_id": f"{stream.name} {entry_id}", **fields})


def a_decision(cause: str, entry_id: str = "900-0", **inputs: str) -> Delivery:
    return an_entry(streams.ORDERS, entry_id, causation_id=cause, inputs=json.dumps(inputs))


def order_of(
    *,
    commands: tuple[str, ...] = (),
    executions: tuple[str, ...] = (),
    slices: tuple[int, ...] = (),
    account: dict[int, int] | None = None,
    decisions: tuple[Delivery, ...] = (),
    starts: tuple[dict[str, str], ...] = (),
) -> list[str]:
    """Return the schedule as `stream ms`; executions are numbered from 1."""
    given = [an_entry(streams.COMMANDS, each) for each in commands]
    done = [an_entry(streams.EXECUTIONS, each, number=str(n)) for n, each in enumerate(executions, 1)]
    signals = [an_entry(streams.SIGNALS, f"{each}-{k}") for each in slices for k in range(2)]
    causes = causes_of(given, done, signals)
    read = Read(given, done, slices, account or {}, causes, decisions, starts)
    return [f"{step.stream.name} {step.entry[0]}" for step in schedule(read)]


def test_the_executor_reads_commands_first_and_signals_last() -> None:
    """The table is the one of its routes."""
    assert [stream.name for stream in READ] == ["commands", "executions", "signals"]
    assert Step(2, (5, 0)).stream is streams.SIGNALS


def test_without_decisions_the_servers_time_decides() -> None:
    """A command goes before an execution of the same moment."""
    assert order_of(commands=("20-0",), executions=("10-0", "20-0", "30-0")) == [
        "executions 10", "commands 20", "executions 20", "executions 30",
    ]  # fmt: skip


def test_a_slice_waits_for_the_executions_of_its_account() -> None:
    """As it does live: the account includes them."""
    found = order_of(executions=("10-0", "20-0"), slices=(7, 8), account={7: 1, 8: 2})
    assert found == ["executions 10", "signals 7", "executions 20", "signals 8"]


def test_a_slice_waits_with_an_execution_that_waits() -> None:
    """An execution that was read late, behind a command, holds back the slice that includes it."""
    closing = a_decision("executions 10-0", commands="50-0")
    found = order_of(
        commands=("50-0",), executions=("10-0",), slices=(7,), account={7: 1}, decisions=(closing,)
    )
    assert found == ["commands 50", "executions 10", "signals 7"]


def test_a_decision_tells_what_was_read_before_it_and_what_was_not() -> None:
    """Even where the server's times say otherwise."""
    decided = a_decision("signals 7-1", commands="20-0", executions="30-0")
    found = order_of(
        commands=("20-0", "21-0"), executions=("30-0", "31-0"), slices=(7,), decisions=(decided,)
    )
    assert found.index("signals 7") == 2
    assert set(found[:2]) == {"commands 20", "executions 30"}
    nothing = a_decision("signals 7-0")
    assert order_of(commands=("20-0",), slices=(7,), decisions=(nothing,)) == ["signals 7", "commands 20"]


def test_the_closing_of_a_position_pins_the_execution_that_caused_it() -> None:
    """A flattening closes what is filled, when the fill is read; the command may be older or newer."""
    closing = a_decision("executions 10-0", commands="12-0", signals="7-1")
    found = order_of(commands=("12-0",), executions=("10-0",), slices=(7, 8), decisions=(closing,))
    assert found == ["signals 7", "commands 12", "executions 10", "signals 8"]


def test_a_start_parts_what_was_read_before_it_from_what_came_after() -> None:
    """An executor says how far it had read when it began: with other settings, maybe."""
    found = order_of(
        commands=("10-0", "11-0"),
        executions=("5-0", "6-0"),
        starts=({"commands": "11-0", "executions": "5-0"},),
    )
    assert found == ["executions 5", "commands 10", "commands 11", "executions 6"]


def test_decisions_that_contradict_each_other_are_refused() -> None:
    """A recording that cannot have happened is not replayed in some other order."""
    wrong = (
        a_decision("signals 7-0", executions="10-0"),
        a_decision("executions 10-0", "901-0", signals="7-1"),
    )
    with pytest.raises(InvariantError, match="cannot all be true"):
        order_of(executions=("10-0",), slices=(7,), decisions=wrong)
