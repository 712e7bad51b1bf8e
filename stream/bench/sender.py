"""Send an open load from its own process: event i is sent at start + i / rate, without waiting for earlier events.

Run as `python -m stream.bench.sender ORDER` with the settings in the environment; ORDER is JSON with seed, count, shape and
rate. The result is one JSON object on stdout: when sending began (epoch s), and how late events were sent (ms). Start at
main.
"""

import asyncio
import json
import sys
import time
from typing import Any

from stream.bench.figures import percentiles
from stream.bench.load import load
from stream.fold.partitioner import partition_of
from stream.kafka.barrier import Message, send_batches
from stream.kafka.clients import output_producer
from stream.process.settings import Settings, load_settings

TICK_SECONDS = 0.005  # batching delay, the default linger.ms of Kafka 4's clients
LEAD_SECONDS = 0.5  # from reading the clock to the first event


def due_by(now: float, started: float, rate: float, sent: int, count: int) -> range:
    """Return the indices of events that are due at `now` and have not been sent."""
    return range(sent, max(sent, min(count, int((now - started) * rate) + 1)))


async def send(settings: Settings, order: dict[str, Any]) -> dict[str, Any]:
    """Send the load on its schedule; return when sending began (epoch s) and how late it was (ms)."""
    count, rate = order["count"], order["rate"]
    names, partitions = {kind: topic.name for kind, topic in settings.topics().items()}, settings.partitions or 1
    events = list(load(count, shape=order["shape"], seed=order["seed"]).events())
    producer = output_producer(settings)
    await producer.start()
    waiting: set[asyncio.Future[Any]] = set()
    late = []
    try:
        started, sent = time.time() + LEAD_SECONDS, 0
        while sent < count:
            together: dict[tuple[str, int], list[Message]] = {}
            due = due_by(time.time(), started, rate, sent, count)
            for place in due:
                event = events[place]
                at = names[event.kind], partition_of(event.key, partitions, settings.partitioner)
                together.setdefault(at, []).append((at[0], event.key, event.value, event.record_ms, []))
            for (topic, partition), messages in together.items():
                for future in await send_batches(producer, topic, partition, messages):
                    waiting.add(future)
                    future.add_done_callback(waiting.discard)
            now, sent = time.time(), due.stop
            late += [(now - started - place / rate) * 1000 for place in due]
            await asyncio.sleep(max(TICK_SECONDS, started - time.time()))
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()
    return {"started": started, "late_ms": percentiles(late)}


def main() -> None:
    """Send the load described by the first argument."""
    sent = asyncio.run(send(load_settings(), json.loads(sys.argv[1])))
    sys.stdout.write(json.dumps(sent))


if __name__ == "__main__":
    main()
