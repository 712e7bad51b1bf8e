"""Roles as child processes: started again, or not; ended, by us or with us."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.operate.child_processes import running_processes
from stream.operate.supervisor import Supervisor, environment_of, last_log_lines
from stream.process.settings import load_settings

DEADLINE_SECONDS = 30.0


async def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.01)


def supervisor(directory: Path, program: str, **options: object) -> Supervisor:
    made = Supervisor(
        dict(os.environ) | {"DIRECTORY": str(directory)},
        directory,
        command=lambda role: [sys.executable, "-c", program],
        roles=("features",),
        **options,  # type: ignore[arg-type]
    )
    made.back_off_seconds = (0.01, 0.05)
    return made


WAIT = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True)\ntime.sleep(600)"
)
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\ntime.sleep(600)"


async def test_a_role_that_fails_is_started_again(tmp_path: Path) -> None:
    running = supervisor(tmp_path, "import sys; sys.exit(1)")
    await running.start()
    await until(lambda: running.restarts >= 3, "three restarts")
    assert await running.stop() == []
    assert running.failures == []


@pytest.mark.parametrize("code", [0, 78])
async def test_a_role_that_ends_with_0_or_78_stays_down_and_says_why(code: int, tmp_path: Path) -> None:
    running = supervisor(tmp_path, f"import sys; print('barrier_ms is wrong'); sys.exit({code})")
    await running.start()
    await asyncio.wait_for(running.ended.wait(), DEADLINE_SECONDS)
    assert running.failures == [f"features: ended with code {code}; last output: barrier_ms is wrong"]
    assert running.restarts == 0
    await running.stop()


async def test_a_role_that_keeps_failing_is_given_up_where_a_bound_is_set(tmp_path: Path) -> None:
    running = supervisor(tmp_path, "import sys; sys.exit(75)", restarts_at_most=2)
    await running.start()
    await asyncio.wait_for(running.ended.wait(), DEADLINE_SECONDS)
    assert (running.restarts, running.failures) == (2, ["features: ended with code 75; last output: nothing"])
    await running.stop()


async def test_a_role_killed_from_outside_is_started_again_and_named(tmp_path: Path) -> None:
    lines: list[str] = []
    running = supervisor(tmp_path, WAIT, on_line=lambda role, line: lines.append(line))
    await running.start()
    await until(lambda: "up" in lines, "the start")
    os.kill(running.roles["features"].pid, signal.SIGKILL)
    await until(lambda: lines.count("up") == 2, "the restart")
    assert "features was killed by SIGKILL: restarting in 0.01 s" in lines
    assert await running.stop() == []


async def test_stop_asks_first_and_kills_what_does_not_listen(tmp_path: Path) -> None:
    lines: list[str] = []
    running = supervisor(tmp_path, DEAF, drain_seconds=0.1, on_line=lambda role, line: lines.append(line))
    await running.start()
    await until(lambda: "up" in lines, "the start")
    assert await running.stop() == []
    assert running_processes(running.sessions) == []


async def test_the_port_is_read_from_the_status_file_of_the_living_process(tmp_path: Path) -> None:
    program = (
        "import json, os, time\n"
        "json.dump({'role': 'features', 'pid': os.getpid(), 'port': 4711}, open(os.environ['FOOTFALL_STATUS_FILE'], 'w'))\n"
        "time.sleep(600)"
    )
    running = supervisor(tmp_path, program)
    await running.start()

    def port_known() -> bool:
        running.refresh()
        return running.roles["features"].port == 4711

    await until(port_known, "the port")
    (tmp_path / "features.json").write_text(json.dumps({"role": "features", "pid": 1, "port": 1}))
    running.refresh()
    assert running.roles["features"].port == 4711
    await running.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, sys
from pathlib import Path
from stream.operate.supervisor import Supervisor
async def run():
    running = Supervisor(dict(os.environ), Path({str(tmp_path)!r}), roles=("features", "scorer"),
                         command=lambda role: [sys.executable, "-c", {DEAF!r}],
                         on_line=lambda role, line: print(running.roles[role].pid, flush=True))
    await running.start()
    await asyncio.sleep(600)
asyncio.run(run())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = {int(parent.stdout.readline()), int(parent.stdout.readline())}
        parent.kill()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while running_processes(children):
        assert time.monotonic() < deadline, f"{running_processes(children)} outlived their parent"
        time.sleep(0.01)


def test_a_child_sees_the_same_settings_in_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOOTFALL_PARTITIONS", "9")
    (tmp_path / "password").write_text("hunter2")
    settings = load_settings(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="shop",
        kafka_sasl_password_file=tmp_path / "password",
        kafka_ssl_endpoint_identification_algorithm="",
        topic_names={"click": "clicks"},
        transactions=False,
        trigger_policy=Path("policy.yaml"),
    )
    (tmp_path / "footfall.toml").write_text("barrier_ms = 999\n")
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    here = Path.cwd()
    monkeypatch.chdir(tmp_path)
    absolute = {"trigger_policy": here / "policy.yaml", "registry": here / settings.registry}
    assert load_settings() == settings.model_copy(update=absolute)


def test_last_words_are_errors_and_what_is_no_log_line() -> None:
    lines = [
        '{"level": "info", "event": "started"}',
        "Traceback (most recent call last):",
        '{"level": "error", "event": "exit", "reason": "gap in a partition", "code": 75}',
        "7",
    ]
    assert last_log_lines(lines) == "Traceback (most recent call last): | exit: gap in a partition | 7"
    assert last_log_lines(lines[:1]) == "nothing"
