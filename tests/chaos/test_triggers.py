"""Kill the triggers role inside its transactions: a read_committed subscriber gets each decision exactly once."""

from collections import Counter

import pytest

from schemas.codec import decode, encode
from schemas.signals import AdTrigger, Suppression
from schemas.time_units import HOUR_MS
from stream.fold.records import PartitionTotals
from stream.kafka.clients import output_producer
from stream.roles.build import triggers_fold
from stream.roles.trigger_row import encode_trigger_row
from tests.builders import NOW_MS, churn_risk, interest, interest_score, source_position
from tests.chaos.scene import Scene
from tests.harness import until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
POINTS = ("P2.sent:3", "P2.offsets:3", "P2.committed:3")
USERS, SIGNALS = 200, 1500


async def test_triggers_killed_in_their_transactions_are_sent_once_and_caps_hold(scene: Scene) -> None:
    number = 0
    for point in POINTS:
        await publish_signals(scene, number, number + SIGNALS)
        number += SIGNALS
        worker = scene.start(f"kill@{point}", role="triggers")
        await scene.fires(worker)
    last = scene.start(role="triggers")
    await publish_signals(scene, number, number + SIGNALS)

    async def done() -> bool:
        return not await scene.deployment.lag("triggers", ("interest", "churn-risk"))

    await until("no lag", done, seconds=30, worker=last)
    assert last.stop() == 0
    scene.report.events += number + SIGNALS

    expected, rows = await decided(scene)
    fired = await scene.deployment.read(scene.deployment.topic("ad-trigger"))
    refused = await scene.deployment.read(scene.deployment.topic("suppression"))
    found = Counter(decode(AdTrigger, record.value).trigger_id for record in fired)
    found.update(decode(Suppression, record.value).suppression_id for record in refused)
    assert found == expected
    assert set(found.values()) == {1}
    assert len(fired) >= USERS
    assert refused
    assert (await scene.deployment.committed("triggers"))[0] == rows


async def publish_signals(scene: Scene, first: int, last: int) -> None:
    """Publish signals of all users in turn, hours apart, so that some fire and some are suppressed."""
    replay = scene.deployment.replay()
    producer = output_producer(scene.deployment.settings)
    await producer.start()
    try:
        for number in range(first, last):
            user, at = f"u-{number % USERS}", NOW_MS + number // USERS * 5 * HOUR_MS
            source = source_position(offset=number, timestamp_ms=at)
            fields = {"signal_id": f"signal-{number}", "user_id": user, "event_time_ms": at, "source": source}
            risk = number % 3 == 0
            signal = churn_risk(**fields, probability=0.99) if risk else interest(**fields, interests=[sure()])
            await producer.send(
                scene.deployment.topic("churn-risk" if risk else "interest"),
                encode(signal),
                key=user.encode(),
                partition=replay.partition_of(user.encode()),
                timestamp_ms=at,
            )
        await producer.flush()
    finally:
        await producer.stop()


def sure() -> object:
    return interest_score(probability=0.99)


async def decided(scene: Scene) -> tuple[Counter[str], dict[bytes, bytes]]:
    """Fold the signals in their topics in event-time order, and return decision ids and rows."""
    fold = triggers_fold(scene.deployment.settings, scene.deployment.partitions)
    ids, rows = Counter[str](), dict[bytes, object]()
    records = [
        (record.timestamp, rank, record.offset, record)
        for rank, kind in enumerate(("interest", "churn-risk"))
        for record in await scene.deployment.read(scene.deployment.topic(kind))
    ]
    for *_, record in sorted(records, key=lambda entry: entry[:3]):
        for output in fold.fold(rows, PartitionTotals(), [record], 0).with_rows:  # type: ignore[arg-type]
            decision = output.message
            ids[decision.trigger_id if isinstance(decision, AdTrigger) else decision.suppression_id] += 1  # type: ignore[attr-defined]
    return ids, {key: encode_trigger_row(row) for key, row in rows.items()}  # type: ignore[arg-type]
