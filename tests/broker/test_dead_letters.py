"""Count, show and replay dead letters on the embedded broker, although it stores no topic configs."""

import pytest

from schemas.codec import encode
from schemas.dead_letter import Reason, headers_of
from schemas.topics import dlq
from stream.kafka.clients import output_producer, plain_consumer
from stream.kafka.topic_admin import apply
from stream.operate.dead_letters import LetterFilter, newest, send_again, summary
from stream.process.settings import Settings
from tests.builders import NOW_MS, USER, click, dead_letter

pytestmark = pytest.mark.broker


async def test_they_are_counted_shown_and_sent_again(settings: Settings) -> None:
    await apply(settings)
    topic, good = settings.topics()["click"].name, encode(click())
    letters = [
        dead_letter(topic=topic, value=b"?", offset=7),
        dead_letter(topic=topic, value=good, reason=Reason.HANDLER_ERROR, offset=8),
    ]
    producer = output_producer(settings)
    await producer.start()
    for letter in letters:
        where = {"partition": letter.partition, "timestamp_ms": NOW_MS, "headers": list(headers_of(letter))}
        await producer.send_and_wait(settings.topics()[dlq("click")].name, letter.value, key=letter.key, **where)
    await producer.stop()

    groups = await summary(settings, LetterFilter())
    assert [(group.topic, group.reason, group.count) for group in groups] == [
        (topic, "bad_json", 1),
        (topic, "handler_error", 1),
    ]
    assert [found.letter for found in await newest(settings, LetterFilter(reason=Reason.BAD_JSON), 5)] == letters[:1]

    fixed = LetterFilter(reason=Reason.HANDLER_ERROR)
    assert (await send_again(settings, fixed, limit=None, dry_run=True)).outcomes["sent"] == 1
    assert (await send_again(settings, fixed, limit=None, dry_run=False)).outcomes["sent"] == 1
    consumer = plain_consumer(settings, auto_offset_reset="earliest")
    consumer.subscribe([topic])
    await consumer.start()
    record = await consumer.getone()
    await consumer.stop()
    assert (record.key, record.value, record.partition, record.timestamp) == (USER.encode(), good, 3, NOW_MS)
