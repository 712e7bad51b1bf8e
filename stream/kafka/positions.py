"""Check the offsets committed with the rows against the source topics and the consumer group, before reading resumes.

A worker that takes over partitions starts only if rows, topics and group agree on where reading resumes. Otherwise
events would silently be lost or counted twice; the error text names a remedy. Start at check_sources and resume_positions.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import structlog
from aiokafka import TopicPartition

from schemas.errors import StartRefused
from stream.kafka.clients import plain_consumer
from stream.kafka.store import Partition
from stream.kafka.topic_watch import recreated
from stream.process.settings import Settings

PROBE_SECONDS = 10.0
STABLE_SECONDS, RETRY_SECONDS = 5.0, 0.05  # how long to wait until offsets of an ended transaction are readable
PROBE_BYTES = 1 << 16  # one batch per partition: with more, other partitions of the response would be empty

LastRecord = tuple[int, int | None]  # the offset after the record last folded, and its timestamp in ms, if known

log = structlog.get_logger()


def check_partition_count(partition: Partition, partitions: int) -> None:
    """Refuse rows that were folded from topics with another partition count: keys now map to other partitions.

    Raises:
        StartRefused: the counts differ.
    """
    if partition.partitions not in (0, partitions):
        raise StartRefused(
            f"found rows of partition {partition.number} folded from {partition.partitions} partitions, the topics have "
            f"{partitions}: keys now map to other partitions; use topics with {partition.partitions} partitions, or set "
            "another app_id and send the records again"
        )


def check_topic_ids(partition: Partition, ids: Mapping[str, str], role: str) -> None:
    """Refuse rows that were folded from a topic that was deleted and created again since; remember the ids of the others.

    Raises:
        StartRefused: a topic has another id.
    """
    for topic, topic_id in ids.items():
        known = partition.topic_ids.get(topic)
        if known and topic_id and known != topic_id and topic in partition.offsets:
            raise StartRefused(recreated(topic, topic_id, known, reset_hint(role)))
    partition.topic_ids = {**partition.topic_ids, **{topic: topic_id for topic, topic_id in ids.items() if topic_id}}


async def check_sources(settings: Settings, role: str, owned: Sequence[Partition], topics: Collection[str]) -> None:
    """Check the offsets committed with the rows against the source topics; count lost records if a setting permits it.

    Raises:
        StartRefused: a topic ends before that offset, has another record at the last one, or its retention deleted
            records that were never read.
    """
    partitions = {p.number: p for p in owned}
    last = {tp: at for p in owned for tp, at in last_folded(p).items() if tp.topic in topics}
    for tp, begin in (await check_last_records(settings, role, last)).items():
        offset, _ = last[tp]
        if begin > offset:
            _count_lost(settings, partitions[tp.partition], tp, offset, begin)


def last_folded(partition: Partition) -> dict[TopicPartition, LastRecord]:
    """Return the last record folded from each topic of a partition."""
    return {
        TopicPartition(topic, partition.number): (offset, partition.times.get(topic))
        for topic, offset in partition.offsets.items()
    }


async def check_last_records(
    settings: Settings, role: str, last: Mapping[TopicPartition, LastRecord]
) -> Mapping[TopicPartition, int]:
    """Check that the records folded last are still in their topics, unless retention deleted them.

    Return the first offset of each partition.

    Raises:
        StartRefused: a topic ends before such a record, or has another record at its offset.
    """
    if not last:
        return {}
    consumer = plain_consumer(settings, max_partition_fetch_bytes=PROBE_BYTES)
    await consumer.start()
    try:
        begin, end = await consumer.beginning_offsets(list(last)), await consumer.end_offsets(list(last))
        for tp, (offset, _) in last.items():
            if end[tp] < offset:
                raise StartRefused(
                    f"found end offset {end[tp]} in {tp.topic}/{tp.partition}, expected at least {offset}, the offset "
                    f"after the record last folded: the topic was recreated or truncated; {reset_hint(role)}"
                )
        places = {tp: offset - 1 for tp, (offset, _) in last.items() if begin[tp] < offset}
        for tp, found_ms in (await _times_at(consumer, places)).items():
            expected_ms = last[tp][1]
            if expected_ms is not None and found_ms != expected_ms:
                raise StartRefused(
                    f"found timestamp {found_ms} ms at {tp.topic}/{tp.partition}@{places[tp]}, expected {expected_ms} ms, the "
                    f"timestamp of the record last folded: the topic was recreated; {reset_hint(role)}"
                )
        return dict(begin)
    finally:
        await consumer.stop()


async def stable_group_offsets(
    fetch_committed: Callable[[], Awaitable[Mapping[TopicPartition, int | None]]], owned: Mapping[int, Partition]
) -> Mapping[TopicPartition, int | None]:
    """Fetch the group's offsets until none is behind the rows, for at most STABLE_SECONDS, and return them.

    The broker acknowledges a commit before its offsets are readable, while a worker that keeps a partition already has the
    newer rows.
    """
    deadline = time.monotonic() + STABLE_SECONDS
    while True:
        committed = await fetch_committed()
        behind = [
            tp
            for tp, group_offset in committed.items()
            if group_offset is not None
            and tp.partition in owned
            and group_offset < (_committed_offset(owned[tp.partition], tp.topic) or 0)
        ]
        if not behind or time.monotonic() > deadline:
            return committed
        await asyncio.sleep(RETRY_SECONDS)


def resume_positions(
    settings: Settings, role: str, committed: Mapping[TopicPartition, int | None], owned: Mapping[int, Partition]
) -> dict[TopicPartition, int | None]:
    """Return the offset to resume from by source partition: the one committed with its rows, or None for the beginning.

    The group's offset is only a copy for tools. The partition's next commit writes it again where it is missing or behind.

    Raises:
        StartRefused: the group's offset is ahead of the rows, so someone moved it; or it exists, but the rows do not.
    """
    group, positions = settings.group(role), dict[TopicPartition, int | None]()
    for tp, group_offset in committed.items():
        if tp.partition not in owned:
            continue  # assigned by the next generation; its restore has not run yet
        partition = owned[tp.partition]
        rows = partition.offsets.get(tp.topic)
        copied = _committed_offset(partition, tp.topic)
        if group_offset is not None and copied is not None and group_offset < copied:
            log.warning(
                "group_offset_behind_rows",
                topic=tp.topic,
                partition=tp.partition,
                group_offset=group_offset,
                row_offset=rows,
                action="reading resumes at the offset of the rows, so no record is folded twice",
            )
        elif group_offset is not None and group_offset != copied and not settings.ignore_group_offsets:
            found = f"found offset {group_offset} committed by group {group} for {tp.topic}/{tp.partition}, "
            if rows is None:
                raise StartRefused(
                    f"{found}expected rows committed with it: the changelog {settings.changelog(role)} was deleted or "
                    f"emptied; {reset_hint(role)}"
                )
            raise StartRefused(
                f"{found}expected {rows}, the offset committed with the rows: someone moved the group's offsets; start once "
                f"with ignore_group_offsets=true to resume from the rows, or {reset_hint(role)}"
            )
        positions[tp] = rows
    return positions


def _committed_offset(partition: Partition, topic: str) -> int | None:
    """Return the offset committed to the group with the rows: the rows' offset without lost records skipped since."""
    rows = partition.offsets.get(topic)
    return None if rows is None else rows - partition.skipped.get(topic, 0)


