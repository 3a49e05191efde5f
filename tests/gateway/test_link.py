"""The connection and the session over real TLS: who is let in, what is asked, what ends with the link."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.gateway import link as link_module
from services.gateway.link import Address, Link, Received, VenueError
from services.gateway.main import venue_of
from services.gateway.protocol import common, oa, payload_type
from services.gateway.session import Credentials, Session
from services.gateway.settings import GatewaySettings
from shared.clock import monotonic_s
from shared.errors import InputError, UnavailableError
from tests.gateway.loop import on_loop, until
from tests.venue.client import Control
from tests.venue.conftest import a_setting
from venue.calendar import is_open
from venue.main import RunningVenue, serve

EURO, GOLD = "EURUSD", "XAUUSD"
BOTH = (EURO, GOLD)


def address_of(ready: dict[str, Any]) -> Address:
    return Address(ready["host"], ready["port"], Path(ready["ca_file"]))


def credentials_of(ready: dict[str, Any]) -> Credentials:
    return Credentials(ready["client_id"], ready["client_secret"], ready["access_token"], ready["account_id"])


@asynccontextmanager
async def a_session(
    venue: RunningVenue, *symbols: str, who: Credentials | None = None
) -> AsyncIterator[tuple[Session, asyncio.Queue[Received]]]:
    inbox: asyncio.Queue[Received] = asyncio.Queue()
    session = await Session.open(
        address_of(venue.ready), who or credentials_of(venue.ready), "main", symbols or BOTH, inbox
    )
    try:
        yield session, inbox
    finally:
        session.link.abort("the test is over")


# -- a peer that is not the venue


class Impostor:
    """A TLS server with a certificate of the test's choice; keeps every byte that it is sent."""

    def __init__(self, server: asyncio.Server, ca_file: Path) -> None:
        self.port: int = server.sockets[0].getsockname()[1]
        self.ca_file = ca_file
        self.heard = b""
        self.connections: list[asyncio.StreamWriter] = []
        self.answer: Callable[[Any, str], list[Any]] = lambda message, _: []


