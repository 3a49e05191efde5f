"""The door to a real server: what is at hand, what a lost connection is called, what is not swallowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
import redis.asyncio as redis

from shared import redis_bus as bus_module
from shared import streams
from shared.bus import BusUnavailableError, Delivery, Output
from shared.contracts import Contract
from shared.errors import InputError, InvariantError, UnavailableError
from shared.messages import Message
from shared.redis_bus import ACCOUNTS_KEPT, RedisBus
from shared.redis_line import Translated
from tests.builders import MONDAY, a_bar, an_event
from tests.conftest import RedisServer, redis_program
from tests.features.builders import an_account
from venue.book import CONTRACTS

pytestmark = pytest.mark.redis
_BOOKS = count()
WAIT_S = 10.0


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[RedisBus]:
    async with RedisBus.connect(redis_url, f"d{next(_BOOKS)}", "features") as opened:
        assert await opened.hold_lease(30)
        yield opened


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - another task makes it true
            await asyncio.sleep(0.01)


@asynccontextmanager
async def following(bus: RedisBus) -> AsyncIterator[str]:
    """Follow the accounts; give the id of the first entry that is at hand."""
    task = asyncio.create_task(bus.follow_accounts())
    try:
        yield await at_hand(bus)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def at_hand(bus: RedisBus) -> str:
    """Write account entries until one is at hand: what came before the following began is not followed."""
    async with asyncio.timeout(WAIT_S):
        while not bus._accounts:
            with suppress(BusUnavailableError):
                await bus.append(an_account())
            await asyncio.sleep(0.05)
    return next(iter(bus._accounts))


async def write_events(bus: RedisBus, n: int) -> None:
    async with bus._client.pipeline(transaction=False) as pipeline:
        for _ in range(n):
            pipeline.xadd(bus.key("events"), streams.encode(an_event()))
        await pipeline.execute()


async def test_every_key_names_its_book(bus: RedisBus) -> None:
    """Several books may stand on one server."""
    await bus.append(an_event())
    assert sorted(await bus._client.keys(f"*{{{bus.book}}}*")) == [
        f"tg:{{{bus.book}}}:{name}" for name in ("epoch:features", "events", "lease:features")
    ]


async def test_terms_come_back_as_they_were_written(bus: RedisBus) -> None:
    """Digits and steps decide what an order may be."""
    await bus.write_contracts(CONTRACTS)
    found: dict[str, Contract] = await bus.contracts()
    assert found == CONTRACTS


async def test_account_entry_is_found_by_its_id_alone(bus: RedisBus) -> None:
    """A slice names its account; another one would be another decision."""
    first, second = await bus.append(an_account()), await bus.append(an_account(equity=9_000))
    assert (await bus.account(first)).equity != (await bus.account(second)).equity == 9_000
    with pytest.raises(UnavailableError, match="1-1 is not there"):
        await bus.account("1-1")


async def test_newest_accounts_are_at_hand_and_the_old_are_not_kept(bus: RedisBus) -> None:
    """The order path does not ask the server; a service that runs for months does not grow."""
    async with following(bus) as first:
        ids = [await bus.append(an_account()) for _ in range(ACCOUNTS_KEPT)]
        await until(lambda: list(bus._accounts) == ids)
        assert await bus.account(ids[-1]) is bus._accounts[ids[-1]]
        assert (await bus.account(first)).currency == "USD"  # asked for, it is still there


async def test_account_that_cannot_be_read_is_told_to_who_asks(bus: RedisBus) -> None:
    """One bad entry must not stop the following of the others."""
    async with following(bus):
        bad = await bus._client.xadd(bus.key("account"), {"type": "AccountReported", "equity": "?"})
        good = await bus.append(an_account())
        await until(lambda: good in bus._accounts)
        assert bad not in bus._accounts
        with pytest.raises(InputError):
            await bus.account(bad)


async def test_following_forgets_what_a_server_that_went_away_may_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come back older than it was: what is at hand could be of a future that never was."""
    monkeypatch.setattr(bus_module, "BLOCK_MS", 50)
    server = RedisServer(redis_program("valkey"), tmp_path)
    server.start()
    try:
        async with RedisBus.connect(server.url, "down", "features") as bus, following(bus) as first:
            server.kill()
            await until(lambda: not bus._accounts)
            with pytest.raises(BusUnavailableError):
                await bus.account(first)
            server.start()
            assert await at_hand(bus) in bus._accounts
    finally:
        server.kill()


async def test_tail_waits_for_what_comes_and_takes_part_in_no_group(bus: RedisBus) -> None:
    """Whoever looks on changes nothing for those who work."""
    assert await bus.tail({streams.EVENTS: "0-0"}, 20) == {}
    entry_id = await bus.append(an_event("one"))
    found = await bus.tail({streams.EVENTS: "0-0"}, 20)
    assert [(i, message.text) for i, message in found[streams.EVENTS]] == [(entry_id, "one")]  # type: ignore[attr-defined]
    assert await bus._client.xinfo_groups(bus.key("events")) == []
    waiting = asyncio.create_task(bus.tail({streams.EVENTS: entry_id}, round(1000 * WAIT_S)))
    await asyncio.sleep(0.02)
    await bus.append(an_event("two"))
    assert [message.text for _, message in (await waiting)[streams.EVENTS]] == ["two"]  # type: ignore[attr-defined]


async def test_tail_of_a_long_past_comes_in_parts(bus: RedisBus) -> None:
    """Whoever looks on does not take up the server, or its own memory."""
    await write_events(bus, 1001)
    part = (await bus.tail({streams.EVENTS: "0-0"}, 20))[streams.EVENTS]
    rest = (await bus.tail({streams.EVENTS: part[-1][0]}, 20))[streams.EVENTS]
    assert (len(part), len(rest)) == (1000, 1)


