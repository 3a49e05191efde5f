"""The crash points: every place where a process can die between two effects, read from the code.

A point is `<service> <module>.<function> <door>.<method>:<before|after>`; of the link to the venue
`gateway link.<send|receive> <message>:<before|after>`. Nothing is listed by hand but what a door is: a call
that is added anywhere in a service is a new point, and a simulation that passes one that is not listed fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from inspect import iscoroutinefunction
from pathlib import Path

from services.gateway.protocol import common, oa  # first: it installs the reactor

# isort: split
from services.gateway.journal import Journal
from services.gateway.transport import Place
from services.notifier.handlers import Outlet
from shared.bus import Bus
from sim.process import NO_EFFECTS, Side

ROOT = Path(__file__).parents[1]
_MESSAGE = re.compile(r"ProtoOA\w+(?:Req|Res|Event)|ProtoHeartbeatEvent")
SERVICES = ("gateway", "features", "inference", "executor", "notifier")


@dataclass(frozen=True, slots=True)
class DoorKind:
    """A door: what code calls it, and which of its methods are effects."""

    names: tuple[str, ...]  # last names of the expressions that hold it
    protocol: type

    @property
    def effects(self) -> frozenset[str]:
        """The methods that wait: these reach the world."""
        waits = (name for name, method in vars(self.protocol).items() if iscoroutinefunction(method))
        return frozenset(name for name in waits if not name.startswith("_")) - NO_EFFECTS


DOORS = {
    "bus": DoorKind(("bus", "_bus", "_reader", "_streams"), Bus),
    "journal": DoorKind(("journal", "_journal"), Journal),
    "outlet": DoorKind(("_outlet",), Outlet),
    "spare": DoorKind(("_spare",), Outlet),
    "place": DoorKind(("place",), Place),
}


@lru_cache(maxsize=1)
def crash_points() -> frozenset[str]:
    """Return the name of every crash point."""
    found = {
        f"{service} {effect}:{side}"
        for service in SERVICES
        for module in modules_of(service)
        for effect in effects_in(module)
        for side in Side
    }
    messages = {f"gateway {effect}:{side}" for effect in link_effects() for side in Side}
    return frozenset(found | messages)


def modules_of(service: str) -> list[Path]:
    """Return the files that run in a service's process and reach its doors."""
    return [ROOT / "shared/runtime.py", *sorted((ROOT / "services" / service).glob("*.py"))]


def effects_in(module: Path) -> Iterator[str]:
    """Yield `<module>.<function> <door>.<method>` of every effect in a file."""
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
    calls = _Calls()
    calls.visit(ast.parse(module.read_text()))
    for function, node in calls.found:
        if isinstance(node.func, ast.Attribute):
            holder = _last_name(node.func.value)
            for door, kind in DOORS.items():
                if holder in kind.names and node.func.attr in kind.effects:
                    yield f"{name}.{function} {door}.{node.func.attr}"


class _Calls(ast.NodeVisitor):
    """Collects every call with the function it stands in, named as Python names it at run time."""

    def __init__(self) -> None:
        self.found: list[tuple[str, ast.Call]] = []
        self._place: list[str] = []
        self._in_function = False

    def visit_Call(self, node: ast.Call) -> None:
        """Take a call, and those in its arguments."""
        self.found.append((".".join(self._place), node))
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Go into a class."""
        self._enter(node, node.name, is_function=False)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Go into a function."""
        self._enter(node, node.name, is_function=True)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Go into a coroutine."""
        self._enter(node, node.name, is_function=True)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Go into a function without a name."""
        self._enter(node, "<lambda>", is_function=True)

    def _enter(self, node: ast.AST, name: str, *, is_function: bool) -> None:
        place, in_function = self._place, self._in_function
        self._place = [*place, "<locals>", name] if in_function else [*place, name]
        self._in_function = is_function
        self.generic_visit(node)
        self._place, self._in_function = place, in_function


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def link_effects() -> Iterator[str]:
    """Yield `link.send <message>` and `link.receive <message>`: what the gateway's code names."""
    spoken = (path for path in modules_of("gateway")[1:] if path.name != "link.py")  # that carries them all
    named = {name for path in spoken for name in _messages_named(path)} | {"ProtoHeartbeatEvent"}
    for name in sorted(named):
        if name.endswith("Req") or name == "ProtoHeartbeatEvent":
            yield f"link.send {name}"
    answers = {f"{name.removesuffix('Req')}Res" for name in named if name.endswith("Req")}
    for name in sorted(answers | {each for each in named if not each.endswith("Req")}):
        if hasattr(oa, name) or hasattr(common, name):
            yield f"link.receive {name}"


def _messages_named(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and _last_name(node.value) in ("oa", "common"):
            yield from (name for name in (node.attr,) if _MESSAGE.fullmatch(name))
