"""The token pair of a grant: on disk before its use, its owner's alone, and refreshed by one alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.gateway import tokens as tokens_module
from services.gateway.tokens import TokenPair, Tokens
from shared.errors import InputError, UnavailableError
from tests.gateway.loop import on_loop

ROOT = Path(__file__).parents[2]


FIRST, SECOND, OTHER = "access-1", "access-2", "of-a-new-grant"


def given(folder: Path, access_token: str = FIRST) -> Tokens:
    return Tokens(folder / "tokens", access_token, "refresh-1")


class Venue:
    """Gives a new pair for each refresh token, once."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def ask(self, refresh_token: str) -> TokenPair:
        self.asked.append(refresh_token)
        await asyncio.sleep(0.02)
        number = len(self.asked) + 1
        return TokenPair.fresh(f"access-{number}", f"refresh-{number}", 3600)


def test_pair_begins_as_the_environments(tmp_path: Path) -> None:
    """It is granted by hand, and set by hand, once."""
    pair = given(tmp_path).current()
    assert (pair.access_token, pair.refresh_token) == ("access-1", "refresh-1")


@on_loop
async def test_new_pair_is_found_at_the_next_start_although_the_environment_is_the_old(
    tmp_path: Path,
) -> None:
    """Nobody edits `.env` once a month."""
    tokens = given(tmp_path)
    await tokens.refresh(tokens.current(), Venue().ask)
    assert given(tmp_path).current().access_token == SECOND


@on_loop
async def test_changed_environment_goes_before_the_kept_pair(tmp_path: Path) -> None:
    """Who grants access again means the new grant."""
    tokens = given(tmp_path)
    await tokens.refresh(tokens.current(), Venue().ask)
    assert given(tmp_path, OTHER).current().access_token == OTHER


@on_loop
async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Who reads a pair can trade the account. Nothing else stays in the folder."""
    before = os.umask(0)
    try:
        tokens = given(tmp_path)
        await tokens.refresh(tokens.current(), Venue().ask)
    finally:
        os.umask(before)
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in tokens.path.parent.iterdir()}
    assert modes == {".json": 0o600, ".lock": 0o600}
    assert tokens.path.parent.stat().st_mode & 0o777 == 0o700


@on_loop
async def test_new_pair_is_on_disk_before_anybody_has_it(tmp_path: Path) -> None:
    """A pair that is used and then lost in a crash is lost for good. A refresh that fails changes nothing."""
    tokens = given(tmp_path)
    before = tokens.current()

    async def die(_: str) -> TokenPair:
        raise UnavailableError("cut")

    with pytest.raises(UnavailableError, match="cut"):
        await tokens.refresh(before, die)
    assert given(tmp_path).current() == before
    new = await tokens.refresh(before, Venue().ask)
    assert given(tmp_path).current() == new


@on_loop
async def test_many_who_find_the_token_refused_refresh_it_once(tmp_path: Path) -> None:
    """Two racing refreshes void each other's pair. The one who is late takes what the first has got."""
    venue = Venue()
    gateways = [given(tmp_path) for _ in range(5)]
    held = gateways[0].current()
    pairs = await asyncio.gather(*(each.refresh(held, venue.ask) for each in gateways))
    assert venue.asked == ["refresh-1"]
    assert {pair.access_token for pair in pairs} == {"access-2"}


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@on_loop
async def test_lock_of_another_process_is_waited_for_and_dies_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another gateway on the same volume has the word; one that was killed has it no more."""
    monkeypatch.setattr(tokens_module, "LOCK_S", 0.2)
    tokens, venue = given(tmp_path), Venue()
    held = tokens.current()
    command = [sys.executable, "-c", HOLDER, str(tokens.path.with_suffix(".lock"))]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220
    try:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UnavailableError, match="another gateway"):
            await tokens.refresh(held, venue.ask)
        assert venue.asked == []
    finally:
        other.kill()
        other.wait()
        if other.stdout:
            other.stdout.close()
    assert (await tokens.refresh(held, venue.ask)).access_token == SECOND


@on_loop
async def test_folder_that_cannot_be_written_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    """A refresh whose result has no place must not begin."""
    tokens, venue = given(tmp_path), Venue()
    held = tokens.current()
    path = tokens.path.with_name(f"{tokens.path.name}.{os.getpid()}.new")
    path.mkdir()
    with pytest.raises(InputError, match=r"GATEWAY_TOKEN_DIR: .* cannot be written"):
        await tokens.refresh(held, venue.ask)
    assert venue.asked == []


def test_broken_file_says_what_to_do(tmp_path: Path) -> None:
    """The only way on is a new grant; the file's content is not shown."""
    tokens = given(tmp_path)
    tokens.current()
    tokens.path.write_text('{"access_token": "access-1"')
    with pytest.raises(InputError, match="grant access again and set CT_ACCESS_TOKEN") as caught:
        tokens.current()
    assert "access-1" not in str(caught.value)


def test_file_that_another_gateway_has_made_is_left_as_it_is(tmp_path: Path) -> None:
    """Both start for the first time; the slower one must not put the old pair over a new one."""
    slow = given(tmp_path)
    given(tmp_path).current()
    newer = TokenPair.fresh("access-2", "refresh-2")
    slow.path.write_text(newer.model_dump_json())
    slow._write(slow._given, os.link)
    assert slow.current() == newer


def test_pair_is_due_before_it_ends() -> None:
    """A week is left of a month: time enough for a venue that is away."""
    pair = TokenPair.fresh("access-1", "refresh-1")
    left = pair.expires_at - pair.due_at
    assert pair.since < pair.due_at
    assert left.days == 7


def test_pair_does_not_show_itself() -> None:
    """In an error, in a log, in a debugger."""
    pair = TokenPair.fresh("access-1", "refresh-1")
    assert "access-1" not in repr(pair)
    assert "refresh-1" not in repr(pair)
