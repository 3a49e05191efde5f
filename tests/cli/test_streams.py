"""`tradeguard streams`, on a book written to real servers and read through the program."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from cli import recorded, streams
from cli.arguments import BAD_INPUT, STREAMS
from cli.main import FAILED, OK, main
from shared.messages import (
    Command,
    CommandGiven,
    DeadLettered,
    Direction,
    ExecutionKind,
    ExecutionReported,
    Message,
    Meta,
)
from shared.streams import encode, key, market_id, stream_of
from tests.builders import MONDAY, SYMBOLS, a_bar, an_event
from tests.conftest import RedisServer, redis_program


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)


class Book:
    """A book of this test alone, and the program run on it."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.name = f"t-{uuid4().hex[:9]}"
        self.url = url
        self.client: Any = redis.Redis.from_url(url, decode_responses=True)
        self._capsys = capsys

    def add(self, message: Message, entry_id: str = "*") -> str:
        return str(self.client.xadd(key(self.name, stream_of(message).name), encode(message), entry_id))

    def ids(self, name: str) -> list[str]:
        return [entry_id for entry_id, _ in self.client.xrange(key(self.name, name))]

    def run(self, *arguments: str, status: int = OK) -> str:
        assert main(["streams", *arguments, "--book", self.name, "--redis", self.url]) == status
        said = self._capsys.readouterr()
        return said.out if status == OK else said.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture
def book(redis_url: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Book]:
    made = Book(redis_url, capsys)
    yield made
    made.client.close()


def a_dead(message: Message, entry_id: str = "1-0") -> DeadLettered:
    fields = encode(message)
    return DeadLettered(
        meta=Meta.root(f"dead:{entry_id}", MONDAY),
        stream=stream_of(message).name,
        entry_id=entry_id,
        group="notifier",
        error="text: not what was expected",
        fields=fields,
    )


def a_command() -> CommandGiven:
    return CommandGiven(meta=Meta.root("command", MONDAY), command=Command.RESUME, who="me", why="a test")


def an_execution() -> ExecutionReported:
    return ExecutionReported(
        meta=Meta.root("execution", MONDAY), number=1, kind=ExecutionKind.SENT,
        client_order_id="TG-main-20250106T1005-EURUSD", symbol="EURUSD", direction=Direction.LONG,
    )  # fmt: skip


def test_the_program_knows_the_names_of_all_streams() -> None:
    """They stand in the arguments too, where nothing heavy is imported."""
    assert STREAMS == streams.NAMES


@pytest.mark.redis
def test_ls_tells_of_every_stream_from_when_to_when(book: Book) -> None:
    """The market's time where ids are the market's time; who writes and reads; empty streams too."""
    for k, symbol in enumerate(SYMBOLS):
        book.add(a_bar(symbol), market_id(MONDAY, k))
    rows = {row["stream"]: row for row in book.json("ls")["rows"]}
    assert set(rows) == set(STREAMS)
    bars = rows["bars"]
    assert (bars["entries"], bars["first"], bars["last"]) == (5, market_id(MONDAY), market_id(MONDAY, 4))
    assert bars["last time (UTC)"] == "2025-01-06 10:00:00"
    assert (bars["time"], bars["written by"], bars["read by"]) == ("market", "gateway", "features")
    assert (rows["orders"]["entries"], rows["orders"]["last"]) == (0, None)
    table = book.run("ls").splitlines()
    assert len(table) == 1 + len(STREAMS)
    assert table[1].split()[:2] == ["bars", "5"]


@pytest.mark.redis
def test_tail_shows_the_last_entries_oldest_first(book: Book) -> None:
    """A reader's eye ends at what happened last."""
    for k, symbol in enumerate(SYMBOLS):
        book.add(a_bar(symbol), market_id(MONDAY, k))
    head, *lines = book.run("tail", "bars", "-n", "2").splitlines()
    assert head.split()[0] == "id"
    assert [line.split()[3] for line in lines] == ["USDCHF", "XAUUSD"]
    entries = book.json("tail", "bars", "-n", "1")["entries"]
    assert [(e["id"], e["symbol"], e["close"]) for e in entries] == [
        (market_id(MONDAY, 4), "XAUUSD", "1.10010")
    ]
    assert book.run("tail", "orders") == f"nothing in orders of book {book.name}\n"


@pytest.mark.redis
def test_follow_goes_on_with_what_comes_in_the_same_columns(book: Book) -> None:
    """Entries written while one looks appear below those that were there, none left out."""
    book.add(an_event("first"))
    with recorded.opened(book=book.name, url=book.url, folder=None) as found:
        first = streams.tail(found, "events", 10)
        shown = streams.lines("events", first, streams.follow(found, "events", first), as_json=False)
        head, line = next(shown).splitlines()
        writer = threading.Timer(0.2, lambda: [book.add(an_event(text)) for text in ("second", "third")])
        writer.start()
        more = list(itertools.islice(shown, 2))
        writer.join()
    column = head.index("text")
    assert [text[column:] for text in (line, *more)] == ["first", "second", "third"]


