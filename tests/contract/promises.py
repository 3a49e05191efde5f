"""What a bus promises; every server that we support passes it, and the one in memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Protocol

import pytest

from shared import streams
from shared.bus import Bus, BusUnavailableError, CounterError, OutOfOrderError, Output
from shared.errors import InvariantError, LeaseLostError
from shared.messages import Message
from shared.streams import Stream
from tests.builders import MONDAY, SYMBOLS, a_bar, an_event


class Instances(Protocol):
    """Opens instances of one service on a book of the test's own."""

    async def open(self, service: str = "features") -> Bus:
        """Return an instance that has not asked for the lease."""

    async def open_away(self) -> Bus:
        """Return an instance whose server does not answer."""

    async def end_lease(self) -> None:
        """Let the holder's lease end on the server, without its knowledge."""

    async def forget_lease(self) -> None:
        """Let the server lose lease and epoch, as one does that comes back older."""

    async def forget_group(self, stream: Stream) -> None:
        """Let the server lose a stream's one group."""

    async def write_foreign(self, stream: Stream, fields: dict[str, str]) -> None:
        """Write an entry as somebody else might."""

    async def group(self, stream: Stream) -> tuple[str, int, int]:
        """Return name, pending and lag of a stream's one group, as the server shows them."""


async def start(instances: Instances, ttl_s: float = 5.0) -> Bus:
    bus = await instances.open()
    assert await bus.hold_lease(ttl_s)
    await bus.ensure_groups([streams.BARS])
    return bus


async def messages(bus: Bus, stream: Stream) -> list[Message]:
    return [message for _, message in await bus.history(stream)]


def bars(n: int) -> list[Output]:
    closes = [MONDAY + timedelta(minutes=5 * i) for i in range(n)]
    return [Output(a_bar(open_time=at), streams.market_id(at + timedelta(minutes=5))) for at in closes]


async def take_over(instances: Instances) -> Bus:
    """The holder dies, its lease ends, the next one starts."""
    await instances.end_lease()
    return await start(instances)


async def test_bar_read_but_not_committed_is_delivered_again(instances: Instances) -> None:
    """A crash between reading and committing loses nothing and doubles nothing."""
    first = await start(instances)
    await first.publish(bars(1))
    read = await first.read_new([streams.BARS], block=False)  # the process dies here
    second = await take_over(instances)
    again = await second.read_pending(streams.BARS)
    assert again == read[streams.BARS]
    await second.commit(again, [Output(an_event())])
    assert await second.read_pending(streams.BARS) == []
    assert [message for _, message in await second.history(streams.EVENTS)] == [an_event()]


async def test_a_commit_repeated_writes_nothing(instances: Instances) -> None:
    """An answer that was lost makes the caller commit again: the mark says it is done."""
    bus = await start(instances)
    await bus.publish(bars(1))
    read = (await bus.read_new([streams.BARS], block=False))[streams.BARS]
    assert len(await bus.commit(read, [Output(an_event())], b"state")) == 1
    assert await bus.commit(read, [Output(an_event())], b"other") == []
    assert len(await bus.history(streams.EVENTS)) == 1
    assert await bus.state() == b"state"


async def test_several_inputs_are_one_step(instances: Instances) -> None:
    """A slice's bars are acknowledged together with what was made of them."""
    bus = await start(instances)
    await bus.publish(bars(5))
    read = (await bus.read_new([streams.BARS], block=False))[streams.BARS]
    await bus.commit(read, [Output(an_event())])
    assert await bus.read_pending(streams.BARS) == []
    assert bus.last_ids() == {"bars": read[-1].entry_id}


async def test_an_older_pending_entry_cannot_be_jumped_over(instances: Instances) -> None:
    """An entry delivered to an instance that never handled it comes before all later ones."""
    sleeper = await start(instances)
    await sleeper.publish(bars(2))
    stolen = (await sleeper.read_new([streams.BARS], block=False))[streams.BARS]
    bus = await take_over(instances)
    with pytest.raises(OutOfOrderError, match=f"oldest pending is {stolen[0].entry_id}$"):
        await bus.commit(stolen[1:], [])
    assert await bus.read_pending(streams.BARS) == stolen


