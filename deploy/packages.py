"""Which packages of the lock an image needs.

    python deploy/packages.py gateway     prints the part of requirements.lock that this image installs
    python deploy/packages.py --write     writes packages.json anew, from what is installed in the venv

Versions and hashes stand in requirements.lock alone; packages.json has names. What an extra of
pyproject.toml leads to is known only to installed packages, so the names are kept, and a test compares
them with the installed ones.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = HERE / "packages.json"
IMAGES = ("cli", "gateway", "features", "inference", "executor", "notifier", "venue", "training")
APART = ("torch",)  # not in the lock: its CPU build has another hash on every source


def normal(name: str) -> str:
    """Return a package's name as the lock writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def part_of(lock: str, names: list[str]) -> str:
    """Return the entries of these packages, with their hashes.

    Raises:
        SystemExit: one of them is not in the lock.
    """
    entries = {
        normal(entry.split("==")[0].split("[")[0]): entry
        for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
        if "==" in entry
    }
    if missing := [name for name in names if name not in entries]:
        raise SystemExit(f"requirements.lock has no {', '.join(missing)}: run deploy/packages.py --write")
    return "".join(entries[name] for name in names)


def closure(image: str, pyproject: Path) -> list[str]:
    """Return the packages that an image needs, as the installed ones say themselves."""
    from packaging.requirements import Requirement  # of the development environment; images do not have it

    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [*project["dependencies"], *extras.get(image, [])]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = Requirement(waiting.pop())
        name = normal(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) in seen or name in APART:
                continue
            seen.add((name, extra))
            if name == project["name"]:
                waiting += extras[extra] if extra else []
                continue
            for text in metadata.requires(name) or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(text.split(";")[0])
    return sorted({name for name, _ in seen} - {project["name"]})


def main(arguments: list[str]) -> None:
    """Print the part of one image, or write the names anew."""
    if arguments == ["--write"]:
        found = {image: closure(image, HERE.parent / "pyproject.toml") for image in IMAGES}
        NAMES.write_text(json.dumps(found, indent=1) + "\n")
    elif len(arguments) == 1 and arguments[0] in IMAGES:
        lock = (HERE.parent / "requirements.lock").read_text()
        sys.stdout.write(part_of(lock, json.loads(NAMES.read_text())[arguments[0]]))
    else:
        raise SystemExit(f"usage: packages.py --write | {' | '.join(IMAGES)}")


if __name__ == "__main__":
    main(sys.argv[1:])
