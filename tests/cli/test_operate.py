"""Operators' commands and the status of a book, against a real server and the executor's own handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from cli import operate
from services.executor.handlers import ExecutorHandlers
from services.executor.settings import ExecutorSettings
from shared import streams
from shared.bus import BusUnavailableError, Output
from shared.clock import utc_now
from shared.errors import InputError
from shared.messages import Command, CommandGiven
from shared.redis_bus import RedisBus
from tests.builders import a_bar
from tests.executor.builders import D, a_slice, an_executor, give
from tests.executor.builders import an_account as an_executor_account
from tests.features.builders import a_position, an_account

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def book() -> str:
    return f"t-{uuid4().hex[:9]}"


@pytest.fixture(autouse=True)
def halt_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "var" / "HALT"
    monkeypatch.setenv("GATEWAY_HALT_FILE", str(path))
    monkeypatch.setenv("REDIS_URL", NOWHERE)
    monkeypatch.chdir(tmp_path)  # no `.env` of this machine
    return path


@pytest.fixture
def server(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("REDIS_URL", redis_url)
    return redis_url


async def obey(url: str, book: str, stop: threading.Event) -> None:
    """Run the executor's handler on the commands of a book."""
    async with RedisBus.connect(url, book, "executor") as bus:
        handlers = ExecutorHandlers(bus, ExecutorSettings(book=book).policy())
        assert await bus.hold_lease(5)
        await bus.ensure_groups((streams.COMMANDS,))
        while not stop.is_set():
            for delivery in (await bus.read_new((streams.COMMANDS,), block=True)).get(streams.COMMANDS, []):
                command = streams.decode(delivery.fields)
                assert isinstance(command, CommandGiven)
                written = [Output(message) for message in await handlers.on_command(command)]
                await bus.commit([delivery], written, handlers.snapshot())
        await bus.release_lease()


