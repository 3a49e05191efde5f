"""`tradeguard replay` on books that real services recorded: on real servers, and in a real mesh."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from cli.arguments import BAD_INPUT
from cli.main import FAILED, OK, main
from services.executor import main as executor
from services.executor.settings import ExecutorSettings
from services.features import main as features
from services.features.settings import FeaturesSettings
from services.inference import main as inference
from services.inference.settings import InferenceSettings
from shared import streams
from shared.bus import Delivery
from shared.redis_bus import RedisBus
from shared.runtime import Runtime
from shared.settings import ServiceSettings
from shared.streams import Stream, id_parts, key
from tests.conftest import RedisServer, redis_program
from tests.features.conftest import STEP_MS, a_market
from tests.inference.small import small_files, write
from tests.mesh.conftest import BUNDLE, StartDemo, start_demo
from tests.sim.builders import Recorder
from venue.book import CONTRACTS

__all__ = ["start_demo"]  # a fixture

SLICES = 330
READ_S = 60.0


@dataclass
class Printed:
    """What the program printed, and how it left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Program = Callable[..., Printed]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program, away from any `.env`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, command: str = "replay") -> Printed:
        capsys.readouterr()
        status = main([command, *arguments])
        said = capsys.readouterr()
        return Printed(status, said.out, said.err)

    return run


# --- real services on a real server -------------------------------------------------------------


@asynccontextmanager
async def running(url: str, book: str, bundle: Path) -> AsyncIterator[None]:
    """Run the three services as they are built, in this process."""
    common: dict[str, Any] = {"_env_file": None, "book": book, "redis_url": url}
    builds: list[tuple[str, Any, ServiceSettings]] = [
        ("features", features.build, FeaturesSettings(**common)),
        ("inference", inference.build, InferenceSettings(**common, bundle_dir=bundle)),
        ("executor", executor.build, ExecutorSettings(**common)),
    ]
    runtimes = []
    async with asyncio.TaskGroup() as group:
        for name, build, settings in builds:
            runtime = group.create_task(_run(name, build, settings, runtimes))
            runtime.set_name(name)
        try:
            yield
        finally:
            for each in runtimes:
                each.stop()


async def _run(name: str, build: Any, settings: ServiceSettings, runtimes: list[Runtime]) -> None:
    async with (
        RedisBus.connect(settings.redis_url, settings.book, name) as bus,
        build(settings, bus) as service,
    ):
        runtimes.append(Runtime(name, service, bus, settings))
        await runtimes[-1].run()


async def record(url: str, book: str, bundle: Path, written: Recorder, state: Path) -> None:
    """Let the services handle what a gateway and an operator write, at their own pace.

    In between their state is saved, wherever they stand.
    """
    client: Any = redis.Redis.from_url(url, decode_responses=True)
    client.hset(key(book, "symbols"), mapping={name: c.model_dump_json() for name, c in CONTRACTS.items()})
    async with running(url, book, bundle):
        half = next(k for k, entries in enumerate(written.written_in_order) if is_slice(entries, SLICES - 15))
        for k, entries in enumerate(written.written_in_order):
            if k == half:
                arguments = ["save-state", str(state), "--redis", url, "--book", book]
                assert await asyncio.to_thread(main, arguments) == OK
            for entry in entries:
                entry_id = entry.entry_id if entry.stream.market_ids else "*"
                client.xadd(key(book, entry.stream.name), entry.fields, entry_id)
            await asyncio.sleep(0.002)
        await _read(client, book, streams.BARS, "features")
        await _read(client, book, streams.FEATURES, "inference")
        for stream in (streams.SIGNALS, streams.EXECUTIONS, streams.COMMANDS):
            await _read(client, book, stream)
    client.close()


def is_slice(entries: Sequence[Delivery], number: int) -> bool:
    """Whether these were written for the slice of that number."""
    close_ms = int(a_market(SLICES, flat=0.005).times[number]) + STEP_MS
    return entries[-1].stream is streams.BARS and id_parts(entries[-1].entry_id)[0] == close_ms


