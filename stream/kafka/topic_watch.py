"""Notice that a topic was recreated, or gained partitions, while a worker reads it or between two runs.

Records of a recreated topic have the offsets of the old one, and new partitions take keys from the old ones: reading on
would lose and double events without a trace. The barrier asks before each commit, so no such record is committed. Start at
TopicWatch.check.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from schemas.errors import StartRefused
from stream.kafka.topic_ids import TopicFacts, describe_topics

WATCH_SECONDS = 5.0
RETRY_SECONDS = 0.1

log = structlog.get_logger()


class TopicWatch:
    """Compare the topics that a role reads and its changelog with what they were when the worker started."""

    def __init__(
        self,
        client: Callable[[], AIOKafkaClient],
        topics: Sequence[str],
        partitions: int,
        way_out: str,
        compare_last_records: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Watch `topics`, each with `partitions` partitions; `way_out` says what to do about a recreated topic.

        Where the broker has no ids, `compare_last_records` is called instead, every WATCH_SECONDS.
        """
        self._client, self._topics, self._partitions, self._way_out = client, topics, partitions, way_out
        self._compare_last_records = compare_last_records
        self.ids: dict[str, str] = {}  # by topic; "" where the broker has no ids
        self.missing: frozenset[str] = frozenset()  # deleted while the worker runs

    async def check(self) -> None:
        """Look the topics up and compare them; retries until a broker answers, so bound it by a timeout.

        Records fetched before the call are then known to come from the topics as they were at the start.

        Raises:
            StartRefused: a topic has another id or partition count.
            TopicAuthorizationFailedError: the broker denies Describe on a topic.
        """
        while True:
            try:
                found = await describe_topics(self._client(), self._topics)
            except TopicAuthorizationFailedError:
                raise
            except (KafkaError, TimeoutError, OSError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.compare(found)
            return

    def compare(self, found: Mapping[str, TopicFacts]) -> None:
        """Compare what a lookup found; the first lookup that finds a topic sets its id.

        Raises:
            StartRefused: a topic has another id or partition count.
        """
        missing = frozenset(self._topics).difference(found)
        for topic in sorted(missing - self.missing):
            log.error("topic_missing", topic=topic, action="the worker is not ready until the topic is back; it keeps its rows")
        self.missing = missing
        for topic, facts in found.items():
            if facts.partitions != self._partitions:
                raise StartRefused(
                    f"found {facts.partitions} partitions in topic {topic}, expected {self._partitions}, as when this worker "
                    f"started: keys now map to other partitions; use topics with {self._partitions} partitions, or set another "
                    "app_id and send the records again"
                )
            known = self.ids.setdefault(topic, facts.topic_id)
            if facts.topic_id != known:
                raise StartRefused(recreated(topic, facts.topic_id, known, self._way_out))

    async def run(self) -> None:
        """Check every WATCH_SECONDS, also while nothing is folded.

        Raises:
            StartRefused: a topic has another id or partition count.
        """
        while True:
            await self.check()
            if self._compare_last_records is not None and not all(self.ids.values()):
                with suppress(KafkaError, TimeoutError, OSError):
                    await self._compare_last_records()
            await asyncio.sleep(WATCH_SECONDS)


def recreated(topic: str, found: str, expected: str, way_out: str) -> str:
    """Return the text of a refusal because a topic was recreated."""
    return (
        f"found id {found} of topic {topic}, expected {expected}, the id of the topic that was read until now: the topic was "
        f"recreated; {way_out}"
    )
