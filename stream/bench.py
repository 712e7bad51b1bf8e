"""`footfall bench features`: the events/s of role features beside the same fold in a stock Faust agent, in one run.

The load: seven event types over a day of event time, 100,000 users by Zipf(1.1), sessions of 40 events, JSON of about
200 bytes, published before the clock starts. Each engine reads such topics on the same broker, one after the other, one
worker process each; the rate is events over the seconds from the first tenth to all committed. Start at bench_features.
"""

import asyncio
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import aiokafka
import numpy as np
from aiokafka.structs import TopicPartition
from msgspec import Struct

from models.features.spec import KINDS
from schemas.topics import DAY_MS
from stream.clients import output_producer
from stream.event_log import LoggedEvent
from stream.replay import Replay
from stream.settings import Settings, load_settings
from stream.supervisor import environment_of

SESSION = 40  # events of one session; the first is a visit
SHARES = {"browse": 0.40, "click": 0.56, "search": 0.01, "purchase": 0.01, "review": 0.003, "rating": 0.017}
TITLE = "Hand made oak garden lantern with heart"
TWIN = Path(__file__).parents[1] / "tests" / "bench" / "peers" / "stock_faust.py"


class Run(Struct, frozen=True, kw_only=True):
    """One engine's repeats: events/s of each, and what it guarantees."""

    engine: str
    guarantee: str
    events: int
    events_per_second: list[float]

    @property
    def median(self) -> float:
        """The median rate."""
        return statistics.median(self.events_per_second)


def load(count: int, *, users: int = 100_000, seed: int = 1, start_ms: int = 1_760_000_000_000) -> list[LoggedEvent]:
    """Make `count` events of one day in order of time: sessions of 40 events, ten seconds apart."""
    numbers = np.random.default_rng(seed)
    sessions = count // SESSION + 1
    weights = np.arange(1, users + 1, dtype=np.float64) ** -1.1
    who = numbers.choice(users, size=sessions, p=weights / weights.sum()).repeat(SESSION)[:count]
    starts = numbers.integers(0, DAY_MS - SESSION * 10_000, size=sessions).repeat(SESSION)[:count]
    times = start_ms + starts + (np.arange(count) % SESSION) * 10_000 + numbers.integers(0, 10_000, size=count)
    kinds = numbers.choice(len(SHARES), size=count, p=list(SHARES.values()))
    items = (numbers.zipf(1.3, size=count) - 1) % 5000
    names = list(SHARES)
    events = []
    for i in np.argsort(times, kind="stable").tolist():
        kind, at = "visit" if i % SESSION == 0 else names[kinds[i]], int(times[i])
        body: dict[str, Any] = {
            "user_id": f"u-{who[i]:06d}",
            "event_time_ms": at,
            "event_id": f"{seed:04x}-{i:012x}-{i * 40503 % 65536:04x}",
        }
        item, category = f"sku-{items[i]:05d}", f"category-{items[i] % 12:02d}"
        if kind == "visit":
            body |= {"page": "/category/garden-and-outdoor/lanterns", "referrer": "newsletter-autumn-offers"}
        elif kind == "search":
            body |= {"query": "oak garden lantern with heart", "result_count": 24}
        elif kind == "purchase":
            line = {"item_id": item, "quantity": 2, "unit_price": 12.5, "category": category, "title": TITLE}
            body |= {"currency": "GBP", "lines": [line]}
        else:
            body |= {"item_id": item, "category": category}
            if kind == "browse":
                body |= {"dwell_ms": 12_500, "title": TITLE}
            elif kind == "click":
                body |= {"title": TITLE}
            elif kind == "review":
                body |= {"review_id": f"r-{i}", "text": "It looks lovely by the door and the wood feels solid."}
            else:
                body |= {"rating": 4.0}
        events.append(LoggedEvent(kind, at, body["user_id"].encode(), json.dumps(body, separators=(",", ":")).encode()))
    return events