async def test_who_lost_the_lease_writes_nothing(instances: Instances) -> None:
    """A paused process that wakes up after a take-over is refused by the server."""
    sleeper = await start(instances)
    await sleeper.publish(bars(1))
    read = (await sleeper.read_new([streams.BARS], block=False))[streams.BARS]
    await take_over(instances)
    with pytest.raises(LeaseLostError, match="features: the lease is 2:"):
        await sleeper.commit(read, [Output(an_event())])
    with pytest.raises(LeaseLostError, match="another instance of features is active"):
        await sleeper.hold_lease(5.0)
    await instances.end_lease()
    with pytest.raises(LeaseLostError, match="features: the lease is nobody's"):
        await sleeper.commit(read, [Output(an_event())])
    assert await sleeper.history(streams.EVENTS) == []


async def test_who_is_past_its_own_deadline_writes_nothing(instances: Instances) -> None:
    """The holder does not even ask the server once its own clock says the lease may be over."""
    bus = await start(instances, ttl_s=0.05)
    await asyncio.sleep(0.06)
    with pytest.raises(BusUnavailableError, match="lease"):
        await bus.publish(bars(1))
    assert await bus.history(streams.BARS) == []


async def test_a_lease_nobody_took_is_still_ours(instances: Instances) -> None:
    """A server that was away for longer than a lease does not make every service start anew."""
    bus = await start(instances, ttl_s=0.05)
    await asyncio.sleep(0.08)
    assert await bus.hold_lease(5.0)
    await bus.publish(bars(1))
    assert len(await bus.history(streams.BARS)) == 1


async def test_only_one_instance_holds_the_lease(instances: Instances) -> None:
    """A second instance stands by."""
    first = await start(instances)
    second = await instances.open()
    assert not await second.hold_lease(5.0)
    await first.release_lease()
    assert not first.holds_lease()
    assert await second.hold_lease(5.0)
    await second.release_lease()
    assert await first.hold_lease(5.0)


async def test_the_holder_keeps_its_lease(instances: Instances) -> None:
    """It asks again well before the end."""
    bus = await start(instances)
    assert await bus.hold_lease(5.0)
    assert len(await bus.publish(bars(1))) == 1


async def test_a_lease_that_another_had_meanwhile_is_lost(instances: Instances) -> None:
    """It may have written, though it is gone again."""
    sleeper = await start(instances)
    await (await take_over(instances)).release_lease()
    with pytest.raises(LeaseLostError):
        await sleeper.hold_lease(5.0)


async def test_two_holders_of_one_epoch_are_told_apart(instances: Instances) -> None:
    """A server that comes back older counts its epochs again."""
    sleeper = await start(instances)
    await instances.forget_lease()
    await start(instances)
    with pytest.raises(LeaseLostError):
        await sleeper.publish(bars(1))
    with pytest.raises(LeaseLostError):
        await sleeper.hold_lease(5.0)


async def test_another_services_lease_is_no_concern(instances: Instances) -> None:
    """One service that starts anew is no reason for the others to."""
    bus = await start(instances, ttl_s=0.05)
    assert await (await instances.open("inference")).hold_lease(5.0)
    await asyncio.sleep(0.08)
    assert await bus.hold_lease(5.0)


async def test_an_identical_entry_counts_as_written(instances: Instances) -> None:
    """A writer that repeats itself after a crash changes nothing and is not refused."""
    bus = await start(instances)
    ids = [output.entry_id for output in bars(4)]
    assert await bus.publish(bars(3)) == ids[:3]
    assert await bus.publish(bars(4)) == ids
    assert len(await bus.history(streams.BARS)) == 4


async def test_entries_of_one_time_are_told_apart(instances: Instances) -> None:
    """A slice's bars have one time: their place in the slice orders them."""
    bus = await start(instances)
    close = MONDAY + timedelta(minutes=5)
    slice_ = [Output(a_bar(name), streams.market_id(close, k)) for k, name in enumerate(SYMBOLS[:4])]
    for half in (slice_[:2], slice_[2:]):
        assert await bus.publish(half) == [output.entry_id for output in half]
    read = (await bus.read_new([streams.BARS], block=False))[streams.BARS]
    for done in (read[:2], read[2:]):
        assert len(await bus.commit(done, [Output(an_event())])) == 1


@pytest.mark.parametrize("places", [(1, 0), (0, 0)])
async def test_outputs_out_of_order_are_refused_whole(instances: Instances, places: tuple[int, int]) -> None:
    """The server would refuse the second one after it has taken the first."""
    bus = await start(instances)
    with pytest.raises(InvariantError, match="other content"):
        await bus.publish([bars(2)[place] for place in places])
    assert await bus.history(streams.BARS) == []


