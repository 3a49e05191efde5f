"""What can be said of images and Compose files without an engine."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from pydantic_settings import BaseSettings

from services.executor.settings import ExecutorSettings
from services.features.settings import FeaturesSettings
from services.gateway.settings import GatewaySettings
from services.inference.settings import InferenceSettings
from services.notifier.settings import NotifierSettings
from tests.test_env_example import names_of
from venue.settings import VenueSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FIXED = {
    *("GATEWAY_VENUE_SPEED", "NOTIFIER_ALERTS_DIR", "VENUE_DATA_DIR", "VENUE_FAULTS"),
    *("VENUE_CONTROL_PORT", "VENUE_JSON_PORT", "VENUE_LIVE_PORT", "VENUE_LIVE_JSON_PORT", "VENUE_REST_PORT"),
}
FIXED_WHY = "the speed comes from SIM_SPEED, ports and files inside a container are nobody's choice"
SERVICES: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "features": FeaturesSettings,
    "inference": InferenceSettings,
    "executor": ExecutorSettings,
    "notifier": NotifierSettings,
    "venue": VenueSettings,
}


@pytest.fixture(scope="module")
def packages() -> ModuleType:
    """The script that the Dockerfile runs."""
    spec = importlib.util.spec_from_file_location("packages", DEPLOY / "packages.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_image_gets_what_its_extra_leads_to(packages: ModuleType) -> None:
    """After a change of pyproject.toml: `python deploy/packages.py --write`."""
    kept = json.loads((DEPLOY / "packages.json").read_text())
    assert kept == {image: packages.closure(image, ROOT / "pyproject.toml") for image in packages.IMAGES}


def test_an_image_takes_versions_and_hashes_from_the_lock(packages: ModuleType) -> None:
    """There is one lock: an image is a part of it, line by line."""
    lock = (ROOT / "requirements.lock").read_text()
    names = json.loads((DEPLOY / "packages.json").read_text())
    for image in packages.IMAGES:
        part = packages.part_of(lock, names[image])
        assert re.findall(r"^([a-z0-9-]+)==", part, re.MULTILINE) == names[image]
        assert set(part.splitlines()) <= set(lock.splitlines())
        assert part.count("==") == len(names[image])


def test_a_package_that_is_not_locked_is_named(packages: ModuleType) -> None:
    """Not installed is better than not verified."""
    with pytest.raises(SystemExit, match="nowhere"):
        packages.part_of((ROOT / "requirements.lock").read_text(), ["nowhere"])


def test_inference_runs_without_torch_and_without_pickles() -> None:
    """A small image, a quick restart, and nothing near live money that unpickles."""
    names = json.loads((DEPLOY / "packages.json").read_text())
    assert not {"torch", "stable-baselines3", "cloudpickle", "pandas", "gymnasium"} & set(names["inference"])


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_reaches_its_container(service: str) -> None:
    """A setting in .env that Compose does not pass on would be ignored in silence."""
    file = DEPLOY / "sim.yml" if service == "venue" else ROOT / "docker-compose.yml"
    block = re.split(rf"^  {service}:", file.read_text(), flags=re.MULTILINE)[1]
    own = re.split(r"^  [a-z]+:|^[a-z]+:", block, flags=re.MULTILINE)[0]
    if service != "venue":
        own += (DEPLOY / "base.yml").read_text()
    if service != "venue":
        own += "".join(f"      {line}\n" for line in (DEPLOY / "no-sim.env").read_text().splitlines())
    passed = set(re.findall(r"^      ([A-Z_]+)[:=]", own, re.MULTILINE))
    assert set(names_of(SERVICES[service]).values()) - passed <= FIXED, FIXED_WHY


def test_only_the_gateway_gets_the_account_and_only_the_notifier_the_webhook() -> None:
    """Secrets go to who needs them."""
    text = (ROOT / "docker-compose.yml").read_text().split("\nnetworks:")[0]
    found = re.split(r"^  ([a-z]+):", text, flags=re.MULTILINE)[1:]
    parts = dict(zip(found[::2], found[1::2], strict=True))
    assert [name for name, part in parts.items() if "CT_ACCESS_TOKEN" in part] == ["gateway"]
    assert [name for name, part in parts.items() if "DISCORD_WEBHOOK_URL" in part] == ["notifier"]


def test_no_secret_and_no_state_goes_to_the_engine() -> None:
    """The build context is a list of what is wanted: .env and var/ are not on it."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted[0] == "*"
    allowed = {"cli", "deploy", "requirements.lock", "services", "shared", "sim", "training", "venue"}
    assert {line[1:] for line in wanted if line.startswith("!")} == allowed