async def _read(client: Any, book: str, stream: Stream, service: str = "executor") -> None:
    """Wait until a service has committed all that is there."""
    name = key(book, stream.name)
    async with asyncio.timeout(READ_S):
        while newest := client.xrevrange(name, count=1):
            if client.hget(key(book, f"marks:{service}"), name) == newest[0][0]:
                return
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("small") / "small", small_files())


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the state of the book is saved while it is recorded."""
    return tmp_path_factory.mktemp("saved") / "state.json"


@pytest.fixture(scope="module")
def recorded(redis_server: RedisServer, bundle: Path, state: Path) -> tuple[str, str]:
    """Return server and book of a recording by real services: `cli` is run on it as an operator would."""
    book = f"t-{uuid4().hex[:9]}"
    seed = 5
    print(f"seed {seed}")

    async def make() -> None:
        written = Recorder(a_market(SLICES, flat=0.005), seed)
        await written.run()
        await record(redis_server.url, book, bundle, written, state)

    asyncio.run(make())
    return redis_server.url, book


@pytest.fixture
def asked(recorded: tuple[str, str], bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("INFERENCE_BUNDLE_DIR", str(bundle))
    return ["--redis", recorded[0], "--book", recorded[1]]


@pytest.mark.redis
def test_a_book_of_real_services_is_decided_again(
    program: Program, asked: list[str], recorded: tuple[str, str]
) -> None:
    """Over sockets and Lua or in memory: the same signals and decisions, in the same order."""
    client: Any = redis.Redis.from_url(recorded[0], decode_responses=True)
    types = {fields["type"] for _, fields in client.xrange(key(recorded[1], "orders"))}
    client.close()
    assert {"OrderRequested", "EntryRefused"} <= types
    found = program(*asked, "--json")
    assert found.status == OK, found
    result = found.json
    assert (result["differences"], result["slices"]) == (0, SLICES - 299)
    assert result["decisions"] > 50
    assert result["signal_sha256"] == result["recorded_signal_sha256"]
    assert result["decision_sha256"] == result["recorded_decision_sha256"]
    assert result["first_difference"] is None


@pytest.mark.redis
def test_other_settings_are_named_and_leave_with_status_1(
    program: Program, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of this machine count only when asked for; then a sentence says what differs."""
    monkeypatch.setenv("EXECUTOR_POSITION_NOTIONAL_MAX", "0.5")
    assert program(*asked).status == OK
    found = program(*asked, "--settings", "here")
    assert found.status == FAILED
    assert re.search(r"the first: slice closed .* UTC, \w{6}, decisions: ", found.out)
    assert "the executor's settings or its code are others" in found.out


@pytest.mark.redis
def test_a_replay_begins_with_a_state_saved_while_the_services_ran(
    program: Program, asked: list[str], recorded: tuple[str, str], state: Path
) -> None:
    """Wherever each of them stood; and a book whose beginning is gone has its replay all the same."""
    whole, part = program(*asked, "--json").json, program(*asked, "--state", str(state), "--json")
    assert part.status == OK, part
    assert part.json["differences"] == 0
    assert 0 < part.json["slices"] < whole["slices"]
    assert 0 < part.json["decisions"] < whole["decisions"]
    assert part.json["decision_sha256"] == part.json["recorded_decision_sha256"] != whole["decision_sha256"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"book": "other"}, "it is of book other, not of"),
        ({"bars": "0-1"}, "the entries of bars behind 0-1 are not all there any more"),
        ({"bars": "9999999999999-0"}, "had read bars up to 9999999999999-0, and now up to less"),
        ({"format": "none"}, "not what save-state writes"),
    ],
)
@pytest.mark.redis
def test_a_state_that_does_not_fit_the_book_is_refused(
    changes: dict[str, str], said: str, program: Program, asked: list[str], state: Path, tmp_path: Path
) -> None:
    """What is missing between a state and the streams is not made up."""
    content = json.loads(state.read_text())
    for name, value in changes.items():
        (content["services"]["features"]["marks"] if name == "bars" else content)[name] = value
    (tmp_path / "state.json").write_text(json.dumps(content))
    found = program(*asked, "--state", str(tmp_path / "state.json"))
    assert found.status == BAD_INPUT
    assert said in found.err


@pytest.mark.redis
def test_a_book_whose_beginning_is_gone_is_refused(
    program: Program, asked: list[str], recorded: tuple[str, str]
) -> None:
    """State that is not there is not made up."""
    client: Any = redis.Redis.from_url(recorded[0], decode_responses=True)
    book = f"t-{uuid4().hex[:9]}"
    for name in ("bars", "account"):
        client.copy(key(recorded[1], name), key(book, name))
    client.xtrim(key(book, "bars"), maxlen=100, approximate=False)
    client.close()
    found = program("--redis", recorded[0], "--book", book)
    assert found.status == BAD_INPUT
    assert f"{5 * SLICES - 100} entries were taken out of bars" in found.err