async def publish(settings: Settings, events: Iterable[LoggedEvent]) -> int:
    """Publish at full speed and return the bytes of all values."""
    replay, names = Replay(settings, partitions=settings.partitions or 4), settings.topics()
    producer, size, sends = output_producer(settings), 0, []
    await producer.start()
    try:
        for event in events:
            size += len(event.value or b"")
            partition = replay.partition_of(event.key)
            sends.append(
                await producer.send(
                    names[event.kind].name, event.value, key=event.key, partition=partition, timestamp_ms=event.record_ms
                )
            )
            if len(sends) >= 20_000:
                await asyncio.gather(*sends)
                sends.clear()
        await asyncio.gather(*sends)
    finally:
        await producer.stop()
    return size


async def measure(settings: Settings, group: str, total: int, process: subprocess.Popen[bytes], seconds: float) -> float:
    """Return events/s of a group between 10 % and 100 % of `total` committed, read from the broker.

    Raises:
        RuntimeError: the engine ended, or did not finish within `seconds`.
    """
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    tps = [TopicPartition(settings.topics()[kind].name, number) for kind in KINDS for number in range(settings.partitions or 4)]
    consumer.assign(tps)
    deadline, first = time.monotonic() + seconds, (0.0, 0)
    try:
        while time.monotonic() < deadline:
            committed = sum([await consumer.committed(tp) or 0 for tp in tps])
            now = time.monotonic()
            if not first[1] and committed >= total // 10:
                first = (now, committed)
            if committed >= total:
                return (committed - first[1]) / max(1e-9, now - first[0])
            if process.poll() is not None:
                raise RuntimeError(f"engine {group} ended with {process.returncode} at {committed} of {total} events")
            await asyncio.sleep(0.05)
    finally:
        await consumer.stop()
    raise RuntimeError(f"engine {group} did not finish {total} events within {seconds} s")


async def bench_features(
    settings: Settings, *, events: int, twin_events: int, repeats: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run both engines `repeats` times each on fresh groups and return rates, ratio and machine."""
    rates: dict[str, list[float]] = {"footfall": [], "stock faust": []}
    sizes = 0
    for repeat in range(repeats):
        for engine, count in (("footfall", events), ("stock faust", twin_events)):
            name = f"bench-{secrets.token_hex(3)}"
            given = settings.model_copy(update={"topic_prefix": f"{name}.", "app_id": name})
            progress(f"{engine}: run {repeat + 1} of {repeats}, publishing {count} events")
            await _create(given)
            sizes = await publish(given, load(count, seed=repeat + 1)) // count
            progress(f"{engine}: run {repeat + 1} of {repeats}, reading them")
            rate = await _run(given, engine, count)
            rates[engine].append(rate)
            progress(f"{engine}: {rate:,.0f} events/s")
    runs = [
        Run(
            engine="footfall",
            guarantee="rows and offsets in one transaction",
            events=events,
            events_per_second=rates["footfall"],
        ),
        Run(
            engine="stock faust",
            guarantee="at least once, changelog not awaited",
            events=twin_events,
            events_per_second=rates["stock faust"],
        ),
    ]
    return {
        "engines": {
            run.engine: {
                "guarantee": run.guarantee,
                "events": run.events,
                "median": round(run.median),
                "min": round(min(run.events_per_second)),
                "max": round(max(run.events_per_second)),
            }
            for run in runs
        },
        "ratio": round(runs[0].median / runs[1].median, 1),
        "event_bytes": sizes,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }


async def _create(settings: Settings) -> None:
    from stream.admin import apply

    await apply(settings)


async def _run(settings: Settings, engine: str, count: int) -> float:
    command = [sys.executable, "-m", "stream.cli.main", "worker", "features"]
    group = settings.group("features")
    if engine != "footfall":
        command, group = [sys.executable, str(TWIN)], f"{settings.app_id}-twin"
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        environment = environment_of(settings, PYTHONUNBUFFERED="1")
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            return await measure(settings, group, count, process, seconds=60 + count / 1000)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {(Path(folder) / 'log').read_text(errors='replace')[-1500:]}") from error
        finally:
            process.kill()
            process.wait()


def bench_settings(bootstrap: str) -> Settings:
    """Return settings for a benchmark on a broker: four partitions, one replica, records kept for ever."""
    return load_settings(kafka_bootstrap_servers=bootstrap, partitions=4, replication_factor=1, retention_ms=-1)
