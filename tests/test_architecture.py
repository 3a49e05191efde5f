"""Who may import whom, and what pure code may not do: read from the source, so that it cannot be forgotten.

Two tables say all of it. A module of a service, of `shared` or of the venue that is not named as a door is
pure: it opens nothing, awaits nothing, logs nothing and reads no clock and no global random state.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("services", "shared", "venue", "training", "sim", "cli")
SERVICES = tuple(sorted(path.parent.name for path in ROOT.glob("services/*/main.py")))
SHAPE = ("main", "settings", "handlers", "adapters")  # of every service; what is pure are the others

# What touches the outside, beside the four files that every service has. `None`: the whole package.
DOORS: dict[str, tuple[str, ...]] = {
    "services.gateway": (
        "account",  # the parts of the order desk, from here ...
        "answers",
        "background",
        "changes",
        "closing",
        "context",
        "desk",
        "executions",
        "journal",
        "line",
        "outbox",
        "protection",
        "reconcile",
        "recovery",  # ... to here
        "access",
        "connection",
        "feed",
        "history_check",
        "inbox",
        "link",
        "protocol",
        "session",
        "timing",
        "tokens",
        "watchdog",
        "transport",
        "trimming",
        "websocket",
    ),
    "shared": ("redis_bus", "redis_line", "clock", "log", "runtime", "settings"),
    "venue": (
        "account_answers",  # these six speak the Open API: requests in, answers out
        "history_answers",
        "price_answers",
        "symbol_answers",
        "trading_answers",
        "translation",
        "bar_files",  # reads bars
        "certificates",
        "control",
        "credentials",
        "distortions",
        "incidents",
        "outbox",
        "exchange",  # where doors and matching core meet; one lock
        "ledger",  # SQLite
        "main",
        "market_files",  # the memory-mapped market
        "protocol",
        "server",
        "session",
        "settings",
        "audience",  # these keep who is connected, and what is said to whom
        "connection",
        "session_answers",
        "json_form",
        "wires",
        "web",
        "rest",
        "playing",
    ),
}

# Where each library lives: what lies outside these places does not import it. Tests may use any.
HOMES: dict[str, tuple[str, ...]] = {
    "redis": (
        "shared.redis_bus",
        "shared.redis_line",
        "cli.operate",
        "cli.recorded",
    ),  # these two ask what no service asks
    "structlog": ("shared.log", "shared.runtime"),
    "time": ("shared.clock",),
    "httpx": ("services.notifier.adapters",),
    "twisted": ("services.gateway.protocol", "venue.protocol"),
    "websockets": ("services.gateway.websocket", "venue.wires"),
    "ctrader_open_api": ("services.gateway.protocol", "venue.protocol"),
    "lightgbm": ("services.inference.adapters", "training"),
    "torch": ("training",),
    "stable_baselines3": ("training",),
    "gymnasium": ("training",),
}

# What may be used from elsewhere, beside pure modules, and why.
WIRING = {
    ("training", "services.inference.adapters"),  # a guard is judged by the code that runs it: LightGuard
    ("training", "venue.bar_files"),  # bars are read by the code that plays them
}

IMPURE_LIBRARIES = frozenset(
    {"asyncio", "concurrent", "http", "logging", "multiprocessing", "os", "random", "requests", "secrets"}
    | {"select", "selectors", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading"}
    | {"time", "urllib", "ctrader_open_api", "httpx", "redis", "structlog", "twisted"}
)
IMPURE_CALLS = re.compile(
    r"(datetime\.)?datetime\.(now|utcnow|today)|(datetime\.)?date\.today|time\.(time|monotonic|perf_counter)(_ns)?"
    r"|random\.\w+|(np|numpy)\.random\.(?!Generator$|SeedSequence$|PCG64$|Philox$)\w+|uuid[14]|uuid\.uuid[14]"
    r"|open|print|input|.+\.(read_text|read_bytes|write_text|write_bytes|mkdir|unlink)"
)
SEEDED = re.compile(r"(np|numpy)\.random\.default_rng")  # pure when it is given what it starts from


@dataclass(frozen=True)
class Module:
    """One source file of ours."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """`services.gateway` of a service's module, else the first name."""
        parts = self.name.split(".")
        return ".".join(parts[:2]) if parts[0] == "services" and len(parts) > 1 else parts[0]

    @property
    def is_door(self) -> bool:
        return is_door(self.name)

    def imports(self) -> list[tuple[str, int]]:
        """Every module that is imported, wherever in the file, with its line."""
        return sorted(set(self._imports()))

    def _imports(self) -> Iterator[tuple[str, int]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: relative imports hide who uses whom"
                assert node.module
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from ((name if name in MODULES else node.module, node.lineno) for name in full)


def is_door(name: str) -> bool:
    """Whether a module of ours touches the outside."""
    *package, last = name.split(".")
    folder = ".".join(package)
    if package[:1] == ["services"] and last in SHAPE:
        return True
    return last in DOORS.get(folder, ())


def _names() -> dict[str, Path]:
    found = {}
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _names()
SOURCES = [Module(name, path, ast.parse(path.read_text())) for name, path in MODULES.items()]
PURE = [
    source
    for source in SOURCES
    if source.package.startswith(("services", "shared", "venue")) and not source.is_door
]


def offences(sources: list[Module], is_wrong: Callable[[Module, str], bool]) -> list[str]:
    """Return `module:line imports name` of each import that a rule forbids."""
    return [
        f"{source.name}:{line} imports {name}"
        for source in sources
        for name, line in source.imports()
        if is_wrong(source, name)
    ]


def within(name: str, *packages: str) -> bool:
    """Whether a module is one of the packages or lies in one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def of(*packages: str) -> list[Module]:
    return [source for source in SOURCES if within(source.name, *packages)]


def test_shared_imports_nothing_of_ours() -> None:
    """Common code that knew a service would tie all services to it."""
    assert not offences(of("shared"), lambda _, name: within(name, *OURS) and not within(name, "shared"))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_shared_and_itself(service: str) -> None:
    """Services meet on the streams alone: each can be read, run and replaced by itself."""
    own = f"services.{service}"
    wrong = offences(of(own), lambda _, name: within(name, *OURS) and not within(name, "shared", own))
    assert not wrong


def test_the_venue_imports_shared_and_itself() -> None:
    """A venue that used the gateway's code would agree with the gateway's mistakes."""
    assert not offences(
        of("venue"), lambda _, name: within(name, *OURS) and not within(name, "shared", "venue")
    )


def test_training_imports_pure_modules() -> None:
    """Models learn from the very functions that run live, and from nothing that is connected to anything."""

    def is_wrong(source: Module, name: str) -> bool:
        if within(name, "training", "shared") or not within(name, *OURS):
            return False
        allowed = not is_door(name) or (source.package, name) in WIRING
        return within(name, "cli") or not allowed

    assert not offences(of("training"), is_wrong)


def test_nobody_imports_the_program() -> None:
    """`cli` wires what there is; what it knows nobody else depends on."""
    others = [source for source in SOURCES if not within(source.name, "cli")]
    assert not offences(others, lambda _, name: within(name, "cli"))


def test_only_main_wires_adapters_to_handlers() -> None:
    """Handlers name what they need as a Protocol: they run against anything that keeps it."""

    def is_wrong(source: Module, name: str) -> bool:
        return name.endswith(".adapters") and not source.name.endswith((".main", ".adapters"))

    assert not offences(of("services"), is_wrong)


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_library_has_one_home(library: str) -> None:
    """What is used in one place can be understood, faked and replaced in one place."""
    wrong = offences(
        SOURCES, lambda source, name: within(name, library) and not within(source.name, *HOMES[library])
    )
    assert not wrong


def test_the_wall_clock_is_read_in_one_place() -> None:
    """Code that is handed the time can be replayed; code that asks for it cannot."""
    clock = re.compile(r"(datetime\.)?datetime\.(now|utcnow|today)|(datetime\.)?date\.today|time\.\w+")
    found = [
        f"{source.name}:{line} calls {call}"
        for source in SOURCES
        if source.name != "shared.clock"
        for call, line, _ in calls(source)
        if clock.fullmatch(call)
    ]
    assert not found


@pytest.mark.parametrize("source", PURE, ids=lambda source: source.name)
def test_pure_code_is_pure(source: Module) -> None:
    """The same inputs give the same outputs, today and in a replay in a year."""
    wrong = [
        f"{source.name}:{line} imports {name}"
        for name, line in source.imports()
        if name.split(".")[0] in IMPURE_LIBRARIES or (within(name, *OURS) and is_door(name))
    ]
    wrong += [
        f"{source.name}:{line} calls {call}"
        for call, line, arguments in calls(source)
        if IMPURE_CALLS.fullmatch(call) and not (SEEDED.fullmatch(call) and arguments)
    ]
    waits = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
    declared = _of_protocols(source.tree)
    wrong += [
        f"{source.name}:{node.lineno} awaits"
        for node in ast.walk(source.tree)
        if isinstance(node, waits) and node not in declared
    ]
    assert not wrong


def calls(source: Module) -> Iterator[tuple[str, int, int]]:
    """Every call of a dotted name, with its line and how many arguments it has."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node.lineno, len(node.args) + len(node.keywords)


def _of_protocols(tree: ast.Module) -> set[ast.AST]:
    """Return what is part of a Protocol: it says what is needed and does nothing."""
    kinds = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    protocols = [kind for kind in kinds if any("Protocol" in ast.unparse(base) for base in kind.bases)]
    return {node for kind in protocols for node in ast.walk(kind)}


def test_every_service_has_the_same_shape() -> None:
    """Who knows one service knows where to look in all."""
    for service in SERVICES:
        for name in ("main", "settings", "handlers"):
            assert f"services.{service}.{name}" in MODULES


def test_the_tables_name_what_exists() -> None:
    """A door that was renamed must not leave a hole behind."""
    doors = {f"{package}.{name}" for package, names in DOORS.items() for name in names}
    homes = {home for places in HOMES.values() for home in places}
    wired = {name for _, name in WIRING}
    assert (doors | homes | wired) <= MODULES.keys()


def test_no_work_is_left_as_a_note() -> None:
    """What is not done is not in the code: a note in a file is read by nobody."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    marks = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    text = (".py", ".md", ".toml", ".lua", ".yml", ".yaml", ".example", "Makefile", "run")
    found = []
    for name in filter(None, listed):
        path = ROOT / name
        if marks.search(name) or (name.endswith(text) and path.is_file() and marks.search(path.read_text())):
            found.append(name)
    assert not found


FORBIDDEN = """datetime.now(UTC) date.today() time.time() random.random() np.random.normal() uuid.uuid4()
np.random.default_rng() open(path) path.read_text()"""


@pytest.mark.parametrize("line", re.split(r"\s", FORBIDDEN))
def test_the_rules_see_what_they_forbid(line: str) -> None:
    """A rule that matches nothing holds for ever."""
    source = Module("services.features.example", ROOT / "example.py", ast.parse(line))
    ((call, _, arguments),) = calls(source)
    assert IMPURE_CALLS.fullmatch(call)
    assert not (SEEDED.fullmatch(call) and arguments)


def test_the_rules_let_a_seeded_generator_through() -> None:
    """Chance that is handed in gives the same numbers again."""
    source = Module("example", ROOT / "example.py", ast.parse("np.random.default_rng(seed)"))
    ((call, _, arguments),) = calls(source)
    assert SEEDED.fullmatch(call)
    assert arguments
