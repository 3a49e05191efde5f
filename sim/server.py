"""A Redis of one book in memory: the streams, groups, marks, leases and scripts that the mesh uses of it.

It refuses what `shared/commit.lua` and `shared/lease.lua` refuse, in the same order; the contract suite
holds it to that. It can be away, and come back as it was some seconds ago, as a server does that loses the
end of its append-only file.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

from shared import streams
from shared.bus import Output
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

    def take_back(self, given: Sequence[tuple[Id, Entry]], before: Id) -> None:
        """Be what it was before something was given out."""
        self.delivered = before
        for entry_id, _ in given:
            self.pending.pop(entry_id, None)


class EntryList:
    """One stream."""

    def __init__(self) -> None:
        self.ids: list[Id] = []
        self.entries: list[Entry] = []
        self.last: Id = (0, 0)
        self.groups: dict[str, Group] = {}
        self.waiters: dict[asyncio.Future[bool], None] = {}  # for it to grow; False: it does not
        self.on_added: list[Callable[[Entry], None]] = []  # told what it gets

    def after(self, last: Id, count: int | None = None) -> list[tuple[Id, Entry]]:
        """Return the entries behind an id."""
        at = bisect_right(self.ids, last)
        end = len(self.ids) if count is None else at + count
        return list(zip(self.ids[at:end], self.entries[at:end], strict=True))

    def between(self, first: Id, last: Id) -> list[Entry]:
        """Return the entries of a range, both ends included."""
        return self.entries[bisect_left(self.ids, first) : bisect_right(self.ids, last)]

    def take_back(self, before: Id) -> None:
        """Be what it was before the last entry."""
        self.ids.pop()
        self.entries.pop()
        self.last = before

    def put_back(self, ids: Sequence[Id], entries: Sequence[Entry]) -> None:
        """Have the first entries again."""
        self.ids[:0] = ids
        self.entries[:0] = entries


class Refused(Exception):  # noqa: N818 - an answer of a script, not an error of ours
    """A script's answer that is not OK: status and details, as `commit.lua` returns them."""

    def __init__(self, status: str, *detail: str) -> None:
        super().__init__(status, *detail)
        self.status = status
        self.detail = detail


@dataclass(slots=True)
class Write:
    """One call of the commit script."""

    service: str
    token: str
    source: Stream | None
    inputs: Sequence[str]
    outputs: Sequence[Output]
    state: bytes
    counter: tuple[str, int] | None


