"""What a service needs of the streams: strict order, one atomic commit per step, one active instance.

`RedisBus` (`redis_bus.py`) has it on a server, the simulation's bus in memory; one contract suite holds both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared import streams
from shared.contracts import Contract
from shared.errors import InvariantError, LeaseLostError, UnavailableError
from shared.messages import AccountReported, Message
from shared.streams import Stream


class BusUnavailableError(UnavailableError):
    """The server does not answer: whether the last write arrived is unknown; start again from its state."""


class OutOfOrderError(UnavailableError):
    """An older entry is still pending: read the pending ones again, from the first."""


class CounterError(InvariantError):
    """A numbered message does not follow the one stored; `stored` says what the server has."""

    def __init__(self, stored: int) -> None:
        super().__init__(f"the stored number is {stored}")
        self.stored = stored


@dataclass(frozen=True, slots=True)
class Delivery:
    """An entry that was read and is not committed yet."""

    stream: Stream
    entry_id: str
    fields: dict[str, str]

    def message(self) -> Message:
        """Return what the entry says; InputError if it cannot be understood."""
        return streams.decode(self.fields)


@dataclass(frozen=True, slots=True)
class Output:
    """A message to be written, with its entry id ('*': the server chooses)."""

    message: Message
    entry_id: str = "*"


class Bus(Protocol):
    """One service's door to the streams of one book.

    Every method that talks to the server raises BusUnavailableError when it does not answer: a write may have
    arrived all the same. `tests/contract/test_bus.py` says what else is promised.
    """

    @property
    def book(self) -> str:
        """The book whose streams these are."""

    @property
    def read_count(self) -> int:
        """How many entries of a stream one read returns at most."""

    def holds_lease(self) -> bool:
        """Whether the lease is surely ours: judged by our own monotonic deadline."""

    def last_ids(self) -> dict[str, str]:
        """Return the last id committed, by stream: what a decision has seen."""

    async def hold_lease(self, ttl_s: float) -> bool:
        """Take the service's lease, or keep it; LeaseLostError if it was ours and is another's now."""

    async def release_lease(self) -> None:
        """Give the lease back, so that a standby need not wait for its end."""

    async def ensure_groups(self, read: Sequence[Stream]) -> None:
        """Create this service's groups where they do not exist yet."""

    async def read_new(self, read: Sequence[Stream], *, block: bool) -> dict[Stream, list[Delivery]]:
        """Return entries nobody has read yet, at most `read_count` a stream, oldest first."""

    async def read_pending(self, stream: Stream, after: str = "0") -> list[Delivery]:
        """Return entries that were read and never committed, oldest first, after the id `after`."""

    async def has_pending(self, read: Sequence[Stream]) -> bool:
        """Whether any of these streams has entries that were read and never committed."""

    async def load_marks(self) -> None:
        """Learn from the server what this service has committed so far."""

    async def state(self) -> bytes | None:
        """Return the state saved with this service's last commit."""

    async def mark(self, service: str, stream: Stream) -> str:
        """Return the last entry of a stream that a service has committed; "" before the first."""

    async def last(self, stream: Stream) -> tuple[str, Message] | None:
        """Return the newest entry, or None of an empty stream."""

    async def history(
        self, stream: Stream, start: str = "-", end: str = "+", count: int | None = None
    ) -> list[tuple[str, Message]]:
        """Return (entry id, message) of a range, oldest first; what cannot be understood is left out."""

    async def account(self, entry_id: str) -> AccountReported:
        """Return one account entry; UnavailableError if it is not there."""

    async def follow_accounts(self) -> None:
        """Keep the newest account entries at hand, so that a slice need not ask for its own; never ends."""

    async def contracts(self) -> dict[str, Contract]:
        """Return the venue's terms of every symbol of the book."""

    async def counter(self, name: str) -> int:
        """Return the number of the last message written under a counter; 0 before the first."""

    async def commit(
        self, inputs: Sequence[Delivery], outputs: Sequence[Output], state: bytes = b""
    ) -> list[str]:
        """Write outputs, state and mark, and acknowledge the inputs: all or nothing."""

    async def publish(
        self, outputs: Sequence[Output], *, counter: tuple[str, int] | None = None, state: bytes = b""
    ) -> list[str]:
        """Write messages that no entry caused, all or none."""

    async def append(self, message: Message) -> str:
        """Write a message without holding a lease."""

    async def trim(self, keep_ms: int) -> int:
        """Take out what is older than its stream's newest entry by more than `keep_ms`; return how many.

        What a service has yet to read stays, however old it is; `streams.keepers` says who is asked.
        """

    async def write_contracts(self, contracts: Mapping[str, Contract]) -> None:
        """Store the venue's terms of every symbol of the book."""

    async def report_health(self, fields: Mapping[str, str]) -> None:
        """Say how this service is."""


def refusal_of(status: str, detail: Sequence[str], service: str, inputs: Sequence[Delivery]) -> Exception:
    """Return what a commit raises that was not carried out: a status of `commit.lua`, with its detail."""
    first = detail[0] if detail else ""
    match status:
        case "ORDER":
            oldest = first or "none"
            return OutOfOrderError(
                f"{inputs[0].stream.name} {inputs[0].entry_id}: oldest pending is {oldest}"
            )
        case "COUNTER":
            return CounterError(int(first))
        case "LEASE":
            return LeaseLostError(f"{service}: the lease is {first or 'nobody'}'s")
        case _:
            return InvariantError(f"{service}: {' '.join(detail)} stands there with other content")
