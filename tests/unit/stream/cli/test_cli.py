"""The command line: every verb explains itself at once, settings are flags, errors are one line."""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import duckdb
import pytest
import typer
from msgspec.structs import replace

from stream.cli.main import VERBS
from stream.logs.event_log import write_log
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.process.settings import Settings, load_settings
from tests.fakes import FixedScorer
from tests.recording import PARTITIONS, live_run

HEAVY = ("torch", "transformers", "faust", "aiokafka", "numpy")
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}  # whatever the terminal, or GitHub, is


def commands_of(verb: str) -> list[str]:
    """List the commands of a verb that is a group."""
    found = getattr(import_module(VERBS[verb][0]), VERBS[verb][1])
    return [*typer.main.get_group(found).commands] if isinstance(found, typer.Typer) else []


COMMANDS = [[], *([verb] for verb in VERBS), *([verb, name] for verb in VERBS for name in commands_of(verb))]


def footfall(*arguments: str, directory: Path | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FOOTFALL_", "KAFKA_"))}
    return subprocess.run(
        [sys.executable, "-m", "stream.cli.main", *arguments],
        env=kept | PLAIN | variables,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("verb", ["demo", "up", "worker"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_long_running_command_exits_with_0_on_a_signal_before_it_has_started(
    verb: str, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "typer.py").write_text(f"import os\nos.kill(os.getpid(), {number:d})\n")  # the first heavy import

    ended = footfall(verb, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "footfall: stopped before the command started\n")


def test_help_explains_every_command_without_loading_what_only_its_work_needs() -> None:
    program = (  # each command in a fork of a process that has loaded nothing but the command line
        "import json, os, sys; from stream.cli.main import app\n"
        f"for command in {COMMANDS!r}:\n"
        "    out, into = os.pipe()\n"
        "    if not os.fork():\n"
        "        os.dup2(into, 1)\n"
        "        sys.argv = ['footfall', *command, '--help']\n"
        "        try: app()\n"
        "        except SystemExit as end: code = end.code\n"
        f"        print(sorted(set({HEAVY!r}) & set(sys.modules)), code, flush=True)\n"
        "        os._exit(0)\n"
        "    os.close(into)\n"
        "    with os.fdopen(out) as said: text = said.read()\n"
        "    os.wait()\n"
        "    print(json.dumps([' '.join(command), text]), flush=True)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | PLAIN, capture_output=True, text=True, check=True, timeout=60
    )
    helped = dict(map(json.loads, ended.stdout.splitlines()))

    assert ended.stderr == ""
    assert len(helped) == len(COMMANDS)
    wrong = [name for name, text in helped.items() if not (text.endswith("[] 0\n") and "Usage: footfall" in text)]
    assert wrong == []


def test_the_list_of_verbs_loads_no_settings() -> None:
    program = "import sys, stream.cli.main; print([name for name in ('pydantic_settings', 'msgspec') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "[]\n"


def test_every_setting_but_a_secret_is_a_flag_with_its_variable() -> None:
    shown = footfall("worker", "--help").stdout
    for name, info in Settings.model_fields.items():
        secret = name in ("kafka_sasl_password", "kafka_ssl_key_password")
        assert (f"--{name.replace('_', '-')} " in shown) is not secret, name
        assert secret or (info.alias or f"FOOTFALL_{name.upper()}") in shown


def test_settings_lists_values_and_variables_and_masks_secrets(tmp_path: Path) -> None:
    ended = footfall(
        "settings", "--json", "--barrier-ms", "77", "--no-transactions", directory=tmp_path, KAFKA_SASL_PASSWORD="hunter2"
    )
    listed = json.loads(ended.stdout)
    assert listed["barrier_ms"] == {"value": 77, "variable": "FOOTFALL_BARRIER_MS"}
    assert listed["transactions"]["value"] is False
    assert set(listed) == set(Settings.model_fields)
    assert "hunter2" not in ended.stdout + ended.stderr


def test_a_bad_setting_is_one_line_and_code_78(tmp_path: Path) -> None:
    ended = footfall("worker", "features", directory=tmp_path, FOOTFALL_BARRIER_MS="soon")
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr.count("\n") == 1 and "barrier_ms (FOOTFALL_BARRIER_MS): found 'soon'" in ended.stderr


def test_an_unknown_key_of_the_file_is_one_line_and_code_78(tmp_path: Path) -> None:
    (tmp_path / "footfall.toml").write_text("barier_ms = 5\n")
    ended = footfall("topics", "plan", directory=tmp_path)
    assert ended.returncode == 78
    assert ended.stderr.count("\n") == 1 and "barier_ms" in ended.stderr


@pytest.mark.parametrize("command", [["topics", "plan"], ["tail", "click"]], ids=" ".join)
def test_no_broker_is_one_line_and_code_1(command: list[str], tmp_path: Path) -> None:
    ended = footfall(*command, "--kafka-bootstrap-servers", "127.0.0.1:1", directory=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "footfall: no broker answers at 127.0.0.1:1: start one, or set KAFKA_BOOTSTRAP_SERVERS\n"


def test_version_is_the_packages() -> None:
    assert footfall("--version").stdout.startswith("footfall 0.")


def test_an_unknown_verb_is_a_usage_error() -> None:
    assert footfall("wurker").returncode == 2


def test_replay_without_a_model_writes_its_files_and_its_summary_adds_up(tmp_path: Path) -> None:
    made = footfall("simulate", "--out", "log", "--shoppers", "20", "--days", "20", "--malformed", "0.05", directory=tmp_path)
    assert made.returncode == 0, made.stderr
    ended, out = footfall("replay", "log", "--out", "out", "--no-score", "--json", directory=tmp_path), tmp_path / "out"
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    totals = summary["totals"]
    assert totals["events_in"] == totals["applied"] + totals["dead_lettered"] + summary["declared_dropped"]
    assert totals["dead_lettered"] == sum(summary["dead_letters"].values()) > 0
    files = {path.name: duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall()[0][0] for path in out.glob("*.parquet")}
    assert files == {
        "signals.parquet": 0,
        "decisions.parquet": 0,
        "score_requests.parquet": summary["outputs"]["score-request"],
        "dead_letters.parquet": totals["dead_lettered"],
        "rows.parquet": summary["users"],
    }
    assert json.loads((out / "summary.json").read_bytes()) == summary
    assert {path.name for path in out.iterdir()} == {*files, "summary.json"}


def test_replay_does_not_write_into_a_directory_in_use(tmp_path: Path) -> None:
    footfall("simulate", "--out", "log", "--shoppers", "2", "--days", "5", directory=tmp_path)
    ended = footfall("replay", "log", "--out", "log", "--no-score", directory=tmp_path)
    assert ended.returncode == 2 and "choose another" in ended.stderr


def test_replay_with_a_folder_that_holds_no_model_is_refused_as_wrong_usage(tmp_path: Path) -> None:
    footfall("simulate", "--out", "log", "--shoppers", "2", "--days", "5", directory=tmp_path)
    (tmp_path / "empty").mkdir()
    ended = footfall("replay", "log", "--out", "out", "--checkpoint", "empty", directory=tmp_path)
    assert (ended.returncode, "footfall train" in ended.stderr) == (2, True)


def test_verify_refuses_a_log_that_no_live_run_left(tmp_path: Path) -> None:
    footfall("simulate", "--out", "log", "--shoppers", "2", "--days", "5", directory=tmp_path)
    ended = footfall("replay", "log", "--verify", "--no-score", "--out", "out", directory=tmp_path)
    assert ended.returncode == 2 and "footfall record" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_verify_ends_with_0_where_all_agrees_and_with_3_where_a_feature_differs(tmp_path: Path) -> None:
    events = [event.logged for event in simulate(SimulatorConfig(seed=3, shoppers=5, days=20))]
    log = live_run(load_settings(), events, FixedScorer())
    write_log(tmp_path / "log", log, source="test")
    command = ("replay", "log", "--verify", "--no-score", "--json", "--partitions", str(PARTITIONS), "--out")
    ended = footfall(*command, "right", directory=tmp_path)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["agrees"] and found["equal"] == found["requests"] > 0
    place = next(place for place, event in enumerate(log) if event.kind == "score-request")
    wrong = log[place].value.replace(b'"features":[', b'"features":[7')  # type: ignore[union-attr]
    write_log(tmp_path / "wrong-log", [*log[:place], replace(log[place], value=wrong), *log[place + 1 :]], source="test")
    ended = footfall(command[0], "wrong-log", *command[2:], "wrong", directory=tmp_path)
    assert (ended.returncode, json.loads(ended.stdout)["differing"]) == (3, {"visit.count.5m": 1})
    assert "visit.count.5m" in ended.stderr
