"""Count and list dead letters, and send their original records to the source topics again.

A command reads the committed records of every partition up to the current end, without a consumer group and without
commits. A record that is refused again during a send lands after that end, so the same command does not read it again.
Start at letters and send_again.
"""

import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownError,
)
from msgspec import Struct, field

from schemas.codec import event_decoder
from schemas.dead_letter import DeadLetter, Reason, is_whole, read_dead_letter
from schemas.errors import BrokerError, DecodeError
from schemas.ids import position_id
from schemas.topics import DEAD_LETTERED, SOURCES, dlq
from stream.fold.partitioner import compute_partition
from stream.fold.records import EVENT_ID, RESENT
from stream.kafka.clients import admin_client, letter_producer, plain_consumer
from stream.kafka.connection_check import broker_error
from stream.kafka.topic_admin import existing_partitions, topic_configs
from stream.kafka.topic_reader import open_reader
from stream.process.settings import Settings

Outcome = Literal["sent", "not_whole", "expired", "foreign", "no_partition", "refused"]
OUTCOME_TEXTS: Mapping[Outcome, str] = {
    "sent": "sent to their source topic again",
    "not_whole": "left in the dead-letter topic: over the size limit, so only size and hash were kept",
    "expired": "left in the dead-letter topic: older than the retention of their source topic",
    "foreign": "left in the dead-letter topic: they name a source topic that their dead-letter topic does not belong to",
    "no_partition": "left in the dead-letter topic: their source topic is missing, or has no such partition any more",
    "refused": "left in the dead-letter topic: the client or the broker refuses the record, alone too",
}
REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidTimestampError, UnknownError)  # 87 is unknown to aiokafka
UNSENDABLE = (MessageSizeTooLargeError, ValueError, TypeError, OverflowError, AssertionError, struct.error)  # of the client
NAMED_AT_MOST = 20  # letters of each outcome that are named, not only counted
MAX_IN_FLIGHT = 1000  # sends without an acknowledgement, before the oldest is awaited


class FoundLetter(Struct, frozen=True):
    """One dead letter: the kind of its source topic, its own partition and offset, and when it was refused."""

    kind: str
    letter: DeadLetter
    partition: int
    offset: int
    refused_ms: int


class LetterFilter(Struct, frozen=True, kw_only=True):
    """Selects dead letters: of these kinds, for this reason, refused at or after a time."""

    kinds: Sequence[str] = DEAD_LETTERED
    reason: Reason | None = None
    since_ms: int = 0


class Group(Struct):
    """The dead letters of one topic and reason: how many, and when the oldest and newest were refused."""

    topic: str
    reason: str
    count: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0


class Left(Struct, frozen=True, kw_only=True):
    """One dead letter that was not sent: its source position, its own position, and why."""

    outcome: str
    topic: str
    partition: int
    offset: int
    letter_kind: str
    letter_partition: int
    letter_offset: int
    why: str = ""


