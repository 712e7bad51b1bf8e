import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from models.data.dataset_files import DatasetManifest, write_examples, write_manifest
from models.data.examples import Example, Slice
from models.data.feature_selection import SILENCE, rank_features
from models.data.feature_table import table_of
from models.data.labels import Labelling
from models.data.landmarks import Sampling, periods_of
from models.features.spec import FEATURE_SPEC
from schemas.time_units import DAY_MS
from stream.cli.features import app
from tests.builders import NOW_MS, score_request

NAMES = ("telling", "telling too", "constant", "unknown", "noise 1", "noise 2", "noise 3")
ENDS = [NOW_MS + days * DAY_MS for days in (100, 200, 300, 400)]


def made(slice_: Slice, at_ms: int, users: int, seed: int) -> list[Example]:
    """Users who stay away for the first number of their features, more or less; `telling too` is a coarser copy."""
    rng = np.random.default_rng(seed)
    examples = []
    for user in range(users):
        days = float(rng.uniform(1, 19))
        features = [days + float(rng.normal()), round(days / 4), 7.0, None, *map(float, rng.normal(size=3))]
        request = score_request(user_id=f"u-{user}", features=features, history=[], event_time_ms=at_ms)
        absent_ms, observed_ms = round(days * DAY_MS), 60 * DAY_MS
        examples.append(Example(request=request, landmark_ms=at_ms, slice=slice_, absent_ms=absent_ms, observed_ms=observed_ms))
    return examples


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return made(Slice.TRAIN, NOW_MS, 300, 1) + made(Slice.VALIDATION, ENDS[0], 120, 2)


def test_features_that_tell_of_the_label_come_first_and_those_that_tell_nothing_last(examples: list[Example]) -> None:
    ranking = rank_features(table_of(examples, NAMES), label="churned.7d", bootstraps=10)

    names = [found.name for found in ranking.features]
    assert set(names[:2]) == {"telling", "telling too"}
    assert set(names) == {*NAMES, SILENCE}
    assert ranking.auc > 0.9
    assert (ranking.train_examples, ranking.later_examples, ranking.later_slice) == (300, 120, "validation")
    of = {found.name: found for found in ranking.features}
    assert (of["constant"].permutation, of["constant"].stability, of["unknown"].stability) == (0, 0, 0)
    assert of["telling"].stability == 1


def test_the_same_seed_gives_the_same_ranking(examples: list[Example]) -> None:
    table = table_of(examples, NAMES)

    assert rank_features(table, bootstraps=3, seed=4) == rank_features(table, bootstraps=3, seed=4)


def test_by_default_the_longest_horizon_that_is_known_is_ranked_by(examples: list[Example]) -> None:
    assert rank_features(table_of(examples, NAMES), bootstraps=2).label == "churned.14d"


def test_a_label_that_is_not_there_or_not_known_is_refused(examples: list[Example]) -> None:
    table = table_of(examples, NAMES)

    with pytest.raises(ValueError, match=r"found label 'churn', expected one of returned, churned\.1d"):
        rank_features(table, label="churn")
    with pytest.raises(ValueError, match=r"found too few examples with a known churned\.90d"):
        rank_features(table, label="churned.90d")
    with pytest.raises(ValueError, match="found an example of 7 features, expected 1"):
        table_of(examples, NAMES[:1])


def test_the_command_writes_a_table_json_csv_and_a_plot(examples: list[Example], tmp_path: Path) -> None:
    write_examples(tmp_path / "dataset", examples, [], {})
    manifest = DatasetManifest(
        source="made",
        fingerprint="",
        spec_version=FEATURE_SPEC.version,
        feature_names=NAMES,
        periods=tuple(periods_of(NOW_MS, ENDS)),
        embargo_days=0,
        sampling=Sampling(),
        labelling=Labelling(),
        cluster_categories=0,
        horizons_days=(1,),
        counts={},
        reviews={},
    )
    write_manifest(tmp_path / "dataset", manifest)
    out = tmp_path / "ranking"

    result = CliRunner().invoke(app, ["select", str(tmp_path / "dataset"), "--bootstraps", "2", "--out", str(out), "--json"])

    assert result.exit_code == 0, result.output
    ranking = msgspec.json.decode(result.stdout)
    with (out / "features.csv").open(encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [found["name"] for found in ranking["features"]]
    assert (out / "features.png").read_bytes().startswith(b"\x89PNG")
    assert ranking["features"][0]["name"] in result.stderr


def test_the_command_names_the_next_one_where_there_is_no_dataset(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["select", str(tmp_path)])

    assert result.exit_code == 2
    assert "make one with footfall dataset LOG --out" in result.stderr