async def test_an_entry_with_other_content_is_refused_whole(instances: Instances) -> None:
    """History is not rewritten, and nothing of a refused write is left behind."""
    bus = await start(instances)
    await bus.publish(bars(1))
    other = Output(a_bar(tick_volume=21), bars(1)[0].entry_id)
    with pytest.raises(InvariantError, match="other content"):
        await bus.publish([Output(an_event()), other])
    assert await bus.history(streams.EVENTS) == []
    assert [message for _, message in await bus.history(streams.BARS)] == [a_bar()]


async def test_numbered_messages_have_no_gap_and_no_double(instances: Instances) -> None:
    """The journal is the outbox: only number stored + 1 is written."""
    bus = await start(instances)
    await bus.publish([Output(an_event("1"))], counter=("executions:number", 1))
    for wrong in (1, 3):
        with pytest.raises(CounterError) as caught:
            await bus.publish([Output(an_event("x"))], counter=("executions:number", wrong))
        assert caught.value.stored == 1
    assert await bus.counter("executions:number") == 1
    assert len(await bus.history(streams.EVENTS)) == 1


async def test_a_server_that_is_away_is_told_as_unavailable(instances: Instances) -> None:
    """Unknown outcome: the caller starts again from what the server has."""
    with pytest.raises(BusUnavailableError, match=r"redis: \w"):
        await (await instances.open_away()).hold_lease(5.0)


async def test_where_a_service_is_can_be_seen_in_its_group(instances: Instances) -> None:
    """`XINFO GROUPS` shows name, lag and pending as they are."""
    bus = await start(instances)
    await bus.publish(bars(3))
    read = (await bus.read_new([streams.BARS], block=False))[streams.BARS]
    await bus.commit(read[:2], [])
    assert await instances.group(streams.BARS) == ("features", 1, 0)


async def test_what_was_read_and_committed_is_known_after_a_restart(instances: Instances) -> None:
    """A decision names what it has seen: the next instance goes on counting where the last one stood."""
    first = await start(instances)
    await first.publish(bars(2))
    read = (await first.read_new([streams.BARS], block=False))[streams.BARS]
    await first.commit(read, [], b"state")
    second = await take_over(instances)
    assert second.last_ids() == {}
    await second.load_marks()
    assert await second.mark("features", streams.BARS) == read[-1].entry_id
    assert await second.mark("inference", streams.BARS) == ""
    assert (second.last_ids(), await second.state()) == ({"bars": read[-1].entry_id}, b"state")


async def test_a_commit_that_reaches_beyond_the_mark_is_refused_whole(instances: Instances) -> None:
    """Half of it done and half not: whoever asks for that has lost its place."""
    bus = await start(instances)
    await bus.publish(bars(2))
    read = (await bus.read_new([streams.BARS], block=False))[streams.BARS]
    await bus.commit(read[:1], [])
    with pytest.raises(InvariantError, match=f"bars {read[0].entry_id} "):
        await bus.commit(read, [Output(an_event())])
    assert await bus.history(streams.EVENTS) == []


async def test_what_is_given_out_again_after_its_commit_is_acknowledged(instances: Instances) -> None:
    """A group that was lost is made anew and begins at the beginning: the mark knows what is done."""
    bus = await start(instances)
    await bus.publish(bars(2))
    read = (await bus.read_new([streams.BARS], block=False))[streams.BARS]
    await bus.commit(read, [Output(an_event())])
    await instances.forget_group(streams.BARS)
    await bus.ensure_groups([streams.BARS])
    again = (await bus.read_new([streams.BARS], block=False))[streams.BARS]
    assert again == read
    assert await bus.commit(again, [Output(an_event())]) == []
    assert await bus.read_pending(streams.BARS) == []
    assert len(await bus.history(streams.EVENTS)) == 1


async def test_a_service_knows_whether_it_left_something_behind(instances: Instances) -> None:
    """It asks before it reads what is new."""
    bus = await start(instances)
    read = [streams.EVENTS, streams.BARS]
    await bus.ensure_groups(read)
    await bus.publish(bars(1))
    assert not await bus.has_pending(read)
    given = (await bus.read_new(read, block=False))[streams.BARS]
    assert await bus.has_pending(read)
    await bus.commit(given, [])
    assert not await bus.has_pending(read)


