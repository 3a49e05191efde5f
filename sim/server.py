"""A Redis of one book in memory: the streams, groups, marks, leases and scripts that the mesh uses of it.

It refuses what `shared/commit.lua` and `shared/lease.lua` refuse, in the same order; the contract suite
holds it to that. It can be away, and come back as it was some seconds ago, as a server does that loses the
end of its append-only file.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from shared import streams
from shared.contracts import Contract
from shared.messages import Message
from shared.streams import Stream, id_parts

Id = tuple[int, int]
REMEMBERED_S = 15.0  # how far back it can be set


@dataclass
class Entry:
    """What stands in a stream: a message of ours, or fields that somebody else wrote."""

    entry_id: str
    message: Message | None
    raw: dict[str, str] = field(default_factory=dict)

    @cached_property
    def fields(self) -> dict[str, str]:
        """The entry as the server shows it."""
        return self.raw if self.message is None else streams.encode(self.message)

    def is_same(self, other: Entry) -> bool:
        """Whether the content is identical."""
        if self.message is not None and self.message is other.message:
            return True
        return self.fields == other.fields


@dataclass
class Group:
    """How far the readers of a service are in one stream."""

    delivered: Id = (0, 0)  # the last id that was given out
    pending: dict[Id, Entry] = field(default_factory=dict)  # given out, not acknowledged; by id


class EntryList:
    """One stream."""

    def __init__(self) -> None:
        self.ids: list[Id] = []
        self.entries: list[Entry] = []
        self.last: Id = (0, 0)
        self.groups: dict[str, Group] = {}

    def after(self, last: Id, count: int | None = None) -> list[tuple[Id, Entry]]:
        """Return the entries behind an id."""
        at = bisect_right(self.ids, last)
        end = len(self.ids) if count is None else at + count
        return list(zip(self.ids[at:end], self.entries[at:end], strict=True))

    def between(self, first: Id, last: Id) -> list[Entry]:
        """Return the entries of a range, both ends included."""
        return self.entries[bisect_left(self.ids, first) : bisect_right(self.ids, last)]


class Refused(Exception):  # noqa: N818 - an answer of a script, not an error of ours
    """A script's answer that is not OK: status and details, as `commit.lua` returns them."""

    def __init__(self, status: str, *detail: str) -> None:
        super().__init__(status, *detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Write:
    """One call of the commit script."""

    service: str
    token: str
    source: Stream | None
    inputs: Sequence[str]
    outputs: Sequence[tuple[Stream, str, Message]]
    state: bytes
    counter: tuple[str, int] | None


class MemoryServer:
    """All that the server holds of one book. Calls are atomic, as there."""

    def __init__(self, now_ms: Callable[[], int], monotonic_s: Callable[[], float]) -> None:
        self._now_ms, self._monotonic_s = now_ms, monotonic_s
        self.streams = {stream.name: EntryList() for stream in streams.STREAMS}
        self.leases: dict[str, tuple[str, float]] = {}  # service -> token, when it ends
        self.epochs: dict[str, int] = {}
        self.marks: dict[str, dict[str, str]] = {}
        self.states: dict[str, bytes] = {}
        self.counters: dict[str, int] = {}
        self.contracts: dict[str, Contract] = {}
        self.health: dict[str, dict[str, str]] = {}
        self.is_up = True
        self.on_commit: list[Callable[[Write], None]] = []  # told every call of the script that has written
        # by stream, who waits for it to grow; answered with False where it does not
        self.waiters: dict[str, dict[asyncio.Future[bool], None]] = {name: {} for name in self.streams}
        self.owners = count(1)  # of leases: every door that was ever opened is another one
        self.times_back = 0  # how often it has become older
        self.remembers = True  # whether it may become older
        self._undo: deque[tuple[float, Callable[[], None]]] = deque()

    def go(self) -> None:
        """Be away: who waits for a stream is told."""
        self.is_up = False
        for waiters in self.waiters.values():
            for waiter in waiters:
                answer_waiter(waiter, True)

    # --- the past -------------------------------------------------------------------------------

    def _did(self, undo: Callable[[], None]) -> None:
        if not self.remembers:
            return
        now_s = self._monotonic_s()
        self._undo.append((now_s, undo))
        while self._undo[0][0] < now_s - REMEMBERED_S:
            self._undo.popleft()

    def go_back(self, seconds: float) -> int:
        """Become what it was so many seconds ago; return how many changes were lost."""
        since_s, lost = self._monotonic_s() - seconds, 0
        self.times_back += 1
        while self._undo and self._undo[-1][0] >= since_s:
            self._undo.pop()[1]()
            lost += 1
        return lost

    def _put(self, values: dict[str, object], key: str, value: object) -> None:
        """Set one value of a hash or key, so that it can be unset."""
        known, before = key in values, values.get(key)

        def undo() -> None:
            if known:
                values[key] = before
            else:
                del values[key]

        values[key] = value
        self._did(undo)

    # --- leases ---------------------------------------------------------------------------------

    def holder(self, service: str) -> str:
        """Return the token of a lease, '' if nobody holds it."""
        token, ends_s = self.leases.get(service, ("", 0.0))
        return token if self._monotonic_s() < ends_s else ""

    def take_lease(self, service: str, token: str, owner: str, ttl_s: float) -> str:
        """Take or keep a lease as `lease.lua` does; return the token that is now the caller's, or ''."""
        holder = self.holder(service)
        if token:
            epoch = int(token.partition(":")[0])
            if holder != token and (holder or self.epochs.get(service) != epoch):
                return ""
        elif holder:
            return ""
        else:
            epoch = self.epochs.get(service, 0) + 1
            self._put(self.epochs, service, epoch)  # type: ignore[arg-type]
            token = f"{epoch}:{owner}"
        self._put(self.leases, service, (token, self._monotonic_s() + ttl_s))  # type: ignore[arg-type]
        return token

    def drop_lease(self, service: str) -> None:
        """Forget a lease."""
        self._put(self.leases, service, ("", 0.0))  # type: ignore[arg-type]

    # --- reading --------------------------------------------------------------------------------

    def make_group(self, stream: str, service: str) -> None:
        """Create a group from the first entry on, if there is none."""
        groups = self.streams[stream].groups
        if service not in groups:
            groups[service] = Group()

            def undo() -> None:
                del groups[service]

            self._did(undo)

    def give_out(self, stream: str, service: str, count: int) -> list[Entry]:
        """Give out what the group has not been given, and note it as pending."""
        entries = self.streams[stream]
        group = entries.groups[service]
        if group.delivered >= entries.last:
            return []
        found = entries.after(group.delivered, count)
        before = group.delivered
        group.delivered = found[-1][0]
        group.pending.update(found)

        def undo() -> None:
            group.delivered = before
            for entry_id, _ in found:
                group.pending.pop(entry_id, None)

        self._did(undo)
        return [entry for _, entry in found]

    def pending(self, stream: str, service: str, after: str, count: int) -> list[Entry]:
        """Return what was given out and not acknowledged, oldest first."""
        pending = self.streams[stream].groups[service].pending
        last = id_parts(after)
        return [pending[entry_id] for entry_id in sorted(pending) if entry_id > last][:count]

    # --- writing --------------------------------------------------------------------------------

    def add(self, stream: str, entry: Entry) -> str:
        """Add an entry at the end; '*' takes the server's time."""
        entries = self.streams[stream]
        if entry.entry_id == "*":
            now_ms = self._now_ms()
            last_ms, sequence = entries.last
            at = (now_ms, 0) if now_ms > last_ms else (last_ms, sequence + 1)
            entry.entry_id = f"{at[0]}-{at[1]}"
        else:
            at = id_parts(entry.entry_id)
        before = entries.last
        entries.ids.append(at)
        entries.entries.append(entry)
        entries.last = at

        def undo() -> None:
            entries.ids.pop()
            entries.entries.pop()
            entries.last = before

        self._did(undo)
        for waiter in self.waiters[stream]:
            answer_waiter(waiter, True)
        return entry.entry_id

    def commit(self, write: Write) -> list[str]:
        """Check everything, then write everything: `commit.lua`, line by line.

        Raises:
            Refused: with the script's own status; nothing was written.
        """
        holder = self.holder(write.service)
        if holder != write.token:
            raise Refused("LEASE", holder)
        if write.source is not None and self._is_duplicate(write):
            return []
        if write.counter is not None:
            stored = self.counters.get(write.counter[0], 0)
            if stored + 1 != write.counter[1]:
                raise Refused("COUNTER", str(stored))
        outputs = self._checked(write.outputs)
        ids = [self.add(name, entry) if is_new else entry.entry_id for name, entry, is_new in outputs]
        if write.counter is not None:
            self._put(self.counters, *write.counter)  # type: ignore[arg-type]
        if write.state:
            self._put(self.states, write.service, write.state)  # type: ignore[arg-type]
        if write.source is not None:
            marks = self.marks.setdefault(write.service, {})
            self._put(marks, write.source.name, write.inputs[-1])  # type: ignore[arg-type]
            self._acknowledge(write.source.name, write.service, write.inputs)
        for listener in self.on_commit:
            listener(write)
        return ids

    def _is_duplicate(self, write: Write) -> bool:
        assert write.source is not None  # noqa: S101 - the caller has looked
        name, first, last = write.source.name, id_parts(write.inputs[0]), id_parts(write.inputs[-1])
        mark = self.marks.get(write.service, {}).get(name)
        if mark is not None and first <= id_parts(mark):
            if last > id_parts(mark):
                raise Refused("CONFLICT", name, write.inputs[0])
            self._acknowledge(name, write.service, write.inputs)
            return True
        pending = self.streams[name].groups[write.service].pending
        oldest = min(pending, default=None)
        if oldest != first:
            raise Refused("ORDER", "" if oldest is None else pending[oldest].entry_id)
        return False

    def _checked(self, outputs: Iterable[tuple[Stream, str, Message]]) -> list[tuple[str, Entry, bool]]:
        """Return the entries to write; one that stands there already is not new."""
        last: dict[str, Id] = {}
        checked = []
        for stream, entry_id, message in outputs:
            entry, is_new = Entry(entry_id, message), True
            if entry_id != "*":
                entries = self.streams[stream.name]
                at = id_parts(entry_id)
                if at <= last.setdefault(stream.name, entries.last):
                    there = entries.between(at, at)
                    if not there or not there[0].is_same(entry):
                        raise Refused("CONFLICT", stream.name, entry_id)
                    is_new = False
                else:
                    last[stream.name] = at
            checked.append((stream.name, entry, is_new))
        return checked

    def _acknowledge(self, stream: str, service: str, inputs: Sequence[str]) -> None:
        pending = self.streams[stream].groups[service].pending
        gone = {at: pending.pop(at) for at in map(id_parts, inputs) if at in pending}
        self._did(lambda: pending.update(gone))

    def store_contracts(self, contracts: Mapping[str, Contract]) -> None:
        """Store the venue's terms."""
        for symbol, contract in contracts.items():
            self._put(self.contracts, symbol, contract)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Hold nothing any more."""
        self.streams.clear()
        self._undo.clear()

    def copy(self, now_ms: Callable[[], int], monotonic_s: Callable[[], float]) -> MemoryServer:
        """Return a server with the same content on another clock, and nobody at its leases."""
        other = MemoryServer(now_ms, monotonic_s)
        for name, entries in self.streams.items():
            copied = other.streams[name]
            copied.ids, copied.entries, copied.last = [*entries.ids], [*entries.entries], entries.last
            copied.groups = {s: Group(g.delivered, dict(g.pending)) for s, g in entries.groups.items()}
        other.epochs, other.counters = dict(self.epochs), dict(self.counters)
        other.marks = {service: dict(marks) for service, marks in self.marks.items()}
        other.states, other.contracts = dict(self.states), dict(self.contracts)
        return other


def answer_waiter(waiter: asyncio.Future[bool], has_grown: bool) -> None:
    """Tell one that waits for a stream to grow, unless it was told already."""
    if not waiter.done():
        waiter.set_result(has_grown)
