"""Messages made wrong on purpose: what a fault does to the content of one. Each returns None if it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from venue.fault_names import Distortion
from venue.faults import Fault
from venue.protocol import Generated, messages, model, varint

UNKNOWN_FIELD = 4_000  # a number that no public definition has
UNKNOWN_VALUE = 99  # of an enumeration
_INT32_SPAN = 2**32
_VARINT, _BYTES = 0, 2  # wire types of protobuf


def distorted(message: Message, fault: Fault) -> bytes | None:
    """Return the body of a message as the fault has it.

    Args:
        message: what was to be sent; it is not changed.
        fault: how it is made wrong, and which field it names.

    Returns:
        The body; empty if nothing is left to be sent, None if the fault does not fit this message.
    """
    if fault.named.distortion is None:
        return None
    copy = type(message)()
    copy.CopyFrom(message)
    return _DISTORTIONS[fault.named.distortion](copy, fault)


def _strip(message: Generated, fault: Fault) -> bytes | None:
    if fault.request.field:
        *path, name = fault.request.field.split(".")
    else:
        choices = list(_optional_fields(message, ()))
        if not choices:
            return None
        *path, name = choices[int(fault.rng.integers(len(choices)))]
    holder = _within(message, path)
    if holder is None or name not in holder.DESCRIPTOR.fields_by_name or not _is_set(holder, name):
        return None
    holder.ClearField(name)
    return bytes(message.SerializePartialToString())


def _optional_fields(message: Generated, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the paths of the optional fields that are set, in the order of their numbers."""
    found = []
    for field, value in message.ListFields():
        if field.name == "payloadType":
            continue
        if field.is_required:
            found += _optional_fields(value, (*path, field.name)) if field.message_type else []
            continue
        found.append((*path, field.name))
        if field.message_type and not field.is_repeated:
            found += _optional_fields(value, (*path, field.name))
    return found


def _extend(message: Generated, _: Fault) -> bytes:
    return bytes(message.SerializeToString()) + _field(UNKNOWN_FIELD, UNKNOWN_VALUE)


def _unknown_enum(message: Generated, fault: Fault) -> bytes | None:
    """Set an enumeration to a value that the receiver cannot know, at the top of a message or one below."""
    paths = [fault.request.field.split(".")] if fault.request.field else list(_enums(message))
    if not paths:
        return None
    *path, name = paths[0] if len(paths) == 1 else paths[int(fault.rng.integers(len(paths)))]
    holder = _within(message, path)
    if len(path) > 1 or holder is None or name not in holder.DESCRIPTOR.fields_by_name:
        return None
    holder.ClearField(name)
    body = bytes(message.SerializePartialToString())
    wrong = _field(holder.DESCRIPTOR.fields_by_name[name].number, UNKNOWN_VALUE)
    if path:  # a field that comes twice is merged
        wrong = _field(message.DESCRIPTOR.fields_by_name[path[0]].number, wrong)
    return body + wrong


def _enums(message: Generated) -> list[list[str]]:
    return [
        [field.name]
        for field, _ in message.ListFields()
        if field.type == FieldDescriptor.TYPE_ENUM and field.name != "payloadType" and not field.is_repeated
    ]


def _ask_only(message: Generated, _: Fault) -> bytes | None:
    if not isinstance(message, messages.ProtoOASpotEvent):
        return None
    message.ClearField("bid")
    message.ClearField("trendbar")
    return _body(message) if message.HasField("ask") else b""


def _bid_only(message: Generated, _: Fault) -> bytes | None:
    if not isinstance(message, messages.ProtoOASpotEvent):
        return None
    message.ClearField("ask")
    return _body(message) if message.HasField("bid") else b""


def _no_bar(message: Generated, _: Fault) -> bytes | None:
    if not isinstance(message, messages.ProtoOASpotEvent) or not message.trendbar:
        return None
    message.ClearField("trendbar")
    return _body(message)


def _old_bar(message: Generated, _: Fault) -> bytes | None:
    if not isinstance(message, messages.ProtoOASpotEvent) or not message.trendbar:
        return None
    for bar in message.trendbar:
        bar.utcTimestampInMinutes -= _MINUTES[bar.period]
    return _body(message)


def _last_bar_late(message: Generated, _: Fault) -> bytes | None:
    if not isinstance(message, messages.ProtoOAGetTrendbarsRes) or not message.trendbar:
        return None
    del message.trendbar[-2:]
    return _body(message)


def _fewer_bars(message: Generated, _: Fault) -> bytes | None:
    if not isinstance(message, messages.ProtoOAGetTrendbarsRes) or not message.trendbar:
        return None
    del message.trendbar[: (len(message.trendbar) + 1) // 2]
    return _body(message)


def _huge_result(message: Generated, _: Fault) -> bytes | None:
    """Raise every net result by 2^32 cents: who reads 32 bits of it sees the old number."""
    if not (
        isinstance(message, messages.ProtoOAGetPositionUnrealizedPnLRes) and message.positionUnrealizedPnL
    ):
        return None
    number = message.DESCRIPTOR.fields_by_name["positionUnrealizedPnL"].number
    net = model.ProtoOAPositionUnrealizedPnL.DESCRIPTOR.fields_by_name["netUnrealizedPnL"].number
    values = [
        _field(number, bytes(value.SerializeToString()) + _field(net, value.netUnrealizedPnL + _INT32_SPAN))
        for value in message.positionUnrealizedPnL
    ]
    message.ClearField("positionUnrealizedPnL")
    return _body(message) + b"".join(values)


def _body(message: Generated) -> bytes:
    return bytes(message.SerializeToString())


def _within(message: Generated, path: list[str] | tuple[str, ...]) -> Generated | None:
    """Return the message at a path, None if it is not set."""
    for name in path:
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None or field.message_type is None or field.is_repeated or not message.HasField(name):
            return None
        message = getattr(message, name)
    return message


def _is_set(message: Generated, name: str) -> bool:
    if message.DESCRIPTOR.fields_by_name[name].is_repeated:
        return len(getattr(message, name)) > 0
    return bool(message.HasField(name))


def _field(number: int, value: int | bytes) -> bytes:
    """Return a field as it stands on the wire."""
    if isinstance(value, int):
        return varint(number << 3 | _VARINT) + varint(value)
    return varint(number << 3 | _BYTES) + varint(len(value)) + value


_MINUTES: Mapping[int, int] = {
    model.ProtoOATrendbarPeriod.Value(name): minutes
    for name, minutes in {
        **{f"M{minutes}": minutes for minutes in (1, 2, 3, 4, 5, 10, 15, 30)},
        **{f"H{hours}": hours * 60 for hours in (1, 4, 12)},
        **{"D1": 1_440, "W1": 7 * 1_440, "MN1": 30 * 1_440},
    }.items()
}
_DISTORTIONS: Mapping[Distortion, Callable[[Generated, Fault], bytes | None]] = {
    Distortion.STRIP: _strip,
    Distortion.EXTEND: _extend,
    Distortion.UNKNOWN_ENUM: _unknown_enum,
    Distortion.ASK_ONLY: _ask_only,
    Distortion.BID_ONLY: _bid_only,
    Distortion.NO_BAR: _no_bar,
    Distortion.OLD_BAR: _old_bar,
    Distortion.LAST_BAR_LATE: _last_bar_late,
    Distortion.FEWER_BARS: _fewer_bars,
    Distortion.HUGE_RESULT: _huge_result,
}
