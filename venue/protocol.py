"""Frames and messages of the Open API, as the official package defines them."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import uvloop
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

# Importing the official package starts its client module, which installs a Twisted reactor: the one
# for asyncio must be there before, or a process that runs Twisted on its own loop cannot use both.
from twisted.internet import asyncioreactor, error

with contextlib.suppress(error.ReactorAlreadyInstalledError):
    _loop = uvloop.new_event_loop()
    atexit.register(_loop.close)
    asyncioreactor.install(_loop)

from ctrader_open_api.messages import OpenApiCommonMessages_pb2 as common
from ctrader_open_api.messages import OpenApiMessages_pb2 as messages
from ctrader_open_api.messages import OpenApiModelMessages_pb2 as model
from ctrader_open_api.messages.OpenApiCommonModelMessages_pb2 import HEARTBEAT_EVENT

__all__ = [
    "FRAME_BYTES_MAX",
    "HEARTBEAT_EVENT",
    "FrameTooLongError",
    "Generated",
    "Packet",
    "common",
    "decode",
    "envelope",
    "envelope_of",
    "flag_of",
    "kind_of",
    "messages",
    "model",
    "set_later_field",
    "varint",
]

Generated: TypeAlias = Any  # a message: the generated classes carry no types

FRAME_BYTES_MAX = 1_000_000  # of what a client sends


class FrameTooLongError(Exception):
    """A client announced a frame that the venue does not take."""


def _by_payload_type() -> dict[int, type[Message]]:
    found = {}
    for module in (common, messages):
        for name in module.DESCRIPTOR.message_types_by_name:
            kind = getattr(module, name)
            if "payloadType" in kind.DESCRIPTOR.fields_by_name and name != "ProtoMessage":
                found[kind().payloadType] = kind
    return found


_KINDS = _by_payload_type()


def kind_of(number: int) -> type[Message] | None:
    """Return the class of the messages of a payload type, None if there is none."""
    return _KINDS.get(number)


_STAGES = {
    "accepted": "accept",
    "filled": "fill",
    "replaced": "replace",
    "cancelled": "cancel",
    "expired": "expire",
    "rejected": "reject",
    "cancel_rejected": "cancel_reject",
}


class Packet:
    """A message, encoded once for all who get it. What only faults ask for is found when they do."""

    __slots__ = ("_symbol", "_symbols", "body", "kind", "message")

    def __init__(
        self, message: Generated, *, symbol: str = "", symbols: Mapping[int, str] | None = None
    ) -> None:
        """Take a message; the symbol that it is about, or the symbols by the numbers that it may say."""
        self.message = message
        self.kind: int = message.payloadType
        self.body: bytes = message.SerializeToString()
        self._symbol, self._symbols = symbol, symbols

    @property
    def symbol(self) -> str:
        """The symbol that it is about, "" for none or several."""
        if self._symbol or not self._symbols:
            return self._symbol
        number = getattr(self.message, "symbolId", None)
        return self._symbols.get(number, "") if isinstance(number, int) else ""

    @property
    def words(self) -> tuple[str, ...]:
        """The message's name, and the other words by which a fault can choose it."""
        return (type(self.message).__name__, *_known_as(self.message))


def _known_as(message: Generated) -> tuple[str, ...]:
    if isinstance(message, messages.ProtoOASpotEvent):
        return ("quote",)
    if isinstance(message, messages.ProtoOAExecutionEvent):
        stage = model.ProtoOAExecutionType.Name(message.executionType).removeprefix("ORDER_").lower()
        stage = _STAGES.get(stage, stage)
        protective = message.order.orderType == model.STOP_LOSS_TAKE_PROFIT
        return (f"protective_{stage}" if protective else stage, "execution")
    is_event = type(message).__name__.endswith("Event") and not isinstance(
        message, messages.ProtoOAOrderErrorEvent
    )
    return () if is_event else ("answer",)


def envelope(kind: int, body: bytes, client_msg_id: str | None = None) -> bytes:
    """Return a message in its envelope."""
    message = common.ProtoMessage(payloadType=kind, payload=body)
    if client_msg_id is not None:
        message.clientMsgId = client_msg_id
    return bytes(message.SerializeToString())


def flag_of(message: Message, number: int) -> bool:
    """Tell whether a bool that the package's definitions lack is set, by its field's number."""
    unknown = UnknownFieldSet(message)
    fields = (unknown[index] for index in range(len(unknown)))
    return any(field.field_number == number and bool(field.data) for field in fields)


def set_later_field(message: Message, number: int, value: int = 1) -> None:
    """Set a bool or a number that the package's definitions lack, by its field's number."""
    message.MergeFromString(varint(number << 3) + varint(value))


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def envelope_of(content: bytes) -> common.ProtoMessage:
    """Return the envelope that these bytes are.

    Raises:
        DecodeError: they are none.
    """
    envelope = common.ProtoMessage()
    envelope.ParseFromString(content)
    if not envelope.IsInitialized():
        raise DecodeError("the envelope has no payloadType")
    return envelope


def decode(envelope: common.ProtoMessage) -> Message | None:
    """Return the message in an envelope, None if its kind is unknown.

    Raises:
        DecodeError: the body is not such a message, or lacks a required field.
    """
    kind = _KINDS.get(envelope.payloadType)
    if kind is None:
        return None
    message = kind()
    message.ParseFromString(envelope.payload)
    if not message.IsInitialized():
        raise DecodeError("a required field is missing")
    return message
