"""The token pair of one grant: kept on disk, refreshed before it ends, never refreshed twice.

A refresh token works once. Who uses it voids the pair that everybody else holds, and a new pair that is lost
before it is on disk is lost for good: somebody would have to grant access by hand again. So there is one
file for a grant, one lock around its refresh, and the new pair is on disk before its first use.

The pair in the environment is only where a grant begins. Its file is named after it: a changed environment
is another grant with a file of its own, and an unchanged one finds the pair of the last refresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from shared.clock import monotonic_s, utc_now
from shared.errors import InputError, UnavailableError
from shared.log import add_secret, get_logger

LIFE_S = 2_628_000  # of an access token as it is granted; the age of one in the environment is not known
DUE_AT = 0.75  # of its life: a week is left, in which a venue that is away comes back
LOCK_S = 30.0  # another gateway's refresh takes no longer
LOCK_LOOK_S = 0.05
SECRET_MODE, FOLDER_MODE = 0o600, 0o700

log = get_logger("gateway.tokens")


class TokenPair(BaseModel):
    """What one refresh gave, or what the environment began with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_token: str = Field(repr=False)
    refresh_token: str = Field(repr=False)
    since: AwareDatetime  # when we had it first
    expires_at: AwareDatetime  # of the access token; the refresh token does not expire

    @classmethod
    def fresh(cls, access_token: str, refresh_token: str, life_s: float = LIFE_S) -> TokenPair:
        """Return a pair that lives from now on."""
        now = utc_now()
        return cls(
            access_token=access_token,
            refresh_token=refresh_token,
            since=now,
            expires_at=now + timedelta(seconds=life_s),
        )

    @property
    def due_at(self) -> datetime:
        """When it should be refreshed, although it still works."""
        return self.since + DUE_AT * (self.expires_at - self.since)


class Tokens:
    """The pair of one grant, in its file."""

    def __init__(self, folder: Path, access_token: str, refresh_token: str) -> None:
        """Name the grant by the pair that the environment has of it. Nothing is read yet."""
        self._folder = folder
        self._given = TokenPair.fresh(access_token, refresh_token)
        name = hashlib.sha256(f"{access_token}\n{refresh_token}".encode()).hexdigest()[:16]
        self.path = folder / f"{name}.json"

    def current(self) -> TokenPair:
        """Return the pair that holds now: that of the last refresh, by whichever gateway.

        The first time it is the environment's, and is written too: that the file can be written is better
        known today than on the day of the first refresh.

        Raises:
            InputError: the file cannot be read or written.
        """
        if not self.path.exists():
            self._write(self._given, os.link)  # unlike a move, it leaves what has come there meanwhile
        try:
            pair = TokenPair.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            what = error.strerror if isinstance(error, OSError) else "it is not a token pair"
            raise InputError(
                f"GATEWAY_TOKEN_DIR: {self.path} cannot be read ({what}): delete it, grant access again and"
                " set CT_ACCESS_TOKEN and CT_REFRESH_TOKEN to the new pair"
            ) from None
        add_secret(pair.access_token)
        add_secret(pair.refresh_token)
        return pair

    async def refresh(self, held: TokenPair, ask: Callable[[str], Awaitable[TokenPair]]) -> TokenPair:
        """Return a newer pair than the one held: another gateway's if there is one, else ask for it, once.

        Args:
            held: the pair that is refused or due.
            ask: sends a refresh token to the venue and returns the new pair.

        Raises:
            UnavailableError: another gateway refreshes it, and does not come to an end.
            InputError: the file cannot be written. Nothing was asked for.
            What `ask` raises: nothing has changed here.
        """
        async with self._alone():
            known = self.current()
            if known.access_token != held.access_token:
                return known
            self._write(known, os.replace)  # there is room for the new pair
            new = await ask(known.refresh_token)
            add_secret(new.access_token)
            add_secret(new.refresh_token)
            self._write(new, os.replace)
            log.info("token.refreshed", expires_at=new.expires_at.isoformat())
            return new

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the grant's lock: no other task, process or gateway on this volume is in here."""
        self._make_folder()
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, SECRET_MODE)
        try:
            deadline_s = monotonic_s() + LOCK_S
            while not _locked(descriptor):
                if monotonic_s() > deadline_s:
                    raise UnavailableError(f"another gateway has been refreshing the token for {LOCK_S:g} s")
                await asyncio.sleep(LOCK_LOOK_S)
            yield
        finally:
            os.close(descriptor)  # lets the lock go

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"GATEWAY_TOKEN_DIR: {self._folder}: {error.strerror}") from error

    def _write(self, pair: TokenPair, put: Callable[[Path, Path], None]) -> None:
        """Put the pair in place in one move, on disk before we go on, readable by its owner alone."""
        self._make_folder()
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(pair.model_dump_json().encode())
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                put(draft, self.path)
            draft.unlink(missing_ok=True)
            _sync_folder(self._folder)
        except OSError as error:
            raise InputError(f"GATEWAY_TOKEN_DIR: {self.path} cannot be written: {error.strerror}") from error


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """A renamed file is on disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
