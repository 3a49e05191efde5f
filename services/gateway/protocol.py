"""The venue's messages, from the official package; importing it installs a reactor, so ours comes first.

Twisted runs on this process's one asyncio loop: `LOOP`. Every entry point of the gateway runs on it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
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
from ctrader_open_api.messages import OpenApiCommonMessages_pb2 as common  # noqa: E402
from ctrader_open_api.messages import OpenApiMessages_pb2 as oa  # noqa: E402
from ctrader_open_api.messages import OpenApiModelMessages_pb2 as model  # noqa: E402

__all__ = ["HOSTS", "LOOP", "PORT", "TYPES", "common", "model", "oa", "payload_type"]

HOSTS = {"demo": EndPoints.PROTOBUF_DEMO_HOST, "live": EndPoints.PROTOBUF_LIVE_HOST}
PORT = EndPoints.PROTOBUF_PORT


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
