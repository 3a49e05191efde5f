"""What a client may send that no client should: random bytes, broken frames, requests of random content."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from websockets.frames import Frame, Opcode

from tests.venue.client import VenueClient
from venue.protocol import messages

NUMBERS = (0, 1, 2, 5, 100, 1_000, 100_000, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1)
PRICES = (0.0, -1.0, 1e-9, 0.5, 1.1, 1.10001, 1e9, 1e308, float("inf"), float("nan"))
TEXTS = ("", "a", "EURUSD", "x" * 51, "x" * 101, "x" * 513, "\u0000", "\U0001f600" * 10)
INTEGERS = {
    FieldDescriptor.TYPE_INT64: (64, True),
    FieldDescriptor.TYPE_UINT64: (64, False),
    FieldDescriptor.TYPE_INT32: (32, True),
    FieldDescriptor.TYPE_UINT32: (32, False),
}
REQUESTS = tuple(
    getattr(messages, name) for name in messages.DESCRIPTOR.message_types_by_name if name.endswith("Req")
)
ENDS_THE_SESSION = {"ProtoOAAccountLogoutReq", "ProtoOARefreshTokenReq"}


def a_value(rng: Random, field: Any, known: dict[str, tuple[int, ...]]) -> Any:
    """Return some value of a field; what is known to exist at the venue more often than not."""
    if field.name in known and rng.random() < 0.7:
        return rng.choice(known[field.name])
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return rng.choice(PRICES)
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(TEXTS)
    bits, signed = INTEGERS[field.type]
    number = rng.choice(NUMBERS) * (-1 if signed and rng.random() < 0.3 else 1)
    top = 2 ** (bits - signed) - 1
    return max(min(number, top), -top if signed else 0)


def a_request(rng: Random, kind: Any, account_id: int, known: dict[str, tuple[int, ...]]) -> Any:
    """Return a request with all its required fields and some of the others, of any content."""
    request = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.name == "payloadType":
            continue
        if field.name == "ctidTraderAccountId":
            request.ctidTraderAccountId = account_id
        elif field.is_repeated:
            getattr(request, field.name).extend(a_value(rng, field, known) for _ in range(rng.randrange(4)))
        elif field.message_type is not None:
            continue  # margin calls alone have one; a request without it is incomplete, and refused
        elif field.is_required or rng.random() < 0.5:
            setattr(request, field.name, a_value(rng, field, known))
    return request


def requests(rng: Random, each: int, account_id: int, known: dict[str, tuple[int, ...]]) -> Iterator[Any]:
    """Yield so many requests of every kind, in any order."""
    kinds = [kind for kind in REQUESTS if kind.DESCRIPTOR.name not in ENDS_THE_SESSION] * each
    rng.shuffle(kinds)
    for kind in kinds:
        request = a_request(rng, kind, account_id, known)
        if request.IsInitialized():
            yield request


def garbage(rng: Random) -> bytes:
    """Return bytes that are no frame, nearly one, or the beginning of one."""
    noise = rng.randbytes(rng.randrange(1, 400))
    version = VenueClient.frame(messages.ProtoOAVersionReq(), "v")
    broken = bytearray(version * rng.randrange(1, 4))
    broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    auth = VenueClient.frame(
        messages.ProtoOAAccountAuthReq(ctidTraderAccountId=1, accessToken=rng.choice(TEXTS[:-2])), "a"
    )
    opening = (
        b"GET / HTTP/1.1\r\nHost: venue\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    text = Frame(Opcode.TEXT, rng.choice([b"{}", b"[", b'{"payloadType": 2100}', noise])).serialize(mask=True)
    return rng.choice(
        [
            opening + noise,
            opening + text,
            opening + text[: rng.randrange(1, len(text))],
            noise,
            struct.pack(">I", len(noise)) + noise,
            struct.pack(">I", rng.choice([0, 1, 2**16, 2**20, 2**31, 2**32 - 1])) + noise,
            bytes(broken),
            auth[: rng.randrange(1, len(auth))],
            b"GET / HTTP/1.1\r\nHost: venue\r\n\r\n",
            struct.pack(">I", 0) * 50,
        ]
    )
