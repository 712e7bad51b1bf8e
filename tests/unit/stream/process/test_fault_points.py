"""Fault points: inert unless armed, fire once at the arrival named, and leave a record of it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import SettingsError
from stream.process.fault_points import POINTS, arm, reach
from tests.builders import ROOT


def test_every_point_is_passed_at_exactly_one_place_of_the_sources() -> None:
    passed = [
        point for path in (ROOT / "stream").rglob("*.py") for point in re.findall(r'reach\("([^"]+)"\)', path.read_text())
    ]
    assert sorted(passed) == sorted(POINTS)


def test_a_process_without_an_armed_fault_passes_every_point() -> None:
    arm("")
    for point in POINTS:
        reach(point)


def test_an_armed_fault_kills_its_process_at_the_arrival_it_names_and_says_so(tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    program = "import sys; from stream.process.fault_points import arm, reach; arm(sys.argv[1])\n"
    program += "for _ in range(3): reach('P1.acked'); reach('P2.sent'); print('passed', flush=True)"
    ended = subprocess.run(
        [sys.executable, "-c", program, f"kill@P2.sent:2>{fired}"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "passed\n")
    assert fired.read_text() == "kill@P2.sent:2"


@pytest.mark.parametrize("text", ["kill", "kill@P9.none:1>/tmp/f", "burn@P2.sent:1>/tmp/f", "kill@P2.sent:0>/tmp/f"])
def test_a_fault_that_means_nothing_is_refused_and_the_points_are_named(text: str) -> None:
    with pytest.raises(SettingsError, match="FOOTFALL_FAULT.*P2.sent"):
        arm(text)