def a_certificate(
    folder: Path, name: str, *, trusted: bool = True, expired: bool = False
) -> tuple[Path, Path]:
    """Return the file of a certificate with its key, and the file of the authority that we trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    authorities = {}
    for issuer in ("trusted", "other"):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
        ca_key = ec.generate_private_key(ec.SECP256R1())
        authority = _certificate(subject, subject, ca_key, ca_key, ca=True)
        authorities[issuer] = (authority, ca_key)
        (folder / f"{issuer}.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    authority, ca_key = authorities["trusted" if trusted else "other"]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = _certificate(subject, authority.subject, key, ca_key, name=name, expired=expired)
    path = folder / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path, folder / "trusted.pem"


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signed_by: ec.EllipticCurvePrivateKey,
    *,
    name: str = "",
    ca: bool = False,
    expired: bool = False,
) -> x509.Certificate:
    today = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=30))
        .not_valid_after(today + timedelta(days=-1 if expired else 30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if name:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signed_by, hashes.SHA256())


@asynccontextmanager
async def an_impostor(
    folder: Path, name: str = "localhost", *, trusted: bool = True, expired: bool = False
) -> AsyncIterator[Impostor]:
    certificate, ca_file = a_certificate(folder, name, trusted=trusted, expired=expired)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        impostor.connections.append(writer)
        try:
            while True:
                head = await reader.readexactly(4)
                impostor.heard += head
                body = await reader.readexactly(struct.unpack(">I", head)[0])
                impostor.heard += body
                envelope = common.ProtoMessage.FromString(body)
                for answer in impostor.answer(envelope, envelope.clientMsgId):
                    writer.write(
                        answer if isinstance(answer, bytes) else framed(answer, envelope.clientMsgId)
                    )
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=context)
    impostor = Impostor(server, ca_file)
    try:
        yield impostor
    finally:
        server.close()
        for writer in impostor.connections:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.01)  # the readers end


def framed(message: Any, request_id: str = "") -> bytes:
    body = link_module.common_envelope(message, request_id)
    return struct.pack(">I", len(body)) + body


SECRETS = Credentials("an-id", "sEcReT-1", "sEcReT-2", 42)


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        ({"trusted": False}, "certificate"),
        ({"name": "venue.example"}, "VerificationError|localhost|DNSMismatch"),
        ({"expired": True}, "certificate"),
    ],
)
@on_loop
async def test_peer_that_is_not_the_venue_is_refused_before_any_secret_is_sent(
    tmp_path: Path, certificate: dict[str, Any], why: str
) -> None:
    """Another issuer, another name, an old certificate: each of them may be somebody in between."""
    async with an_impostor(tmp_path, **certificate) as impostor:
        address = Address("localhost", impostor.port, impostor.ca_file)
        with pytest.raises(UnavailableError, match=why) as caught:
            await Session.open(address, SECRETS, "main", BOTH, asyncio.Queue())
        await asyncio.sleep(0.05)
        assert impostor.heard == b""
        assert "sEcReT" not in str(caught.value)


@on_loop
async def test_peer_with_the_right_certificate_is_spoken_to(tmp_path: Path) -> None:
    """The same peer with a good certificate hears us: the test before this one refuses for its reason."""
    async with an_impostor(tmp_path) as impostor:
        link = await Link.connect(Address("localhost", impostor.port, impostor.ca_file), asyncio.Queue())
        link.send(oa.ProtoOAVersionReq(), "r1")
        await until(lambda: impostor.heard)
        link.abort("the test is over")


@pytest.mark.parametrize("content", [None, "not a certificate"])
@on_loop
async def test_ca_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    """It will not be better at the next try."""
    ca_file = tmp_path / "ca.pem"
    if content:
        ca_file.write_text(content)
    with pytest.raises(InputError, match=r"CA file .*ca\.pem"):
        await Link.connect(Address("localhost", 1, ca_file), asyncio.Queue())


@on_loop
async def test_port_where_nobody_listens_is_unavailable(tmp_path: Path) -> None:
    """A venue that is being restarted comes back: try again."""
    async with an_impostor(tmp_path) as impostor:
        ca_file, port = impostor.ca_file, impostor.port
    with pytest.raises(UnavailableError, match=f"localhost:{port}"):
        await Link.connect(Address("localhost", port, ca_file), asyncio.Queue())


@on_loop
async def test_peer_that_does_not_speak_tls_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that accepts and says nothing must not hold the gateway for ever."""
    monkeypatch.setattr(link_module, "CONNECT_TIMEOUT_S", 0.2)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, ca_file = a_certificate(tmp_path, "localhost")
    with pytest.raises(UnavailableError):
        await Link.connect(Address("localhost", port, ca_file), asyncio.Queue())
    server.close()
    await server.wait_closed()


# -- requests


@on_loop
async def test_open_requests_end_at_once_when_the_connection_is_cut(tmp_path: Path) -> None:
    """Nobody waits ten seconds for an answer that cannot come any more."""
    async with an_impostor(tmp_path) as impostor:
        link = await Link.connect(Address("localhost", impostor.port, impostor.ca_file), asyncio.Queue())
        asked = [asyncio.create_task(link.request(oa.ProtoOAVersionReq())) for _ in range(3)]
        await until(lambda: len(impostor.heard) > 30)
        began_s = monotonic_s()
        impostor.connections[0].transport.abort()
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert monotonic_s() - began_s < 1.0
        assert [type(error) for error in ended] == [UnavailableError] * 3
        with pytest.raises(UnavailableError, match="the connection has ended"):
            link.send(oa.ProtoOAVersionReq(), "late")


@on_loop
async def test_request_without_an_answer_is_given_up_and_its_late_answer_harms_nothing(
    tmp_path: Path,
) -> None:
    """Silence is an answer too."""
    async with an_impostor(tmp_path) as impostor:
        inbox: asyncio.Queue[Received] = asyncio.Queue()
        link = await Link.connect(Address("localhost", impostor.port, impostor.ca_file), inbox)
        with pytest.raises(UnavailableError, match=r"no answer to ProtoOAVersionReq within 0.05 s"):
            await link.request(oa.ProtoOAVersionReq(), timeout_s=0.05)
        impostor.connections[0].write(framed(oa.ProtoOAVersionRes(version="91"), "r1"))
        assert (await inbox.get()).request_id == "r1"
        link.abort("the test is over")


