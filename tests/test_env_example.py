"""`.env.example` is the list of settings that people read: it has every one, and no other."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from cli.operate import HaltSettings
from services.executor.settings import ExecutorSettings
from services.features.settings import FeaturesSettings
from services.gateway.settings import GatewaySettings
from services.inference.settings import InferenceSettings
from services.notifier.settings import NotifierSettings
from venue.settings import VenueSettings

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / ".env.example"
SETTINGS: tuple[type[BaseSettings], ...] = (
    GatewaySettings,
    FeaturesSettings,
    InferenceSettings,
    ExecutorSettings,
    NotifierSettings,
    VenueSettings,
    HaltSettings,
)
COMPOSE = (ROOT / "docker-compose.yml", *(ROOT / "deploy").glob("*.yml"), *(ROOT / "deploy").glob("*.env"))
_READ_BY_COMPOSE = re.compile(r"\$\{([A-Z_]+)|\b((?:PIP|TORCH)_[A-Z_]+): [,}]")
_LINE = re.compile(r"(?P<off># )?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)")


def names_of(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the environment's name of each field."""
    prefix = str(settings.model_config.get("env_prefix", "")).upper()
    found = {}
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        found[name] = alias if isinstance(alias, str) else f"{prefix}{name}".upper()
    return found


def entries() -> dict[str, str | None]:
    """Return each name in the example with its value; None where it is commented out."""
    found: dict[str, str | None] = {}
    for line in EXAMPLE.read_text().splitlines():
        if match := _LINE.fullmatch(line):
            assert match["name"] not in found, f"{match['name']} stands there twice"
            found[match["name"]] = None if match["off"] else match["value"]
    return found


def read_by_compose() -> set[str]:
    """Return the variables that the Compose files read themselves."""
    found = (match for path in COMPOSE for match in _READ_BY_COMPOSE.findall(path.read_text()))
    return {first or second for first, second in found}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any of our settings."""
    for settings in SETTINGS:
        for name in names_of(settings).values():
            monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_every_setting_is_in_the_example() -> None:
    """A setting that nobody can find is not one."""
    wanted = {name for settings in SETTINGS for name in names_of(settings).values()}
    assert wanted - entries().keys() == set()


def test_the_example_has_no_other_setting() -> None:
    """`.env` serves all services, so a wrong name in it is not refused: here it would be copied."""
    wanted = {name for settings in SETTINGS for name in names_of(settings).values()} | read_by_compose()
    assert entries().keys() - wanted == set()


def test_every_variable_of_compose_is_in_the_example() -> None:
    """What the containers are built and run with is a setting too."""
    assert read_by_compose() - entries().keys() == set()


def test_every_settings_class_is_compared() -> None:
    """A new service's settings must not be forgotten here."""
    modules = {path.relative_to(ROOT) for path in ROOT.glob("services/*/settings.py")}
    compared = {Path(*settings.__module__.split(".")).with_suffix(".py") for settings in SETTINGS}
    assert modules <= compared


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_the_example_gives_the_defaults(settings: type[BaseSettings], bare: pytest.MonkeyPatch) -> None:
    """Copying the example changes nothing: it is the documentation of what runs without it."""
    bare.chdir(ROOT)
    copied = settings(_env_file=EXAMPLE)
    assert copied == settings(_env_file=None)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_what_is_commented_out_has_no_default(settings: type[BaseSettings]) -> None:
    """A line that is switched off while a value holds would say the opposite of what runs."""
    given = entries()
    for field, name in names_of(settings).items():
        default = settings.model_fields[field].default
        assert (given[name] is None) == (default in (None, "")), name


def test_every_setting_is_explained() -> None:
    """A name and a number are not enough: each has a sentence above it, with its unit."""
    lines = EXAMPLE.read_text().splitlines()
    for above, line in pairwise(lines):
        if match := _LINE.fullmatch(line):
            assert re.fullmatch(r"# [A-Z].+\.", above), match["name"]


def test_the_example_has_no_secret() -> None:
    """It is published: what is secret has no value there."""
    given = entries()
    for settings in SETTINGS:
        for field, name in names_of(settings).items():
            if SecretStr.__name__ in str(settings.model_fields[field].annotation):
                assert given[name] is None, name
