"""The connection over real TLS: who is spoken to, what leaves when, what ends with it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from websockets.frames import Frame, Opcode

from services.gateway import link as link_module
from services.gateway import transport as transport_module
from services.gateway.access import Credentials, open_link
from services.gateway.inbox import Inbox
from services.gateway.link import AnswerLostError, Link, Received, UnexpectedAnswerError, common_envelope
from services.gateway.protocol import common, oa, payload_type
from services.gateway.rate import Limits
from services.gateway.refusals import RefusedError, TooFastError
from services.gateway.tokens import Tokens
from services.gateway.transport import Address, CertificateError
from shared.clock import monotonic_s
from shared.errors import InputError, OutcomeUnknownError, UnavailableError
from tests.gateway.impostor import a_certificate, an_impostor
from tests.gateway.loop import on_loop, until

Kind = Literal["tcp", "wss"]


@pytest.fixture(params=get_args(Kind))
def kind(request: pytest.FixtureRequest) -> Any:
    """What is promised is promised over both transports."""
    return request.param


def secrets_of(folder: Path) -> Credentials:
    return Credentials("an-id", "sEcReT-1", 42, Tokens(folder / "tokens", "sEcReT-2", "sEcReT-3"))


# -- who is spoken to


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (
            {"trusted": False},
            r"an authority that we do not trust has issued it .* trusted are .*trusted\.pem",
        ),
        ({"name": "venue.example"}, r"it is another host's .*localhost"),
        ({"expired": True}, "it has expired"),
    ],
)
@on_loop
async def test_peer_that_is_not_the_venue_is_refused_before_any_secret_is_sent(
    tmp_path: Path, kind: Kind, certificate: dict[str, Any], why: str
) -> None:
    """Another issuer, another name, an old certificate: each of them may be somebody in between."""
    async with an_impostor(tmp_path, kind, **certificate) as impostor:
        with pytest.raises(CertificateError, match=why) as caught:
            await open_link(impostor.address, secrets_of(tmp_path), Inbox())
        assert f"localhost:{impostor.port}: its certificate is refused" in str(caught.value)
        assert "sEcReT" not in str(caught.value)
        await asyncio.sleep(0.05)  # whatever was sent has come by now
        assert (impostor.greeted, impostor.connections, impostor.heard) == (1, [], [])


@on_loop
async def test_peer_with_the_right_certificate_is_spoken_to(tmp_path: Path, kind: Kind) -> None:
    """The same peer with a good certificate hears us: the test before this one refuses for its reason."""
    async with an_impostor(tmp_path, kind) as impostor:
        opening = asyncio.create_task(open_link(impostor.address, secrets_of(tmp_path), Inbox()))
        await until(lambda: impostor.heard)
        assert impostor.kinds() == ["ProtoOAApplicationAuthReq"]
        opening.cancel()
        await asyncio.wait({opening})


@pytest.mark.parametrize("content", [None, "not a certificate"])
@on_loop
async def test_ca_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    """It will not be better at the next try."""
    ca_file = tmp_path / "ca.pem"
    if content:
        ca_file.write_text(content)
    with pytest.raises(InputError, match=r"CA file .*ca\.pem"):
        await Link.connect(Address("localhost", 1, ca_file), Inbox())


@on_loop
async def test_port_where_nobody_listens_is_unavailable(tmp_path: Path, kind: Kind) -> None:
    """A venue that is being restarted comes back: try again."""
    async with an_impostor(tmp_path, kind) as impostor:
        address = impostor.address
    with pytest.raises(UnavailableError, match=str(address)):
        await Link.connect(address, Inbox())


@on_loop
async def test_peer_that_does_not_speak_tls_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that accepts and says nothing must not hold the gateway for ever."""
    monkeypatch.setattr(transport_module, "CONNECT_TIMEOUT_S", 0.2)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, ca_file = a_certificate(tmp_path, "localhost")
    with pytest.raises(UnavailableError, match=r"no secure connection within 0.2 s"):
        await Link.connect(Address("localhost", port, ca_file), Inbox())
    server.close()
    await server.wait_closed()


# -- requests


@on_loop
async def test_open_requests_end_at_once_when_the_connection_is_cut(tmp_path: Path, kind: Kind) -> None:
    """Nobody waits ten seconds for an answer that cannot come; what was asked for may have been done."""
    async with an_impostor(tmp_path, kind) as impostor:
        link = await impostor.connect()
        asked = [asyncio.create_task(link.request(oa.ProtoOAVersionReq())) for _ in range(3)]
        await until(lambda: len(impostor.heard) == 3)
        began_s = monotonic_s()
        impostor.connections[0].transport.abort()
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert monotonic_s() - began_s < 1.0
        assert [type(error) for error in ended] == [AnswerLostError] * 3
        assert all(isinstance(error, OutcomeUnknownError) for error in ended)
        with pytest.raises(UnavailableError, match="the connection has ended"):
            link.send(oa.ProtoOAVersionReq(), "late")


