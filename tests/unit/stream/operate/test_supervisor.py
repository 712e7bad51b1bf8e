"""Roles as child processes: started again, at once or after a change; ended, by us or with us."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from schemas.errors import SettingsError
from stream.operate.child_processes import running_processes
from stream.operate.supervisor import Launch, Supervisor, environment_of, last_log_lines
from stream.process.settings import load_settings

DEADLINE_SECONDS = 30.0


async def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.01)


def supervisor(directory: Path, *programs: str, files: Sequence[Path] = (), **options: object) -> Supervisor:
    """Return a supervisor of one role per program; each reads `files`."""
    roles = ("features", "scorer")[: len(programs)]

    def launch(role: str) -> Launch:
        return Launch(dict(os.environ), files, [sys.executable, "-c", programs[roles.index(role)]])

    made = Supervisor(launch, directory, roles=roles, **options)  # type: ignore[arg-type]
    made.back_off_seconds, made.look_seconds = (0.01, 0.05), 0.02
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


async def test_a_refused_role_waits_for_its_file_and_starts_again_when_that_changes(tmp_path: Path) -> None:
    lines: list[str] = []
    policy = tmp_path / "policy"
    policy.write_text("wrong")
    program = f"import sys; text = open({str(policy)!r}).read(); print('found', text); sys.exit(78 if text == 'wrong' else 0)"
    running = supervisor(tmp_path, program, files=[policy], on_line=lambda role, line: lines.append(line))
    await running.start()
    await until(lambda: running.failures, "the refusal")
    await asyncio.sleep(10 * running.look_seconds)  # no restart may come in this time

    assert running.failures == ["features: ended with code 78; last output: found wrong"]
    assert f"waits for a change of {policy}" in lines[-1]
    assert lines.count("found wrong") == 1

    policy.write_text("right")
    await until(lambda: "found right" in lines, "the start after the change")
    assert f"features starts again, changed: {policy}" in lines
    assert await running.stop() == []
    assert running.failures == []


async def test_a_change_while_a_refused_role_still_runs_is_not_missed(tmp_path: Path) -> None:
    lines: list[str] = []
    policy = tmp_path / "policy"
    program = (
        f"import os, sys; path = {str(policy)!r}\nif os.path.exists(path): print('up')\nelse: open(path, 'w'); sys.exit(78)"
    )
    running = supervisor(tmp_path, program, files=[policy], on_line=lambda role, line: lines.append(line))
    await running.start()
    await until(lambda: "up" in lines, "the start after the change")
    await running.stop()


async def test_a_refused_role_starts_again_after_a_while_because_its_broker_may_have_changed(tmp_path: Path) -> None:
    running = supervisor(tmp_path, "import sys; sys.exit(78)")
    running.retry_seconds = 0.1
    await running.start()
    await until(lambda: running.restarts >= 2, "two restarts")
    await running.stop()


async def test_settings_that_became_invalid_keep_a_refused_role_waiting_and_are_named(tmp_path: Path) -> None:
    lines: list[str] = []
    file = tmp_path / "footfall.toml"

    def launch(role: str) -> Launch:
        text = file.read_text() if file.exists() else "78"
        if not text.isdigit():
            raise SettingsError(f"found {text}, expected a number")
        return Launch(dict(os.environ), [file], [sys.executable, "-c", f"import sys; print('started'); sys.exit({text})"])

    running = Supervisor(launch, tmp_path, roles=("features",), on_line=lambda role, line: lines.append(line))
    running.look_seconds = 0.02
    await running.start()
    await until(lambda: running.failures, "the refusal")
    file.write_text("bad")
    await until(lambda: running.failures == ["features: found bad, expected a number"], "the error of the settings")
    file.write_text("1")
    await until(lambda: lines.count("started") >= 2, "the start with new settings")
    await running.stop()


@pytest.mark.parametrize("end", ["sys.exit(78)", "os.kill(os.getpid(), signal.SIGTERM)", "sys.exit(0)"])
async def test_the_end_of_one_role_leaves_the_others_running(end: str, tmp_path: Path) -> None:
    lines: list[tuple[str, str]] = []
    ending = f"import os, signal, sys; print('ending', flush=True); {end}"
    running = supervisor(tmp_path, ending, WAIT, on_line=lambda role, line: lines.append((role, line)))
    await running.start()
    await until(lambda: ("scorer", "up") in lines and ("features", "ending") in lines, "both starts")
    pid = running.roles["scorer"].pid
    await until(lambda: running.failures or running.restarts >= 2, "the end of one role")

    assert running_processes({pid}) == [pid]
    assert await running.stop() == []
    assert running.roles["scorer"].restarts == 0


async def test_a_role_that_someone_ended_with_sigterm_starts_again(tmp_path: Path) -> None:
    lines: list[str] = []
    running = supervisor(tmp_path, WAIT, on_line=lambda role, line: lines.append(line))
    await running.start()
    await until(lambda: "up" in lines, "the start")
    os.kill(running.roles["features"].pid, signal.SIGTERM)
    await until(lambda: lines.count("up") == 2, "the restart")
    assert "features ended with code 0: restarting in 0.01 s" in lines
    await running.stop()


async def test_where_restarts_are_bounded_a_refusal_is_final(tmp_path: Path) -> None:
    running = supervisor(tmp_path, "import sys; print('barrier_ms is wrong'); sys.exit(78)", restarts_at_most=2)
    await running.start()
    await until(lambda: running.failures, "the refusal")
    assert running.failures == ["features: ended with code 78; last output: barrier_ms is wrong"]
    assert running.restarts == 0
    await running.stop()


async def test_a_role_that_keeps_failing_is_given_up_where_a_bound_is_set(tmp_path: Path) -> None:
    running = supervisor(tmp_path, "import sys; sys.exit(75)", restarts_at_most=2)
    await running.start()
    await until(lambda: running.failures, "the last end")
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
from stream.operate.supervisor import Launch, Supervisor
async def run():
    launch = Launch(dict(os.environ), (), [sys.executable, "-c", {DEAF!r}])
    running = Supervisor(lambda role: launch, Path({str(tmp_path)!r}), roles=("features", "scorer"),
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