def reset_hint(role: str) -> str:
    """Say how to go on with a topic that does not continue the rows."""
    return f"to rebuild from the retained records, run `footfall state reset {role}`"


def _count_lost(settings: Settings, partition: Partition, tp: TopicPartition, offset: int, begin: int) -> None:
    lost = begin - offset
    if not settings.accept_lost_records:
        raise StartRefused(
            f"found first offset {begin} in {tp.topic}/{tp.partition}, expected at most {offset}, the offset committed "
            f"with the rows: retention deleted {lost} unread records; start once with accept_lost_records=true to count them "
            "as lost"
        )
    log.error(
        "records_lost",
        topic=tp.topic,
        partition=tp.partition,
        lost_offsets=lost,
        cause="retention deleted them before they were read",
        action="counting them as lost and resuming at the oldest retained record; increase the topic's retention",
    )
    partition.totals.lost += lost
    partition.offsets[tp.topic] = begin
    partition.skipped[tp.topic] = lost
    partition.times.pop(tp.topic, None)


async def _times_at(consumer: object, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Read one record's timestamp per partition; skip and log a partition that delivers none in time."""
    times: dict[TopicPartition, int] = {}
    if not offsets:
        return times
    consumer.assign(list(offsets))  # type: ignore[attr-defined]
    for tp, offset in offsets.items():
        consumer.seek(tp, offset)  # type: ignore[attr-defined]
    pending, deadline = set(offsets), time.monotonic() + PROBE_SECONDS
    while pending and time.monotonic() < deadline:
        batches = await consumer.getmany(*pending, timeout_ms=200)  # type: ignore[attr-defined]
        for tp, batch in batches.items():
            pending.discard(tp)
            if batch and batch[0].offset == offsets[tp]:
                times[tp] = batch[0].timestamp
        await asyncio.sleep(0)
    for tp in pending:
        log.warning(
            "source_check_skipped",
            topic=tp.topic,
            partition=tp.partition,
            offset=offsets[tp],
            waited_seconds=PROBE_SECONDS,
            action="resuming without checking whether the topic was recreated: no record arrived in time",
        )
    return times
