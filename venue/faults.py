"""What the venue does wrong on purpose: messages that are lost or late, so that clients can be tested."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shared.errors import InputError


class FaultKind(StrEnum):
    """Whether a message never comes or comes late."""

    WITHHOLD = "withhold"
    DELAY = "delay"


class FaultyMessage(StrEnum):
    """Which message a fault takes.

    `protection` is the protective order itself: while it is withheld, the position has no stop at the
    venue. `order_response` is all that is said about one new order; the others are single messages.
    """

    PROTECTION = "protection"
    FILL = "fill"
    ACCEPT = "accept"
    ORDER_RESPONSE = "order_response"


@dataclass
class Fault:
    """The next `left` messages of a kind are withheld, or delayed by venue time."""

    kind: FaultKind
    message: FaultyMessage
    left: int
    delay_ms: int = 0
    fired: int = 0


class Faults:
    """The faults that were asked for, oldest first."""

    def __init__(self) -> None:
        self.asked: list[Fault] = []

    def add(self, kind: str, message: str, count: int, delay_ms: int = 0) -> None:
        """Ask for a fault.

        Raises:
            InputError: no such fault, or its numbers make no sense.
        """
        try:
            fault = Fault(FaultKind(kind), FaultyMessage(message), count, delay_ms)
        except ValueError as error:
            raise InputError(f"no such fault: {kind} {message}") from error
        if count < 1 or (delay_ms < 1) == (fault.kind is FaultKind.DELAY):
            raise InputError("a fault needs a count from 1 on, and a delay has a delay_ms from 1 on")
        self.asked.append(fault)

    def take(self, message: FaultyMessage) -> int | None:
        """Return what happens to the next message of this kind: 0 nothing, n late by n ms, None lost."""
        for fault in self.asked:
            if fault.message is message and fault.left > 0:
                fault.left -= 1
                fault.fired += 1
                return None if fault.kind is FaultKind.WITHHOLD else fault.delay_ms
        return 0

    def protection_delay_ms(self) -> int | None:
        """Return how late the next protective order is; None if it never comes."""
        return self.take(FaultyMessage.PROTECTION)
