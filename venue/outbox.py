"""The way out of one connection: every message passes here, and here the faults have their way with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from venue.distortions import distorted
from venue.fault_names import REQUEST_ACTS, Act
from venue.faults import Fault, Faults
from venue.protocol import Generated, Packet, messages, model
from venue.records import Order

CONTRADICTION = "TRADING_DISABLED"  # what a rejection that contradicts says
HUSHED_MAX = 1_000  # orders; the oldest are told again

_ACTS = frozenset(Act) - REQUEST_ACTS - {Act.SHUT, Act.LEAVE_BARE}


# Puts a message's kind, body and id into the bytes of one kind of connection.
Encode: TypeAlias = "Callable[[int, bytes, str | None], bytes]"


class Agenda(Protocol):
    """The venue's time, and what is to be done at one."""

    @property
    def now_ms(self) -> int:
        """The venue's time."""

    def at(self, due_ms: int, do: Callable[[], None]) -> None:
        """Do something when the venue's time reaches `due_ms`."""


@dataclass(frozen=True, slots=True)
class _Hush:
    """What is said of an order comes late, or never (None)."""

    position_id: int
    opens: bool
    delay_ms: int | None


class Outbox:
    """What is on its way to one client. Nothing leaves before `flush`."""

    def __init__(
        self, faults: Faults, agenda: Agenda, strike: Callable[[Fault], None], encode: Encode
    ) -> None:
        """Take the faults, the venue's time, who does what concerns the connection, and the wire's form."""
        self._encode = encode
        self._faults = faults
        self._agenda = agenda
        self._strike = strike
        self._out = bytearray()
        self._stalled: bytearray | None = None  # behind a message that has left in part
        self._swapped: list[tuple[int, bytes]] = []  # each goes after the next message of its kind
        self._hushed: dict[int, _Hush] = {}  # by order
        self._is_muted = False  # what is said now comes late, or never
        self._muted_ms: int | None = None
        self.is_frozen = False  # half-open: nothing leaves any more
        self.is_ending = False  # the connection ends once what is here has left

    def send(self, packet: Packet, client_msg_id: str | None = None) -> None:
        """Put a message on its way."""
        silence_ms = self._silence_ms(packet.message) if self._is_muted or self._hushed else 0
        if silence_ms is None:
            return
        if silence_ms:
            self._put_later(silence_ms, packet, client_msg_id)
            return
        fault = self._striking(packet) if self._faults.are_in_force else None
        if fault is None:
            self._put(packet.kind, self._encode(packet.kind, packet.body, client_msg_id))
        elif fault.named.act in _ON_THE_WAY:
            _ON_THE_WAY[fault.named.act](self, fault, packet, client_msg_id)
        else:
            self._put(packet.kind, self._encode(packet.kind, packet.body, client_msg_id))
            self._strike(fault)

    def _striking(self, packet: Packet) -> Fault | None:
        return self._faults.striking(packet.words, self._agenda.now_ms, acts=_ACTS, symbol=packet.symbol)

    def take(self) -> bytes:
        """Return what leaves now."""
        if self.is_ending:
            for _, frame in self._swapped:
                self._out += frame
            self._swapped.clear()
        out = bytes(self._out)
        self._out.clear()
        return out

    def put_control(self, frame: bytes) -> None:
        """Put bytes of the connection's own on their way, between messages; no fault strikes them."""
        self._put(0, frame)

    def freeze(self) -> None:
        """Send nothing more, and keep the connection open."""
        self._out.clear()
        self.is_frozen = True

    def end(self) -> None:
        """End the connection once what was put here has left."""
        self.is_ending = True

    # -- silence -------------------------------------------------------------------------------

    @contextmanager
    def muted(self, delay_ms: int | None) -> Iterator[None]:
        """Say all that is said within late, or never."""
        self._is_muted, self._muted_ms = True, delay_ms
        try:
            yield
        finally:
            self._is_muted = False

    def hush(self, order: Order, delay_ms: int | None) -> None:
        """Say what is to be said of an order late, or never; of the stop that follows its fill too."""
        self._hushed[order.order_id] = _Hush(order.position_id, not order.closing, delay_ms)
        if len(self._hushed) > HUSHED_MAX:
            del self._hushed[next(iter(self._hushed))]

    def _silence_ms(self, message: Generated) -> int | None:
        """Return how late a message is told: 0 not late at all, None never."""
        if self._is_muted:
            return self._muted_ms
        if not isinstance(message, messages.ProtoOAExecutionEvent):
            return 0
        hush = self._hushed.get(message.order.orderId)
        if hush is None and message.isServerEvent and message.executionType == model.ORDER_ACCEPTED:
            opening = (each for each in self._hushed.values() if each.opens)
            hush = next((each for each in opening if each.position_id == message.position.positionId), None)
        return 0 if hush is None else hush.delay_ms

    # -- bytes ---------------------------------------------------------------------------------

    def _put(self, kind: int, frame: bytes) -> None:
        if self.is_frozen or self.is_ending:
            return
        out = self._out if self._stalled is None else self._stalled
        out += frame
        if self._swapped:
            after = [swapped for swapped in self._swapped if swapped[0] == kind]
            self._swapped = [swapped for swapped in self._swapped if swapped[0] != kind]
            for _, held in after:
                out += held

    def _put_later(self, delay_ms: int, packet: Packet, client_msg_id: str | None) -> None:
        frame = self._encode(packet.kind, packet.body, client_msg_id)
        self._agenda.at(self._agenda.now_ms + delay_ms, lambda: self._put(packet.kind, frame))

    # -- faults --------------------------------------------------------------------------------

    def _lose(self, _: Fault, packet: Packet, client_msg_id: str | None) -> None:
        """Send nothing."""

    def _delay(self, fault: Fault, packet: Packet, client_msg_id: str | None) -> None:
        self._put_later(fault.request.delay_ms, packet, client_msg_id)

    def _double(self, _: Fault, packet: Packet, client_msg_id: str | None) -> None:
        frame = self._encode(packet.kind, packet.body, client_msg_id)
        self._put(packet.kind, frame)
        self._put(packet.kind, frame)

    def _swap(self, fault: Fault, packet: Packet, client_msg_id: str | None) -> None:
        frame = self._encode(packet.kind, packet.body, client_msg_id)
        if any(kind == packet.kind for kind, _ in self._swapped):
            fault.missed()
            self._put(packet.kind, frame)
        else:
            self._swapped.append((packet.kind, frame))

    def _contradict(self, fault: Fault, packet: Packet, client_msg_id: str | None) -> None:
        self._put(packet.kind, self._encode(packet.kind, packet.body, client_msg_id))
        if not isinstance(packet.message, messages.ProtoOAExecutionEvent):
            fault.missed()
            return
        event = messages.ProtoOAExecutionEvent()
        event.CopyFrom(packet.message)
        event.executionType = model.ORDER_REJECTED
        event.errorCode = CONTRADICTION
        event.ClearField("deal")
        event.order.orderStatus = model.ORDER_STATUS_REJECTED
        self._put(packet.kind, self._encode(packet.kind, event.SerializeToString(), client_msg_id))

    def _distort(self, fault: Fault, packet: Packet, client_msg_id: str | None) -> None:
        body = distorted(packet.message, fault)
        if body is None:
            fault.missed()
            body = packet.body
        if body:
            self._put(packet.kind, self._encode(packet.kind, body, client_msg_id))

    def _cut(self, fault: Fault, packet: Packet, client_msg_id: str | None) -> None:
        frame = self._encode(packet.kind, packet.body, client_msg_id)
        self._put(packet.kind, frame[: fault.drawn_byte(len(frame), whole=True)])
        self.end()

    def _halve(self, fault: Fault, packet: Packet, client_msg_id: str | None) -> None:
        frame = self._encode(packet.kind, packet.body, client_msg_id)
        if self._stalled is not None:
            fault.missed()
            self._put(packet.kind, frame)
            return
        cut = fault.drawn_byte(len(frame), whole=False)
        self._put(packet.kind, frame[:cut])
        self._stalled = bytearray(frame[cut:])
        self._agenda.at(self._agenda.now_ms + fault.request.delay_ms, self._go_on)

    def _go_on(self) -> None:
        """Send the rest of a message that has left in part, and all that had to wait behind it."""
        stalled, self._stalled = self._stalled, None
        if stalled is not None and not (self.is_frozen or self.is_ending):
            self._out += stalled


_Strikes: TypeAlias = Callable[[Outbox, Fault, Packet, "str | None"], None]
_ON_THE_WAY: Mapping[Act, _Strikes] = {
    Act.LOSE: Outbox._lose,
    Act.DELAY: Outbox._delay,
    Act.DOUBLE: Outbox._double,
    Act.SWAP: Outbox._swap,
    Act.CONTRADICT: Outbox._contradict,
    Act.DISTORT: Outbox._distort,
    Act.CUT: Outbox._cut,
    Act.HALVE: Outbox._halve,
}
