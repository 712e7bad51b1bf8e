"""The linter finds nothing in an honest dataset, and each planted leak by the name of its column."""

from collections.abc import Callable
from random import Random

import msgspec
import pytest
import xxhash

from models.data.examples import LANDMARK, Example, ReviewExample, Slice
from models.data.landmarks import Sampling, periods_of
from models.data.leakage import Verdict, lint
from models.features.spec import FEATURE_SPEC
from schemas.scoring import ScoreRequest
from schemas.time_units import DAY_MS, MINUTE_MS
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.build_dataset import Cut, Plan, cut_dataset
from stream.offline.dataset_prefix import rebuild_examples
from stream.offline.replay_log import Replay
from stream.process.settings import Settings, load_settings
from tests.builders import history_entry

COLUMN = "sessions.count.24h"
PLACE = FEATURE_SPEC.names.index(COLUMN)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(reporting_currency="GBP")


@pytest.fixture(scope="module")
def log() -> list[LoggedEvent]:
    return [event.logged for event in simulate(SimulatorConfig(seed=8, shoppers=70, days=60))]


@pytest.fixture(scope="module")
def plan(log: list[LoggedEvent]) -> Plan:
    first_ms = log[0].record_ms
    ends = [first_ms + days * DAY_MS for days in (30, 38, 46, 60)]
    return Plan(periods=tuple(periods_of(first_ms, ends, DAY_MS)), sampling=Sampling(landmarks=3, at_events=2))


@pytest.fixture(scope="module")
def cut(log: list[LoggedEvent], settings: Settings, plan: Plan) -> Cut:
    return cut_dataset(log, settings, plan)


@pytest.fixture(scope="module")
def again(log: list[LoggedEvent], settings: Settings, plan: Plan, cut: Cut) -> dict[int, Example | None]:
    return rebuild_examples(log, settings, cut.examples, periods=plan.periods, labelling=plan.labelling, categories={}, seed=1)


def searched(
    plan: Plan,
    examples: list[Example],
    reviews: list[ReviewExample] | None = None,
    again: dict[int, Example | None] | None = None,
) -> Verdict:
    return lint(examples, reviews or [], names=FEATURE_SPEC.names, periods=plan.periods, again=again)


def leaks(verdict: Verdict) -> set[tuple[str, str]]:
    return {(leak.check, leak.column) for leak in verdict.leaks}


def with_feature(examples: list[Example], value: Callable[[Example], float | None]) -> list[Example]:
    """Plant a feature: COLUMN becomes what `value` makes of each example."""
    return [changed(e, features=[*e.request.features[:PLACE], value(e), *e.request.features[PLACE + 1 :]]) for e in examples]


def changed(example: Example, **fields: object) -> Example:
    request: ScoreRequest = msgspec.structs.replace(example.request, **fields)
    return msgspec.structs.replace(example, request=request)


def test_an_honest_dataset_has_no_leak(plan: Plan, cut: Cut, again: dict[int, Example | None]) -> None:
    verdict = searched(plan, cut.examples, cut.reviews, again)

    assert verdict.leaks == ()
    assert verdict.searched == {
        "prefix": 64,
        "overlap": len(cut.examples),
        "identity": len(cut.examples),
        "split": len(cut.examples) + len(cut.reviews),
    }


def test_a_dataset_of_producers_whose_clocks_disagree_has_no_leak(
    log: list[LoggedEvent], settings: Settings, plan: Plan
) -> None:
    replay, random, recorded = Replay(settings, partitions=4), Random(5), list[LoggedEvent]()
    for event in log:
        record, ahead_ms = replay.number(event), random.choice((0, 6 * MINUTE_MS))
        place = {"partition": record.partition, "offset": 2 * record.offset}  # every other offset is a transaction marker
        recorded.append(msgspec.structs.replace(event, record_ms=event.record_ms + ahead_ms, **place))
    recorded.sort(key=lambda event: event.record_ms)

    cut = cut_dataset(recorded, settings, plan)
    again = rebuild_examples(
        recorded, settings, cut.examples, periods=plan.periods, labelling=plan.labelling, categories={}, seed=1, sample=500
    )

    assert searched(plan, cut.examples, cut.reviews, again).leaks == ()
    assert {example.request.due == LANDMARK for example in cut.examples} == {False, True}


def test_a_feature_that_counts_the_future_differs_from_what_a_prefix_gives(
    plan: Plan, cut: Cut, again: dict[int, Example | None]
) -> None:
    future = with_feature(cut.examples, lambda e: (e.request.features[PLACE] or 0) + len(e.items or ()))

    assert leaks(searched(plan, future, again=again)) == {("prefix", COLUMN)}


