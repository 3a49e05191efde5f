"""The venue's messages: the official package's definitions, brought up to what the venue speaks today.

Importing the package installs a Twisted reactor, so ours comes first. Twisted runs on this process's one
asyncio loop: `LOOP`. Every entry point of the gateway runs on it.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import uvloop
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from twisted.internet import asyncioreactor
from twisted.internet.error import ReactorAlreadyInstalledError


def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop that Twisted runs on: ours, or that of a reactor that the process has already."""
    loop = uvloop.new_event_loop()
    try:
        asyncioreactor.install(loop)
    except ReactorAlreadyInstalledError:  # a simulation or a test has the venue in the same process
        loop.close()
        from twisted.internet import reactor

        loop = reactor._asyncioEventloop  # any other reactor has none, and cannot be used
    return loop


LOOP = _loop()

from ctrader_open_api import EndPoints  # noqa: E402 - the reactor has to be there before
from ctrader_open_api.messages import (  # noqa: E402
    OpenApiCommonMessages_pb2,
    OpenApiCommonModelMessages_pb2,
    OpenApiMessages_pb2,
    OpenApiModelMessages_pb2,
)

__all__ = ["HOSTS", "LOOP", "PORT", "TYPES", "common", "model", "oa", "payload_type"]

HOSTS = {"demo": EndPoints.PROTOBUF_DEMO_HOST, "live": EndPoints.PROTOBUF_LIVE_HOST}
PORT = EndPoints.PROTOBUF_PORT

# What the package's definitions lack, of the public ones of today: the venue sends it all the same.
_Field = descriptor_pb2.FieldDescriptorProto
_ADDED = (
    ("ProtoOAErrorRes", "retryAfter", 6, _Field.TYPE_UINT64),  # seconds
    ("ProtoOAGetTrendbarsRes", "hasMore", 7, _Field.TYPE_BOOL),
    ("ProtoOAReconcileReq", "returnProtectionOrders", 3, _Field.TYPE_BOOL),
    ("ProtoOATrader", "fairStopOut", 21, _Field.TYPE_BOOL),
    ("ProtoOATradeData", "measurementUnits", 8, _Field.TYPE_STRING),
    ("ProtoOATradeData", "closeTimestamp", 9, _Field.TYPE_UINT64),
)
_WIDENED = (("ProtoOAPositionUnrealizedPnL", "netUnrealizedPnL", _Field.TYPE_INT64),)
_NOT_REQUIRED = (
    ("ProtoOAGetTrendbarsRes", "timestamp"),
    *(
        (f"ProtoOA{name}Req", field)
        for name in ("GetTrendbars", "GetTickData", "DealList", "OrderList", "DealListByPositionId")
        for field in ("fromTimestamp", "toTimestamp")
    ),
)
_ADDED_VALUES = (("ProtoOASwapCalculationType", "POINTS", 2),)


def _amend(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Bring one file of definitions up to date."""
    messages = {message.name: message for message in file.message_type}
    fields = {(message.name, field.name): field for message in messages.values() for field in message.field}
    enums = {enum.name: enum for enum in file.enum_type}
    for name, field, number, kind in _ADDED:
        if name in messages:
            messages[name].field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    for name, field, kind in _WIDENED:
        if name in messages:
            fields[name, field].type = kind
    for name, field in _NOT_REQUIRED:
        if name in messages:
            fields[name, field].label = _Field.LABEL_OPTIONAL
    for name, value, number in _ADDED_VALUES:
        if name in enums:
            enums[name].value.add(name=value, number=number)


def _current(*modules: Any) -> list[SimpleNamespace]:  # noqa: ANN401 - generated modules have no types
    """Return the modules' messages, enums and values anew, in a pool of their own, up to date."""
    pool = DescriptorPool()
    found = []
    for module in modules:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        _amend(file)
        pool.Add(file)
        made = pool.FindFileByName(file.name)
        names: dict[str, Any] = {
            name: message_factory.GetMessageClass(kind) for name, kind in made.message_types_by_name.items()
        }
        for name, enum in made.enum_types_by_name.items():
            names[name] = EnumTypeWrapper(enum)
            names |= {value.name: value.number for value in enum.values}
        found.append(SimpleNamespace(**names))
    return found


_, common, model, oa = _current(
    OpenApiCommonModelMessages_pb2, OpenApiCommonMessages_pb2, OpenApiModelMessages_pb2, OpenApiMessages_pb2
)


def payload_type(message: Any) -> int:  # noqa: ANN401 - generated classes have no types
    """Return the number that the envelope of this message (or class) carries."""
    return int(message.DESCRIPTOR.fields_by_name["payloadType"].default_value)


TYPES: dict[int, Any] = {
    payload_type(kind): kind
    for module in (common, oa)
    for kind in vars(module).values()
    if hasattr(kind, "DESCRIPTOR")
    and "payloadType" in getattr(kind.DESCRIPTOR, "fields_by_name", {})
    and kind.DESCRIPTOR.name != "ProtoMessage"
}
