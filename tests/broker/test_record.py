"""Record topics into a log: every record keeps its bytes, partition, offset, timestamp and headers."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.errors import BrokerError
from stream.cli.main import app
from stream.kafka.clients import output_producer
from stream.kafka.topic_admin import apply
from stream.logs.event_log import KINDS, LoggedEvent, LogManifest, LogWriter, read_log
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.operate.record_topics import Recorded, record
from stream.operate.send_log import send_events
from stream.process.settings import Settings

pytestmark = pytest.mark.broker
SOURCES_ONLY = ("visit", "click")


async def recorded(
    settings: Settings, out: Path, kinds: Sequence[str] = KINDS, *, follow_until: int | None = None
) -> LogManifest:
    """Record up to the current end offsets; with `follow_until`, continue until that many records have arrived."""
    stop, progress = asyncio.Event(), Recorded()

    async def watch() -> None:
        while progress.events.total() < (follow_until or 0):
            await asyncio.sleep(0.01)
        stop.set()

    watching = asyncio.create_task(watch()) if follow_until is not None else None
    with LogWriter(out) as writer:
        parts = await record(
            settings, kinds, writer, since_ms=None, follow=follow_until is not None, stop=stop, recorded=progress
        )
        if watching is not None:
            await watching
        manifest = writer.finish(source="test", recorded=parts)
    assert progress.events == manifest.events
    return manifest


async def publish(settings: Settings, kind: str, *values: bytes, at_ms: int = 1_000, partition: int = 0) -> None:
    producer = output_producer(settings)
    await producer.start()
    try:
        for number, value in enumerate(values):
            await producer.send_and_wait(
                settings.topics()[kind].name,
                value,
                key=None,
                partition=partition,
                timestamp_ms=at_ms + number,
                headers=[("x", b"\xff"), ("x", b"")],
            )
    finally:
        await producer.stop()


async def test_a_log_sent_and_recorded_is_the_same_log_with_positions(settings: Settings, tmp_path: Path) -> None:
    sent = [event.logged for event in simulate(SimulatorConfig(shoppers=20, days=10, malformed=0.1, late=0.05))]
    await apply(settings)
    await send_events(sent, settings, partitions=4)

    manifest = await recorded(settings, tmp_path / "log")

    found = list(read_log(tmp_path / "log"))
    bare = sorted((e.record_ms, e.kind, e.key or b"", e.value or b"") for e in found)
    assert bare == sorted((e.record_ms, e.kind, e.key or b"", e.value or b"") for e in sent)
    assert {header[0] for event in found for header in event.headers} == {"sent-at-ms"}
    positions = {(event.kind, event.partition, event.offset) for event in found}
    assert positions == {
        (part.kind, part.partition, offset) for part in manifest.recorded for offset in range(part.first, part.next)
    }
    assert len(positions) == len(found) and len(manifest.recorded) == 4 * len(KINDS)


async def test_null_keys_bytes_and_headers_of_every_kind_come_back(settings: Settings, tmp_path: Path) -> None:
    await apply(settings)
    await publish(settings, "ad-trigger", b"\x00\xff", b"{}", partition=3)

    await recorded(settings, tmp_path / "log")

    headers = (("x", b"\xff"), ("x", b""))
    assert list(read_log(tmp_path / "log", KINDS)) == [
        LoggedEvent("ad-trigger", 1_000, None, b"\x00\xff", 3, 0, headers),
        LoggedEvent("ad-trigger", 1_001, None, b"{}", 3, 1, headers),
    ]


async def test_following_records_what_comes_after_the_ends_of_the_start(settings: Settings, tmp_path: Path) -> None:
    await apply(settings)
    await publish(settings, "click", b"a")

    following = asyncio.create_task(recorded(settings, tmp_path / "log", SOURCES_ONLY, follow_until=3))
    await asyncio.sleep(0)
    await publish(settings, "visit", b"b", b"c")
    manifest = await following

    assert manifest.events == {"visit": 2, "click": 1}


async def test_a_missing_topic_is_refused_and_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"found no topic .*\(visit\).*footfall topics apply"):
        await recorded(settings, tmp_path / "log")

    assert list((tmp_path / "log").iterdir()) == []


def test_the_command_writes_a_log_and_its_counts(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(apply(settings))
    asyncio.run(publish(settings, "click", b"a", b"b"))
    flags = ["--kafka-bootstrap-servers", settings.kafka_bootstrap_servers, "--topic-prefix", settings.topic_prefix]
    flags += ["--no-transactions", "--kinds", "click,interest"]

    result = CliRunner().invoke(app, ["record", "--out", str(tmp_path / "log"), "--json", *flags])

    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)["manifest"]
    assert manifest["events"] == {"click": 2}
    assert {part["kind"] for part in manifest["recorded"]} == {"click", "interest"}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--kinds", "click,wave"], "found --kinds wave, expected one or more of visit"),
        (["--since", "yesterday"], "found --since 'yesterday', expected a time"),
    ],
)
def test_wrong_options_end_with_code_two(settings: Settings, tmp_path: Path, wrong: list[str], complaint: str) -> None:
    result = CliRunner().invoke(app, ["record", "--out", str(tmp_path / "log"), *wrong])

    assert result.exit_code == 2
    assert complaint in result.stderr
