"""A log → examples: what a look sees is what the live fold knew at the landmark, and the same log gives the same rows."""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import duckdb
import msgspec
import pytest

from models.data.dataset_files import (
    DatasetManifest,
    read_categories,
    read_examples,
    read_manifest,
    read_reviews,
    write_examples,
    write_manifest,
)
from models.data.examples import Example, Purchases, Slice, seen_until_ms, silent_ms
from models.data.labels import Labelling
from models.data.landmarks import Period, Sampling, periods_of
from models.features.spec import FEATURE_SPEC
from schemas.codec import encode_event
from schemas.errors import DatasetError
from schemas.events import Event
from schemas.time_units import DAY_MS
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.build_dataset import Cut, Plan, cut_dataset
from stream.offline.dataset_prefix import rebuild_examples
from stream.offline.replay_log import Replay
from stream.process.settings import Settings, load_settings
from tests.builders import NOW_MS, browse, click, purchase, purchase_line, search, visit

DIRTY = SimulatorConfig(seed=5, shoppers=25, days=40, late=0.1, duplicates=0.05, malformed=0.05)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(reporting_currency="EUR", currency_rates='{"GBP": 1.1}')


@pytest.fixture(scope="module")
def log() -> list[LoggedEvent]:
    return [event.logged for event in simulate(DIRTY)]


@pytest.fixture(scope="module")
def plan(log: list[LoggedEvent]) -> Plan:
    first_ms = log[0].record_ms
    ends = [first_ms + days * DAY_MS for days in (20, 25, 30, 40)]
    return Plan(periods=tuple(periods_of(first_ms, ends)), sampling=Sampling(seed=2, landmarks=3, at_events=3))


@pytest.fixture(scope="module")
def cut(log: list[LoggedEvent], settings: Settings, plan: Plan) -> Cut:
    return cut_dataset(log, settings, plan)


def logged(*events: Event) -> list[LoggedEvent]:
    return [
        LoggedEvent(type(event).__name__.lower(), event.event_time_ms, event.user_id.encode(), encode_event(event))
        for event in events
    ]


def titled(log: list[LoggedEvent]) -> list[LoggedEvent]:
    """Give every event that names a category a title in its place."""
    found = []
    for event in log:
        with suppress(TypeError, ValueError):
            body = json.loads(event.value)
            if body.pop("category", None):
                event = msgspec.structs.replace(
                    event, value=json.dumps(body | {"title": f"made of {body['item_id']}"}).encode()
                )
        found.append(event)
    return found


def days_later(days: float) -> int:
    return NOW_MS + round(days * DAY_MS)


def slices(*days: float) -> tuple[Period, ...]:
    return tuple(periods_of(NOW_MS, [days_later(d) for d in days]))


def test_every_slice_has_looks_at_landmarks_and_at_events(cut: Cut, plan: Plan) -> None:
    of_user = Counter((e.request.user_id, e.slice, e.request.due == "landmark") for e in cut.examples)

    assert {(slice_, at_landmark) for _, slice_, at_landmark in of_user} == {(s, at) for s in Slice for at in (True, False)}
    assert max(of_user.values()) == 3
    for example in cut.examples:
        assert silent_ms(example) >= 0
        assert example.absent_ms is None or silent_ms(example) < example.absent_ms < example.observed_ms


def test_a_look_at_a_landmark_is_what_a_log_that_ends_there_gives(
    cut: Cut, log: list[LoggedEvent], settings: Settings, plan: Plan
) -> None:
    again = rebuild_examples(
        log, settings, cut.examples, periods=plan.periods, labelling=plan.labelling, categories={}, seed=1, sample=150
    )

    assert {cut.examples[place].request.due == "landmark" for place in again} == {True, False}
    assert [cut.examples[place] for place in again] == list(again.values())


def test_a_look_at_an_event_is_the_request_that_a_replay_sends(cut: Cut, log: list[LoggedEvent], settings: Settings) -> None:
    partitions = next(iter(settings.topics().values())).partitions
    sent = [output.message for output in Replay(settings, partitions=partitions).fold(log) if output.kind == "score-request"]
    looks = [example for example in cut.examples if example.request.due != "landmark"]

    assert looks
    assert all(example.request in sent for example in looks)
    assert all(example.landmark_ms == seen_until_ms(example.request) for example in looks)


def test_the_same_log_and_options_give_the_same_rows(
    cut: Cut, log: list[LoggedEvent], settings: Settings, plan: Plan, tmp_path: Path
) -> None:
    again = cut_dataset(log, settings, plan)
    for name, found in (("one", cut), ("other", again)):
        write_examples(tmp_path / name, found.examples, found.reviews, found.categories)

    assert again == cut
    for file in ("examples.parquet", "reviews.parquet"):
        rows = [duckdb.sql(f"SELECT * FROM '{tmp_path / name / file}'").fetchall() for name in ("one", "other")]
        assert rows[0] == rows[1]
        assert len(rows[0]) > 0
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


