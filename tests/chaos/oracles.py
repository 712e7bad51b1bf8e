"""Compare what a deployment left on its broker with a fold of its source topics, commit by commit.

The reference is the fold of stream/roles/features_fold.py, run in one thread over the topics' records. Every commit in a
changelog is checked separately: its rows, totals and offsets against the fold of exactly the records below those offsets.
So one check at the end covers every commit of the run. Start at examine.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import aiokafka
import msgspec
from aiokafka.structs import TopicPartition
from msgspec import Struct

from models.features.row_codec import decode_row, encode_row
from models.features.spec import KINDS
from models.features.user_state import UserState
from schemas.codec import decode
from schemas.scoring import ScoreRequest
from stream.fold.records import Folded, PartitionTotals
from stream.kafka.store import END_KEY, META_KEY, MetaRow
from stream.roles.build import features_fold
from tests.backlog import untimed
from tests.harness import Deployment

INPUTS = (*KINDS, "review-sentiment")


class Commit(Struct, frozen=True):
    """One committed flush of one partition."""

    partition: int
    rows: dict[bytes, bytes]
    totals: PartitionTotals
    offsets: dict[str, int]


class Findings(Struct):
    """Faults by oracle; without faults, all lists and counts except the first three are empty."""

    events: int = 0
    commits: int = 0
    doubled_ids: int = 0  # allowed: outputs are sent at least once
    wrong_rows: list[str] = []  # O1: not the fold's bytes, at the end or at any commit
    lost: int = 0  # O1: events counted in the fold but not in a row
    doubled: int = 0  # O1: events counted in a row but not in the fold
    missing_ids: list[str] = []  # O2
    foreign_ids: list[str] = []  # O2
    differing_ids: list[str] = []  # O2: the same id and guard vector with a different payload
    backwards: list[str] = []  # O3
    ahead: list[str] = []  # O4: group offsets that differ from those of the committed rows
    unaccounted: list[str] = []  # O5
    unread: int = 0  # records beyond the last commit; checked at the end only

    def faults(self) -> dict[str, Any]:
        """Return the faults, shortened for reading; empty if there are none."""
        allowed = ("events", "commits", "doubled_ids")
        found = {name: getattr(self, name) for name in self.__struct_fields__ if name not in allowed}
        return {name: value[:20] if isinstance(value, list) else value for name, value in found.items() if value}


class Reference:
    """The fold of one partition number of all source topics, up to offsets that never decrease."""

    def __init__(self, deployment: Deployment, records: dict[str, list[Any]]) -> None:
        self._fold, self._records = features_fold(deployment.settings, deployment.partitions), records
        self._read = dict.fromkeys(records, 0)  # index of the next record
        self.rows: dict[bytes, Any] = {}
        self.totals = PartitionTotals()
        self.requests: dict[str, ScoreRequest] = {}

    def up_to(self, offsets: dict[str, int] | None) -> Folded:
        """Fold all records below `offsets`, or every record, and return the changes."""
        changed = Folded()
        for topic, records in self._records.items():
            first = last = self._read[topic]
            end = None if offsets is None else offsets.get(topic, 0)
            while last < len(records) and (end is None or records[last].offset < end):
                last += 1
            self._read[topic] = last
            folded = self._fold.fold(self.rows, self.totals, records[first:last], 0)
            changed.dirty.update(folded.dirty)
            for output in folded.outputs:
                if isinstance(output.message, ScoreRequest):
                    self.requests[output.message.request_id] = output.message
        return changed

    def left(self) -> int:
        """Count records not folded yet."""
        return sum([len(records) - self._read[topic] for topic, records in self._records.items()])


async def examine(deployment: Deployment, *, finished: bool = True, kept: dict[str, list[Any]] | None = None) -> Findings:
    """Compare everything that the features role committed with the fold; no worker may commit meanwhile.

    Before the end (`finished` is false), check only that the commits are consistent: rows, offsets and outputs. `kept` has
    the records of topics that are gone.
    """
    findings = Findings()
    references = await _references(deployment, kept or {})
    by_partition: dict[int, list[Commit]] = defaultdict(list)
    for commit in commits_in(await deployment.read(deployment.settings.changelog("features"))):
        by_partition[commit.partition].append(commit)
    findings.commits = sum([len(commits) for commits in by_partition.values()])
    final: dict[bytes, bytes] = {}
    for number, reference in references.items():
        final |= _follow(reference, by_partition[number], findings)
        findings.unread += reference.left() if finished else 0
    await _compare_offsets(deployment, by_partition, findings)
    await _compare_requests(deployment, references, findings, finished=finished)
    if finished:
        _compare_final(references, final, findings)
    return findings


def commits_in(records: list[Any]) -> Iterator[Commit]:
    """Split a changelog, read with read_committed, into commits: each ends with the partition's meta row."""
    rows: dict[int, dict[bytes, bytes]] = defaultdict(dict)
    for record in records:
        if record.key == META_KEY:
            meta = msgspec.msgpack.decode(record.value, type=MetaRow)
            yield Commit(record.partition, rows.pop(record.partition, {}), meta.totals, meta.offsets)
        elif record.key != END_KEY:
            rows[record.partition][record.key] = record.value


