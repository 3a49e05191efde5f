"""The official package, unmodified, with its own pins in its own environment, uses all of the venue."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.official import official_python
from tests.venue.conftest import a_setting
from venue.main import serve

SUITE = Path(__file__).with_name("official_suite.py")
CHECKS = tuple(re.findall(r'^@check\("(.+)"\)$', SUITE.read_text(), re.MULTILINE))
SUITE_S_MAX = 240.0

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def python() -> str:
    """Return the interpreter of the official package's own environment."""
    try:
        return official_python()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the official package's environment cannot be built: {error}")


@pytest.fixture(scope="module")
def outcome(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run the suite once, in one process, and return how each of its checks ended."""
    return asyncio.run(suite(python, tmp_path_factory.mktemp("official")))


async def suite(python: str, folder: Path) -> dict[str, Any]:
    async with serve(a_setting(folder / "v")) as venue:
        program = await asyncio.create_subprocess_exec(
            python,
            str(SUITE),
            json.dumps(venue.ready),
            env=os.environ | {"REQUESTS_CA_BUNDLE": venue.ready["ca_file"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(SUITE_S_MAX):
                said, complained = await program.communicate()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
    assert said, complained.decode()
    return dict(json.loads(said))


@pytest.mark.parametrize("check", ["every message is one that the package reads", *CHECKS])
def test_official_package(outcome: dict[str, str], check: str) -> None:
    """Who has a program on the official package can point it at this venue."""
    assert outcome.get(check, "was not reached") == "held", outcome.get(check)


def test_official_package_has_its_own_pins(python: str) -> None:
    """With our newer ones it would be another program."""
    asked = "import google.protobuf, twisted; print(google.protobuf.__version__, twisted.__version__)"
    told = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.split()
    assert told == ["3.20.1", "24.3.0"]