@on_loop
async def test_answer_of_another_kind_is_an_error(tmp_path: Path) -> None:
    """Type and error code of every reply are looked at, before its fields are."""
    async with an_impostor(tmp_path) as impostor:
        impostor.answer = lambda *_: [oa.ProtoOAAccountAuthRes(ctidTraderAccountId=1)]
        link = await Link.connect(Address("localhost", impostor.port, impostor.ca_file), asyncio.Queue())
        with pytest.raises(VenueError, match="ProtoOAAccountAuthRes"):
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
async def test_every_carrier_of_errors_is_read(tmp_path: Path, carrier: Any) -> None:
    """There are three, and a refusal may come in any of them."""
    async with an_impostor(tmp_path) as impostor:
        impostor.answer = lambda *_: [carrier]
        link = await Link.connect(Address("localhost", impostor.port, impostor.ca_file), asyncio.Queue())
        with pytest.raises(VenueError, match="MARKET_CLOSED: later") as caught:
            await link.request(oa.ProtoOAVersionReq())
        assert caught.value.code == "MARKET_CLOSED"
        link.abort("the test is over")


@on_loop
async def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    """A newer payload, a broken one, an envelope that is none: the next message is read all the same."""
    newer = common.ProtoMessage(payloadType=9_999, payload=b"?").SerializeToString()
    broken = common.ProtoMessage(
        payloadType=payload_type(oa.ProtoOASpotEvent), payload=b"\xff\xff"
    ).SerializeToString()
    async with an_impostor(tmp_path) as impostor:
        inbox: asyncio.Queue[Received] = asyncio.Queue()
        link = await Link.connect(Address("localhost", impostor.port, impostor.ca_file), inbox)
        await until(lambda: impostor.connections)
        for body in (newer, broken, b"\xff\xff\xff"):
            impostor.connections[0].write(struct.pack(">I", len(body)) + body)
        impostor.connections[0].write(framed(common.ProtoHeartbeatEvent()))
        impostor.connections[0].write(framed(oa.ProtoOAVersionRes(version="91")))
        assert (await inbox.get()).message.version == "91"
        assert inbox.empty()
        link.abort("the test is over")


@on_loop
async def test_frame_that_is_too_long_ends_the_link(tmp_path: Path) -> None:
    """Fifteen megabytes of one message are no message of the venue's."""
    async with an_impostor(tmp_path) as impostor:
        link = await Link.connect(Address("localhost", impostor.port, impostor.ca_file), asyncio.Queue())
        await until(lambda: impostor.connections)
        impostor.connections[0].write(struct.pack(">I", 2_000_000_000))
        await asyncio.wait_for(link.ended.wait(), 2)


@on_loop
async def test_silence_is_filled_with_heartbeats_and_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent client is dropped, and a silent venue is dead, whatever TCP says."""
    monkeypatch.setattr(link_module, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(link_module, "SILENCE_S", 1.5)
    async with an_impostor(tmp_path) as impostor:
        link = await Link.connect(Address("localhost", impostor.port, impostor.ca_file), asyncio.Queue())
        alive = asyncio.create_task(link.keep_alive())
        heartbeat = framed(common.ProtoHeartbeatEvent())
        await until(lambda: impostor.heard.count(heartbeat) >= 1, within_s=3)
        assert not link.ended.is_set()
        await asyncio.wait_for(link.ended.wait(), 4)
        assert "nothing heard" in link.why_ended
        await alive


@on_loop
async def test_rate_limit_of_the_venue_is_kept(tmp_path: Path) -> None:
    """A flood of questions is answered without one being refused."""
    async with (
        serve(a_setting(tmp_path / "venue")) as venue,
        a_session(venue, EURO) as (session, _),
    ):
        now_ms = venue.exchange.now_ms
        began_s = monotonic_s()
        await asyncio.gather(
            *(session.balance() for _ in range(25)), *(session.positions() for _ in range(25))
        )
        assert monotonic_s() - began_s > 0.9
        await asyncio.gather(*(session.closes_since(now_ms, now_ms) for _ in range(6)))


# -- the session


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"client_secret": "wrong"}, "CT_CLIENT_SECRET"),
        ({"access_token": "wrong"}, "CT_ACCESS_TOKEN"),
        ({"account_id": 1}, "CT_ACCOUNT_ID"),
    ],
)
@on_loop
async def test_wrong_credentials_are_fatal_and_name_the_settings(
    tmp_path: Path, wrong: dict[str, Any], setting: str
) -> None:
    """Trying again would not help, and may block the application."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        who = replace(credentials_of(venue.ready), **wrong)
        with pytest.raises(InputError, match=setting) as caught:
            async with a_session(venue, who=who):
                pass
        assert venue.ready["access_token"] not in str(caught.value)