class MemoryServer:
    """All that the server holds of one book. Calls are atomic, as there."""

    def __init__(self, now_ms: Callable[[], int], monotonic_s: Callable[[], float]) -> None:
        self.now_ms, self.monotonic_s = now_ms, monotonic_s
        self.streams = {stream.name: EntryList() for stream in streams.STREAMS}
        self.leases: dict[str, tuple[str, float]] = {}  # service -> token, when it ends
        self.epochs: dict[str, int] = {}
        self.marks: defaultdict[str, dict[str, str]] = defaultdict(dict)  # service -> stream -> entry id
        self.states: dict[str, bytes] = {}
        self.counters: dict[str, int] = {}
        self.contracts: dict[str, Contract] = {}
        self.health: dict[str, dict[str, str]] = {}
        self.is_up = True
        self.on_commit: list[Callable[[Write], None]] = []  # told every call of the script that has written
        self.owners = count(1)  # of leases: every door that was ever opened is another one
        self.times_back = 0  # how often it has become older
        self.remembers = True  # whether it may become older
        self._undo: deque[tuple[float, Callable[..., object], tuple[Any, ...]]] = deque()

    def go(self) -> None:
        """Be away: who waits for a stream is told."""
        self.is_up = False
        for entries in self.streams.values():
            for waiter in entries.waiters:
                answer_waiter(waiter, True)

    # --- the past -------------------------------------------------------------------------------

    def _did(self, undo: Callable[..., object], *args: Any) -> None:  # noqa: ANN401 - of any of them
        """Keep for a while how something that was just done is undone."""
        now_s = self.monotonic_s()
        self._undo.append((now_s, undo, args))
        while self._undo[0][0] < now_s - REMEMBERED_S:
            self._undo.popleft()

    def go_back(self, seconds: float) -> int:
        """Become what it was so many seconds ago; return how many changes were lost."""
        since_s, lost = self.monotonic_s() - seconds, 0
        self.times_back += 1
        while self._undo and self._undo[-1][0] >= since_s:
            _, undo, args = self._undo.pop()
            undo(*args)
            lost += 1
        return lost

    def _put(self, values: dict[str, Any], key: str, value: object) -> None:
        """Set one value of a hash or key, so that it can be unset."""
        if self.remembers:
            if key in values:
                self._did(values.__setitem__, key, values[key])
            else:
                self._did(values.pop, key)
        values[key] = value

    # --- leases ---------------------------------------------------------------------------------

    def holder(self, service: str) -> str:
        """Return the token of a lease, '' if nobody holds it."""
        token, ends_s = self.leases.get(service, ("", 0.0))
        return token if self.monotonic_s() < ends_s else ""

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
            self._put(self.epochs, service, epoch)
            token = f"{epoch}:{owner}"
        self._put(self.leases, service, (token, self.monotonic_s() + ttl_s))
        return token

    def drop_lease(self, service: str) -> None:
        """Forget a lease."""
        self._put(self.leases, service, ("", 0.0))

    # --- reading --------------------------------------------------------------------------------

    def make_group(self, stream: str, service: str) -> None:
        """Create a group from the first entry on, if there is none."""
        groups = self.streams[stream].groups
        if service not in groups:
            groups[service] = Group()
            if self.remembers:
                self._did(groups.pop, service)

    def give_out(self, read: Sequence[Stream], service: str, count: int) -> dict[Stream, list[Entry]]:
        """Give out what the groups have not been given, and note it as pending."""
        given = {}
        for stream in read:
            entries = self.streams[stream.name]
            group = entries.groups[service]
            if group.delivered >= entries.last:
                continue
            found = entries.after(group.delivered, count)
            if self.remembers:
                self._did(group.take_back, found, group.delivered)
            group.delivered = found[-1][0]
            group.pending.update(found)
            given[stream] = [entry for _, entry in found]
        return given

    def pending(self, stream: str, service: str, after: str, count: int) -> list[Entry]:
        """Return what was given out and not acknowledged, oldest first."""
        pending = self.streams[stream].groups[service].pending
        last = id_parts(after)
        return [pending[entry_id] for entry_id in sorted(pending) if entry_id > last][:count]

    def has_pending(self, read: Sequence[Stream], service: str) -> bool:
        """Whether a group has something of these streams that was given out and not acknowledged."""
        return any(self.streams[stream.name].groups[service].pending for stream in read)

    def newest(self, stream: str) -> list[Entry]:
        """Return the last entry, if there is one."""
        return self.streams[stream].entries[-1:]

    def marks_of(self, service: str) -> dict[str, str]:
        """Return the last entry that a service has committed, by stream."""
        return dict(self.marks[service])

    # --- writing --------------------------------------------------------------------------------

    def add(self, stream: str, entry: Entry) -> str:
        """Add an entry at the end; '*' takes the server's time."""
        entries = self.streams[stream]
        if entry.entry_id == "*":
            now_ms = self.now_ms()
            last_ms, sequence = entries.last
            at = (now_ms, 0) if now_ms > last_ms else (last_ms, sequence + 1)
            entry.entry_id = f"{at[0]}-{at[1]}"
        else:
            at = id_parts(entry.entry_id)
        if self.remembers:
            self._did(entries.take_back, entries.last)
        entries.ids.append(at)
        entries.entries.append(entry)
        entries.last = at
        for listener in entries.on_added:
            listener(entry)
        if entries.waiters:
            waiting, entries.waiters = entries.waiters, {}
            for waiter in waiting:
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
            self._put(self.counters, *write.counter)
        if write.state:
            self._put(self.states, write.service, write.state)
        if write.source is not None:
            self._put(self.marks[write.service], write.source.name, write.inputs[-1])
            self._acknowledge(write.source.name, write.service, write.inputs)
        for listener in self.on_commit:
            listener(write)
        return ids

    def _is_duplicate(self, write: Write) -> bool:
        assert write.source is not None  # noqa: S101 - the caller has looked
        name, first, last = write.source.name, id_parts(write.inputs[0]), id_parts(write.inputs[-1])
        mark = self.marks[write.service].get(name)
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

    def _checked(self, outputs: Sequence[Output]) -> list[tuple[str, Entry, bool]]:
        """Return the entries to write; one that stands there already is not new."""
        last: dict[str, Id] = {}
        checked = []
        for output in outputs:
            name = streams.stream_of(output.message).name
            entry, is_new = Entry(output.entry_id, output.message), True
            if entry.entry_id != "*":
                entries = self.streams[name]
                at = id_parts(entry.entry_id)
                if at <= last.get(name, entries.last):
                    there = entries.between(at, at)
                    if not there or not there[0].is_same(entry):
                        raise Refused("CONFLICT", name, entry.entry_id)
                    is_new = False
                else:
                    last[name] = at
            checked.append((name, entry, is_new))
        return checked

    def _acknowledge(self, stream: str, service: str, inputs: Sequence[str]) -> None:
        pending = self.streams[stream].groups[service].pending
        gone = {at: pending.pop(at) for at in map(id_parts, inputs) if at in pending}
        if self.remembers:
            self._did(pending.update, gone)

    def trim(self, stream: Stream, keep_ms: int) -> int:
        """Take old entries out of a stream as `trim.lua` does; return how many."""
        entries = self.streams[stream.name]
        if not entries.ids:
            return 0
        kept_ms = entries.ids[-1][0] - keep_ms
        for read, group in streams.keepers(stream):
            kept_ms = min(kept_ms, self._needed_ms(read, group))
        at = bisect_left(entries.ids, (kept_ms, 0))
        if at:
            self._cut(entries, at)
        return at

    def _needed_ms(self, stream: Stream, service: str) -> int:
        """Return from when on a service needs a stream's entries; 0: all of them."""
        group = self.streams[stream.name].groups.get(service)
        if group is None:
            return 0
        return (min(group.pending) if group.pending else group.delivered)[0]

    def _cut(self, entries: EntryList, at: int) -> None:
        """Take out the first entries, so that they can come back."""
        ids, gone = entries.ids[:at], entries.entries[:at]
        del entries.ids[:at], entries.entries[:at]
        if self.remembers:
            self._did(entries.put_back, ids, gone)

    def store_contracts(self, contracts: Mapping[str, Contract]) -> None:
        """Store the venue's terms."""
        for symbol, contract in contracts.items():
            self._put(self.contracts, symbol, contract)

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
        other.marks.update({service: dict(marks) for service, marks in self.marks.items()})
        other.states, other.contracts = dict(self.states), dict(self.contracts)
        return other


def answer_waiter(waiter: asyncio.Future[bool], has_grown: bool) -> None:
    """Tell one that waits for a stream to grow, unless it was told already."""
    if not waiter.done():
        waiter.set_result(has_grown)
