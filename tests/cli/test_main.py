"""The program's arguments, exit status and sentences."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli import demo, features, train
from cli.arguments import BAD_INPUT
from cli.main import FAILED, INTERRUPTED, OK, main
from cli.venue import settings_of, write_private
from shared.errors import InputError, UnavailableError
from tests.features.conftest import GOLDEN

HEAVY = {"numpy", "torch", "pandas", "twisted", "redis", "pydantic", "lightgbm", "rich"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No `.env` of this machine, no server, no file of the repository; the log stays the tests' own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(demo, "configure_log", lambda *_, **__: None)  # of this whole process
    return tmp_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that argparse refuses; return its sentence."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == BAD_INPUT
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["demo", "--bars", "0"], "--bars"),
        (["demo", "--bars", "many"], "--bars"),
        (["demo", "--speed", "nan"], "--speed"),
        (["venue", "--from", "yesterday"], "--from"),
        (["venue", "--from", "2025-01-06T00:00"], "--from"),
        (["venue", "--data", "bars", "--synthetic"], "--synthetic"),
        (["pause", "--timeout", "-1"], "--timeout"),
        (["pause", "--why", " "], "--why"),
        (["features", "--data", "bars.csv"], "--out"),
        (["bundle", "wrap", "--alpha", "a.zip"], "--risk"),
        (["trade"], "trade"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_argument_is_one_sentence_that_names_it(
    arguments: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who mistypes reads one line, not a page of usage and no traceback."""
    said = refused(arguments, capsys)
    assert names in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["features", "--data", "nowhere", "--out", "out.npz"],
        ["venue", "--data", "nowhere", "--state", "books"],
        ["demo", "--bundle", "nowhere"],
        ["demo", "--data", "nowhere"],
        ["bundle", "show", "nowhere"],
        ["status", "--book", "Not A Book"],
        ["pause", "--book", "Not A Book"],
    ],
)
def test_a_wrong_value_is_one_sentence_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A script can tell 'you asked wrongly' from 'it does not work now'."""
    assert main(arguments) == BAD_INPUT
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith(f"tradeguard {arguments[0]}: ")
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_mesh_that_does_not_answer_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was wrong with the question."""
    assert main(["status"]) == FAILED
    assert main(["pause"]) == FAILED
    assert "redis" in capsys.readouterr().err


