"""Measure restore time from a changelog of many rows, and recovery time from a kill -9 (`footfall bench restore`).

A few thousand rows of a real fold are written repeatedly under new user ids. The worker first runs on the empty changelog, so
that it writes the meta row (totals and offsets) itself. Start at bench_restore.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

from models.features.row_codec import encode_row
from models.features.user_state import UserState
from stream.bench.broker import bench_settings, delete_topics, publish
from stream.bench.engines import ENGINES, Running
from stream.bench.figures import Figures, spread
from stream.bench.latency import ready
from stream.bench.load import load
from stream.bench.window import until_committed
from stream.fold.partitioner import partition_of
from stream.kafka.barrier import Message, send_batches
from stream.kafka.clients import output_producer
from stream.kafka.topic_admin import apply
from stream.offline.replay_log import Replay
from stream.process.settings import Settings

TEMPLATE_EVENTS, TEMPLATE_USERS = 100_000, 5_000
LIVE_EVENTS = 5_000
SLICE = 20_000  # rows in flight at a time
READY_SECONDS = 240.0


def template_rows() -> list[bytes]:
    """Return the encoded rows of a fold of the load, one per user, for some thousand users."""
    replay = Replay(bench_settings("127.0.0.1:9092"), partitions=1)
    for _ in replay.fold(load(TEMPLATE_EVENTS, users=TEMPLATE_USERS, seed=9).events()):
        pass
    return [encode_row(row) for row in replay.rows[0].values() if isinstance(row, UserState)]


def rows_of(count: int, templates: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield `count` rows of distinct users that do not occur in the load."""
    for number in range(count):
        yield b"r-%09d" % number, templates[number % len(templates)]


async def write_rows(settings: Settings, count: int, templates: list[bytes]) -> int:
    """Write rows to the changelog of the features role, each to its user's partition, and return their total bytes."""
    topic, partitions = settings.changelog("features"), settings.partitions or 1
    producer, size = output_producer(settings), 0
    waiting: list[list[Message]] = [[] for _ in range(partitions)]
    now_ms = int(time.time() * 1000)
    await producer.start()
    try:
        for number, (key, row) in enumerate(rows_of(count, templates), start=1):
            size += len(key) + len(row)
            waiting[partition_of(key, partitions, settings.partitioner)].append((topic, key, row, now_ms, []))
            if number % SLICE == 0 or number == count:
                for partition, messages in enumerate(waiting):
                    await asyncio.gather(*await send_batches(producer, topic, partition, messages))
                    messages.clear()
    finally:
        await producer.stop()
    return size


async def bench_restore(bootstrap: str, *, rows: int, repeats: int, progress: Callable[[str], None]) -> Figures:
    """Restore `rows` rows `repeats` times; after each, kill -9 the worker and measure recovery with a backlog of events.

    Raises:
        RunError: a worker exited, or was not ready or did not commit in time.
    """
    settings = bench_settings(bootstrap)
    templates = template_rows()
    live = list(load(LIVE_EVENTS * (repeats + 1), seed=3).events())
    ready_seconds, restore_seconds, rates, memory, recovery = [], [], [], [], []
    await apply(settings)
    try:
        async with Running(ENGINES["footfall"], settings) as worker:
            await publish(settings, live[:LIVE_EVENTS])
            committed = await until_committed(worker, LIVE_EVENTS, seconds=60)
            worker.kill()
            progress(f"restore: writing {rows:,} rows")
            size = await write_rows(settings, rows, templates)
            for repeat in range(repeats):
                await asyncio.sleep(
                    settings.session_timeout_seconds
                )  # lets the killed worker's session expire, to measure restore alone
                worker.start()
                ready_seconds.append(await ready(worker, READY_SECONDS))
                found = await asyncio.to_thread(worker.metrics)
                restore_seconds.append(found["footfall_restore_seconds"])
                rates.append(found["footfall_restored_rows"] / found["footfall_restore_seconds"])
                memory.append(worker.memory_bytes())
                progress(f"restore: {rates[-1]:,.0f} rows/s, ready after {ready_seconds[-1]:.1f} s")
                worker.kill()
                killed = time.monotonic()
                await publish(settings, live[(repeat + 1) * LIVE_EVENTS : (repeat + 2) * LIVE_EVENTS])
                worker.start()
                committed = await until_committed(worker, committed + 1, seconds=READY_SECONDS)
                recovery.append(time.monotonic() - killed)
                committed = await until_committed(worker, (repeat + 2) * LIVE_EVENTS, seconds=60)
                progress(f"restore: kill -9 to first new commit {recovery[-1]:.1f} s")
                worker.kill()
    finally:
        await delete_topics(settings)
    return {
        "benchmark": "restore",
        "rows": rows,
        "repeats": repeats,
        "row_bytes": round(size / rows),
        "rows_per_second": spread(rates),
        "restore_seconds": spread(restore_seconds, 2),
        "ready_seconds": spread(ready_seconds, 2),
        "memory_mb": spread([found / 1e6 for found in memory]),
        "memory_bytes_per_row_beyond_it": spread([(found - size) / rows for found in memory]),
        "kill_to_commit_seconds": spread(recovery, 2),
        "session_timeout_seconds": settings.session_timeout_seconds,
    }
