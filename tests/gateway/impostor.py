"""A TLS server that is not the venue: its certificate and its answers are the test's choice."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from services.gateway.inbox import Inbox
from services.gateway.link import Link, Received, common_envelope
from services.gateway.protocol import TYPES, common
from services.gateway.transport import Address


class Impostor:
    """Keeps every message that it is sent, and answers what it is told to."""

    def __init__(self, ca_file: Path, kind: Literal["tcp", "wss"]) -> None:
        self.port = 0
        self.kind = kind
        self.ca_file = ca_file
        self.greeted = 0  # handshakes that a client began
        self.pongs = 0
        self.connections: list[asyncio.StreamWriter] = []  # what came after a handshake
        self.heard: list[Any] = []  # envelopes
        self.answer: Callable[[Any], list[Any]] = lambda message: []  # messages, or raw bytes

    @property
    def address(self) -> Address:
        return Address("localhost", self.port, self.ca_file, self.kind)

    def ids(self) -> list[str]:
        return [envelope.clientMsgId for envelope in self.heard]

    def kinds(self) -> list[str]:
        return [TYPES[envelope.payloadType].DESCRIPTOR.name for envelope in self.heard]

    async def connect(self, inbox: Inbox[Received] | None = None) -> Link:
        """Return a link to it, once it has the other end."""
        before = len(self.connections)
        link = await Link.connect(self.address, Inbox() if inbox is None else inbox)
        async with asyncio.timeout(10):
            while len(self.connections) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return link

    def say(self, message: Any, request_id: str = "") -> None:
        """Send a message, or bytes as they are, on the newest connection."""
        content = message if isinstance(message, bytes) else self.packed(message, request_id)
        self.connections[-1].write(content)

    def packed(self, message: Any, request_id: str = "") -> bytes:
        """Return a message as it stands on the wire."""
        return self.wrapped(common_envelope(message, request_id))

    def wrapped(self, body: bytes) -> bytes:
        if self.kind == "tcp":
            return struct.pack(">I", len(body)) + body
        return Frame(Opcode.BINARY, body).serialize(mask=False)

    def too_long(self) -> bytes:
        """Return the beginning of a message of two thousand million bytes."""
        length = 2_000_000_000
        return struct.pack(">I", length) if self.kind == "tcp" else b"\x82\x7f" + struct.pack(">Q", length)

    def greet(self, *_: object) -> None:
        self.greeted += 1

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            read = self._frames if self.kind == "tcp" else self._web_socket
            await read(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    async def _frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        while True:
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            self._take(await reader.readexactly(length))

    async def _web_socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        while content := await reader.read(65_536):
            protocol.receive_data(content)
            for event in protocol.events_received():
                if isinstance(event, Request):
                    protocol.send_response(protocol.accept(event))
                    self.connections.append(writer)
                elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                    self._take(bytes(event.data))
                elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
                    self.pongs += 1
            for piece in protocol.data_to_send():
                writer.write(piece)

    def _take(self, content: bytes) -> None:
        envelope = common.ProtoMessage.FromString(content)
        self.heard.append(envelope)
        message = TYPES[envelope.payloadType].FromString(envelope.payload)
        for answer in self.answer(message):
            self.say(answer, envelope.clientMsgId)


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
    folder: Path,
    kind: Literal["tcp", "wss"] = "tcp",
    *,
    name: str = "localhost",
    trusted: bool = True,
    expired: bool = False,
) -> AsyncIterator[Impostor]:
    certificate, ca_file = a_certificate(folder, name, trusted=trusted, expired=expired)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    impostor = Impostor(ca_file, kind)
    context.sni_callback = impostor.greet
    server = await asyncio.start_server(impostor.converse, "127.0.0.1", 0, ssl=context)
    impostor.port = server.sockets[0].getsockname()[1]
    try:
        yield impostor
    finally:
        server.close()
        for writer in impostor.connections:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.01)  # the readers end