@contextmanager
def executor(url: str, book: str) -> Iterator[None]:
    """An executor that answers commands, beside the test."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(obey(url, book, stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def order(command: Command, book: str, timeout_s: float = 10.0) -> operate.Answer:
    return operate.give(command, why="a test", book=book, timeout_s=timeout_s)


@pytest.mark.redis
def test_a_command_is_answered_by_the_executor(server: str, book: str) -> None:
    """What is printed is what the executor committed, not what was hoped for."""
    with executor(server, book):
        paused = order(Command.PAUSE, book)
        assert (paused.state, paused.acknowledged_by, paused.problem) == ("PAUSED", "executor", "")
        assert order(Command.RESUME, book).state == "RUNNING"


@pytest.mark.redis
def test_flattening_a_flat_book_ends_paused(server: str, book: str) -> None:
    """The executor announces two states at once; the last one is how the book is."""
    with executor(server, book):
        assert order(Command.FLATTEN, book).state == "PAUSED"


@pytest.mark.redis
def test_halt_and_resume_make_and_remove_the_file(server: str, book: str, halt_file: Path) -> None:
    """Both ways of stopping are used, and both are lifted by one command."""
    with executor(server, book):
        halted = order(Command.HALT, book)
        assert (halted.state, halted.halt_file_stands, halt_file.exists()) == ("HALTED", True, True)
        resumed = order(Command.RESUME, book)
        assert (resumed.state, resumed.halt_file_stands, halt_file.exists()) == ("RUNNING", False, False)


@pytest.mark.redis
def test_a_command_says_who_and_why(server: str, book: str) -> None:
    """The stream is the record that is read afterwards."""

    async def last() -> CommandGiven:
        async with RedisBus.connect(server, book, "test") as bus:
            found = await bus.last(streams.COMMANDS)
            assert found
            assert isinstance(found[1], CommandGiven)
            return found[1]

    order(Command.PAUSE, book, timeout_s=0.0)
    given = asyncio.run(last())
    assert (given.command, given.why) == (Command.PAUSE, "a test")
    assert "@" in given.who


@pytest.mark.redis
def test_no_executor_is_no_acknowledgement(server: str, book: str) -> None:
    """Silence is not obedience; the sentence says that the command still stands."""
    answer = order(Command.PAUSE, book, timeout_s=0.1)
    assert (answer.state, answer.acknowledged_by) == (None, None)
    assert "will be obeyed when the executor runs" in answer.problem


@pytest.mark.redis
def test_a_resume_that_nobody_obeys_leaves_the_halt_file(server: str, book: str, halt_file: Path) -> None:
    """Only a mesh that says it runs again gets its orders through."""
    halt_file.parent.mkdir()
    halt_file.touch()
    answer = order(Command.RESUME, book, timeout_s=0.1)
    assert answer.problem
    assert halt_file.exists()


def test_halt_works_without_redis(book: str, halt_file: Path) -> None:
    """The file stops the gateway by itself; the answer says that nobody acknowledged."""
    answer = order(Command.HALT, book)
    assert halt_file.exists()
    assert answer.acknowledged_by is None
    assert str(halt_file) in answer.problem


def test_halt_works_with_a_wrong_setting(halt_file: Path, monkeypatch: pytest.MonkeyPatch, book: str) -> None:
    """A typing error in `.env` must not stand between an operator and the stop."""
    monkeypatch.setenv("REDIS_URL", "http://wrong")
    answer = order(Command.HALT, book)
    assert halt_file.exists()
    assert "REDIS_URL" in answer.problem


def test_a_halt_file_that_cannot_be_made_is_said(halt_file: Path, book: str) -> None:
    """Whoever believes in a file that is not there is not stopped."""
    halt_file.parent.write_text("a file where the folder should be")
    answer = order(Command.HALT, book)
    assert "GATEWAY_HALT_FILE" in answer.problem
    assert not answer.halt_file_stands


def test_a_wrong_book_is_refused() -> None:
    """A typing error must not pause a book that nobody has."""
    with pytest.raises(InputError, match="book 'Main!'"):
        order(Command.PAUSE, "Main!")


# --- status -------------------------------------------------------------------------------------


async def beat(url: str, book: str, *, age_s: float = 0.0, without: str = "", said: str = "ready") -> None:
    """Let every service of a book but one say how it is."""
    at = (utc_now() - timedelta(seconds=age_s)).isoformat(timespec="milliseconds")
    for name in operate.SERVICES:
        if name != without:
            async with RedisBus.connect(url, book, name) as bus:
                await bus.report_health({"status": said, "detail": "", "pid": "1", "beat": at})


@pytest.mark.redis
def test_a_book_whose_services_beat_is_ready(server: str, book: str) -> None:
    """All five, each ready and heard of within seconds."""
    asyncio.run(beat(server, book))
    found = operate.status(book=book)
    assert found.as_json()["ok"] is True
    assert found.problems == []
    assert "all services are ready" in found.as_text()


@pytest.mark.redis
def test_an_old_beat_is_not_ready(server: str, book: str) -> None:
    """A killed process leaves 'ready' behind; only its beat says that it is gone."""
    asyncio.run(beat(server, book, age_s=60))
    assert len(operate.status(book=book).problems) == len(operate.SERVICES)


@pytest.mark.redis
def test_a_service_that_never_ran_is_named(server: str, book: str) -> None:
    """What is missing has to be seen, not only what is there."""
    asyncio.run(beat(server, book, without="notifier"))
    found = operate.status(book=book)
    assert found.problems == ["notifier has never run in this book"]
    assert "NOT READY" in found.as_text()


@pytest.mark.redis
def test_a_degraded_service_is_not_ready(server: str, book: str) -> None:
    """It runs, and cannot do what it is for."""
    asyncio.run(beat(server, book, said="degraded"))
    assert "gateway is degraded" in operate.status(book=book).problems


@pytest.mark.redis
def test_status_shows_slice_control_lag_and_positions(server: str, book: str, halt_file: Path) -> None:
    """All that an operator asks first, from the streams themselves."""

    async def fill() -> None:
        async with RedisBus.connect(server, book, "features") as bus:
            await bus.ensure_groups((streams.BARS,))
            await bus.append(a_bar())
            await bus.append(an_account(positions=(a_position(),)))

    asyncio.run(fill())
    with executor(server, book):
        order(Command.HALT, book)
    found = operate.status(book=book)
    assert found.last_slice == a_bar().close_time.isoformat()
    assert (found.control["state"], found.control["why"]) == ("HALTED", "a test")
    assert found.halt_file == str(halt_file)
    assert [(row["stream"], row["lag"]) for row in found.groups] == [("bars", 1), ("commands", 0)]
    assert found.account is not None
    assert found.account["positions"][0]["symbol"] == "EURUSD"
    text = found.as_text()
    assert "HALTED" in text
    assert "TG-main-20250106T0900-EURUSD" in text


@pytest.mark.redis
def test_status_shows_how_far_each_limit_is(server: str, book: str) -> None:
    """A trader sees the distance before anything is refused, of loss limits the money too."""

    async def measure() -> None:
        executor = an_executor(an_executor_account(equity=D(9_800)))
        await give(executor, a_slice())
        async with RedisBus.connect(server, book, "executor") as bus:
            await bus.hold_lease(5)
            await bus.publish((), state=executor.snapshot())
            await bus.release_lease()

    asyncio.run(measure())
    found = operate.status(book=book)
    limits = {row["limit"]: row for row in found.as_json()["limits"]}
    assert limits["DRAWDOWN"] == {
        "limit": "DRAWDOWN",
        "value": "0.02",
        "bound": "0.1",
        "used_percent": 20.0,
        "trips": False,
        "counted_from": "10000",
        "trips_at": "9000",
        "stops": "all entries until an operator resumes",
    }
    assert limits["OPEN_POSITIONS"]["trips_at"] is None
    assert "until an operator resumes" in found.as_text()


@pytest.mark.redis
def test_a_control_state_that_cannot_be_read_is_halted(server: str, book: str) -> None:
    """What is unreadable stops trading, and is shown as what it does."""

    async def spoil() -> None:
        async with RedisBus.connect(server, book, "executor") as bus:
            await bus.hold_lease(5)
            await bus.publish((), state=b"{")
            await bus.release_lease()

    asyncio.run(spoil())
    found = operate.status(book=book)
    assert found.control["state"] == "HALTED"
    assert found.limits == []


def test_status_without_redis_is_a_sentence(book: str) -> None:
    """Nothing is known then, so nothing is shown as if it were."""
    with pytest.raises(BusUnavailableError, match="redis"):
        operate.status(book=book)