async def test_newest_entry_is_all_that_is_read_for_it(bus: RedisBus) -> None:
    """A book of years is asked for it as often as a new one."""
    await write_events(bus, 1000)
    before = (await bus._client.info("stats"))["total_net_output_bytes"]
    assert await bus.last(streams.EVENTS)
    assert (await bus._client.info("stats"))["total_net_output_bytes"] - before < 50_000


async def test_group_on_what_is_no_stream_is_a_corrupt_book(bus: RedisBus) -> None:
    """It is not taken for a group that is there already."""
    await bus._client.set(bus.key("bars"), "text")
    with pytest.raises(InvariantError, match="WRONGTYPE"):
        await bus.ensure_groups([streams.BARS])
    with pytest.raises(InvariantError, match="WRONGTYPE"):
        await bus.read_new([streams.BARS], block=False)


async def test_output_into_what_is_no_stream_is_refused_whole(bus: RedisBus) -> None:
    """Nothing is written before the last check."""
    await bus._client.set(bus.key("bars"), "text")
    bar = Output(a_bar(), streams.market_id(MONDAY + timedelta(minutes=5)))
    with pytest.raises(InvariantError, match="other content"):
        await bus.publish([Output(an_event("one")), bar])
    assert await bus.last(streams.EVENTS) is None


@pytest.mark.parametrize("answer", ["LOADING its file", "BUSY with a script", "MASTERDOWN for now"])
async def test_server_that_is_not_ready_is_waited_for(answer: str) -> None:
    """It answers, but not now: that is no defect of ours."""
    with pytest.raises(BusUnavailableError, match=answer), Translated():
        raise redis.ResponseError(answer)


async def test_answer_that_makes_no_sense_stops_the_process() -> None:
    """A command that the server does not know is a bug."""
    with pytest.raises(InvariantError), Translated():
        raise redis.ResponseError("ERR unknown command")


async def test_cancellation_that_comes_with_the_answer_is_not_lost(bus: RedisBus) -> None:
    """A stop that the client library swallowed would be waited for for ever."""

    async def ask() -> None:
        task = asyncio.current_task()
        assert task is not None
        with Translated():
            task.cancel()
            with suppress(asyncio.CancelledError):  # as the library does
                await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(ask())


async def test_call_that_is_given_up_leaves_no_answer_for_the_next(bus: RedisBus) -> None:
    """A late answer would be taken for the next question's."""
    await bus.ensure_groups([streams.BARS])
    waiting = asyncio.create_task(bus.read_new([streams.BARS], block=True))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await bus.append(a_bar())
    found: dict[streams.Stream, list[Delivery]] = await bus.read_new([streams.BARS], block=False)
    (delivery,) = found[streams.BARS]
    message: Message = delivery.message()
    assert message == a_bar()


async def test_server_that_was_emptied_gets_the_script_again(bus: RedisBus) -> None:
    """After a restart it does not know it by its hash."""
    await bus.publish([Output(an_event("one"))])
    await bus._client.script_flush()
    await bus._client.config_resetstat()
    await bus.publish([Output(an_event("two"))])
    await bus.publish([Output(an_event("three"))])
    assert len(await bus.history(streams.EVENTS)) == 3
    calls = await bus._client.info("commandstats")
    assert calls["cmdstat_eval"]["calls"] == 1  # from then on its hash is enough


@pytest.mark.parametrize("past_s", [0.0, 0.001])
async def test_lease_that_has_run_out_is_not_given_back(
    bus: RedisBus, past_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another's by now; the deadline itself is too late."""
    monkeypatch.setattr(bus_module, "monotonic_s", lambda: bus._deadline_s + past_s)
    assert not bus.holds_lease()
    await bus.release_lease()
    assert await bus._client.exists(bus.key("lease:features"))


async def test_lease_ends_on_the_server_when_it_was_said_to(bus: RedisBus) -> None:
    """A standby waits no longer for it than the holder may write."""
    assert await bus.hold_lease(1000.0)
    assert 900_000 < await bus._client.pttl(bus.key("lease:features")) <= 1_000_000


async def test_read_that_is_not_to_wait_returns_at_once(
    bus: RedisBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who has work of its own looks in between."""
    monkeypatch.setattr(bus_module, "BLOCK_MS", round(2000 * WAIT_S))
    await bus.ensure_groups([streams.BARS])
    async with asyncio.timeout(WAIT_S):
        assert await bus.read_new([streams.BARS], block=False) == {}


async def test_account_that_has_just_come_is_not_asked_for(bus: RedisBus) -> None:
    """It is written together with its bars: the follower gets its turn first."""
    account = an_account()
    asyncio.get_running_loop().call_soon(bus._accounts.__setitem__, "1-1", account)
    async with asyncio.timeout(0.5):
        assert await bus.account("1-1") is account


async def test_health_is_what_a_service_said_last(bus: RedisBus) -> None:
    """`tradeguard status` and the containers' health checks show it."""
    assert await bus.health("features") == {}
    await bus.report_health({"status": "starting"})
    await bus.report_health({"status": "ready"})
    assert await bus.health("features") == {"status": "ready"}
    assert await bus.health("executor") == {}


async def test_unknown_marks_and_states_are_empty(bus: RedisBus) -> None:
    """A fresh book begins at the beginning."""
    await bus.load_marks()
    assert bus.last_ids() == {}
    assert await bus.state() is None
    assert await bus.counter("executions-published") == 0