@on_loop
async def test_unknown_symbol_is_named(tmp_path: Path) -> None:
    """The universe is traded exactly or not at all."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        with pytest.raises(
            InputError, match=r"SYMBOLS: the venue has no enabled EURUSDm, BTCUSD; it offers EURUSD"
        ):
            async with a_session(venue, "EURUSDm", GOLD, "BTCUSD"):
                pass


@on_loop
async def test_session_learns_terms_and_subscribes(tmp_path: Path) -> None:
    """Contracts in the book's order, the balance to the cent, and quotes with stamps."""
    async with (
        serve(a_setting(tmp_path / "venue")) as venue,
        a_session(venue, GOLD, EURO) as (session, inbox),
    ):
        assert list(session.contracts) == [GOLD, EURO]
        assert (str(session.trader.balance), session.trader.currency) == ("10000.00", "USD")
        await Control(venue.ready).step(venue.exchange.now_ms + 2_000)
        first = await inbox.get()
        assert first.message.timestamp > 0
        assert session.by_id[first.message.symbolId].symbol in BOTH


@on_loop
async def test_history_goes_back_over_a_weekend_until_there_are_enough(tmp_path: Path) -> None:
    """On Monday morning the bars before are Friday's: asked by count, window by window, oldest first."""
    monday = datetime(2025, 1, 13, 2, tzinfo=UTC)
    settings = a_setting(tmp_path / "venue", slices=2_000, start=monday)
    async with serve(settings) as venue, a_session(venue, EURO, GOLD) as (session, _):
        now_ms = int(monday.timestamp() * 1000)
        for symbol in (EURO, GOLD):
            bars = await session.history(symbol, 400, now_ms)
            opens = [bar.open_time_ms for bar in bars]
            assert len(bars) >= 400
            assert opens == sorted(set(opens))
            assert opens[-1] == now_ms - 300_000
            assert all(is_open(symbol, at_ms) for at_ms in opens)
            assert opens[0] < now_ms - 3 * 86_400_000


@on_loop
async def test_history_that_is_shorter_than_asked_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A young market is no reason to ask for ever."""
    monkeypatch.setattr(link_module, "HISTORY_PER_S", 1000.0)
    settings = a_setting(tmp_path / "venue", history_slices=20, history_requests_per_s=1000)
    async with (
        serve(settings) as venue,
        a_session(venue, EURO) as (s, _),
    ):
        bars = await asyncio.wait_for(s.history(EURO, 5_000, venue.exchange.now_ms), 20)
        assert 0 < len(bars) <= 20


# -- where the venue is


def test_simulated_venue_says_itself_where_it_is(tmp_path: Path) -> None:
    """One file from the venue, nothing to copy by hand."""
    path = tmp_path / "ready.json"
    settings = GatewaySettings(_env_file=None, SIM_VENUE_FILE=path)
    with pytest.raises(UnavailableError, match=r"SIM_VENUE_FILE .* start `tradeguard venue` first"):
        venue_of(settings)
    path.write_text('{"host": "127.0.0.1"}')
    with pytest.raises(InputError, match="SIM_VENUE_FILE"):
        venue_of(settings)
    told = {"host": "::1", "port": 5, "ca_file": "/ca.pem", "client_id": "a", "client_secret": "b1234567"}
    path.write_text(json.dumps({**told, "access_token": "c1234567", "account_id": 4}))
    address, who = venue_of(settings)
    assert (address, who.account_id) == (Address("::1", 5, Path("/ca.pem")), 4)


def test_real_venue_is_the_official_host_with_the_platforms_trust() -> None:
    """Demo and live differ in the host alone; no CA file of our own may stand in for the platform's."""
    credentials = {"CT_CLIENT_ID": "a", "CT_CLIENT_SECRET": "b", "CT_ACCESS_TOKEN": "c", "CT_ACCOUNT_ID": 4}
    for kind in ("demo", "live"):
        address, who = venue_of(GatewaySettings(_env_file=None, CT_HOST_TYPE=kind, **credentials))
        assert address == Address(f"{kind}.ctraderapi.com", 5035)
        assert who == Credentials("a", "b", "c", 4)
