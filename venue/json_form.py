"""The Open API as JSON: `{"clientMsgId": .., "payloadType": .., "payload": {..}}`, field names as defined.

Numbers and enumerations are told as numbers; of a client strings and an enumeration's names are taken too.
A field that a fault made up is in no definition, and so not in the JSON either.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from venue.protocol import Generated, common, kind_of


def to_json(kind: int, body: bytes, client_msg_id: str | None = None) -> bytes:
    """Return a message as its JSON text. Fields and values that are in no definition are left out."""
    found = kind_of(kind)
    payload = {} if found is None else _plain(found.FromString(body))
    told: dict[str, Any] = {} if client_msg_id is None else {"clientMsgId": client_msg_id}
    return orjson.dumps({**told, "payloadType": kind, "payload": payload})


def from_json(text: bytes) -> common.ProtoMessage:
    """Return the envelope that a JSON text means.

    Raises:
        DecodeError: it is no such text, or its payload is no such message.
    """
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"this is not JSON: {error}") from error
    if not isinstance(told, dict) or not _is_number(told.get("payloadType")):
        raise DecodeError("a message is an object with a payloadType")
    envelope = common.ProtoMessage(payloadType=told["payloadType"])
    client_msg_id, payload = told.get("clientMsgId"), told.get("payload", {})
    if isinstance(client_msg_id, str):
        envelope.clientMsgId = client_msg_id
    kind = kind_of(envelope.payloadType)
    if kind is None:
        return envelope
    try:
        message = json_format.ParseDict(payload, kind(), ignore_unknown_fields=True)
    except (json_format.ParseError, AttributeError, TypeError, ValueError, RecursionError) as error:
        envelope.payload = _UNDECODABLE
        if not isinstance(client_msg_id, str):
            raise DecodeError(f"the payload is no {kind.__name__}: {error}") from error
        return envelope
    envelope.payload = message.SerializePartialToString()
    return envelope


_UNDECODABLE = b"\xff"  # no message begins so: what is wrong in JSON is refused as what is wrong in protobuf
_NUMBER_MAX = 2**32
_LATER = {"ProtoOAErrorRes": {6: "retryAfter"}, "ProtoOAGetTrendbarsRes": {7: "hasMore"}}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _NUMBER_MAX


def _plain(message: Generated) -> dict[str, Any]:
    plain = _later(message)
    for field, value in message.ListFields():
        if field.name == "payloadType":
            continue
        plain[field.name] = (
            [_value(field, each) for each in value] if field.is_repeated else _value(field, value)
        )
    return plain


def _later(message: Generated) -> dict[str, Any]:
    """Return the fields that the server's messages have and the official package's do not."""
    names = _LATER.get(type(message).__name__, {})
    unknown = UnknownFieldSet(message) if names else ()
    fields = [unknown[index] for index in range(len(unknown))]
    return {names[each.field_number]: each.data for each in fields if each.field_number in names}


def _value(field: FieldDescriptor, value: Any) -> Any:  # noqa: ANN401 - whatever the field holds
    if field.message_type is not None:
        return _plain(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    return value
