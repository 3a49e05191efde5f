"""Redis Streams: strict order, one atomic commit per step, one active instance per service.

Reading goes through a consumer group, so that `XINFO GROUPS` and `XPENDING` show where a service is. All
instances of a service use one consumer name, because only the holder of the lease reads: what a dead
instance had read is simply the new one's own pending entries. A commit is refused unless it begins with
the oldest pending entry, so an entry that was delivered to a process that never handled it (it was
stopped, lost its lease, woke up) cannot be jumped over.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from shared import streams
from shared.bus import BusUnavailableError, Delivery, Output, refusal_of
from shared.clock import monotonic_s
from shared.contracts import Contract
from shared.errors import InputError, InvariantError, LeaseLostError, UnavailableError
from shared.messages import AccountReported, Message
from shared.redis_line import SOCKET_TIMEOUT_S, Line, Translated
from shared.streams import Stream

BLOCK_MS = 500  # how long one read waits; well below the socket's time-out
READ_COUNT = 64
ACCOUNTS_KEPT = 16  # account entries at hand; a slice asks for the newest, a recovery for older ones
_CONSUMER = "active"
_ABSENT = "-"  # a key that a script does not touch


class RedisBus:
    """One service's door to the streams of one book."""

    read_count = READ_COUNT

    def __init__(self, client: redis.Redis, book: str, service: str) -> None:
        self._client: Any = client  # its types allow bytes and None where there is text
        self._reads = Line(client.connection_pool)
        self._calls = Line(client.connection_pool)
        self._follows = Line(client.connection_pool)
        self._accounts: dict[str, AccountReported] = {}
        self._book = book
        self._service = service
        self._owner = secrets.token_hex(4)
        self._token = ""
        self._deadline_s = 0.0
        self._last_ids: dict[str, str] = {}
        folder = Path(__file__).parent
        self._commit_script = (folder / "commit.lua").read_text()
        self._commit_sha = hashlib.sha1(self._commit_script.encode(), usedforsecurity=False).hexdigest()
        self._lease_script = client.register_script((folder / "lease.lua").read_text())
        self._trim_script = client.register_script((folder / "trim.lua").read_text())

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, book: str, service: str) -> AsyncIterator[RedisBus]:
        """Open the door; nothing is sent before the first use.

        The client's own retries are off: a write that is sent again is a duplicate.
        """
        client = redis.Redis.from_url(
            url,
            decode_responses=True,
            protocol=2,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
        )
        bus = cls(client, book, service)
        try:
            yield bus
        finally:
            await bus.close()

    async def close(self) -> None:
        """End all connections."""
        await self._reads.close()
        await self._calls.close()
        await self._follows.close()
        await self._client.aclose()

    @property
    def book(self) -> str:
        """The book whose streams these are."""
        return self._book

    def key(self, name: str) -> str:
        """Return the Redis key of a name in this book."""
        return streams.key(self._book, name)

    # --- lease ----------------------------------------------------------------------------------

    async def hold_lease(self, ttl_s: float) -> bool:
        """Take the service's lease, or keep it. False while another instance holds it.

        Raises:
            LeaseLostError: it was ours and is another's now.
        """
        started = monotonic_s()
        with Translated():
            token = await self._lease_script(
                keys=[self.key(f"lease:{self._service}"), self.key(f"epoch:{self._service}")],
                args=[self._token, self._owner, round(ttl_s * 1000)],
            )
        if self._token and not token:
            raise LeaseLostError(f"another instance of {self._service} is active")
        if token:
            self._token, self._deadline_s = token, started + ttl_s
        return bool(token)

    async def release_lease(self) -> None:
        """Give the lease back, so that a standby need not wait for its end."""
        if self._token and monotonic_s() < self._deadline_s:
            with Translated():
                await self._client.delete(self.key(f"lease:{self._service}"))
        self._token = ""

    def holds_lease(self) -> bool:
        """Whether the lease is surely ours: judged by our own monotonic deadline."""
        return bool(self._token) and monotonic_s() < self._deadline_s

    # --- reading --------------------------------------------------------------------------------

    async def ensure_groups(self, read: Sequence[Stream]) -> None:
        """Create this service's groups, from the first entry on, where they do not exist yet."""
        for stream in read:
            try:
                with Translated():
                    await self._client.xgroup_create(self.key(stream.name), self._service, "0", mkstream=True)
            except InvariantError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def read_new(self, read: Sequence[Stream], *, block: bool) -> dict[Stream, list[Delivery]]:
        """Return entries nobody has read yet, at most `READ_COUNT` a stream, oldest first."""
        return await self._read(dict.fromkeys(read, ">"), BLOCK_MS if block else None)

    async def read_pending(self, stream: Stream, after: str = "0") -> list[Delivery]:
        """Return entries that were read and never committed, oldest first, after the id `after`."""
        return (await self._read({stream: after}, None)).get(stream, [])

    async def has_pending(self, read: Sequence[Stream]) -> bool:
        """Whether any of these streams has entries that were read and never committed."""
        return bool(await self._read(dict.fromkeys(read, "0"), None))

    async def _read(
        self, cursors: Mapping[Stream, str], block_ms: int | None
    ) -> dict[Stream, list[Delivery]]:
        by_key = {self.key(stream.name): stream for stream in cursors}
        block = () if block_ms is None else ("BLOCK", block_ms)
        with Translated():
            answer = await self._reads.call(
                *("XREADGROUP", "GROUP", self._service, _CONSUMER, "COUNT", READ_COUNT, *block),
                *("STREAMS", *by_key, *cursors.values()),
                wait_s=(block_ms or 0) / 1000,
            )
        return {
            by_key[key]: [Delivery(by_key[key], id_, _fields(flat)) for id_, flat in entries if flat]
            for key, entries in answer or ()
            if entries
        }

    async def history(
        self, stream: Stream, start: str = "-", end: str = "+", count: int | None = None
    ) -> list[tuple[str, Message]]:
        """Return (entry id, message) of a range, oldest first; what cannot be understood is left out."""
        with Translated():
            entries = await self._client.xrange(self.key(stream.name), start, end, count)
        found = []
        for entry_id, fields in entries:
            with suppress(InputError):  # somebody else wrote it; who reads the stream says so
                found.append((entry_id, streams.decode(fields)))
        return found

    async def tail(
        self, after: Mapping[Stream, str], block_ms: int
    ) -> dict[Stream, list[tuple[str, Message]]]:
        """Return what stands behind the given ids; waits at most `block_ms`. Takes no part in any group."""
        by_key = {self.key(stream.name): stream for stream in after}
        cursors = {self.key(stream.name): entry_id for stream, entry_id in after.items()}
        with Translated():
            answer = await self._client.xread(cursors, count=1000, block=block_ms)
        return {
            by_key[key]: [(entry_id, streams.decode(fields)) for entry_id, fields in entries]
            for key, entries in answer
        }

    async def last(self, stream: Stream) -> tuple[str, Message] | None:
        """Return the newest entry, or None of an empty stream."""
        with Translated():
            entries = await self._client.xrevrange(self.key(stream.name), "+", "-", 1)
        return (entries[0][0], streams.decode(entries[0][1])) if entries else None

    async def account(self, entry_id: str) -> AccountReported:
        """Return one account entry.

        Raises:
            UnavailableError: it is not there.
        """
        if entry_id not in self._accounts:
            await asyncio.sleep(0)  # written together with its bars: it may have come and be unread
        if entry_id in self._accounts:
            return self._accounts[entry_id]
        with Translated():
            entries = await self._calls.call("XRANGE", self.key(streams.ACCOUNT.name), entry_id, entry_id)
        if not entries:
            raise UnavailableError(f"account entry {entry_id} is not there")
        return cast(AccountReported, streams.decode(_fields(entries[0][1])))

    async def follow_accounts(self) -> None:
        """Keep the newest account entries at hand, so that a slice need not ask for its own; never ends."""
        after = "$"
        while True:
            try:
                with Translated():
                    answer = await self._follows.call(
                        *("XREAD", "COUNT", ACCOUNTS_KEPT, "BLOCK", BLOCK_MS),
                        *("STREAMS", self.key(streams.ACCOUNT.name), after),
                        wait_s=BLOCK_MS / 1000,
                    )
            except BusUnavailableError:  # who reads and commits says so; the server may come back older
                self._accounts.clear()
                after = "$"
                await asyncio.sleep(BLOCK_MS / 1000)
                continue
            for _, entries in answer or ():
                for after, flat in entries:
                    with suppress(InputError):  # who asks for this entry will be told
                        self._accounts[after] = cast(AccountReported, streams.decode(_fields(flat)))
            for old in list(self._accounts)[:-ACCOUNTS_KEPT]:
                del self._accounts[old]

    async def contracts(self) -> dict[str, Contract]:
        """Return the venue's terms of every symbol of the book."""
        with Translated():
            found = await self._client.hgetall(self.key("symbols"))
        return {symbol: Contract.model_validate_json(text) for symbol, text in found.items()}

    async def write_contracts(self, contracts: Mapping[str, Contract]) -> None:
        """Store the venue's terms of every symbol of the book."""
        with Translated():
            await self._client.hset(
                self.key("symbols"),
                mapping={name: contract.model_dump_json() for name, contract in contracts.items()},
            )

    async def state(self) -> bytes | None:
        """Return the state saved with this service's last commit."""
        raw = redis.Redis(connection_pool=_binary_pool(self._client))
        with Translated():
            try:
                found = await raw.get(self.key(f"state:{self._service}"))
            finally:
                await raw.connection_pool.disconnect()
        return cast("bytes | None", found)

    async def mark(self, service: str, stream: Stream) -> str:
        """Return the last entry of a stream that a service has committed; "" before the first."""
        with Translated():
            found = await self._client.hget(self.key(f"marks:{service}"), self.key(stream.name))
        return cast(str, found or "")

    async def counter(self, name: str) -> int:
        """Return the number of the last message written under a counter; 0 before the first."""
        with Translated():
            return int(await self._client.get(self.key(name)) or 0)

    def last_ids(self) -> dict[str, str]:
        """Return the last id committed, by stream: what a decision has seen."""
        return dict(self._last_ids)

    async def load_marks(self) -> None:
        """Learn from the server what this service has committed so far."""
        prefix = self.key("")
        self._accounts.clear()  # a server that came back older may get other entries under the same ids
        with Translated():
            marks = await self._client.hgetall(self.key(f"marks:{self._service}"))
        self._last_ids = {name.removeprefix(prefix): entry_id for name, entry_id in marks.items()}

    # --- writing --------------------------------------------------------------------------------

    async def commit(
        self, inputs: Sequence[Delivery], outputs: Sequence[Output], state: bytes = b""
    ) -> list[str]:
        """Write outputs, state and mark, and acknowledge the inputs: all or nothing.

        Args:
            inputs: entries of one stream, consecutive, the oldest pending first.
            outputs: messages to write; an identical entry already there counts as written.
            state: the service's small state; b"" leaves it as it is.

        Returns:
            The outputs' entry ids; empty when the inputs were done before.

        Raises:
            LeaseLostError: another instance is active, or our own deadline has passed.
            OutOfOrderError: an older entry is still pending.
            InvariantError: an output stands in the stream with other content.
            BusUnavailableError: no answer; it may have been written.
        """
        ids = await self._write(inputs, outputs, state, None)
        self._last_ids[inputs[0].stream.name] = inputs[-1].entry_id
        return ids

    async def publish(
        self, outputs: Sequence[Output], *, counter: tuple[str, int] | None = None, state: bytes = b""
    ) -> list[str]:
        """Write messages that no entry caused, all or none; `counter` is (name, number of this message).

        Raises:
            CounterError: the number is not the stored one + 1; nothing was written.
            LeaseLostError, InvariantError, BusUnavailableError: as `commit`.
        """
        return await self._write((), outputs, state, counter)

    async def _write(
        self,
        inputs: Sequence[Delivery],
        outputs: Sequence[Output],
        state: bytes,
        counter: tuple[str, int] | None,
    ) -> list[str]:
        if not self.holds_lease():
            raise BusUnavailableError(f"the lease of {self._service} has run out and was not renewed yet")
        args: list[str | int | bytes] = [self._token, self._service, state, counter[1] if counter else ""]
        args += [len(inputs), *(delivery.entry_id for delivery in inputs), len(outputs)]
        for output in outputs:
            fields = streams.encode(output.message)
            args += [output.entry_id, 2 * len(fields)]
            for name, value in fields.items():
                args += [name, value]
        keys = [
            self.key(f"lease:{self._service}"),
            self.key(f"marks:{self._service}"),
            self.key(f"state:{self._service}"),
            self.key(counter[0] if counter else _ABSENT),
            self.key(inputs[0].stream.name if inputs else _ABSENT),
            *(self.key(streams.stream_of(output.message).name) for output in outputs),
        ]
        with Translated():
            status, *detail = await self._run_commit(len(keys), *keys, *args)
        if status not in ("OK", "DUPLICATE"):
            raise refusal_of(status, detail, self._service, inputs)
        return cast("list[str]", detail) if status == "OK" else []

    async def _run_commit(self, *arguments: str | bytes | int) -> Any:  # noqa: ANN401
        try:
            return await self._calls.call("EVALSHA", self._commit_sha, *arguments)
        except NoScriptError:  # a server that has started anew: nothing was done
            return await self._calls.call("EVAL", self._commit_script, *arguments)

    async def trim(self, keep_ms: int) -> int:
        """Take out what is old and read by all who act on it; return how many entries went."""
        gone = 0
        for stream in streams.STREAMS:
            keepers = streams.keepers(stream)
            keys = [self.key(each.name) for each in (stream, *(read for read, _ in keepers))]
            with Translated():
                gone += await self._trim_script(keys=keys, args=[keep_ms, *(group for _, group in keepers)])
        return gone

    async def report_health(self, fields: Mapping[str, str]) -> None:
        """Say how this service is: shown by `tradeguard status` and by health checks."""
        with Translated():
            await self._client.hset(self.key(f"health:{self._service}"), mapping=dict(fields))

    async def health(self, service: str) -> dict[str, str]:
        """Return what a service last said of itself; empty when it never did."""
        with Translated():
            return cast(dict[str, str], await self._client.hgetall(self.key(f"health:{service}")))

    async def append(self, message: Message) -> str:
        """Write a message without holding a lease: for commands and for events of who is not active."""
        fields = streams.encode(message)
        with Translated():
            entry_id = await self._client.xadd(self.key(streams.stream_of(message).name), cast(Any, fields))
        return cast(str, entry_id)


def _fields(flat: list[str]) -> dict[str, str]:
    """Return an entry's fields from their names and values in turn."""
    pairs = iter(flat)
    return dict(zip(pairs, pairs, strict=True))


def _binary_pool(client: redis.Redis) -> redis.ConnectionPool:
    """Return a pool to the same server that leaves values as bytes."""
    settings = {**client.connection_pool.connection_kwargs, "decode_responses": False}
    return redis.ConnectionPool(connection_class=client.connection_pool.connection_class, **settings)
