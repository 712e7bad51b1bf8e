"""Answer requests of several feature specs: by name, in order per partition, and while other partitions go on."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from models.features.spec import FEATURE_SPEC, Feature, make_spec
from schemas.codec import decode, encode
from schemas.scoring import ScoreRequest
from schemas.signals import Interest
from stream.fold.records import RESENT, PartitionTotals
from stream.kafka.alignment import TopicPartition
from stream.kafka.barrier import Outbox
from stream.offline.replay_log import LogRecord
from stream.process.settings import load_settings
from stream.worker.feature_specs import FeatureSpecs
from stream.worker.score_requests import RequestScorer
from tests.builders import NOW_MS, score_request, source_position
from tests.fakes import FakeProducer

TPS = [TopicPartition("requests", partition) for partition in range(2)]
NAMES = {kind: kind for kind in ("interest", "churn-risk", "score-request.dlq")}
NEWER = make_spec((Feature("new.count.7d", "events", "7d"), *FEATURE_SPEC.features))
CHANGED = make_spec((replace(FEATURE_SPEC.features[0], unit="dozens"), *FEATURE_SPEC.features[1:]))


class Model:
    """A model that reads the features of a spec and records the vectors that it was given."""

    horizons_days, churn_days = (30,), 30

    def __init__(self, spec: Any, version: str = "m-1") -> None:
        self.spec_version, self.features, self.model_version = spec.version, spec.references, version
        self.vectors: list[list[float | None]] = []

    def score(self, requests: Sequence[ScoreRequest]) -> list[Any]:
        self.vectors += [request.features for request in requests]
        assert {request.spec_version for request in requests} == {self.spec_version}
        return [SimpleNamespace(interests=[("kitchen", 0.5)], survival=[0.25], sentiment=None, unread=None) for _ in requests]


class Bench:
    """A RequestScorer with its models and calls; `published` are the specs that its topic has."""

    def __init__(self, *models: Any, published: Sequence[Any] = ()) -> None:
        self.models, self.calls, self.on_hold, self.generation = list(models), list[tuple[Any, ...]](), set[Any](), 1
        self.specs = FeatureSpecs(load_settings())
        self.published = list(published)
        self.specs.learn = self.learn  # type: ignore[method-assign]
        self.totals = PartitionTotals()
        self.requests = RequestScorer(
            model=SimpleNamespace(scorers=lambda: self.models, unread=Counter()),  # type: ignore[arg-type]
            specs=self.specs,
            outbox=Outbox(FakeProducer(self.calls), NAMES),  # type: ignore[arg-type]
            totals=self.totals,
            generation=lambda: self.generation,
            acknowledge=lambda ends, generation: self.calls.append(("ack", ends, generation)),
            hold=lambda tps: self.on_hold.clear() or self.on_hold.update(tps),  # type: ignore[func-returns-value]
            check_topics=self.learn,
        )

    async def learn(self) -> None:
        self.specs.known |= {spec.version: spec.references for spec in self.published}

    async def answer(self, *specs: Any, partition: int = 0, first: int = 0) -> Any:
        """Answer one chunk: a request per spec, or a broken record for None, from an offset on."""
        records = [record(partition, first + n, spec) for n, spec in enumerate(specs)]
        return await self.requests.answer(records, {TPS[partition]: first + len(records)})


def record(partition: int, offset: int, spec: Any, headers: tuple[tuple[str, bytes], ...] = ()) -> LogRecord:
    made = score_request(source=source_position(partition=partition, offset=offset))
    if spec is not None:
        made = replace(made, spec_version=spec.version, features=[float(n) for n in range(len(spec.names))])
    return LogRecord("requests", partition, offset, NOW_MS, b"u-1", b"{}" if spec is None else encode(made), headers)


async def test_a_spec_that_only_adds_features_is_read_by_their_names() -> None:
    model = Model(FEATURE_SPEC)
    bench = Bench(model, published=[NEWER])
    await bench.learn()

    _, ends = await bench.answer(NEWER, FEATURE_SPEC)

    width = len(FEATURE_SPEC.names)
    assert model.vectors == [[n + 1.0 for n in range(width)], [float(n) for n in range(width)]]
    assert (ends, bench.totals.events.applied) == (None, 2)


async def test_an_unpublished_spec_holds_its_partition_from_there_on_and_the_other_goes_on() -> None:
    bench = Bench(Model(FEATURE_SPEC))

    _, ends = await bench.answer(FEATURE_SPEC, NEWER, None, FEATURE_SPEC)
    _, other = await bench.answer(FEATURE_SPEC, FEATURE_SPEC, partition=1)

    assert (ends, other) == ({TPS[0]: 1}, {TPS[1]: 2})
    assert bench.on_hold == {TPS[0]}
    assert (bench.totals.events.applied, bench.totals.events.dead_lettered) == (3, 1), "a dead letter waits in its place too"
    assert not [call for call in bench.calls if "score-request.dlq" in call]
    unread = f"3 requests of 1 partitions wait: model m-1 does not read feature spec {NEWER.version}, "
    assert bench.requests.waiting().startswith(f"{unread}whose features are not published")

    bench.published = [NEWER]
    await bench.requests._retry_once()

    assert (bench.totals.events.applied, bench.requests.held, bench.on_hold) == (5, {}, set())
    assert [call for call in bench.calls if call[0] == "ack"] == [("ack", {TPS[0]: 4}, 1)]
    assert bench.requests.waiting() == ""


async def test_a_request_that_lacks_a_feature_waits_and_is_answered_in_order_by_the_model_of_its_spec() -> None:
    new, old = Model(NEWER, "new"), Model(FEATURE_SPEC, "old")
    bench = Bench(new, published=[NEWER])

    _, ends = await bench.answer(NEWER, FEATURE_SPEC, NEWER)
    _, later = await bench.answer(NEWER, first=3)
    assert (ends, later) == ({TPS[0]: 1}, {})
    assert "which lacks new.count.7d; upgrade role features" in bench.requests.waiting()

    bench.models.append(old)
    await bench.requests._retry_once()

    assert (len(new.vectors), len(old.vectors)) == (3, 1)
    assert [call for call in bench.calls if call[0] == "ack"] == [("ack", {TPS[0]: 4}, 1)]


async def test_a_feature_whose_definition_changed_is_not_read_under_its_name() -> None:
    bench = Bench(Model(FEATURE_SPEC), published=[CHANGED])

    await bench.answer(CHANGED)

    assert bench.requests.held
    await bench.requests._retry_once()
    assert f"which lacks {FEATURE_SPEC.names[0]};" in bench.requests.waiting()


async def test_what_is_held_is_forgotten_after_a_rebalance_because_it_comes_again() -> None:
    bench = Bench(Model(FEATURE_SPEC))
    await bench.answer(NEWER)

    bench.generation, bench.published = 2, [NEWER]
    await bench.requests._retry_once()

    assert (bench.requests.held, bench.totals.events.applied) == ({}, 0)
    assert not [call for call in bench.calls if call[0] == "ack"]


async def test_signals_of_a_request_sent_again_say_so() -> None:
    bench = Bench(Model(FEATURE_SPEC))

    sent, _ = await bench.requests.answer([record(0, 0, FEATURE_SPEC, ((RESENT, b"1"),))], {TPS[0]: 1})

    assert [decode(Interest, encode(output.message)).resent for output in sent if output.kind == "interest"] == [True]
