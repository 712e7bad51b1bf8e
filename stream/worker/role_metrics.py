"""Define every metric of /metrics with name, help and labels, and read its value from the running app on each scrape.

Metrics add no work per record: the app keeps their values for other reasons, or per chunk, flush or dead letter. Start at
role_metrics.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from schemas.signals import Unread
from stream.kafka.barrier import lag_of

OUTCOMES = {
    "in": "events_in",
    "applied": "applied",
    "replay_skipped": "replay_skipped",
    "dead_lettered": "dead_lettered",
    "late_dropped": "late_dropped",
    "duplicate_dropped": "duplicate_dropped",
}


def role_metrics(app: Any, *, ready: bool) -> Iterator[Metric]:
    """Yield all metrics of a running app; `ready` is the result of /readyz."""
    totals = app.totals()
    records = CounterMetricFamily("footfall_records", "Records by outcome, over all owned partitions", labels=["outcome"])
    for outcome, name in OUTCOMES.items():
        records.add_metric([outcome], getattr(totals.events, name))
    yield records
    feedback = CounterMetricFamily("footfall_feedback", "Review sentiments folded as feedback, by outcome", labels=["outcome"])
    for outcome, name in OUTCOMES.items():
        feedback.add_metric([outcome], getattr(totals.feedback, name))
    yield feedback
    outputs = CounterMetricFamily("footfall_outputs", "Messages sent, by kind", labels=["kind"])
    for kind, count in totals.outputs.items():
        outputs.add_metric([kind], count)
    yield outputs
    yield CounterMetricFamily("footfall_lost_records", "Records that retention deleted before they were read", totals.lost)
    lag = GaugeMetricFamily(
        "footfall_consumer_lag_records", "Records not yet durable in this worker", labels=["topic", "partition"]
    )
    for (topic, partition), count in lag_of(app.consumer, app.alignment).items():
        lag.add_metric([topic, str(partition)], count)
    yield lag
    yield GaugeMetricFamily(
        "footfall_unread_partitions", "Assigned partitions that are not being read", value=len(app.unread_partitions())
    )
    ahead = app.outbox.skew.seconds
    yield GaugeMetricFamily(
        "footfall_broker_clock_ahead_seconds",
        "Seconds by which the broker's clock is ahead of this worker's; NaN until something was sent",
        value=float("nan") if ahead is None else ahead,
    )
    if app.barrier is not None:
        barrier = app.barrier
        yield SummaryMetricFamily(
            "footfall_barrier_seconds", "Duration of a barrier, from encoded rows to commit", barrier.flushes, barrier.seconds
        )
        yield CounterMetricFamily("footfall_rows_written", "Changelog rows written", value=barrier.rows_written)
        yield CounterMetricFamily("footfall_row_bytes_written", "Bytes of changelog rows written", value=barrier.bytes_written)
        yield GaugeMetricFamily("footfall_users", "Users with a row", value=sum(len(p.rows) for p in app.store.owned.values()))
        yield GaugeMetricFamily(
            "footfall_users_decoded", "Users with a decoded row", value=sum(p.rows.decoded for p in app.store.owned.values())
        )
        standbys = app.store.standbys
        held = {} if standbys is None else standbys.held
        yield GaugeMetricFamily(
            "footfall_standby_partitions", "Partitions that this worker follows as a standby", value=len(held)
        )
        yield GaugeMetricFamily(
            "footfall_standby_users", "Users with a row in a standby", value=sum(len(standby.rows) for standby in held.values())
        )
        yield GaugeMetricFamily(
            "footfall_standby_lag_records",
            "Changelog offsets that standbys have not read",
            value=standbys.lag() if standbys else 0,
        )
        progress = app.store.progress
        yield GaugeMetricFamily("footfall_restored_rows", "Rows read in the last restore", value=progress.rows)
        yield GaugeMetricFamily("footfall_restore_seconds", "Duration of the last restore", value=progress.seconds)
    if app.model is not None:
        yield from model_metrics(app.model)
        waiting = sum(map(len, app.requests.held.values()))
        yield GaugeMetricFamily("footfall_held_requests", "Requests that wait for a model that reads their features", waiting)
    skew = GaugeMetricFamily(
        "footfall_alignment_skew_seconds",
        "Time by which a topic's newest fetched record is behind the newest in its partition",
        labels=["topic"],
    )
    for topic, behind_ms in app.alignment.skew_ms().items():
        skew.add_metric([topic], behind_ms / 1000)
    yield skew
    held = GaugeMetricFamily(
        "footfall_alignment_held_records", "Fetched records that wait for earlier records of other topics", labels=["topic"]
    )
    for topic, count in app.alignment.held().items():
        held.add_metric([topic], count)
    yield held
    yield CounterMetricFamily(
        "footfall_alignment_unreachable",
        "Times that the others stopped waiting for an unreachable partition",
        value=app.alignment.unreachable,
    )
    yield CounterMetricFamily("footfall_chunks", "Chunks released to the role", value=app.alignment.chunks)
    letters = CounterMetricFamily(
        "footfall_dead_letters",
        "Dead letters since process start, by source topic and reason",
        labels=["topic", "reason"],
    )
    for (topic, reason), count in app.limit.letters.items():
        letters.add_metric([topic, reason], count)
    yield letters
    misplaced = CounterMetricFamily(
        "footfall_misplaced_keys",
        "Records whose key belongs to another partition, found where a user's row or part of it begins, since process start",
        labels=["topic"],
    )
    for topic, count in app.misplaced.found.items():
        misplaced.add_metric([topic], count)
    yield misplaced
    yield GaugeMetricFamily("footfall_paused", "1 while the role is paused", value=float(bool(app.limit.paused)))
    yield GaugeMetricFamily("footfall_ready", "1 when /readyz answers 200", value=float(ready))


def model_metrics(model: Any) -> Iterator[Metric]:
    """Yield the model that role scorer uses, and the outcomes of promotions since."""
    scorer = model.scorer
    facts = {"version": scorer.model_version, "spec": scorer.spec_version, "encoder": scorer.encoder.short_id}
    yield InfoMetricFamily("footfall_model", "The model in use", value=facts)
    reloads = CounterMetricFamily(
        "footfall_model_reloads", "Promoted models by outcome: loaded by the running role, or refused", labels=["outcome"]
    )
    reloads.add_metric(["loaded"], model.loaded)
    reloads.add_metric(["refused"], model.refused)
    yield reloads
    unread = CounterMetricFamily(
        "footfall_unread_reviews", "Reviews that the model cannot read, whose sentiment is null, by reason", labels=["reason"]
    )
    for reason in Unread:
        unread.add_metric([reason.value], model.unread[reason])
    yield unread
    yield GaugeMetricFamily("footfall_encoder_cached_texts", "Texts with a cached vector", value=scorer.encoder.cached_texts)