@pytest.mark.redis
def test_the_wrong_bundle_is_refused_by_name(
    program: Program, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of differences would not say what is wrong."""
    other = write(tmp_path / "other", small_files(name="other-2"))
    monkeypatch.setenv("INFERENCE_BUNDLE_DIR", str(other))
    found = program(*asked)
    assert found.status == BAD_INPUT
    assert "was recorded with bundle small-1 (" in found.err
    same_name = write(tmp_path / "same", small_files(guard_threshold=0.123))
    monkeypatch.setenv("INFERENCE_BUNDLE_DIR", str(same_name))
    assert "was recorded with bundle small-1 (" in program(*asked).err
    assert program(*asked, "--bundle", str(other)).status == OK


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "20-0", "--to", "10-0"], "--from 20-0 lies behind --to 10-0"),
        (["--folder", "nowhere"], "no demo was run there"),
    ],
)
@pytest.mark.redis
def test_a_wrong_question_is_a_sentence(
    arguments: list[str], said: str, program: Program, asked: list[str]
) -> None:
    """Status 2: nothing was found out."""
    found = program(*(arguments if "--folder" in arguments else [*asked, *arguments]))
    assert found.status == BAD_INPUT
    assert said in found.err


# --- a real mesh --------------------------------------------------------------------------------

DEMO_SLICES = 25


def serve(folder: Path) -> tuple[RedisServer, Any]:
    server = RedisServer(redis_program("valkey"), folder)
    server.start()
    return server, redis.Redis.from_url(server.url, decode_responses=True)


def alter_a_bar(folder: Path, place: int) -> dict[str, str]:
    """Make one bar of a copied demo a tick higher; return it as it was."""
    server, client = serve(folder / "valkey")
    bars = client.xrange(key("demo", "bars"))
    was = dict(bars[place][1])
    bars[place][1]["high"] = str(Decimal(was["high"]) + CONTRACTS[was["symbol"]].tick)
    client.delete(key("demo", "bars"))
    for entry_id, fields in bars:
        client.xadd(key("demo", "bars"), fields, entry_id)
    client.shutdown()
    client.close()
    server.kill()
    return was


@pytest.mark.process
@pytest.mark.slow
async def test_a_demo_is_decided_again_from_its_folder(
    start_demo: StartDemo, tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both hashes are the demo's; one bar altered by a tick is named; other models are listed."""
    monkeypatch.setenv("INFERENCE_BUNDLE_DIR", str(BUNDLE))
    async with start_demo(DEMO_SLICES) as demo:
        await demo.play()
        result, _ = await demo.result()
    folder = tmp_path / "run"

    async def replayed(*arguments: str) -> Printed:
        return await asyncio.to_thread(program, *arguments, "--json")

    same = await replayed("--folder", str(folder))
    assert same.status == OK, same
    assert result["requests"] > 0
    assert (same.json["differences"], same.json["slices"]) == (0, DEMO_SLICES)
    for name in ("signal_sha256", "decision_sha256"):
        assert same.json[name] == result[name]

    shutil.copytree(folder / "valkey", tmp_path / "copy" / "valkey")
    was = await asyncio.to_thread(alter_a_bar, tmp_path / "copy", -5 * 10 + 1)  # GBPUSD, ten slices ago
    other = await replayed("--folder", str(tmp_path / "copy"))
    assert other.status == FAILED
    first = other.json["first_difference"]
    assert (first["symbol"], first["layer"]) == ("GBPUSD", "features")
    assert first["close_time"] == was["event_time"].replace("Z", "+00:00")
    print(first["text"])

    small = write(tmp_path / "small", small_files())
    models = await replayed("--folder", str(folder), "--bundle", str(small))
    assert models.status == OK, models
    assert models.json["changed"] == len(models.json["changes"]) > 0
    assert sum(models.json["changed_by_kind"].values()) == models.json["changed"]
    assert models.json["decision_sha256"] != result["decision_sha256"]
    assert {"close_time", "symbol", "recorded", "other"} == set(models.json["changes"][0])
