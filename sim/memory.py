"""The streams of a book in memory, and a service that reads and writes them as it does live.

The rules are those of `shared/runtime.py` and `shared/commit.lua`: a message is decoded from its fields, what
the handler returns is written with the state and the mark in one step, None holds the entry until the next
one, and an entry that cannot be handled is dead, its whole with it, and the state is that of the last commit.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from shared import streams
from shared.bus import Delivery
from shared.contracts import Contract
from shared.errors import InputError, InvariantError, UnavailableError
from shared.messages import AccountReported, Message
from shared.runtime import NEVER_DEAD, Service, entry_id_of
from shared.streams import Stream


class MemoryBook:
    """The streams of one book, as they are written, and the venue's terms."""

    def __init__(self, contracts: Mapping[str, Contract]) -> None:
        self.contracts = contracts
        self._entries: dict[Stream, dict[str, Delivery]] = {stream: {} for stream in streams.STREAMS}
        self._written = 0
        self._account: tuple[str, AccountReported] | None = None  # the one that was read last

    def put(self, entries: Sequence[Delivery]) -> None:
        """Take entries as they were recorded."""
        for entry in entries:
            self._entries[entry.stream][entry.entry_id] = entry

    def write(self, message: Message) -> Delivery:
        """Write a message under the id it has live; where the server would choose one, they are counted.

        Raises:
            InvariantError: another entry stands there.
        """
        stream, entry_id = streams.stream_of(message), entry_id_of(message)
        if entry_id == "*":
            self._written += 1
            entry_id = f"{self._written}-0"
        entry = Delivery(stream, entry_id, streams.encode(message))
        if self._entries[stream].setdefault(entry_id, entry).fields != entry.fields:
            raise InvariantError(f"{stream.name} {entry_id} stands there with other content")
        return entry

    def entries(self, stream: Stream) -> list[Delivery]:
        """Return a stream's entries in the order they were written."""
        return list(self._entries[stream].values())

    def account(self, entry_id: str) -> AccountReported:
        """Return an account entry.

        Raises:
            UnavailableError: it is not there.
        """
        if self._account is None or self._account[0] != entry_id:
            entry = self._entries[streams.ACCOUNT].get(entry_id)
            if entry is None:
                raise UnavailableError(f"account entry {entry_id} is not there")
            self._account = (entry_id, cast(AccountReported, streams.decode(entry.fields)))
        return self._account[1]


class MemoryBus:
    """One service's door to a book in memory: what its handlers read beside their messages."""

    def __init__(self, book: MemoryBook) -> None:
        self.book = book
        self._last_ids: dict[str, str] = {}

    async def account(self, entry_id: str) -> AccountReported:
        """Return an account entry; UnavailableError if it is not there."""
        return self.book.account(entry_id)

    async def contracts(self) -> Mapping[str, Contract]:
        """Return the venue's terms of every symbol of the book."""
        return self.book.contracts

    def last_ids(self) -> dict[str, str]:
        """Return the last id committed, by stream."""
        return dict(self._last_ids)

    def have_read(self, last_ids: Mapping[str, str]) -> None:
        """Take it that the streams were read up to these ids."""
        self._last_ids = dict(last_ids)

    def mark(self, entry: Delivery) -> None:
        """Remember that an entry, and those before it, are committed."""
        self._last_ids[entry.stream.name] = entry.entry_id


@dataclass(frozen=True, slots=True)
class Dead:
    """An entry that a service could not handle."""

    entry: Delivery
    service: str
    error: str


@dataclass
class Station:
    """One service in this process: takes entries one at a time, in the order it is given them."""

    name: str
    service: Service
    bus: MemoryBus
    given_up: Container[tuple[str, str]] = ()  # (stream, entry id) that the live one tried in vain
    dead: list[Dead] = field(default_factory=list)
    _held: list[Delivery] = field(default_factory=list)
    _saved: bytes | None = None

    async def take(self, entry: Delivery) -> list[Delivery]:
        """Handle one entry and return what was written for it.

        Raises:
            UnavailableError: it cannot be handled now, and nothing here would change that.
            InvariantError: an order or execution cannot be handled at all.
        """
        routes = {(route.stream, route.kind): route.handler for route in self.service.routes}
        try:
            message = streams.decode(entry.fields)
            handler = routes.get((entry.stream, type(message)))
            outputs = await handler(message) if handler else ()
        except InputError as error:
            self._bury(entry, error)
            return []
        except UnavailableError as error:
            if (entry.stream.name, entry.entry_id) not in self.given_up:
                raise
            self._bury(entry, error)
            return []
        self._held.append(entry)
        if outputs is None:
            return []
        written = [self.bus.book.write(output) for output in outputs]
        self._commit(entry)
        return written

    def begin(self, state: bytes | None, last_ids: Mapping[str, str]) -> None:
        """Take up a state saved with a commit, and how far the streams had been read by then."""
        self._saved = state
        self._held.clear()
        self.service.state.restore(state)
        self.bus.have_read(last_ids)

    def become(self, other: Station) -> None:
        """Take over the state after another one's last commit, and how far it had read."""
        self.begin(other.service.state.snapshot(), other.bus.last_ids())

    def _commit(self, entry: Delivery) -> None:
        self._held.clear()
        self._saved = self.service.state.snapshot()
        self.bus.mark(entry)

    def _bury(self, entry: Delivery, error: Exception) -> None:
        if entry.stream in NEVER_DEAD:
            raise InvariantError(f"{entry.stream.name} {entry.entry_id}: {error}") from error
        self.dead.append(Dead(entry, self.name, str(error)))
        self._held.clear()  # a whole dies as a whole
        self.service.state.restore(self._saved)
        self.bus.mark(entry)
