"""Run the demo as a newcomer would: every role runs, every event is accounted for, and no process remains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stream.operate.child_processes import running_processes
from stream.process.settings import load_settings

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not load_settings().checkpoint.is_dir(), reason="there is no checkpoint to score with"),
]


def demo(tmp_path: Path, *arguments: str) -> "subprocess.Popen[str]":
    variables = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
    return subprocess.Popen(
        [sys.executable, "-m", "stream.cli.main", "demo", "--json", "--rate", "100", *arguments],
        cwd=tmp_path,
        env=variables | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def result_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def check(result: dict[str, Any], tmp_path: Path) -> None:
    accounted = result["applied"] + result["replay_skipped"] + result["dead_lettered"] + result["declared_dropped"]
    assert result["events_in"] == accounted == result["events_sent"]
    assert result["signals"]["interest"] == result["signals"]["churn_risk"] == result["score_requests"]
    assert (result["lag"], result["orphan_processes"]) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_every_event_is_accounted_for_scored_and_decided_and_nothing_is_left(tmp_path: Path) -> None:
    result = result_of(demo(tmp_path, "--seconds", "20"))
    check(result, tmp_path)
    assert result["score_requests"] > 0 and result["triggers"] > 0 and result["restarts"] == 0
    assert result["signals"]["sentiment"] > 0
    assert result["first_score_s"] <= 60


def test_an_interrupt_shuts_the_demo_down_cleanly(tmp_path: Path) -> None:
    process = demo(tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("running"):
            break
    process.send_signal(signal.SIGINT)
    check(result_of(process), tmp_path)


def test_an_interrupt_while_the_roles_start_shuts_the_demo_down_cleanly(tmp_path: Path) -> None:
    process = demo(tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("waiting"):
            break
    process.send_signal(signal.SIGINT)
    result = result_of(process)
    assert (result["events_sent"], result["orphan_processes"]) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_nothing_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    process = demo(tmp_path)
    assert process.stderr is not None and process.stdout is not None
    for line in process.stderr:
        if line.startswith("waiting"):
            break
    children = {int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}
    assert len(children) >= 2
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while running_processes(children):
        assert time.monotonic() < deadline, f"{running_processes(children)} outlived the demo"
        time.sleep(0.02)
