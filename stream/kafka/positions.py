"""Where the rows of a partition say that reading goes on, held against the topics and the group as they are now.

A take-over goes on only where all agree. Whatever would lose or double events without a trace is refused, with a text
that says how to go on. Steps P2 and P3 of the protocol in DECISIONS.md. Start at check_sources and resume_positions.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import structlog
from aiokafka import TopicPartition

from schemas.errors import StartRefused
from stream.kafka.clients import plain_consumer
from stream.kafka.store import Partition
from stream.process.settings import Settings

PROBE_SECONDS = 10.0
SETTLING_SECONDS, AGAIN_SECONDS = 5.0, 0.05  # how long offsets of an ended transaction may take to be read, and how often
PROBE_BYTES = 1 << 16  # a whole batch, or other partitions of the answer would come back empty

log = structlog.get_logger()


def check_partition_count(partition: Partition, partitions: int) -> None:
    """Refuse rows that were folded when the topics had another number of partitions: keys lie elsewhere now.

    Raises:
        StartRefused: the counts differ.
    """
    if partition.partitions not in (0, partitions):
        raise StartRefused(
            f"found rows of partition {partition.number} folded from {partition.partitions} partitions, the topics have "
            f"{partitions}: users moved between partitions; fold anew under another app_id, from topics of {partitions}"
        )


async def check_sources(settings: Settings, role: str, owned: Sequence[Partition], topics: Collection[str]) -> None:
    """Hold the offsets that rows rest on against the source topics; lost records are counted where that is permitted.

    Raises:
        StartRefused: a topic is shorter than what was read of it, has another record where the last one was, or its
            retention deleted records that were never read.
    """
    partitions = {p.number: p for p in owned}
    rest_on = {TopicPartition(topic, p.number): offset for p in owned for topic, offset in p.offsets.items() if topic in topics}
    if not rest_on:
        return
    consumer = plain_consumer(settings, max_partition_fetch_bytes=PROBE_BYTES)
    await consumer.start()
    try:
        begin, end = await consumer.beginning_offsets(list(rest_on)), await consumer.end_offsets(list(rest_on))
        for tp, offset in rest_on.items():
            if end[tp] < offset:
                raise StartRefused(
                    f"found {end[tp]} records in {tp.topic}/{tp.partition}, the rows rest on {offset}: the topic was "
                    f"recreated or truncated; {_fold_anew(role)}"
                )
            if begin[tp] > offset:
                _count_lost(settings, partitions[tp.partition], tp, offset, begin[tp])
        last = {tp: offset - 1 for tp, offset in rest_on.items() if begin[tp] < offset}
        for tp, found_ms in (await _times_at(consumer, last)).items():
            expected_ms = partitions[tp.partition].times.get(tp.topic)
            if expected_ms is not None and found_ms != expected_ms:
                raise StartRefused(
                    f"found time {found_ms} at {tp.topic}/{tp.partition}@{last[tp]}, the rows rest on a record of "
                    f"{expected_ms} there: the topic was recreated; {_fold_anew(role)}"
                )
    finally:
        await consumer.stop()


async def settled_copies(
    ask: Callable[[], Awaitable[Mapping[TopicPartition, int | None]]], owned: Mapping[int, Partition]
) -> Mapping[TopicPartition, int | None]:
    """Ask for what the group committed until nothing of it lies behind the rows, for SETTLING_SECONDS at most.

    A broker answers the end of a transaction before its offsets can be read, and a partition that stays with its worker has
    the rows already.
    """
    deadline = time.monotonic() + SETTLING_SECONDS
    while True:
        committed = await ask()
        behind = [
            tp
            for tp, copy in committed.items()
            if copy is not None and tp.partition in owned and copy < (_copied(owned[tp.partition], tp.topic) or 0)
        ]
        if not behind or time.monotonic() > deadline:
            return committed
        await asyncio.sleep(AGAIN_SECONDS)


def resume_positions(
    settings: Settings, role: str, committed: Mapping[TopicPartition, int | None], owned: Mapping[int, Partition]
) -> dict[TopicPartition, int | None]:
    """Return where to read on, by source partition: where its rows say. What the group committed is a copy for tools.

    A missing copy is written again with the next barrier. None means from the beginning.

    Raises:
        StartRefused: the copy differs, so someone moved it; or it is there although there are no rows.
    """
    group, positions = settings.group(role), dict[TopicPartition, int | None]()
    for tp, copy in committed.items():
        if tp.partition not in owned:
            continue  # assigned by the next generation, whose take-over is still to come
        partition = owned[tp.partition]
        rows = partition.offsets.get(tp.topic)
        if copy is not None and copy != _copied(partition, tp.topic) and not settings.ignore_group_offsets:
            found = f"found offset {copy} committed by group {group} for {tp.topic}/{tp.partition}, "
            if rows is None:
                raise StartRefused(
                    f"{found}but no rows that rest on it: the changelog {settings.changelog(role)} was deleted or emptied; "
                    f"{_fold_anew(role)}"
                )
            raise StartRefused(
                f"{found}the rows rest on {rows}: someone moved the group's offsets; start once with "
                f"ignore_group_offsets=true to go on from the rows, or {_fold_anew(role)}"
            )
        positions[tp] = rows
    return positions


def _copied(partition: Partition, topic: str) -> int | None:
    """Return the offset that the group was given with the rows; records that retention deleted are passed over since."""
    rows = partition.offsets.get(topic)
    return None if rows is None else rows - partition.skipped.get(topic, 0)


def _fold_anew(role: str) -> str:
    return f"to fold anew from what the topics retain, run `footfall state reset {role}`"


def _count_lost(settings: Settings, partition: Partition, tp: TopicPartition, offset: int, begin: int) -> None:
    lost = begin - offset
    if not settings.accept_lost_records:
        raise StartRefused(
            f"found {tp.topic}/{tp.partition} to begin at {begin}, the rows rest on {offset}: retention deleted {lost} records "
            "before they were read; start once with accept_lost_records=true to count them as lost and go on"
        )
    log.error("lost", topic=tp.topic, partition=tp.partition, records=lost, action="counted in the totals; raise retention")
    partition.totals.lost += lost
    partition.offsets[tp.topic] = begin
    partition.skipped[tp.topic] = lost
    partition.times.pop(tp.topic, None)


async def _times_at(consumer: object, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Read one record's timestamp per partition; a partition that does not answer in time is left out, and said."""
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
        log.warning("unread", topic=tp.topic, partition=tp.partition, fact="its last record could not be compared")
    return times