async def test_a_group_begins_with_the_first_entry(instances: Instances) -> None:
    """What was written before a service first ran is its to read, and once."""
    bus = await instances.open()
    assert await bus.hold_lease(5.0)
    await bus.publish(bars(1))
    await bus.ensure_groups([streams.BARS])
    read = await bus.read_new([streams.BARS], block=False)
    assert [delivery.message() for delivery in read[streams.BARS]] == [a_bar()]
    await bus.ensure_groups([streams.BARS])
    assert await bus.read_new([streams.BARS], block=False) == {}


async def test_a_state_that_is_not_given_stays(instances: Instances) -> None:
    """Many a step changes nothing that has to be saved."""
    bus = await start(instances)
    await bus.publish(bars(1), state=b"state")
    await bus.commit((await bus.read_new([streams.BARS], block=False))[streams.BARS], [])
    assert await bus.state() == b"state"
    await bus.publish([Output(an_event())])
    assert await bus.state() == b"state"


async def test_a_blocked_read_returns_with_what_comes(instances: Instances) -> None:
    """A reader does not poll: it is told."""
    bus = await start(instances)
    reading = asyncio.create_task(bus.read_new([streams.BARS], block=True))
    await asyncio.sleep(0.02)
    await bus.publish(bars(1))
    assert [delivery.message() for delivery in (await reading)[streams.BARS]] == [a_bar()]


async def test_an_entry_can_be_asked_for_by_itself(instances: Instances) -> None:
    """The newest one, a range, and nothing where there is nothing."""
    bus = await start(instances)
    assert await bus.last(streams.BARS) is None
    await bus.publish(bars(3))
    ids = [output.entry_id for output in bars(3)]
    assert [entry_id for entry_id, _ in await bus.history(streams.BARS, ids[1], ids[2])] == ids[1:]
    assert len(await bus.history(streams.BARS, count=2)) == 2
    assert (await bus.last(streams.BARS) or ("",))[0] == ids[2]


async def read_and_done(bus: Bus, count: int) -> None:
    """Have the first bars read, and so many of them committed."""
    read = (await bus.read_new([streams.BARS], block=False))[streams.BARS]
    while more := (await bus.read_new([streams.BARS], block=False)).get(streams.BARS):
        read += more
    if count:
        await bus.commit(read[:count], [])


async def test_what_is_old_and_read_is_trimmed(instances: Instances) -> None:
    """Age is counted from the stream's own newest entry; a limit keeps what is just as old."""
    bus = await start(instances)
    await bus.publish(bars(5))
    await read_and_done(bus, 5)
    assert await bus.trim(10 * 60_000) == 2
    assert [entry_id for entry_id, _ in await bus.history(streams.BARS)] == [b.entry_id for b in bars(5)[2:]]
    assert await bus.trim(10 * 60_000) == 0


async def test_nothing_that_a_reader_needs_is_trimmed(instances: Instances) -> None:
    """Not read, or read and not committed: it stays, however old it is."""
    bus = await start(instances)
    await bus.publish(bars(5))
    assert await bus.trim(0) == 0
    await read_and_done(bus, 2)
    assert await bus.trim(0) == 2
    assert len(await bus.read_pending(streams.BARS)) == 3


async def test_a_reader_that_never_began_will_read_all(instances: Instances) -> None:
    """A service that is started for the first time later begins with the first entry."""
    bus = await instances.open()
    assert await bus.hold_lease(5.0)
    await bus.publish(bars(3))
    assert await bus.trim(0) == 0
    await bus.ensure_groups([streams.BARS])
    assert len((await bus.read_new([streams.BARS], block=False))[streams.BARS]) == 3


async def test_what_nobody_acts_on_is_trimmed_by_age_alone(instances: Instances) -> None:
    """Alerts that cannot be posted do not fill the server."""
    bus = await start(instances)
    await bus.append(an_event())
    await asyncio.sleep(0.005)
    last = await bus.append(an_event())
    assert await bus.trim(0) == 1
    assert [entry_id for entry_id, _ in await bus.history(streams.EVENTS)] == [last]


async def test_what_cannot_be_understood_is_left_out_of_a_history(instances: Instances) -> None:
    """Somebody else wrote it; who reads the stream says so."""
    bus = await start(instances)
    await instances.write_foreign(streams.EVENTS, {"type": "Nonsense"})
    await bus.append(an_event())
    assert await messages(bus, streams.EVENTS) == [an_event()]
