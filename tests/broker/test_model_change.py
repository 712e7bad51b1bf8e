"""Promote models while a scorer runs: every request is answered once, by the model loaded at that time."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.features.spec import FEATURE_SPEC
from models.serving.checkpoint import WEIGHTS
from models.serving.registry import PRODUCTION, Change, Production, Registry
from schemas.codec import decode, encode
from schemas.signals import ChurnRisk, Interest
from stream.demo.local_broker import LocalBroker
from stream.fold.partitioner import partition_of
from stream.kafka.clients import output_producer
from stream.kafka.topic_admin import apply
from tests.builders import score_request, source_position
from tests.checkpoints import flip_a_byte, tiny_checkpoint
from tests.harness import Deployment, Worker, until

pytestmark = pytest.mark.broker
PARTITIONS = 4


def added(registry: Registry, seed: int) -> str:
    folder = registry.folder.parent / f"trained-{seed}"
    tiny_checkpoint(folder, seed=seed)
    return registry.add(folder)


def promote_broken(registry: Registry, version: str) -> None:
    """Promote a model whose files changed after it was added, which no footfall command would do."""
    flip_a_byte(registry.checkpoint(version) / WEIGHTS)
    production = registry.production()
    assert production is not None
    change = Change(action="promote", model_version=version, at="", command="by hand")
    written = Production(format_version=1, current=version, history=[*production.history, change])
    partial = registry.folder / "by-hand"
    partial.write_bytes(msgspec.json.encode(written))
    partial.replace(registry.folder / PRODUCTION)


async def send(deployment: Deployment, stop: asyncio.Event) -> int:
    """Send about 300 score requests per second until `stop` is set; return how many."""
    producer, count = output_producer(deployment.settings), 0
    await producer.start()
    try:
        while not stop.is_set():
            user = f"u-{count % 50}"
            partition = partition_of(user.encode(), PARTITIONS, "murmur2")
            request = score_request(
                request_id=f"request-{count}",
                event_id=f"event-{count}",
                user_id=user,
                spec_version=FEATURE_SPEC.version,
                features=[None] * len(FEATURE_SPEC.names),
                source=source_position(partition=partition),
            )
            topic, key = deployment.topic("score-request"), user.encode()
            sent = await producer.send(topic, encode(request), key=key, partition=partition)
            count += 1
            if count % 30 == 0:
                await asyncio.gather(sent, asyncio.sleep(0.1))
    finally:
        await producer.stop()
    return count


def reloads(worker: Worker, outcome: str) -> float:
    return worker.metric(f'footfall_model_reloads_total{{outcome="{outcome}"}}')


async def applied(worker: Worker, more_than: float) -> None:
    await until("more is scored", lambda: scored(worker) > more_than, seconds=30, worker=worker)


def scored(worker: Worker) -> float:
    return worker.metric('footfall_records_total{outcome="applied"}')


def by_request(records: list[Any], kind: Any) -> dict[str, list[str]]:
    """Return the model version of every signal by its request id, in partition order."""
    models: dict[str, list[str]] = {}
    for record in sorted(records, key=lambda record: (record.partition, record.offset)):
        signal = decode(kind, record.value)
        models.setdefault(signal.request_id, []).append(signal.model_version)
    return models


async def test_each_request_is_answered_once_while_models_change_or_fail_to_load(broker: LocalBroker, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    one, two, broken = (added(registry, seed) for seed in (1, 2, 3))
    registry.promote(one, at="", command="")
    deployment = Deployment(broker.bootstrap_servers, tmp_path, transactions=False, checkpoint=str(registry.folder))
    await apply(deployment.settings)
    stop = asyncio.Event()
    try:
        scorer = deployment.start("scorer")
        await until("the scorer is ready", scorer.ready, seconds=60, worker=scorer)
        sending = asyncio.create_task(send(deployment, stop))
        await applied(scorer, 200)
        registry.promote(two, at="", command="")
        await until("the second model serves", lambda: reloads(scorer, "loaded") == 1, seconds=60, worker=scorer)
        await applied(scorer, scored(scorer) + 200)
        promote_broken(registry, broken)
        await until("the broken model is refused", lambda: reloads(scorer, "refused") == 1, seconds=60, worker=scorer)
        assert scorer.ready()
        await applied(scorer, scored(scorer) + 200)
        stop.set()
        count = await sending
        await until("all is scored", lambda: scored(scorer) == count, seconds=60, worker=scorer)
        assert f'version="{two}"' in scorer.get("/metrics")[1]
        assert scorer.stop() == 0
        answers = {kind: await deployment.read(deployment.topic(kind)) for kind in ("interest", "churn-risk")}
    finally:
        stop.set()
        deployment.stop()

    for kind, struct in (("interest", Interest), ("churn-risk", ChurnRisk)):
        models = by_request(answers[kind], struct)
        assert models.keys() == {f"request-{number}" for number in range(count)}
        assert Counter(len(found) for found in models.values()) == {1: count}
        assert {found for (found,) in models.values()} == {one, two}
        for partition in range(PARTITIONS):
            ours = [record for record in answers[kind] if record.partition == partition]
            order = [found for (found,) in by_request(ours, struct).values()]
            assert order == sorted(order, key=[one, two].index)  # the second from some point onwards
    assert "model_refused" in scorer.log.read_text() and "model_changed" in scorer.log.read_text()