@on_loop
async def test_request_that_has_not_left_is_known_to_be_undone(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what has left can have been done."""
    monkeypatch.setattr(link_module, "LIMITS", Limits(history_per_s=0.001))
    async with an_impostor(tmp_path, kind) as impostor:
        link = await impostor.connect()
        ask = oa.ProtoOADealListReq(ctidTraderAccountId=1)
        asked = [asyncio.create_task(link.request(ask)) for _ in range(2)]
        await until(lambda: impostor.heard)
        link.abort("the test cuts it")
        left, waiting = await asyncio.gather(*asked, return_exceptions=True)
        assert (type(left), type(waiting)) == (AnswerLostError, UnavailableError)
        assert len(impostor.heard) == 1


@on_loop
async def test_request_without_an_answer_is_given_up_and_its_late_answer_harms_nothing(
    tmp_path: Path,
    kind: Kind,
) -> None:
    """Silence is an answer too; the late one is nobody's."""
    async with an_impostor(tmp_path, kind) as impostor:
        inbox: Inbox[Received] = Inbox()
        link = await impostor.connect(inbox)
        with pytest.raises(AnswerLostError, match=r"no answer to ProtoOAVersionReq within 0.05 s"):
            await link.request(oa.ProtoOAVersionReq(), timeout_s=0.05)
        await until(lambda: impostor.heard)
        impostor.say(oa.ProtoOAVersionRes(version="91"), impostor.ids()[0])
        assert (await inbox.get()).request_id == impostor.ids()[0]
        link.abort("the test is over")


@on_loop
async def test_ids_of_requests_are_never_used_again(tmp_path: Path, kind: Kind) -> None:
    """Not on one connection, and not on the next: an old answer must not be taken for a new one's."""
    async with an_impostor(tmp_path, kind) as impostor:
        impostor.answer = lambda _: [oa.ProtoOAVersionRes(version="91")]
        for _ in range(2):
            link = await impostor.connect()
            await asyncio.gather(*(link.request(oa.ProtoOAVersionReq()) for _ in range(5)))
            link.abort("the next one follows")
        assert len(set(impostor.ids())) == 10


@on_loop
async def test_event_with_a_foreign_id_is_nobodys_answer(tmp_path: Path, kind: Kind) -> None:
    """The venue shows us what other clients of the account did, under their ids."""
    async with an_impostor(tmp_path, kind) as impostor:
        inbox: Inbox[Received] = Inbox()
        link = await impostor.connect(inbox)
        asked = asyncio.create_task(link.request(oa.ProtoOAVersionReq()))
        await until(lambda: impostor.heard)
        impostor.say(oa.ProtoOASymbolChangedEvent(ctidTraderAccountId=1, symbolId=[7]), "r1")
        assert (await inbox.get()).message.symbolId == [7]
        assert not asked.done()
        impostor.say(oa.ProtoOAVersionRes(version="91"), impostor.ids()[0])
        assert (await asked).version == "91"
        link.abort("the test is over")


@on_loop
async def test_answer_of_another_kind_is_an_error(tmp_path: Path, kind: Kind) -> None:
    """Type and error code of every reply are looked at, before its fields are."""
    async with an_impostor(tmp_path, kind) as impostor:
        impostor.answer = lambda _: [oa.ProtoOAAccountAuthRes(ctidTraderAccountId=1)]
        link = await impostor.connect()
        with pytest.raises(UnexpectedAnswerError, match="ProtoOAAccountAuthRes"):
            await link.request(oa.ProtoOAVersionReq())
        link.abort("the test is over")


@pytest.mark.parametrize(
    "carrier",
    [
        oa.ProtoOAErrorRes(errorCode="MARKET_CLOSED", description="later"),
        common.ProtoErrorRes(errorCode="MARKET_CLOSED", description="later"),
        oa.ProtoOAOrderErrorEvent(errorCode="MARKET_CLOSED", description="later", ctidTraderAccountId=1),
    ],
)
@on_loop
async def test_every_carrier_of_errors_is_read(tmp_path: Path, kind: Kind, carrier: Any) -> None:
    """There are three, and a refusal may come in any of them."""
    async with an_impostor(tmp_path, kind) as impostor:
        impostor.answer = lambda _: [carrier]
        link = await impostor.connect()
        with pytest.raises(RefusedError, match="MARKET_CLOSED: later") as caught:
            await link.request(oa.ProtoOAVersionReq())
        assert caught.value.code == "MARKET_CLOSED"
        link.abort("the test is over")


@on_loop
async def test_request_that_came_too_fast_is_asked_again_when_the_venue_allows_it(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the seconds; only requests of that kind wait, and longer if it refuses again."""
    monkeypatch.setattr(link_module, "TOO_FAST_FIRST_S", 0.3)
    blocked = oa.ProtoOAErrorRes(errorCode="BLOCKED_PAYLOAD_TYPE", retryAfter=1)
    async with an_impostor(tmp_path, kind) as impostor:
        answers = [blocked, blocked, oa.ProtoOAReconcileRes(ctidTraderAccountId=1)]
        impostor.answer = lambda message: (
            [answers.pop(0)]
            if message.DESCRIPTOR.name == "ProtoOAReconcileReq"
            else [oa.ProtoOAVersionRes(version="91")]
        )
        link = await impostor.connect()
        began_s = monotonic_s()
        asked = asyncio.create_task(link.request(oa.ProtoOAReconcileReq(ctidTraderAccountId=1)))
        await until(lambda: len(answers) == 2)
        await link.request(oa.ProtoOAVersionReq())
        assert monotonic_s() - began_s < 1.0
        await asked
        assert monotonic_s() - began_s > 2.0
        link.abort("the test is over")


@on_loop
async def test_venue_that_always_finds_us_too_fast_is_given_up(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every retry has a limit, each pause is twice the one before, and no second is asked away in between."""
    monkeypatch.setattr(link_module, "TOO_FAST_FIRST_S", 0.05)
    async with an_impostor(tmp_path, kind) as impostor:
        impostor.answer = lambda _: [oa.ProtoOAErrorRes(errorCode="REQUEST_FREQUENCY_EXCEEDED")]
        link = await impostor.connect()
        began_s = monotonic_s()
        with pytest.raises(TooFastError, match="REQUEST_FREQUENCY_EXCEEDED"):
            await link.request(oa.ProtoOAVersionReq())
        assert monotonic_s() - began_s > 0.05 * (1 + 2 + 4 + 8)
        assert len(impostor.heard) == link_module.TOO_FAST_TRIES
        link.abort("the test is over")


@on_loop
async def test_order_leaves_before_requests_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """Questions can wait for the venue's limit; an order is worth seconds."""
    monkeypatch.setattr(link_module, "LIMITS", Limits(per_s=0.001))
    async with an_impostor(tmp_path, kind) as impostor:
        link = await impostor.connect()
        questions = [asyncio.create_task(link.request(oa.ProtoOAVersionReq())) for _ in range(30)]
        await until(lambda: len(impostor.heard) == 5)
        link.send(oa.ProtoOATraderReq(ctidTraderAccountId=1), "order:1")
        await until(lambda: len(impostor.heard) == 6)
        assert impostor.ids()[5] == "order:1"
        link.abort("the test is over")
        await asyncio.gather(*questions, return_exceptions=True)


# -- what comes in


@on_loop
async def test_what_cannot_be_read_is_passed_over(tmp_path: Path, kind: Kind) -> None:
    """A newer payload, a broken one, an envelope that is none: the next message is read all the same."""
    newer = common.ProtoMessage(payloadType=9_999, payload=b"?").SerializeToString()
    spot = payload_type(oa.ProtoOASpotEvent)
    broken = common.ProtoMessage(payloadType=spot, payload=b"\xff\xff").SerializeToString()
    async with an_impostor(tmp_path, kind) as impostor:
        inbox: Inbox[Received] = Inbox()
        link = await impostor.connect(inbox)
        for body in (newer, broken, b"\xff\xff\xff"):
            impostor.say(impostor.wrapped(body))
        impostor.say(common.ProtoHeartbeatEvent())
        impostor.say(oa.ProtoOAVersionRes(version="91"))
        assert (await inbox.get()).message.version == "91"
        assert not len(inbox)
        link.abort("the test is over")


@on_loop
async def test_messages_are_found_wherever_the_bytes_are_cut(tmp_path: Path, kind: Kind) -> None:
    """TCP knows no messages: halves come alone, and many come together."""
    async with an_impostor(tmp_path, kind) as impostor:
        inbox: Inbox[Received] = Inbox()
        link = await impostor.connect(inbox)
        versions = [f"{n}" * n for n in range(1, 8)]
        content = b"".join(impostor.packed(oa.ProtoOAVersionRes(version=v)) for v in versions)
        for at in range(0, len(content), 7):
            impostor.connections[0].write(content[at : at + 7])
            await asyncio.sleep(0.001)
        impostor.connections[0].write(content)
        found = [(await inbox.get()).message.version for _ in range(14)]
        assert found == versions * 2
        link.abort("the test is over")


@on_loop
async def test_message_that_is_too_long_ends_the_link(tmp_path: Path, kind: Kind) -> None:
    """Fifteen megabytes of one message are no message of the venue's."""
    async with an_impostor(tmp_path, kind) as impostor:
        link = await impostor.connect()
        impostor.say(impostor.too_long())
        await asyncio.wait_for(link.ended.wait(), 10)
        assert "2000000000 bytes" in link.why_ended


@on_loop
async def test_inbox_that_nobody_reads_ends_the_link(tmp_path: Path, kind: Kind) -> None:
    """A gateway that has stopped reading knows nothing any more: it begins anew."""
    async with an_impostor(tmp_path, kind) as impostor:
        link = await impostor.connect(Inbox(3))
        for _ in range(4):
            impostor.say(oa.ProtoOAVersionRes(version="91"))
        await asyncio.wait_for(link.ended.wait(), 10)
        assert "3 messages wait" in link.why_ended


@on_loop
async def test_silence_is_filled_with_heartbeats_and_watched(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent client is dropped, and a silent venue is dead, whatever TCP says."""
    monkeypatch.setattr(link_module, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(link_module, "SILENCE_S", 1.5)
    async with an_impostor(tmp_path, kind) as impostor:
        link = await impostor.connect()
        alive = asyncio.create_task(link.keep_alive())
        await until(lambda: "ProtoHeartbeatEvent" in impostor.kinds())
        assert not link.ended.is_set()
        await asyncio.wait_for(link.ended.wait(), 10)
        assert "nothing heard" in link.why_ended
        await alive


@on_loop
async def test_heartbeat_of_the_venue_is_not_answered(tmp_path: Path, kind: Kind) -> None:
    """Two that answer each other's heartbeats would never stop."""
    async with an_impostor(tmp_path, kind) as impostor:
        impostor.answer = lambda _: [oa.ProtoOAVersionRes(version="91")]
        link = await impostor.connect()
        impostor.say(common.ProtoHeartbeatEvent())
        await link.request(oa.ProtoOAVersionReq())
        assert impostor.kinds() == ["ProtoOAVersionReq"]
        link.abort("the test is over")


# -- WebSocket alone


@on_loop
async def test_web_socket_puts_fragments_together_and_answers_pings(tmp_path: Path) -> None:
    """A message may come in pieces, with a ping between them."""
    async with an_impostor(tmp_path, "wss") as impostor:
        inbox: Inbox[Received] = Inbox()
        link = await impostor.connect(inbox)
        body = common_envelope(oa.ProtoOAVersionRes(version="91"), "")
        pieces = (
            Frame(Opcode.BINARY, body[:3], fin=False),
            Frame(Opcode.PING, b"there?"),
            Frame(Opcode.CONT, body[3:]),
        )
        for piece in pieces:
            impostor.say(piece.serialize(mask=False))
        assert (await inbox.get()).message.version == "91"
        await until(lambda: impostor.pongs == 1)
        link.abort("the test is over")


@on_loop
async def test_web_socket_that_is_closed_says_why(tmp_path: Path) -> None:
    """The other side may give a reason; it is the first thing to look at."""
    async with an_impostor(tmp_path, "wss") as impostor:
        link = await impostor.connect()
        impostor.say(Frame(Opcode.CLOSE, b"\x03\xe9until Monday").serialize(mask=False))
        await asyncio.wait_for(link.ended.wait(), 10)
        assert link.why_ended == "WebSocket closed: 1001 (going away) until Monday"


@on_loop
async def test_port_that_speaks_no_web_socket_is_told(tmp_path: Path) -> None:
    """A proxy in between, or the wrong port: it is no reason to wait."""
    async with an_impostor(tmp_path, "tcp") as impostor:
        dialling = asyncio.create_task(Link.connect(replace(impostor.address, kind="wss"), Inbox()))
        await until(lambda: impostor.connections)
        impostor.connections[0].write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(UnavailableError, match=r"no WebSocket there: .*403"):
            await dialling


@on_loop
async def test_what_is_said_over_a_web_socket_is_in_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The library would write every frame at DEBUG, and the first ones hold secrets."""
    caplog.set_level(logging.DEBUG)
    async with an_impostor(tmp_path, "wss") as impostor:
        link = await impostor.connect()
        link.send(oa.ProtoOAVersionReq(), "sEcReT-4")
        await until(lambda: impostor.heard)
        assert not [record for record in caplog.records if record.name == "gateway.websocket"]
        link.abort("the test is over")
