"""Provide one broker for the whole suite, a scene for each test, and the report at the end.

FOOTFALL_CHAOS_SEED repeats a run with its seed; `--chaos-json` prints the report as one JSON object.
"""

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from tests.chaos.broker import Broker, kafka_script
from tests.chaos.scene import Report, Scene
from tests.harness import Deployment

SESSION_SECONDS = 2  # below the broker default minimum of 6 s, because the suite waits for it many times
REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-json", action="store_true", help="print the report as one JSON object at the end")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report(int(os.environ.get("FOOTFALL_CHAOS_SEED") or secrets.randbelow(1 << 31)))


def pytest_report_header(config: pytest.Config) -> str:
    return f"FOOTFALL_CHAOS_SEED={config.stash[REPORT].seed}"


def pytest_unconfigure(config: pytest.Config) -> None:
    if config.getoption("--chaos-json", default=False):
        sys.stdout.write(json.dumps(config.stash[REPORT].json()) + "\n")


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    return request.config.stash[REPORT]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    script = kafka_script()
    if script is None:
        pytest.skip("no script that starts Kafka: set FOOTFALL_KAFKA")
    broker = Broker(script, tmp_path_factory.mktemp("kafka"))
    broker.first_up()
    yield broker
    broker.down()


@pytest.fixture(scope="session")
def events() -> list[LoggedEvent]:
    config = SimulatorConfig(seed=7, shoppers=500, days=60, late=0.02, duplicates=0.02, malformed=0.01)
    return [event.logged for event in simulate(config)]


@pytest.fixture
async def scene(broker: Broker, report: Report, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    deployment = Deployment(broker.address, tmp_path, session_timeout_seconds=SESSION_SECONDS)
    await deployment.create_topics()
    sys.stdout.write(f"FOOTFALL_CHAOS_SEED={report.seed}\n")  # shown when the test fails
    yield Scene(deployment, report, f"{report.seed} {request.node.name}")
    deployment.stop()