@pytest.mark.parametrize("before_last_item", [False, True])
@pytest.mark.parametrize("clusters", [0, 4])
def test_the_share_of_users_that_is_held_at_a_time_changes_no_example(  # type: ignore[no-untyped-def]
    log: list[LoggedEvent], settings: Settings, plan: Plan, monkeypatch: pytest.MonkeyPatch, before_last_item, clusters
) -> None:
    sampling = Sampling(seed=2, landmarks=3, at_events=3, max_examples=200, before_last_item=before_last_item)
    plan = msgspec.structs.replace(plan, sampling=sampling, cluster_categories=clusters)
    log = titled(log) if clusters else log
    whole = cut_dataset(log, settings, plan)
    monkeypatch.setattr("stream.offline.user_buckets.BUCKET_RECORDS", len(log) // 8)
    monkeypatch.setattr("stream.offline.user_buckets.BLOCK_RECORDS", 50)
    monkeypatch.setattr("stream.offline.build_dataset.USERS_KEPT", 5)
    done: list[tuple[int, int]] = []

    parts = cut_dataset(log, settings, plan, expected=len(log), progress=lambda *at: done.append(at))

    assert done == [(number, 9) for number in range(1, 10)]
    assert parts == whole
    assert parts.examples and parts.reviews


def test_another_seed_gives_other_landmarks(cut: Cut, log: list[LoggedEvent], settings: Settings, plan: Plan) -> None:
    other = cut_dataset(log, settings, msgspec.structs.replace(plan, sampling=Sampling(seed=3, landmarks=3, at_events=3)))

    assert [example.landmark_ms for example in other.examples] != [example.landmark_ms for example in cut.examples]
    assert other.fingerprint == cut.fingerprint


def test_a_user_is_not_looked_at_before_the_first_event(settings: Settings) -> None:
    log = logged(visit(user_id="old", event_time_ms=NOW_MS), visit(user_id="new", event_time_ms=days_later(30)))
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=Sampling(landmarks=20, at_events=0))

    found = Counter((example.request.user_id, example.slice) for example in cut_dataset(log, settings, plan).examples)

    assert found == {("old", slice_): 20 for slice_ in Slice} | {("new", Slice.TEST): 20}


def test_an_event_that_arrives_after_the_landmark_is_not_seen_however_early_it_happened(settings: Settings) -> None:
    seen, late = visit(event_time_ms=NOW_MS), visit(event_time_ms=days_later(34.5), event_id="late")
    log = [*logged(seen), LoggedEvent("visit", days_later(35.25), late.user_id.encode(), encode_event(late))]
    cuts = (days_later(35), days_later(35.25))
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=Sampling(cuts_ms=cuts, at_events=0, landmarks=0))

    before, after = cut_dataset(log, settings, plan).examples

    assert (before.request.event_time_ms, before.absent_ms) == (NOW_MS, None)
    assert after.request.event_time_ms == days_later(34.5)


def test_cuts_look_at_all_eligible_users_at_one_time(settings: Settings) -> None:
    users = [visit(user_id=f"u-{n}", event_id=f"v-{n}", event_time_ms=NOW_MS + n) for n in range(20)]
    bought = [purchase(user_id=f"u-{n}", event_id=f"p-{n}", event_time_ms=days_later(1) + n) for n in range(7)]
    back = [purchase_line(returned=True)]
    returned = purchase(user_id="u-19", event_id="returned", event_time_ms=days_later(2), lines=back)
    sampling = Sampling(cuts_ms=(days_later(35),), eligible="purchase", max_examples=1, landmarks=1)
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=sampling)

    examples = cut_dataset(logged(*users, *bought, returned), settings, plan).examples

    of_test = [example for example in examples if example.slice == Slice.TEST]
    assert sorted(example.request.user_id for example in of_test) == [f"u-{n}" for n in range(7)]
    assert {example.landmark_ms for example in of_test} == {days_later(35)}
    assert len(examples) == len(of_test) + 1


