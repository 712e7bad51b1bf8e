"""`footfall dataset`: what it writes, what it refuses, and how it ends where there is a leak."""

import os
from collections import Counter
from pathlib import Path

import duckdb
import msgspec
import pytest
from typer.testing import CliRunner

from models.data.dataset_files import EXAMPLES, DatasetManifest, read_examples, read_manifest
from models.data.examples import Slice, churned_within
from schemas.codec import encode_event
from schemas.errors import DatasetError
from schemas.time_units import DAY_MS
from stream.cli.dataset import app
from stream.cli.slices import milliseconds
from stream.logs.event_log import LoggedEvent, read_log, write_log
from stream.logs.importers.online_retail import import_online_retail
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from tests.builders import NOW_MS, rating


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dataset") / "log"
    write_log(directory, [event.logged for event in simulate(SimulatorConfig(seed=5, shoppers=30, days=40))], source="made")
    return directory


@pytest.fixture(scope="module")
def dataset(log: Path) -> Path:
    result = CliRunner().invoke(app, [str(log), "--out", str(log.parent / "dataset"), "--landmarks", "2"])
    assert result.exit_code == 0, result.output
    return log.parent / "dataset"


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_dataset_says_what_it_holds_and_that_no_leak_was_found(log: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run(log, "--out", tmp_path / "dataset", "--json", "--max-examples", 200, "--embargo-days", 1)

    assert code == 0
    manifest = msgspec.json.decode(stdout, type=DatasetManifest)
    assert manifest == read_manifest(tmp_path / "dataset")
    examples = read_examples(tmp_path / "dataset")
    assert len(examples) == 200 == sum(found["examples"] for found in manifest.counts.values())
    assert manifest.lint["leaks"] == []
    assert manifest.lint["searched"]["prefix"] == 64
    assert manifest.periods[1].start_ms == manifest.periods[0].end_ms + 86_400_000
    assert "train" in stderr


def test_the_same_options_give_the_same_file(log: Path, dataset: Path, tmp_path: Path) -> None:
    run(log, "--out", tmp_path / "again", "--landmarks", 2)

    assert (tmp_path / "again" / EXAMPLES).read_bytes() == (dataset / EXAMPLES).read_bytes()


def test_only_last_items_of_some_users_are_asked_for(log: Path, tmp_path: Path) -> None:
    users = sorted({event.key.decode() for event in read_log(log) if event.key})[:12]
    patterns = [part for user in users for part in ("--users", user)]

    code, _, stderr = run(log, "--out", tmp_path / "dataset", "--before-last-item", "--sight-days", 0, *patterns)

    assert code == 0, stderr
    found = Counter((example.request.user_id, example.slice) for example in read_examples(tmp_path / "dataset"))
    assert {user for user, _ in found} <= set(users)
    assert set(found.values()) == {1}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--shares", "0.5,0.5"], "expected four that add up to 1"),
        (["--split", "2026-01-10,2026-01-20,someday"], "found date 'someday', expected YYYY-MM-DD"),
        (
            ["--split", "2026-01-10,2026-01-20,2026-01-15"],
            "slices that end at 2026-01-10 00:00, 2026-01-20 00:00, 2026-01-15",
        ),
        (["--split", "2026-01-10,2026-01-20"], "2 dates, expected the ends of train, validation and calibration"),
        (["--split", "2026-01-10,2026-01-20,2026-01-25,2027-01-01"], "expected dates within the log"),
        (["--cut", "2027-01-01"], "found a cut at 2027-01-01 00:00, expected one inside a slice (train 2026-01-"),
        (["--embargo-days", "30"], "an embargo as long as slice"),
        (["--cluster-categories", "3"], "give a smaller --cluster-categories"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words_before_anything_is_written(
    log: Path, tmp_path: Path, arguments: list[str], found: str
) -> None:
    code, _, stderr = run(log, "--out", tmp_path / "dataset", *arguments)

    assert code == 2
    assert found in stderr
    assert not (tmp_path / "dataset").exists()


def test_an_offset_of_a_time_counts() -> None:
    expected = milliseconds("2026-01-10T10:00")

    assert [milliseconds(f"2026-01-10T{at}") for at in ("10:00Z", "12:00+02:00", "10:00+00:00")] == [expected] * 3


def test_a_directory_in_use_and_a_log_that_is_none_are_refused(log: Path, dataset: Path, tmp_path: Path) -> None:
    assert run(log, "--out", dataset)[0] == 2
    code, _, stderr = run(tmp_path, "--out", tmp_path / "dataset")
    assert code == 2
    assert "has no manifest.json" in stderr


def test_lint_finds_nothing_in_what_was_cut(log: Path, dataset: Path) -> None:
    code, stdout, stderr = run("lint", dataset, "--log", log, "--json")

    assert code == 0
    assert msgspec.json.decode(stdout)["leaks"] == []
    assert "no leaks found" in stderr
    assert "add --log to search by prefix too" in run("lint", dataset)[2]


def test_lint_refuses_another_log(dataset: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log", [event.logged for event in simulate(SimulatorConfig(seed=6, shoppers=5, days=10))], source="")

    code, _, stderr = run("lint", dataset, "--log", tmp_path / "log")

    assert code == 2
    assert "which the dataset was cut from: give that log" in stderr


def test_a_leak_ends_the_command_with_3_and_the_name_of_the_column(log: Path, dataset: Path, tmp_path: Path) -> None:
    leaking = tmp_path / "dataset"
    leaking.mkdir()
    for file in dataset.iterdir():
        (leaking / file.name).write_bytes(file.read_bytes())
    planted = f"SELECT * REPLACE (CASE WHEN slice = 'test' THEN 'train' ELSE slice END AS slice) FROM '{dataset / EXAMPLES}'"
    duckdb.sql(f"COPY ({planted}) TO '{leaking / EXAMPLES}' (FORMAT parquet)")

    code, _, stderr = run("lint", leaking)

    assert code == 3
    assert "leak (split): landmark_ms: " in stderr
    assert "train no model on this dataset" in stderr


def test_a_log_whose_features_name_the_users_makes_no_dataset(tmp_path: Path) -> None:
    ratings = [
        rating(
            user_id=f"u-{user}", event_id=f"r-{user}-{day}", rating=1 + user / 20, event_time_ms=NOW_MS + day * DAY_MS + user
        )
        for user in range(40)
        for day in range(0, 60, 3)
    ]
    records = [LoggedEvent("rating", event.event_time_ms, event.user_id.encode(), encode_event(event)) for event in ratings]
    write_log(tmp_path / "log", records, source="everybody gives stars of their own")

    code, _, stderr = run(tmp_path / "log", "--out", tmp_path / "dataset")

    assert code == 3
    assert "leak (identity): rating.mean.life: 40 values for 40 users" in stderr
    assert "has no manifest" in stderr
    with pytest.raises(DatasetError, match=r"has no dataset\.json"):
        read_examples(tmp_path / "dataset")


@pytest.mark.logs
def test_the_real_customers_at_the_cut_are_those_of_the_published_floors(tmp_path: Path) -> None:
    if not (logs := os.environ.get("FOOTFALL_LOGS")):
        pytest.skip("FOOTFALL_LOGS is not set: no public event logs here")
    events, counts = import_online_retail(Path(logs) / "online_retail_uci" / "by-day")
    write_log(tmp_path / "log", events, source="test", imports=counts)

    code, _, stderr = run(
        tmp_path / "log", "--out", tmp_path / "dataset", "--split", "2011-05-13,2011-06-12,2011-09-10", "--cut", "2011-09-10",
        "--eligible", "purchase", "--return", "purchase", "--cluster-categories", 40,
    )  # fmt: skip

    assert code == 0, stderr
    churned = [churned_within(example, 90) for example in read_examples(tmp_path / "dataset", [Slice.TEST])]
    assert len(churned) == pytest.approx(3370, abs=5)
    assert None not in churned
    assert sum(map(bool, churned)) / len(churned) == pytest.approx(0.431, abs=0.002)