@pytest.mark.redis
def test_show_opens_nested_values_and_leaves_none_out(book: Book) -> None:
    """What `redis-cli` prints as one line of JSON can be read; nothing is rounded here."""
    dead_id = book.add(a_dead(an_event("lost")))
    page = book.run("show", "dead", dead_id)
    assert "market time" not in page
    assert '"text": "lost"' in page
    assert all(field in page for field in encode(a_dead(an_event("lost"))))
    assert book.json("show", "dead", dead_id)["fields"]["text"] == "lost"
    assert "no entry 5-0 in bars" in book.run("show", "bars", "5-0", status=BAD_INPUT)


@pytest.mark.redis
def test_lag_tells_what_is_read_and_what_is_committed(book: Book) -> None:
    """An entry that was read and hangs is seen, and so is the mark behind it."""
    first, second, _ = (book.add(an_event(text)) for text in ("a", "b", "c"))
    events = key(book.name, "events")
    assert book.run("lag") == "no group reads a stream yet\n"
    book.client.xgroup_create(events, "notifier", "0")
    book.client.xreadgroup("notifier", "active", {events: ">"}, count=2)
    book.client.xack(events, "notifier", first)
    book.client.hset(key(book.name, "marks:notifier"), events, first)
    (row,) = book.json("lag")["rows"]
    assert row == {
        "stream": "events", "group": "notifier", "lag": 1, "pending": 1,
        "last delivered": second, "mark": first, "oldest pending": second,
    }  # fmt: skip


@pytest.mark.redis
def test_dead_says_what_died_and_why(book: Book) -> None:
    """One line each: which entry, whose, and its error."""
    assert "nothing in dead" in book.run("dead")
    book.add(a_dead(an_event("lost"), "7-0"))
    line = book.run("dead").splitlines()[1]
    assert line.split()[3:6] == ["events", "7-0", "notifier"]
    assert line.endswith("text: not what was expected")


@pytest.mark.redis
def test_a_dead_event_comes_back_as_it_was_and_only_once(book: Book) -> None:
    """It moves: the same fields, a new id, and nothing to requeue a second time."""
    event = an_event("lost")
    dead_id = book.add(a_dead(event))
    moved = book.json("requeue", dead_id)
    assert book.ids("events") == [moved["now"]]
    assert book.client.xrange(key(book.name, "events"))[0][1] == encode(event)
    assert book.ids("dead") == []
    assert "no entry" in book.run("requeue", dead_id, status=BAD_INPUT)
    with (
        recorded.opened(book=book.name, url=book.url, folder=None) as found,
        pytest.raises(streams.InputError),
    ):
        found.move_dead(dead_id, "events", encode(event))  # two operators at once
    assert len(book.ids("events")) == 1


@pytest.mark.redis
@pytest.mark.parametrize(
    ("message", "why"),
    [
        (a_bar(), "its id is the market's time"),
        (an_execution(), "the gateway's journal writes executions"),
        (a_command(), "give it anew with `tradeguard pause`"),
    ],
)
def test_what_must_not_come_back_is_refused_with_its_reason(book: Book, message: Message, why: str) -> None:
    """Old market data would be out of order; an old order, execution or command would act a second time."""
    dead_id = book.add(a_dead(message))
    said = book.run("requeue", dead_id, status=BAD_INPUT)
    assert "is not requeued" in said
    assert why in said
    assert book.ids("dead") == [dead_id]
    assert book.ids(stream_of(message).name) == []


def test_a_finished_demo_is_read_from_its_folder_and_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server has to run, the book need not be named, and nothing in the folder changes."""
    folder = tmp_path / "demo" / "valkey"
    folder.mkdir(parents=True)
    server = RedisServer(redis_program("valkey"), folder)
    server.start()
    client: Any = redis.Redis.from_url(server.url)
    client.xadd(key("demo", "bars"), encode(a_bar()), market_id(MONDAY))
    dead_id = client.xadd(key("demo", "dead"), encode(a_dead(an_event("lost")))).decode()
    client.shutdown()
    client.close()
    server.kill()  # it has ended; this takes leave of it
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    where = ["--folder", str(tmp_path / "demo")]
    assert main(["streams", "tail", "bars", *where, "--json"]) == OK
    shown = json.loads(capsys.readouterr().out)
    assert (shown["book"], shown["entries"][0]["id"]) == ("demo", market_id(MONDAY))
    assert main(["streams", "requeue", dead_id, *where]) == BAD_INPUT
    assert "looked at as a copy" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["ls", "--folder", "."], BAD_INPUT, "no demo was run there"),
        (["ls", "--redis", "http://here"], BAD_INPUT, "--redis http://here"),
        (["ls", "--book", "Not A Book"], BAD_INPUT, "Not A Book"),
        (["ls", "--redis", "redis://127.0.0.1:1/0"], FAILED, "redis: "),
    ],
)
def test_a_place_without_streams_is_said_in_a_sentence(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which argument is wrong, or that the server does not answer."""
    assert main(["streams", *arguments]) == status
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["tail", "candles"], ["show", "bars", "today"], ["tail", "bars", "-n", "0"]]
)
def test_a_wrong_argument_of_streams_is_named(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A stream that does not exist and an id that is none are refused before anything is opened."""
    with pytest.raises(SystemExit) as left:
        main(["streams", *arguments])
    assert left.value.code == BAD_INPUT
    assert arguments[-1] in capsys.readouterr().err
