"""The message set: the package's definitions, and what they lack."""

from __future__ import annotations

from ctrader_open_api.messages import OpenApiMessages_pb2 as package
from ctrader_open_api.messages import OpenApiModelMessages_pb2 as package_model

from services.gateway.protocol import TYPES, model, oa


def varint(field: int, value: int) -> bytes:
    """Return one field as it stands on the wire."""
    out = bytearray()
    for number in (field << 3, value & (1 << 64) - 1):
        rest = number
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def test_seconds_to_wait_are_read() -> None:
    """They came with a later version of the definitions."""
    old = package.ProtoOAErrorRes(errorCode="BLOCKED_PAYLOAD_TYPE").SerializeToString()
    assert oa.ProtoOAErrorRes.FromString(old + varint(6, 30)).retryAfter == 30


def test_page_that_is_not_the_last_is_seen() -> None:
    """A history that was cut would look complete."""
    old = package.ProtoOAGetTrendbarsRes(ctidTraderAccountId=1, period=5, timestamp=0).SerializeToString()
    assert oa.ProtoOAGetTrendbarsRes.FromString(old + varint(7, 1)).hasMore


def test_result_beyond_two_thousand_million_cents_does_not_wrap() -> None:
    """It was a 32-bit number; the wire has room for 64."""
    old = model.ProtoOAPositionUnrealizedPnL(positionId=1, grossUnrealizedPnL=2).SerializePartialToString()
    pnl = model.ProtoOAPositionUnrealizedPnL.FromString(old + varint(3, -3_000_000_000))
    assert pnl.netUnrealizedPnL == -3_000_000_000


def test_protective_orders_can_be_asked_for() -> None:
    """The package cannot ask for them."""
    request = oa.ProtoOAReconcileReq(ctidTraderAccountId=1, returnProtectionOrders=True)
    assert request.SerializeToString().endswith(varint(3, 1))
    assert not hasattr(package.ProtoOAReconcileReq(), "returnProtectionOrders")


def test_answer_without_a_field_that_is_not_sent_any_more_is_complete() -> None:
    """It is deprecated, and was required."""
    answer = oa.ProtoOAGetTrendbarsRes(ctidTraderAccountId=1, period=5)
    assert answer.IsInitialized()


def test_field_that_nobody_has_published_is_kept_and_harms_nothing() -> None:
    """Real servers send some."""
    old = package.ProtoOAVersionRes(version="91").SerializeToString()
    answer = oa.ProtoOAVersionRes.FromString(old + varint(19, 5))
    assert answer.version == "91"
    assert answer.SerializeToString() == old + varint(19, 5)


def test_messages_are_the_packages_but_for_what_was_added() -> None:
    """One definition of each message, the official one; ours adds to it and widens it."""
    widened = {("ProtoOAPositionUnrealizedPnL", 3)}
    for module, names in ((package, vars(oa)), (package_model, vars(model))):
        for name, official in module.DESCRIPTOR.message_types_by_name.items():
            ours = {field.number: (field.name, field.type) for field in names[name].DESCRIPTOR.fields}
            theirs = {
                field.number: (field.name, field.type)
                for field in official.fields
                if (name, field.number) not in widened
            }
            assert theirs.items() <= ours.items(), name


def test_every_kind_of_message_is_known_by_its_number() -> None:
    """What comes in an envelope is told apart by nothing else."""
    kinds = [kind for kind in vars(package).values() if hasattr(kind, "DESCRIPTOR")]
    numbers = {
        kind.DESCRIPTOR.fields_by_name["payloadType"].default_value: kind.DESCRIPTOR.name
        for kind in kinds
        if "payloadType" in getattr(kind.DESCRIPTOR, "fields_by_name", {})
    }
    assert {number: kind.DESCRIPTOR.name for number, kind in TYPES.items()} == numbers | {
        50: "ProtoErrorRes",
        51: "ProtoHeartbeatEvent",
    }