async def _references(deployment: Deployment, kept: dict[str, list[Any]]) -> dict[int, Reference]:
    records: dict[int, dict[str, list[Any]]] = {number: {} for number in range(4)}
    for kind in INPUTS:
        topic = deployment.topic(kind)
        for number in range(4):
            records[number][topic] = []
        for record in kept[topic] if topic in kept else await deployment.read(topic):
            records[record.partition][topic].append(record)
    return {number: Reference(deployment, topics) for number, topics in records.items()}


def _follow(reference: Reference, commits: list[Commit], findings: Findings) -> dict[bytes, bytes]:
    """Fold up to each commit and compare the result with its records; return the rows in the changelog."""
    before: dict[str, int] = {}
    latest: dict[bytes, bytes] = {}
    for commit in commits:
        where = f"partition {commit.partition} at {commit.offsets}"
        if any(commit.offsets.get(topic, 0) < offset for topic, offset in before.items()):
            findings.backwards.append(f"{where}: offsets {before} came before")
        before = commit.offsets
        changed = reference.up_to(commit.offsets)
        expected = {key: encode_row(row) for key, row in changed.dirty.items()}  # type: ignore[arg-type]
        findings.wrong_rows += [f"{key!r} in {where}" for key in expected.keys() ^ commit.rows.keys()]
        shared = expected.keys() & commit.rows.keys()
        findings.wrong_rows += [f"{key!r} in {where}" for key in shared if expected[key] != commit.rows[key]]
        for key, row in commit.rows.items():
            if key in latest and any(now < then for then, now in zip(counts(latest[key]), counts(row), strict=True)):
                findings.backwards.append(f"{key!r} in {where}: {counts(latest[key])} fell to {counts(row)}")
        latest.update(commit.rows)
        totals = commit.totals.events
        if totals.events_in != totals.applied + totals.replay_skipped + totals.dead_lettered + totals.declared_dropped:
            findings.unaccounted.append(f"{where}: {totals}")
        if totals != reference.totals.events:
            findings.unaccounted.append(f"{where}: found {totals}, the fold has {reference.totals.events}")
    return latest


def counts(row: bytes) -> list[int]:
    """Return how many events of each topic a row has counted."""
    return [0 if topic is None else topic.tiles.totals[0] for topic in decode_row(row).topics]


async def _compare_offsets(deployment: Deployment, commits: dict[int, list[Commit]], findings: Findings) -> None:
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=deployment.settings.kafka_bootstrap_servers,
        group_id=deployment.settings.group("features"),
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        for number, made in commits.items():
            for topic, offset in (made[-1].offsets if made else {}).items():
                found = await consumer.committed(TopicPartition(topic, number))
                if found != offset:
                    findings.ahead.append(f"{topic} {number}: the group has {found}, the rows rest on {offset}")
    finally:
        await consumer.stop()


async def _compare_requests(
    deployment: Deployment, references: dict[int, Reference], findings: Findings, *, finished: bool
) -> None:
    expected: dict[str, ScoreRequest] = {}
    for reference in references.values():
        expected |= reference.requests
    seen: dict[str, list[ScoreRequest]] = defaultdict(list)
    for record in await deployment.read(deployment.topic("score-request")):
        request = decode(ScoreRequest, record.value)
        seen[request.request_id].append(untimed(request))
    findings.missing_ids = sorted(expected.keys() - seen.keys())
    findings.foreign_ids = sorted(seen.keys() - expected.keys()) if finished else []
    for name, requests in seen.items():
        findings.doubled_ids += len(requests) - 1
        if any(a.guard == b.guard and a != b for a, b in zip(requests, requests[1:], strict=False)):
            findings.differing_ids.append(name)


def _compare_final(references: dict[int, Reference], final: dict[bytes, bytes], findings: Findings) -> None:
    for reference in references.values():
        reference.up_to(None)
        findings.events += reference.totals.events.events_in
        for key, row in reference.rows.items():
            encoded = encode_row(row) if isinstance(row, UserState) else row
            if final.get(key) == encoded:
                continue
            findings.wrong_rows.append(f"{key!r} at the end")
            found = counts(final[key]) if key in final else [0] * len(INPUTS)
            for want, have in zip(counts(encoded), found, strict=True):
                findings.lost += max(0, want - have)
                findings.doubled += max(0, have - want)
