"""Run the subscriber in README.md unchanged."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from schemas.codec import encode
from stream.kafka.clients import output_producer
from tests.builders import churn_risk
from tests.harness import Deployment

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(60)]


@pytest.fixture
async def deployment(kafka: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    deployment = Deployment(kafka, tmp_path)
    await deployment.create_topics()
    yield deployment
    deployment.stop()


async def test_the_subscriber_of_the_readme_acts_once_on_each_signal(deployment: Deployment) -> None:
    first = churn_risk(signal_id="s-1", user_id="u-1")
    signals = [first, first, replace(first, signal_id="s-2"), first, replace(first, signal_id="s-3")]
    producer = output_producer(deployment.settings)
    await producer.start()
    for signal in signals:
        await producer.send_and_wait(deployment.topic("churn-risk"), encode(signal), key=b"u-1")
    await producer.stop()
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    program = readme.split("```python\n")[1].split("```")[0]
    program = program.replace("footfall.churn-risk.v1", deployment.topic("churn-risk"))
    program = program.replace("127.0.0.1:9092", deployment.settings.kafka_bootstrap_servers)

    process = subprocess.Popen([sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.terminate()
    rest = process.communicate(timeout=10)[0]

    assert all(line.startswith("u-1 stays away") for line in lines)
    assert rest == ""