def test_the_look_before_the_last_item_of_a_slice_asks_for_that_item(settings: Settings) -> None:
    met = {"a": 1, "b": 2, "c": 3, "of test": 35, "and": 36, "the last": 37}
    clicks = [click(event_id=item, item_id=item, event_time_ms=days_later(day)) for item, day in met.items()]
    alone = [visit(user_id="alone", event_time_ms=NOW_MS), click(user_id="alone", event_time_ms=days_later(4))]
    after = visit(event_id="after", event_time_ms=days_later(38))
    sampling = Sampling(landmarks=0, at_events=0, before_last_item=True)
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=sampling, labelling=Labelling(sight_days=0))
    log = sorted(logged(*clicks, *alone, after), key=lambda event: event.record_ms)

    found = cut_dataset(log, settings, plan).examples

    assert [(e.slice, e.landmark_ms, e.items) for e in found] == [
        (Slice.TRAIN, days_later(2), ("c",)),
        (Slice.TEST, days_later(36), ("the last",)),
    ]
    assert [entry.item_id for entry in found[1].request.history] == ["a", "b", "c", "of test", "and"]


def test_what_was_bought_last_is_not_known_before_it(settings: Settings) -> None:
    events = [click(event_time_ms=NOW_MS), purchase(event_time_ms=days_later(1))]
    sampling = Sampling(landmarks=0, at_events=0, before_last_item=True)
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=sampling, labelling=Labelling(returns="purchase", sight_days=0))

    (example,) = cut_dataset(logged(*events), settings, plan).examples

    assert (example.landmark_ms, example.observed_ms, example.absent_ms) == (NOW_MS, 0, None)


def test_the_looks_before_last_items_are_made_again_of_their_prefix(log: list[LoggedEvent], settings: Settings) -> None:
    first_ms = log[0].record_ms
    periods = tuple(periods_of(first_ms, [first_ms + days * DAY_MS for days in (20, 25, 30, 40)]))
    plan = Plan(periods=periods, sampling=Sampling(landmarks=0, at_events=0, before_last_item=True))
    found = cut_dataset(log, settings, plan).examples

    again = rebuild_examples(log, settings, found, periods=periods, labelling=plan.labelling, categories={}, seed=1)

    assert len(found) > 40
    assert again == {place: found[place] for place in again}


def test_users_that_match_no_pattern_are_left_out(settings: Settings) -> None:
    log = logged(*(visit(user_id=user, event_time_ms=NOW_MS) for user in ("shop-a-1", "shop-b-1", "shop-b-2")))
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=Sampling(users=("shop-a-*", "*-2")))

    found = cut_dataset(log, settings, plan).examples

    assert {example.request.user_id for example in found} == {"shop-a-1", "shop-b-2"}


def test_purchases_as_returns_are_counted_from_the_newest_purchase_seen(settings: Settings) -> None:
    events = [
        purchase(event_id="first", event_time_ms=NOW_MS),
        browse(event_id="look", event_time_ms=days_later(33)),
        browse(event_id="look again", event_time_ms=days_later(36)),
        purchase(event_id="second", event_time_ms=days_later(38)),
    ]
    sampling = Sampling(cuts_ms=(days_later(35),), landmarks=0, at_events=0)
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=sampling, labelling=Labelling(returns="purchase"))

    (example,) = cut_dataset(logged(*events), settings, plan).examples

    assert (example.since_ms, silent_ms(example)) == (NOW_MS, 35 * DAY_MS)
    assert (example.absent_ms, example.observed_ms) == (38 * DAY_MS, 40 * DAY_MS)


def test_purchases_are_counted_without_pure_returns_and_what_an_older_dataset_lacks_is_unknown(
    settings: Settings, tmp_path: Path
) -> None:
    back = [purchase_line(returned=True)]
    mixed = [purchase_line(unit_price=1.0), purchase_line(unit_price=9.0, returned=True)]
    events = [
        visit(event_time_ms=NOW_MS),
        purchase(event_id="returned before", event_time_ms=days_later(10), lines=back),
        purchase(event_id="first", event_time_ms=days_later(20)),
        purchase(event_id="mixed", event_time_ms=days_later(30), lines=mixed),
        purchase(event_id="same day", event_time_ms=days_later(30.25)),
        purchase(event_id="returned", event_time_ms=days_later(31), lines=back),
    ]
    sampling = Sampling(cuts_ms=(days_later(35),), landmarks=0, at_events=0)
    plan = Plan(periods=slices(1, 2, 3, 40), sampling=sampling)
    cut = cut_dataset(logged(*events), settings, plan)
    write_examples(tmp_path / "new", cut.examples, [], {})
    write_manifest(tmp_path / "new", manifest_of(plan, cut))

    (example,) = read_examples(tmp_path / "new")
    assert example == cut.examples[0]
    assert example.purchases == Purchases(3, days_later(20), days_later(30.25))

    old = tmp_path / "new" / "examples.parquet"
    kept = f"SELECT * EXCLUDE (purchases, first_purchase_ms, last_purchase_ms) FROM '{old}'"
    duckdb.sql(f"COPY ({kept}) TO '{old}.old' (FORMAT parquet)")
    Path(f"{old}.old").rename(old)
    assert read_examples(tmp_path / "new") == [msgspec.structs.replace(example, purchases=None)]