def test_a_history_and_a_label_from_beyond_differ_from_what_a_prefix_gives(
    plan: Plan, cut: Cut, again: dict[int, Example | None]
) -> None:
    beyond = [msgspec.structs.replace(example, items=("tomorrow",)) for example in cut.examples]
    later = [changed(e, history=[*e.request.history, history_entry(event_time_ms=e.landmark_ms + 1)]) for e in cut.examples]

    assert leaks(searched(plan, beyond, again=again)) == {("prefix", "items")}
    assert {("prefix", "request.history"), ("overlap", "history.event_time_ms")} <= leaks(searched(plan, later, again=again))


@pytest.mark.parametrize(
    "value",
    [
        lambda e: float(e.absent_ms is not None),
        lambda e: None if e.absent_ms is None else 1.0,
        lambda e: 1 / e.absent_ms if e.absent_ms else None,
        lambda e: e.absent_ms,
        lambda e: e.observed_ms,
    ],
    ids=["the label", "known where the label is", "monotone in the absence", "the absence", "the sight"],
)
def test_a_feature_that_is_or_orders_like_a_label_is_named(
    plan: Plan, cut: Cut, value: Callable[[Example], float | None]
) -> None:
    assert leaks(searched(plan, with_feature(cut.examples, value))) == {("overlap", COLUMN)}


@pytest.mark.parametrize(
    "value",
    [
        lambda e: float(xxhash.xxh32_intdigest(e.request.user_id.encode())),
        lambda e: float(e.request.user_id.rpartition("-")[2]) + 0.5,
    ],
    ids=["a hash of the user", "the number in the id"],
)
def test_a_column_that_names_the_user_is_named(plan: Plan, cut: Cut, value: Callable[[Example], float]) -> None:
    verdict = searched(plan, with_feature(cut.examples, value))

    assert leaks(verdict) == {("identity", COLUMN)}
    assert "from the same user's other examples" in verdict.leaks[0].detail


def test_a_test_example_copied_into_train_is_found(plan: Plan, cut: Cut) -> None:
    copied = next(example for example in cut.examples if example.slice == Slice.TEST)

    verdict = searched(plan, [*cut.examples, msgspec.structs.replace(copied, slice=Slice.TRAIN)])

    assert {("split", "request_id"), ("split", "landmark_ms")} <= leaks(verdict)
    assert any("are the same example in slices test and train" in leak.detail for leak in verdict.leaks)


def test_a_label_that_reaches_across_the_split_is_found(plan: Plan, cut: Cut) -> None:
    def reaching(example: Example) -> Example:
        end_ms = next(period.end_ms for period in plan.periods if period.slice == example.slice)
        since_ms = example.since_ms or 0
        return msgspec.structs.replace(
            example, absent_ms=end_ms - since_ms + DAY_MS, observed_ms=end_ms - since_ms + 2 * DAY_MS
        )

    far = [reaching(e) if e.slice == Slice.TRAIN else e for e in cut.examples[:40] + cut.examples[-40:]]

    assert {("split", "absent_ms"), ("split", "observed_ms")} <= leaks(searched(plan, far))


def test_a_return_before_the_landmark_is_found(plan: Plan, cut: Cut) -> None:
    silent = next(example for example in cut.examples if example.since_ms and example.landmark_ms > example.since_ms + 1)

    assert leaks(searched(plan, [msgspec.structs.replace(silent, absent_ms=1)])) == {("split", "absent_ms")}


def test_an_example_in_an_embargo_is_found(plan: Plan, cut: Cut) -> None:
    example = next(example for example in cut.examples if example.slice == Slice.TRAIN)
    moved = msgspec.structs.replace(example, landmark_ms=plan.periods[0].end_ms + 1, absent_ms=None)

    assert leaks(searched(plan, [moved])) == {("split", "landmark_ms")}


def written(slice_: Slice, text: str, at_ms: int) -> ReviewExample:
    return ReviewExample(text=text, slice=slice_, user_id="u-1", event_time_ms=at_ms, language="en")


def test_a_review_text_in_two_slices_and_a_review_out_of_its_time_are_found(plan: Plan) -> None:
    train, test = plan.periods[0], plan.periods[-1]
    reviews = [written(Slice.TRAIN, "A lovely mug.", train.start_ms), written(Slice.TEST, "a lovely  MUG.", test.start_ms)]
    early = [written(Slice.TEST, "Broken.", train.start_ms)]

    assert leaks(searched(plan, [], reviews)) == {("split", "text")}
    assert leaks(searched(plan, [], early)) == {("split", "event_time_ms")}


def test_the_order_of_examples_changes_nothing(plan: Plan, cut: Cut) -> None:
    assert searched(plan, cut.examples[::-1]).leaks == ()