def test_json_is_one_object_whatever_the_answer(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    """A program that reads us gets JSON for a failure too, and the status with it."""
    assert main(["halt", "--json"]) == FAILED  # no Redis: the file alone stands
    answer = json.loads(capsys.readouterr().out)
    assert (answer["state"], answer["acknowledged_by"], answer["halt_file_stands"]) == (None, None, True)
    assert (elsewhere / "var" / "HALT").exists()
    assert main(["bundle", "verify", "nowhere", "--json"]) == FAILED
    verified = json.loads(capsys.readouterr().out)
    assert verified["ok"] is False
    assert verified["problems"]


def test_features_are_written_and_reported(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same result for a reader and for a program."""
    out = elsewhere / "columns.npz"
    assert main(["features", "--data", str(GOLDEN / "bars.csv"), "--out", str(out), "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["slices"] == 900
    with np.load(out) as file:
        assert file["alpha"].shape == (900, 140)
    assert main(["features", "--data", str(GOLDEN / "bars.csv"), "--out", str(out)]) == OK
    assert "slices: 900" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The path and the reason, not a traceback."""
    arguments = ["features", "--data", str(GOLDEN / "bars.csv"), "--out", "no/such/folder/out.npz"]
    assert main(arguments) == BAD_INPUT
    assert "no/such/folder/out.npz" in capsys.readouterr().err


def test_demo_options_keep_their_own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not given is decided in one place, the demo's."""
    asked: list[demo.DemoOptions] = []

    def run(options: demo.DemoOptions) -> int:
        asked.append(options)
        return OK

    monkeypatch.setattr(demo, "run", run)
    assert main(["demo"]) == OK
    numbers = ["--bars", "7", "--speed", "60", "--seed", "3"]
    assert main(["demo", *numbers, "--resume", "--data", "d", "--bundle", "b", "--json"]) == OK
    given = demo.DemoOptions(7, 60.0, Path("d"), 3, resume=True, bundle=Path("b"), as_json=True)
    assert asked == [demo.DemoOptions(), given]


def test_training_goes_where_the_services_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that was trained runs without a setting."""
    asked: list[tuple[Any, ...]] = []

    def run(*arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return {}

    monkeypatch.setattr(train, "run", run)
    main(["train"])
    main(["train", "--plumbing", "--quick", "--out", "here"])
    default, plumbing = asked
    assert default == (None, Path("bundles/default"), False, "default")
    assert plumbing == (None, Path("here"), True, "plumbing")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("row 3: close: give a number"), BAD_INPUT, "row 3: close: give a number"),
        (UnavailableError("the venue is away"), FAILED, "the venue is away"),
        (ExceptionGroup("of tasks", [InputError("bars: too few")]), BAD_INPUT, "bars: too few"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), FAILED, "make setup-training"),
        (KeyboardInterrupt(), INTERRUPTED, ""),
    ],
)
def test_an_error_decides_status_and_sentence(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its class says what the caller does next; so does the exit status."""

    def run(*_: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(train, "run", run)
    assert main(["train"]) == status
    assert said in capsys.readouterr().err


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw keeps its traceback: it has to be found."""

    def run(*_: Any) -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setattr(features, "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["features", "--data", "a", "--out", "b"])


def test_the_program_starts_without_what_it_does_not_need() -> None:
    """A halt is given in a hurry, `--help` out of curiosity: neither waits for torch."""
    script = f"import sys; import cli.main; cli.main.parser(); print(sorted({HEAVY!r} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


# --- venue --------------------------------------------------------------------------------------


def test_arguments_of_the_venue_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typed now is meant now; what is not typed stays as it was set."""
    monkeypatch.setenv("VENUE_SEED", "5")
    monkeypatch.setenv("VENUE_SPEED", "7")
    settings = settings_of({"seed": 9})
    assert (settings.seed, settings.speed) == (9, 7.0)


def test_synthetic_puts_files_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be no use if the environment could not be overruled."""
    monkeypatch.setenv("VENUE_DATA_DIR", "bars")
    assert settings_of({}).data_dir == Path("bars")
    assert settings_of({"data_dir": None}).data_dir is None


def test_a_wrong_setting_of_the_venue_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who typed an argument looks there, who set a variable looks there."""
    with pytest.raises(InputError, match=r"^--seed: "):
        settings_of({"seed": -1})
    monkeypatch.setenv("VENUE_LEVERAGE", "0")
    with pytest.raises(InputError, match=r"^VENUE_LEVERAGE: "):
        settings_of({})


def test_what_gets_one_in_is_for_its_owner_alone(elsewhere: Path) -> None:
    """The file has the client's secret and the access token."""
    path = elsewhere / "ready.json"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.process
def test_the_venue_says_where_it_is_on_its_first_line(elsewhere: Path) -> None:
    """Whoever starts it can reach it after one line, and so can a gateway that reads the file."""
    root = Path(__file__).parents[2]
    program = [sys.executable, "-m", "cli.main", "venue", "--synthetic", "--seed", "3"]
    state = ["--state", str(elsewhere / "books")]
    with subprocess.Popen([*program, *state], cwd=root, stdout=subprocess.PIPE, text=True) as venue:
        try:
            assert venue.stdout
            line = venue.stdout.readline()
            assert json.loads(line)["ready"] is True
            assert (elsewhere / "books" / "ready.json").read_text() == line
        finally:
            venue.terminate()
        assert venue.wait(timeout=20) == OK
