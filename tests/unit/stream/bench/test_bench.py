"""Benchmarks: their loads, their arithmetic, what they read of others' stores, and what they write down."""

import json
import pickle
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import event_decoder
from schemas.errors import RunError
from schemas.scoring import SourcePosition
from schemas.topics import SOURCES
from stream.bench.backlog import Run, chunk_figures, held_records, skew_hours, summary
from stream.bench.broker import Published, Request, Requests, bench_settings
from stream.bench.engines import ENGINES, integer_of, recovered_offsets
from stream.bench.features import barrier_figures, ratios
from stream.bench.figures import histogram, machine, percentiles, spread
from stream.bench.latency import Used, cores_between
from stream.bench.load import SESSION, SHAPES, load
from stream.bench.restore import rows_of, template_rows
from stream.bench.results import record, section, with_section
from stream.bench.sender import due_by
from stream.bench.takeover import Sample, longest_pauses
from tests.builders import ROOT


@pytest.mark.parametrize("shape", SHAPES)
def test_every_event_of_a_load_is_a_valid_event_of_its_topic_in_order_of_time(shape: Any) -> None:
    events = list(load(4000, shape=shape, users=500).events())
    times = [event_decoder(SOURCES[event.kind])(event.key, event.value).event_time_ms for event in events]
    assert len(events) == 4000
    assert times == sorted(times) == [event.record_ms for event in events]
    assert {event.kind for event in events} == set(SOURCES)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_makes_the_same_load_again_and_another_seed_another(shape: Any) -> None:
    first, again, other = (list(load(500, shape=shape, seed=seed).events()) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_sessions_are_runs_of_one_user_that_begin_with_a_visit() -> None:
    made = load(400, users=1000)
    sessions = made.users.reshape(-1, SESSION)
    assert (sessions == sessions[:, :1]).all()
    assert [i for i in range(400) if made.kinds[i] == 0] == list(range(0, 400, SESSION))


def test_independent_events_draw_a_user_each_and_the_first_user_leads() -> None:
    made = load(20_000, shape="independent", users=1000)
    counts = Counter(made.users.tolist())
    assert counts.most_common(1)[0][0] == 0
    assert sum(a != b for a, b in zip(made.users[:-1], made.users[1:], strict=True)) > 15_000


def test_positions_name_each_event_by_its_place_in_the_order_of_sending() -> None:
    made = load(300, users=20)
    ids = [json.loads(event.value or b"")["event_id"] for event in made.events()]
    assert [made.positions()[event_id] for event_id in ids] == list(range(300))


def test_percentiles_are_values_that_occurred() -> None:
    found = percentiles([float(value) for value in range(1, 1001)])
    assert (found["p50"], found["p90"], found["p99"], found["p99.9"]) == (500, 900, 990, 999)
    assert (found["max"], found["mean"], found["count"]) == (1000, 500.5, 1000)


def test_percentiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        percentiles([])


def test_a_histogram_counts_every_value_in_the_bucket_that_ends_at_or_above_it() -> None:
    found = histogram([1.0, 1.1, 100.0])
    assert sum(count for _, count in found) == 3
    assert (found[0], found[-1]) == ((1.0, 1), (100.0, 1))


def test_a_spread_keeps_every_run() -> None:
    assert spread([3.0, 1.0, 2.4]) == {"median": 2, "min": 1, "max": 3, "runs": [3, 1, 2]}


def test_busy_cores_are_counted_between_two_times_only() -> None:
    used = [Used(at, at / 2, at * 1.5) for at in (0.0, 1.0, 2.0, 3.0)] + [Used(4.0, 100.0, 100.0)]
    assert cores_between(used, 0.5, 3.5) == (0.5, 1.5)
    assert cores_between(used, 3.5, 4.5) == (0.0, 0.0)


def test_an_open_load_sends_what_its_schedule_says_however_late_it_is() -> None:
    assert list(due_by(now=9.9, started=10.0, rate=100, sent=0, count=1000)) == []
    assert list(due_by(now=10.0, started=10.0, rate=100, sent=0, count=1000)) == [0]
    assert list(due_by(now=10.05, started=10.0, rate=100, sent=3, count=1000)) == [3, 4, 5]
    assert list(due_by(now=99.0, started=10.0, rate=100, sent=998, count=1000)) == [998, 999]


def test_ratios_compare_medians_with_those_of_footfall() -> None:
    engines = {name: {"events_per_second": spread([rate])} for name, rate in (("footfall", 50_000.0), ("quix", 4_000.0))}
    assert ratios(engines) == {"quix": 12.5}
    assert ratios({"quix": engines["quix"]}) == {}


def test_what_a_kill_left_uncommitted_is_counted_in_topics_without_requests_too() -> None:
    settings = bench_settings("127.0.0.1:9092")
    given = Published(settings, 6, 1.0, 1, {("clicks", 0): [10, 20, 30], ("browses", 0): [15, 25, 35]})
    source = SourcePosition(topic="clicks", partition=0, offset=2, timestamp_ms=30)
    requests = Requests([Request("a", "e", source), Request("a", "e", source)], 10)
    assert given.folded_beyond({("clicks", 0): 1}, requests) == 4
    assert given.folded_beyond({("clicks", 0): 3, ("browses", 0): 3}, requests) == 0
    assert requests.distinct == 1


def test_a_worker_without_barriers_has_no_barrier_figures() -> None:
    assert barrier_figures({}, 100) == {}


def test_barrier_figures_are_read_from_a_workers_metrics() -> None:
    metrics = {
        "footfall_barrier_seconds_count": 10.0,
        "footfall_barrier_seconds_sum": 0.5,
        "footfall_rows_written_total": 200.0,
        "footfall_row_bytes_written_total": 100_000.0,
    }
    found = barrier_figures(metrics, 2000)
    assert (found["barrier_ms"], found["events_per_barrier"], found["rows_per_event"]) == (50.0, 200, 0.1)
    assert (found["row_bytes"], found["row_bytes_per_event"]) == (500, 50.0)


@pytest.mark.parametrize("offset", [0, 200, 60_000, 70_000, 3_000_000_000])
def test_an_offset_in_a_recovery_store_is_read_without_unpickling(offset: int) -> None:
    assert integer_of(pickle.dumps(offset, protocol=4)) == offset


def test_the_kafka_offsets_of_a_recovery_store_are_those_of_the_last_whole_epoch(tmp_path: Path) -> None:
    store = sqlite3.connect(tmp_path / "part-0.sqlite3")
    store.execute("CREATE TABLE snaps (step_id TEXT, state_key TEXT, snap_epoch INTEGER, ser_change BLOB)")
    store.execute("CREATE TABLE fronts (worker_frontier INTEGER)")
    store.execute("INSERT INTO fronts VALUES (5)")
    for epoch, offset in ((3, 10), (4, 20), (5, 30)):
        store.execute("INSERT INTO snaps VALUES ('features.events', '2-shop.a-b', ?, ?)", (epoch, pickle.dumps(offset)))
    store.commit()
    store.close()
    assert recovered_offsets(tmp_path) == {("shop.a-b", 2): 20}


def test_a_recovery_store_that_is_not_there_yet_has_no_offsets(tmp_path: Path) -> None:
    assert recovered_offsets(tmp_path) == {}


def test_a_peer_without_its_venv_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stream.bench.engines.VENVS", tmp_path)
    with pytest.raises(RunError, match="run tests/bench/peers/setup"):
        ENGINES["quix"].command()


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_every_engine_names_its_version_and_its_program_exists(engine: Any) -> None:
    assert engine.version().split()[1][0].isdigit()
    assert (ROOT / "tests" / "bench" / "peers" / engine.program).exists()


def test_restored_rows_are_those_of_a_fold_under_distinct_users() -> None:
    templates = [b"a", b"b"]
    rows = list(rows_of(5, templates))
    assert len({key for key, _ in rows}) == 5
    assert [row for _, row in rows] == [b"a", b"b", b"a", b"b", b"a"]


def test_template_rows_differ_and_are_of_many_users() -> None:
    rows = template_rows()
    assert len(rows) > 500
    assert len(set(rows)) == len(rows)


def test_what_alignment_holds_is_summed_and_the_topic_furthest_behind_is_its_skew() -> None:
    metrics = {
        'footfall_alignment_held_records{topic="a"}': 30.0,
        'footfall_alignment_held_records{topic="b"}': 12.0,
        'footfall_alignment_skew_seconds{topic="a"}': 0.0,
        'footfall_alignment_skew_seconds{topic="b"}': 7200.0,
        "footfall_chunks_total": 5.0,
    }
    assert (held_records(metrics), skew_hours(metrics)) == (42, 2)
    assert (held_records({}), skew_hours({})) == (0, 0)


def test_chunks_are_related_to_flushes_and_to_events() -> None:
    found = chunk_figures({"footfall_chunks_total": 40.0, "footfall_barrier_seconds_count": 16.0}, 20_000)
    assert (found["events_per_chunk"], found["chunks_per_flush"]) == (500, 2.5)
    assert chunk_figures({}, 20_000) == {"chunks": 0, "flushes": 0, "events_per_chunk": 0, "chunks_per_flush": 0}


def test_a_backlogs_section_names_both_days_and_what_was_held() -> None:
    run = Run(2.0, chunk_figures({"footfall_chunks_total": 40.0, "footfall_barrier_seconds_count": 16.0}, 20_000), 700.4, 5.04)
    days = {"dense": summary(20_000, [run]), "sparse": summary(1_000, [run])}
    found = {"benchmark": "backlog", "repeats": 1, "days": days, "machine": machine(ROOT)}
    text = section(found, "footfall bench backlog", [])
    for word in ("| dense | 20,000 | 10,000 (10,000 to 10,000) |", "| sparse | 1,000 |", "| 700 | 5.0 h |"):
        assert word in text


def test_a_pause_is_the_longest_time_between_two_advances_also_of_a_partition_that_never_goes_on() -> None:
    committed = [(0.0, 5, 5), (1.0, 6, 5), (2.0, 6, 6), (5.0, 7, 6), (6.0, 8, 6)]
    samples = [Sample(at, 1, {0: first, 1: second}) for at, first, second in committed]

    assert longest_pauses(samples) == {0: 4.0, 1: 4.0}
    assert longest_pauses(samples[:2]) == {0: 1.0, 1: 1.0}
    assert longest_pauses([]) == {}


def test_a_takeovers_section_tells_detection_from_takeover() -> None:
    kill = {name: spread([value], 2) for name, value in (("detection_seconds", 10.2), ("takeover_seconds", 1.5))}
    found = {
        **{"benchmark": "takeover", "rows": 1_000_000, "row_bytes": 300, "partitions": 6, "rate": 600.0, "repeats": 1},
        **{"session_timeout_seconds": 10.0, "sample_seconds": 0.05, "machine": machine(ROOT)},
        "kills": {"0": kill | {"pause_seconds": spread([11.7], 2)}},
        "restarts": {"leaves, no standby": {"pause_seconds": [1.5, 2.0, 4.25], "longest_pause_seconds": 4.25}},
    }
    text = section(found, "footfall bench takeover", [])
    assert "| 0 standbys | 10.2 s (10.2 to 10.2) | 1.5 s (1.5 to 1.5) | 11.7 s (11.7 to 11.7) |" in text
    assert "| leaves, no standby | 1.5 s, 2 s, 4.25 s | 4.25 s |" in text


LATENCY = {
    "benchmark": "latency",
    "load": "sessions",
    "rate": 100,
    "seconds": 2.0,
    "warm_up_seconds": 1.0,
    "barrier_ms": 200,
    "worker_cores": 0.5,
    "machine_cores": 1.25,
    "latency_ms": percentiles([1.0, 2.0, 30.0]),
    "sender_late_ms": percentiles([0.1]),
    "histogram_ms": histogram([1.0, 2.0, 30.0]),
}


def test_a_section_names_machine_commit_versions_date_and_command() -> None:
    at = machine(ROOT, broker="Some Kafka 1.2")
    text = section({**LATENCY, "machine": at}, "footfall bench latency", [])
    for word in (str(at["cores"]), at["cpu"], at["commit"], at["date"], "Some Kafka 1.2", "faust-streaming", "p99.9"):
        assert word in text
    assert "`footfall bench latency`" in text


def test_a_section_takes_the_place_of_its_former_one_and_leaves_the_rest() -> None:
    first = with_section("# Results\n\n## By hand\n\nkept\n", "latency", "old")
    second = with_section(with_section(first, "features", "other"), "latency", "new")
    assert "old" not in second
    assert second.startswith("# Results\n\n## By hand\n\nkept\n")
    assert second.index("new") < second.index("other")
    assert with_section(second, "latency", "new") == second


def test_a_recorded_result_leaves_its_figures_and_its_plot_beside_the_text(tmp_path: Path) -> None:
    found = {**LATENCY, "machine": machine(ROOT)}
    path = record(tmp_path, found, "footfall bench latency")
    assert "plots/latency.svg" in path.read_text()
    assert (tmp_path / "plots" / "latency.svg").read_text().lstrip().startswith("<?xml")
    assert json.loads((tmp_path / "plots" / "latency.json").read_text())["latency_ms"] == LATENCY["latency_ms"]


@pytest.mark.parametrize("program", ["quix_streams", "bytewax_flow"])
def test_what_a_peer_imports_of_ours_needs_only_what_its_pins_hold(program: str) -> None:
    peers = ROOT / "tests" / "bench" / "peers"
    ours = [
        line
        for line in (peers / f"{program}.py").read_text().splitlines()
        if line.startswith(("from models.", "from schemas.", "from stream."))
    ]
    pins = (peers / f"{program.split('_')[0]}.txt").read_text().lower()
    code = "import sys\n" + "\n".join(ours) + "\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()

    heavy = ("numpy", "duckdb", "torch", "faust", "aiokafka", "transformers", "sklearn", "rich", "typer")
    assert len(ours) >= 5
    assert [name for name in heavy if name in loaded and f"\n{name}==" not in f"\n{pins}"] == []