def test_where_no_event_has_a_category_each_item_of_the_train_slice_is_its_own(settings: Settings) -> None:
    def bought(item: str, day: float, category: str | None = None) -> Event:
        line = purchase_line(item_id=item, category=category, title=None)
        return purchase(user_id="u", event_id=f"{item}-{day}", event_time_ms=days_later(day), lines=[line])

    plan = Plan(periods=slices(20, 25, 30, 60), sampling=Sampling())
    bare = cut_dataset(logged(bought("lamp", 1), bought("rug", 5), bought("lamp", 32), bought("new", 33)), settings, plan)
    named = cut_dataset(logged(bought("lamp", 1), bought("rug", 5, "home"), bought("lamp", 32)), settings, plan)

    assert bare.categories == {"lamp": "lamp", "rug": "rug"}
    assert named.categories == {}
    assert {example.categories for example in bare.examples if example.landmark_ms < days_later(4)} == {("rug",)}


def test_events_that_no_role_folds_are_counted_by_reason(settings: Settings) -> None:
    foreign = [purchase(user_id="u", event_id=f"e{day}", event_time_ms=days_later(day), currency="XXX") for day in (1, 2)]
    seen = visit(user_id="u", event_time_ms=days_later(1))

    cut = cut_dataset(logged(seen, *foreign), settings, Plan(periods=slices(10, 20, 30, 40), sampling=Sampling()))

    assert cut.refused == {"unknown_currency": 2}


def test_titles_are_clustered_from_the_train_slice_alone(settings: Settings) -> None:
    titles = [f"{thing} {colour}" for colour in ("red", "blue", "green") for thing in ("big tea mug", "small table lamp")]
    events = [
        click(event_id=f"c-{n}", item_id=f"i-{n}", title=title, category=None, event_time_ms=NOW_MS + n)
        for n, title in enumerate(titles)
    ]
    later = click(event_id="later", item_id="i-new", title="yellow table lamp", category=None, event_time_ms=days_later(15))
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=Sampling(), cluster_categories=2)

    found = cut_dataset(logged(*events, later), settings, plan)

    mugs, lamps = ({found.categories[f"i-{n}"] for n in range(at, 6, 2)} for at in (0, 1))
    assert len(mugs) == len(lamps) == 1
    assert mugs != lamps
    assert found.categories["i-new"] in lamps
    assert "yellow" not in " ".join(found.categories.values())
    with pytest.raises(ValueError, match="give a smaller --cluster-categories"):
        cut_dataset(logged(*events), settings, msgspec.structs.replace(plan, cluster_categories=4))


def test_an_unused_kind_and_a_refused_record_make_no_example(settings: Settings) -> None:
    refused = LoggedEvent("visit", NOW_MS, b"u-9", b"{}")
    plan = Plan(periods=slices(10, 20, 30, 40), sampling=Sampling())

    assert {e.request.user_id for e in cut_dataset([refused, *logged(search())], settings, plan).examples} == {"u-1"}


def manifest_of(plan: Plan, cut: Cut) -> DatasetManifest:
    return DatasetManifest(
        source="a made shop",
        fingerprint=cut.fingerprint,
        spec_version=FEATURE_SPEC.version,
        feature_names=FEATURE_SPEC.names,
        periods=plan.periods,
        embargo_days=0,
        sampling=plan.sampling,
        labelling=plan.labelling,
        cluster_categories=0,
        horizons_days=(1, 30),
        counts={},
        reviews={},
    )


def test_what_is_written_is_read_again_bit_for_bit(cut: Cut, plan: Plan, tmp_path: Path) -> None:
    write_examples(tmp_path / "dataset", cut.examples, cut.reviews, {"i": "mugs"})
    with pytest.raises(DatasetError, match=r"has no dataset\.json"):
        read_examples(tmp_path / "dataset")
    write_manifest(tmp_path / "dataset", manifest_of(plan, cut))

    assert read_examples(tmp_path / "dataset") == cut.examples
    assert read_reviews(tmp_path / "dataset") == cut.reviews
    assert read_manifest(tmp_path / "dataset") == manifest_of(plan, cut)
    assert read_categories(tmp_path / "dataset") == {"i": "mugs"}
    wanted: list[Example] = [e for e in cut.examples if e.slice in (Slice.TRAIN, Slice.TEST)]
    assert read_examples(tmp_path / "dataset", (Slice.TRAIN, Slice.TEST)) == wanted
    with pytest.raises(DatasetError, match="is not an empty directory"):
        write_examples(tmp_path / "dataset", [], [], {})