class Replayed(Struct):
    """Counts by outcome of the dead letters read for sending again; a sent one counts once it is acknowledged.

    `left` names the first NAMED_AT_MOST of each outcome but "sent".
    """

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOME_TEXTS, 0))
    left: list[Left] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Count the dead letters of which the outcome is known."""
        return sum(self.outcomes.values())

    def count(self, found: FoundLetter, outcome: Outcome, why: str = "") -> None:
        """Count one dead letter, and name it if it was not sent."""
        self.outcomes[outcome] += 1
        if outcome != "sent" and self.outcomes[outcome] <= NAMED_AT_MOST:
            letter = found.letter
            self.left.append(
                Left(
                    outcome=outcome,
                    topic=letter.topic,
                    partition=letter.partition,
                    offset=letter.offset,
                    letter_kind=dlq(found.kind),
                    letter_partition=found.partition,
                    letter_offset=found.offset,
                    why=why,
                )
            )


class SourceTopic(Struct, frozen=True):
    """A source topic as it is now: its name, its partition count (0: missing), and the time before which it keeps nothing."""

    name: str
    partitions: int
    oldest_kept_ms: int = 0


async def letters(settings: Settings, wanted: LetterFilter) -> AsyncGenerator[FoundLetter, None]:
    """Yield the wanted dead letters up to the current ends: topic by topic, each partition in order.

    Records that Footfall did not write are skipped.

    Raises:
        BrokerError: no broker answers, or a dead-letter topic is missing.
    """
    names = {kind: settings.topics()[dlq(kind)].name for kind in wanted.kinds}
    async with _admin(settings) as client:
        partitions = await _partitions(client, list(names.values()))
    for kind, topic in names.items():
        tps = [TopicPartition(topic, number) for number in range(partitions[topic])]
        async with _consumer(settings) as consumer:  # one per topic: a consumer that is reassigned may stop fetching
            reader = await open_reader(consumer, tps)
            async for record in reader.records():
                found = _read(kind, record)
                if found is None or found.refused_ms < wanted.since_ms or not reader.within(record):
                    continue
                if wanted.reason in (None, found.letter.reason):
                    yield found


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = plain_consumer(settings)
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise await broker_error(settings, error) from error
    finally:
        await consumer.stop()


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    client = admin_client(settings)
    try:
        await client.start()
        yield client
    except (KafkaError, TimeoutError, OSError) as error:
        raise await broker_error(settings, error) from error
    finally:
        await client.close()


async def _partitions(client: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, int]:
    """Return the partition count of each topic."""
    counts = await existing_partitions(client)
    if missing := sorted(set(names) - set(counts)):
        raise BrokerError(f"found no topic {', '.join(missing)}: run `footfall topics apply`")
    return {name: counts[name] for name in names}


def _read(kind: str, record: Any) -> FoundLetter | None:
    try:
        letter = read_dead_letter(record.key, record.value, record.headers)
    except (KeyError, ValueError):
        return None
    return FoundLetter(kind, letter, record.partition, record.offset, record.timestamp)


async def summary(settings: Settings, wanted: LetterFilter) -> list[Group]:
    """Count the wanted dead letters by source topic and reason, most first."""
    groups: dict[tuple[str, str], Group] = {}
    async for found in letters(settings, wanted):
        name = (found.letter.topic, found.letter.reason.value)
        group = groups.setdefault(name, Group(*name, oldest_ms=found.refused_ms))
        group.count += 1
        group.oldest_ms = min(group.oldest_ms, found.refused_ms)
        group.newest_ms = max(group.newest_ms, found.refused_ms)
    return sorted(groups.values(), key=lambda group: (-group.count, group.topic, group.reason))


async def send_again(
    settings: Settings, wanted: LetterFilter, *, limit: int | None, dry_run: bool, replayed: Replayed | None = None
) -> Replayed:
    """Send the original records of at most `limit` dead letters back to their topic and partition.

    A record with a misplaced key goes to the partition where its key belongs, unless misplaced keys are accepted. Key, value
    and headers are the original ones. So is the timestamp, except for records from the future: they get the
    current time, since the original one would be refused again. An event without an id gets header `x-event-id`, the id
    of its first position, so that it counts once however often it is sent. The dead-letter topic stays as it is.

    A letter that can never be sent is left, and the others are sent. Brokers refuse batches, so the records of a refused
    batch are sent again one by one, after the others.

    Raises:
        BrokerError: the broker does not answer, or a topic refuses every record; `replayed` counts what was acknowledged.
        SettingsError: a setting of the connection is wrong, or an ACL is missing.
    """
    replayed = Replayed() if replayed is None else replayed
    sources = await _sources(settings, wanted.kinds)
    producer = letter_producer(settings)
    in_flight: deque[tuple[FoundLetter, Any]] = deque()
    alone: list[FoundLetter] = []
    read = 0

    def target(found: FoundLetter) -> int:
        return target_partition(found.letter, settings, sources[found.kind].partitions)

    try:
        if not dry_run:
            await producer.start()
        async with aclosing(letters(settings, wanted)) as all_found:
            async for found in all_found:
                if limit is not None and read >= limit:
                    break
                read += 1
                outcome = outcome_of(found, sources[found.kind])
                if outcome != "sent" or dry_run:
                    replayed.count(found, outcome)
                elif (send := await _send(producer, found, target(found), replayed)) is not None:
                    in_flight.append((found, send))
                    if len(in_flight) >= MAX_IN_FLIGHT:
                        await _acknowledged(*in_flight.popleft(), replayed, alone)
        while in_flight:
            await _acknowledged(*in_flight.popleft(), replayed, alone)
        for found in alone:
            if (send := await _send(producer, found, target(found), replayed)) is not None:
                await _acknowledged(found, send, replayed, None)
    except KafkaError as error:
        sent = replayed.outcomes["sent"]
        rest = f"; {sent} records were acknowledged, not all were sent: replay again, each event counts once"
        raise await broker_error(settings, error, rest) from error
    finally:
        await producer.stop()
    return replayed


def outcome_of(found: FoundLetter, source: SourceTopic) -> Outcome:
    """Return the outcome to expect of sending a dead letter again; `source` is the source of its dead-letter topic."""
    letter = found.letter
    if letter.topic != source.name:
        return "foreign"
    if not 0 <= letter.partition < source.partitions:
        return "no_partition"
    if not is_whole(letter):
        return "not_whole"
    if letter.reason is not Reason.FROM_FUTURE and letter.timestamp_ms < source.oldest_kept_ms:
        return "expired"
    return "sent"


def target_partition(letter: DeadLetter, settings: Settings, partitions: int) -> int:
    """Return the partition to send a dead letter to: its own, or the one of its key if that is why it was refused."""
    if letter.reason is Reason.MISPLACED_KEY and settings.misplaced_keys == "dead_letter":
        return compute_partition(letter.key, partitions, settings.partitioner)
    return letter.partition


async def _send(producer: Any, found: FoundLetter, partition: int, replayed: Replayed) -> Any:
    """Queue a record and return the future of its acknowledgement; None, counted, if the client cannot send it."""
    letter = found.letter
    try:
        return await producer.send(
            letter.topic,
            letter.value,
            key=letter.key,
            partition=partition,
            timestamp_ms=None if letter.reason is Reason.FROM_FUTURE or letter.timestamp_ms < 0 else letter.timestamp_ms,
            headers=list(headers_again(found)),
        )
    except UNSENDABLE as error:
        replayed.count(found, "refused", f"{type(error).__name__}: {error}")
        return None


async def _acknowledged(found: FoundLetter, send: Any, replayed: Replayed, alone: list[FoundLetter] | None) -> None:
    """Count a record as sent once it is acknowledged; put one of a refused batch into `alone`, or count it as refused."""
    try:
        await send
    except REFUSALS as error:
        if alone is None:
            replayed.count(found, "refused", f"{type(error).__name__}: {error}")
        else:
            alone.append(found)
    else:
        replayed.count(found, "sent")


def headers_again(found: FoundLetter) -> tuple[tuple[str, bytes], ...]:
    """Return the headers to send a record with: its own, and for an event without an id that of its first position.

    A score request or signal is marked, because a later one of its user may have been folded since.
    """
    letter = found.letter
    if found.kind not in SOURCES:
        return (*[header for header in letter.headers if header[0] != RESENT], (RESENT, b"1"))
    known = any(name == EVENT_ID for name, _ in letter.headers)
    if known or _event_id(found) is not None:
        return letter.headers
    return (*letter.headers, (EVENT_ID, position_id(letter.topic, letter.partition, letter.offset).encode()))


def _event_id(found: FoundLetter) -> str | None:
    try:
        return event_decoder(SOURCES[found.kind])(found.letter.key, found.letter.value).event_id
    except DecodeError:
        return None


async def _sources(settings: Settings, kinds: Sequence[str]) -> dict[str, SourceTopic]:
    """Describe the source topic of each kind; it keeps all records where the broker does not say."""
    names = {settings.topics()[kind].name: kind for kind in kinds}
    async with _admin(settings) as client:
        counts = await existing_partitions(client)
        configs = await topic_configs(client, [name for name in names if name in counts]) or {}
    sources = {kind: SourceTopic(name, counts.get(name, 0)) for name, kind in names.items()}
    now_ms = int(time.time() * 1000)
    for name, config in configs.items():
        retention_ms = int(config.get("retention.ms", ("-1", False))[0])
        by_broker = config.get("message.timestamp.type", ("CreateTime", False))[0] == "LogAppendTime"
        if retention_ms != -1 and not by_broker:
            sources[names[name]] = SourceTopic(name, counts[name], now_ms - retention_ms)
    return sources


async def newest(settings: Settings, wanted: LetterFilter, limit: int) -> list[FoundLetter]:
    """Return the `limit` wanted dead letters that were refused last, newest first."""
    kept: list[FoundLetter] = []
    async for found in letters(settings, wanted):
        kept.append(found)
        if len(kept) >= 2 * limit:
            kept = _newest_of(kept, limit)
    return _newest_of(kept, limit)


def _newest_of(found: list[FoundLetter], limit: int) -> list[FoundLetter]:
    return sorted(found, key=lambda one: -one.refused_ms)[:limit]
