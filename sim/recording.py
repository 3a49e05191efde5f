"""What was recorded of a book, and from where to where a replay goes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from shared import streams
from shared.bus import Delivery
from shared.contracts import Contract
from shared.errors import InputError
from shared.streams import Stream, id_parts
from sim.compare import slice_of
from sim.schedule import READ, Step, causes_of

Entries = Sequence[Delivery]
Marks = Mapping[str, Mapping[str, str]]  # service -> stream -> the last entry it has committed


@dataclass(frozen=True)
class Saved:
    """What the services remembered at some moment, and how far they had read; empty: a book's beginning."""

    states: Mapping[str, bytes] = field(default_factory=dict)
    marks: Marks = field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """What was recorded of a book, from its beginning or from a saved state on."""

    book: str
    entries: Mapping[Stream, Entries]
    contracts: Mapping[str, Contract]
    marks: Marks
    saved: Saved = Saved()

    def read_by(self, service: str, stream: Stream) -> Entries:
        """Return what a service has read of a stream and committed, since it was saved."""
        after, until = mark(self.saved.marks, service, stream), mark(self.marks, service, stream)
        return [entry for entry in self.entries[stream] if after < id_parts(entry.entry_id) <= until]

    def is_written_by(self, service: str, stream: Stream, entry: Delivery) -> bool:
        """Whether a service wrote an entry for a slice that it has read of a stream since it was saved."""
        after, until = mark(self.saved.marks, service, stream), mark(self.marks, service, stream)
        return after[0] < slice_of(entry) <= until[0]

    def not_read_when_saved(self, service: str, stream: Stream, writer: str, source: Stream) -> Entries:
        """Return what one service had written, and the next one had not read, when they were saved."""
        after, until = mark(self.saved.marks, service, stream), mark(self.saved.marks, writer, source)
        return [entry for entry in self.entries[stream] if after[0] < id_parts(entry.entry_id)[0] <= until[0]]

    def mark_ms(self, service: str, stream: Stream) -> int:
        """Return the close of the last slice that a service has committed; 0: of none."""
        return mark(self.marks, service, stream)[0]

    @property
    def decisions(self) -> Entries:
        """What the executor decided, without what it said of itself."""
        return [entry for entry in self.entries[streams.ORDERS] if entry.fields["type"] != "PolicyAdopted"]

    def announced(self) -> Entries:
        """Return what the executor said of its control state, in the shape of its decisions."""
        return [
            Delivery(entry.stream, entry.entry_id, {**entry.fields, "inputs": details["inputs"]})
            for entry in self.entries[streams.EVENTS]
            if (entry.fields["service"], entry.fields["kind"]) == ("executor", "control")
            for details in [orjson.loads(entry.fields["details"])]
        ]

    def causes(self) -> dict[str, Step]:
        """Return what the executor reads, by message id."""
        return causes_of(*(self.entries[stream] for stream in READ))

    def causes_read(self) -> dict[str, Step]:
        """Return what the executor has read, by message id."""
        return causes_of(*(self.read_by("executor", stream) for stream in READ))

    def given_up(self, service: str) -> set[tuple[str, str]]:
        """Return the entries that a service could not handle, as (stream, id)."""
        dead = (entry.fields for entry in self.entries[streams.DEAD])
        return {(fields["stream"], fields["entry_id"]) for fields in dead if fields["group"] == service}

    @property
    def symbols(self) -> tuple[str, ...]:
        """The book's symbols, in their order.

        Raises:
            InputError: no slice was recorded.
        """
        bars = self.entries[streams.BARS]
        if not bars:
            raise InputError(f"book {self.book} has no bars: nothing was recorded there")
        return tuple(bar.fields["symbol"] for bar in bars[: int(bars[0].fields["slice_size"])])


@dataclass(frozen=True, slots=True)
class Range:
    """Which slices are compared, by their close in ms, both ends included."""

    first_ms: int = 0
    last_ms: int = 2**63

    def of(self, entries: Entries, causes: Mapping[str, Step]) -> list[Delivery]:
        """Return the entries that belong to these slices."""
        return [entry for entry in entries if self.first_ms <= slice_of(entry, causes) <= self.last_ms]


def mark(marks: Marks, service: str, stream: Stream) -> tuple[int, int]:
    """Return the id of the last entry of a stream that a service has committed; (0, 0): none."""
    return id_parts(marks.get(service, {}).get(stream.name, "0-0"))
