"""What a replay writes: every output and row, in columns that a query reads, and nothing where it failed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from models.features.row_codec import decode_row
from models.features.spec import FEATURE_SPEC, SENTIMENT
from schemas.dead_letter import DeadLetter
from schemas.scoring import ScoreRequest
from schemas.signals import AdTrigger, ChurnRisk, Interest, ReviewSentiment, Suppression
from stream.fold.records import Output
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.replay_files import FEATURES, write_replay
from stream.offline.replay_log import Replay
from stream.process.settings import Settings, load_settings
from tests.fakes import FixedScorer

DIRTY = SimulatorConfig(seed=5, shoppers=12, days=40, late=0.05, duplicates=0.05, malformed=0.05)
POLICY = """
version: test-1
campaigns:
  - {id: come-back, signal: churn-risk, threshold: 0.1, cooldown_hours: 100}
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    policy = tmp_path_factory.mktemp("policy") / "policy.yaml"
    policy.write_text(POLICY)
    return load_settings(reporting_currency="GBP", trigger_policy=policy)


@pytest.fixture(scope="module")
def log() -> list[LoggedEvent]:
    return [event.logged for event in simulate(DIRTY)]


@pytest.fixture(scope="module")
def folder(settings: Settings, log: list[LoggedEvent], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay") / "it's here"
    write_replay(Replay(settings, partitions=3), log, FixedScorer(), folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def outputs(settings: Settings, log: list[LoggedEvent]) -> list[Output]:
    return list(Replay(settings, partitions=3).signals(log, FixedScorer()))  # type: ignore[arg-type]


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    found = duckdb.read_parquet(str(folder / f"{name}.parquet"))
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def messages(outputs: list[Output], kind: Any) -> list[Any]:
    return [output.message for output in outputs if isinstance(output.message, kind)]


def test_score_requests_have_a_column_for_each_feature_and_json_for_what_is_a_list(folder: Path, outputs: list[Output]) -> None:
    rows, requests = table(folder, "score_requests"), messages(outputs, ScoreRequest)

    assert [row["request_id"] for row in rows] == [request.request_id for request in requests]
    for row, request in zip(rows, requests, strict=True):
        assert [row[name] for name in FEATURES] == request.features
        assert msgspec.json.decode(row["history"]) == msgspec.to_builtins(request.history)
        assert msgspec.json.decode(row["guard"], type=dict[str, tuple[int, int]]) == request.guard
        assert (row["topic"], row["partition"], row["offset"]) == (
            request.source.topic,
            request.source.partition,
            request.source.offset,
        )
        assert (row["text"], row["review_id"], row["event_time_ms"]) == (request.text, request.review_id, request.event_time_ms)


def test_each_feature_has_a_name_that_needs_no_quotes() -> None:
    assert len(set(FEATURES)) == len(FEATURE_SPEC.names)
    assert all(name.isidentifier() and name.startswith("feature_") for name in FEATURES)
    assert "feature_click_count_5m" in FEATURES


def test_signals_decisions_and_dead_letters_are_written_in_the_order_of_their_making(
    folder: Path, outputs: list[Output]
) -> None:
    signals = messages(outputs, (Interest, ChurnRisk, ReviewSentiment))
    decisions = messages(outputs, (AdTrigger, Suppression))
    letters = messages(outputs, DeadLetter)

    assert [row["signal_id"] for row in table(folder, "signals")] == [signal.signal_id for signal in signals]
    assert {row["kind"] for row in table(folder, "signals")} == {"interest", "churn-risk", "review-sentiment"}
    assert {row["outcome"] for row in table(folder, "decisions")} == {"ad-trigger", "suppression"}
    assert [row["signal_id"] for row in table(folder, "decisions")] == [decision.signal_id for decision in decisions]
    assert [(row["reason"], row["key"], row["value"]) for row in table(folder, "dead_letters")] == [
        (letter.reason.value, letter.key, letter.value) for letter in letters
    ]
    sentiments = [row["sentiment"] for row in table(folder, "signals") if row["kind"] == "review-sentiment"]
    assert sentiments == [signal.sentiment for signal in signals if isinstance(signal, ReviewSentiment)]


def test_rows_hold_the_bytes_of_each_user_and_the_features_of_its_newest_moment(folder: Path) -> None:
    rows = table(folder, "rows")

    assert len({row["user_id"] for row in rows}) == len(rows) > 0
    for row in rows:
        topics = decode_row(row["row"]).topics[:SENTIMENT]
        assert row["feature_click_count_life"] == (topics[2].tiles.totals[0] if topics[2] else 0)


def test_a_replay_that_fails_leaves_no_file(settings: Settings, log: list[LoggedEvent], tmp_path: Path) -> None:
    def broken() -> Iterator[LoggedEvent]:
        yield from log[:100]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_replay(Replay(settings, partitions=3), broken(), None, tmp_path / "out")

    assert list((tmp_path / "out").iterdir()) == []
