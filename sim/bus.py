"""One service's door to a server in memory: the `Bus` of the simulation, with a network between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar, TypeVarTuple, Unpack, cast

from shared import streams
from shared.bus import BusUnavailableError, Delivery, Output, refusal_of
from shared.contracts import Contract
from shared.errors import InputError, LeaseLostError, UnavailableError
from shared.messages import AccountReported, Message
from shared.streams import Stream, id_parts
from sim.server import Entry, MemoryServer, Refused, Write, answer_waiter

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
BLOCK_S = 2.0  # longer than over a socket: waking up for nothing is all that an idle reader costs here
_LAST = (2**63, 0)


@dataclass(frozen=True)
class MemoryDelivery(Delivery):
    """An entry whose message need not be decoded."""

    entry: Entry

    def message(self) -> Message:
        """Return the message as it was written; what somebody else wrote is decoded, if it can be."""
        message = self.entry.message
        return streams.decode(self.entry.fields) if message is None else message


class Network(Protocol):
    """What may happen to a call between a service and the server."""

    is_stale: bool  # the connection is one of before the server's last start
    cuts: Sequence[object]  # what is to break, now or later

    def delay_s(self) -> float:
        """Return how long the call is on its way."""

    def before(self) -> None:
        """Let the call arrive; BusUnavailableError if it does not."""

    def after(self) -> None:
        """Let the answer arrive; BusUnavailableError if it does not."""


class Sound:
    """A network on which every call arrives at once."""

    is_stale = False
    cuts = ()

    def delay_s(self) -> float:
        """Return nothing."""
        return 0.0

    def before(self) -> None:
        """Let the call arrive."""

    def after(self) -> None:
        """Let the answer arrive."""


class MemoryBus:
    """Keeps the promises of `shared.bus.Bus`."""

    def __init__(
        self,
        server: MemoryServer,
        book: str,
        service: str,
        network: Network | None = None,
        *,
        read_count: int = 4,
    ) -> None:
        """Take where it leads, whose it is, what lies between, and how much is read at once."""
        self.read_count = read_count
        self._server = server
        self._book = book
        self._service = service
        self._network = network or Sound()
        self._owner = f"m{next(server.owners)}"
        self._token = ""
        self._deadline_s = 0.0
        self._last_ids: dict[str, str] = {}

    @property
    def book(self) -> str:
        """The book whose streams these are."""
        return self._book

    async def _call(self, work: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        network = self._network
        delay_s = network.delay_s()
        if delay_s:
            await asyncio.sleep(delay_s)
        if network.is_stale or network.cuts:
            network.before()
        if not self._server.is_up:
            raise BusUnavailableError("redis: the server is away")
        done = work(*args)
        if network.cuts:
            network.after()
        return done

    # --- lease ----------------------------------------------------------------------------------

    async def hold_lease(self, ttl_s: float) -> bool:
        """Take the service's lease, or keep it."""
        started_s = self._server.monotonic_s()
        token = await self._call(self._server.take_lease, self._service, self._token, self._owner, ttl_s)
        if self._token and not token:
            raise LeaseLostError(f"another instance of {self._service} is active")
        if token:
            self._token, self._deadline_s = token, started_s + ttl_s
        return bool(token)

    async def release_lease(self) -> None:
        """Give the lease back."""
        if self.holds_lease():
            await self._call(self._server.drop_lease, self._service)
        self._token = ""

    def holds_lease(self) -> bool:
        """Whether the lease is surely ours."""
        return self._token != "" and self._server.monotonic_s() < self._deadline_s

    # --- reading --------------------------------------------------------------------------------

    async def ensure_groups(self, read: Sequence[Stream]) -> None:
        """Create this service's groups where they do not exist yet."""
        for stream in read:
            await self._call(self._server.make_group, stream.name, self._service)

    async def read_new(self, read: Sequence[Stream], *, block: bool) -> dict[Stream, list[Delivery]]:
        """Return entries nobody has read yet; waits a while for the first."""
        give_out = self._server.give_out
        given = await self._call(give_out, read, self._service, self.read_count)
        if not given and block and await self._grown(read):
            given = await self._call(give_out, read, self._service, self.read_count)
        return {stream: _deliveries(stream, entries) for stream, entries in given.items()}

    async def _grown(self, read: Sequence[Stream]) -> bool:
        """Wait until one of the streams grows, or the server goes away; False if neither comes."""
        loop = asyncio.get_running_loop()
        grown: asyncio.Future[bool] = asyncio.Future(loop=loop)  # is in no set: it needs no place there
        timer = loop.call_later(BLOCK_S, answer_waiter, grown, False)
        waiters = [self._server.streams[stream.name].waiters for stream in read]
        for each in waiters:
            each[grown] = None
        try:
            return await grown
        finally:
            timer.cancel()
            for each in waiters:
                del each[grown]

    async def read_pending(self, stream: Stream, after: str = "0") -> list[Delivery]:
        """Return entries that were read and never committed, oldest first."""
        entries = await self._call(self._server.pending, stream.name, self._service, after, self.read_count)
        return _deliveries(stream, entries)

    async def has_pending(self, read: Sequence[Stream]) -> bool:
        """Whether any of these streams has entries that were read and never committed."""
        return await self._call(self._server.has_pending, read, self._service)

    async def follow_accounts(self) -> None:
        """Never ends: an account entry is at hand here whenever it is asked for."""
        await asyncio.get_running_loop().create_future()

    async def history(
        self, stream: Stream, start: str = "-", end: str = "+", count: int | None = None
    ) -> list[tuple[str, Message]]:
        """Return (entry id, message) of a range, oldest first; what cannot be understood is left out."""
        first = (0, 0) if start == "-" else id_parts(start)
        last = _LAST if end == "+" else id_parts(end)
        entries = await self._call(self._server.streams[stream.name].between, first, last)
        found = []
        for delivery in _deliveries(stream, entries[:count]):
            with suppress(InputError):
                found.append((delivery.entry_id, delivery.message()))
        return found

    async def last(self, stream: Stream) -> tuple[str, Message] | None:
        """Return the newest entry, or None of an empty stream."""
        entries = await self._call(self._server.newest, stream.name)
        return (entries[0].entry_id, _deliveries(stream, entries)[0].message()) if entries else None

    async def account(self, entry_id: str) -> AccountReported:
        """Return one account entry."""
        entries = await self.history(streams.ACCOUNT, entry_id, entry_id)
        if not entries:
            raise UnavailableError(f"account entry {entry_id} is not there")
        return cast(AccountReported, entries[0][1])

    async def contracts(self) -> dict[str, Contract]:
        """Return the venue's terms of every symbol of the book."""
        return await self._call(self._server.contracts.copy)

    async def write_contracts(self, contracts: Mapping[str, Contract]) -> None:
        """Store the venue's terms."""
        await self._call(self._server.store_contracts, contracts)

    async def state(self) -> bytes | None:
        """Return the state saved with this service's last commit."""
        return await self._call(self._server.states.get, self._service)

    async def mark(self, service: str, stream: Stream) -> str:
        """Return the last entry of a stream that a service has committed."""
        return (await self._call(self._server.marks_of, service)).get(stream.name, "")

    async def counter(self, name: str) -> int:
        """Return the number of the last message written under a counter."""
        return await self._call(self._server.counters.get, name, 0)

    def last_ids(self) -> dict[str, str]:
        """Return the last id committed, by stream."""
        return dict(self._last_ids)

    async def load_marks(self) -> None:
        """Learn from the server what this service has committed so far."""
        self._last_ids = await self._call(self._server.marks_of, self._service)

    # --- writing --------------------------------------------------------------------------------

    async def commit(
        self, inputs: Sequence[Delivery], outputs: Sequence[Output], state: bytes = b""
    ) -> list[str]:
        """Write outputs, state and mark, and acknowledge the inputs: all or nothing."""
        ids = await self._write(inputs, outputs, state, None)
        self._last_ids[inputs[0].stream.name] = inputs[-1].entry_id
        return ids

    async def publish(
        self, outputs: Sequence[Output], *, counter: tuple[str, int] | None = None, state: bytes = b""
    ) -> list[str]:
        """Write messages that no entry caused, all or none."""
        return await self._write((), outputs, state, counter)

    async def _write(
        self,
        inputs: Sequence[Delivery],
        outputs: Sequence[Output],
        state: bytes,
        counter: tuple[str, int] | None,
    ) -> list[str]:
        if not self.holds_lease():
            raise BusUnavailableError(f"the lease of {self._service} has run out and was not renewed yet")
        write = Write(
            self._service,
            self._token,
            inputs[0].stream if inputs else None,
            [delivery.entry_id for delivery in inputs],
            [*outputs],
            state,
            counter,
        )
        try:
            return await self._call(self._server.commit, write)
        except Refused as refused:
            raise refusal_of(refused.status, refused.detail, self._service, inputs) from None

    async def trim(self, keep_ms: int) -> int:
        """Take out what is old and read by all who act on it; return how many entries went."""
        gone = 0
        for stream in streams.STREAMS:
            gone += await self._call(self._server.trim, stream, keep_ms)
        return gone

    async def append(self, message: Message) -> str:
        """Write a message without holding a lease."""
        name = streams.stream_of(message).name
        return await self._call(self._server.add, name, Entry("*", message))

    async def report_health(self, fields: Mapping[str, str]) -> None:
        """Say how this service is."""
        await self._call(self._server.health.__setitem__, self._service, dict(fields))

    async def health(self, service: str) -> dict[str, str]:
        """Return what a service last said of itself."""
        return dict(await self._call(self._server.health.get, service, {}))


def _deliveries(stream: Stream, entries: Sequence[Entry]) -> list[Delivery]:
    return [MemoryDelivery(stream, e.entry_id, e.raw, e) for e in entries]
