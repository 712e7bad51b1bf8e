"""What a role answers at /readyz and /metrics while its broker, or its own start, keeps it waiting."""

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from faust.exceptions import ConsumerNotStarted

from stream.kafka.barrier import lag_of
from stream.kafka.transport import Consumer
from stream.process.settings import load_settings
from stream.worker.build_app import build_app
from stream.worker.health import Health


def role(
    *,
    answered_ago: float | None = 0.1,
    flushing_for: float | None = None,
    missing: Sequence[str] = (),
    unread_for: float = 0.0,
    held: str = "",
) -> Any:
    """A role that has joined: its broker answered so many seconds ago, a flush is on its way for so many seconds."""
    now = time.monotonic()
    coordinator = SimpleNamespace() if answered_ago is None else SimpleNamespace(answered_at=now - answered_ago)
    consumer = SimpleNamespace(_thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator)))
    return SimpleNamespace(
        rebalancing=False,
        store=None,
        tables=SimpleNamespace(actives_ready=True),
        consumer=SimpleNamespace(silent_seconds=lambda: Consumer.silent_seconds(consumer)),  # type: ignore[arg-type]
        barrier=SimpleNamespace(flushing_since=None if flushing_for is None else now - flushing_for),
        limit=SimpleNamespace(paused=""),
        requests=None if not held else SimpleNamespace(waiting=lambda: held),
        watch=SimpleNamespace(missing=frozenset(missing)),
        unread_partitions=lambda: {("clicks", 0): unread_for} if unread_for else {},
    )


def not_ready(app: Any) -> list[str]:
    health = Health("features")
    health.app = app
    return [reason.partition(":")[0] for reason in health.not_ready()]


@pytest.mark.parametrize("state", [{}, {"answered_ago": 1.0, "flushing_for": 1.0}, {"answered_ago": None}])
def test_a_role_whose_broker_answers_is_ready(state: dict[str, Any]) -> None:
    assert not_ready(role(**state)) == []


def test_a_role_whose_broker_has_answered_no_heartbeat_for_long_is_not_ready() -> None:
    assert not_ready(role(answered_ago=6.0)) == ["broker"]


def test_a_role_whose_topic_was_deleted_or_whose_partition_is_not_read_is_not_ready() -> None:
    assert not_ready(role(missing=["clicks"])) == ["topics"]
    assert not_ready(role(unread_for=11.0)) == ["unread"]


def test_a_scorer_whose_requests_wait_for_a_model_is_not_ready() -> None:
    assert not_ready(role(held="2 requests wait")) == ["held"]


def test_a_role_whose_rows_have_waited_for_the_broker_for_long_is_not_ready() -> None:
    assert not_ready(role(flushing_for=6.0)) == ["flush"]


async def test_before_its_consumer_has_started_a_role_has_no_lag_instead_of_an_error() -> None:
    app = build_app(load_settings(), "features", partitions=4)
    with pytest.raises(ConsumerNotStarted):
        app.consumer.assignment()

    assert lag_of(app.consumer, app.alignment) == {}
    await app.outbox_producer.stop()
