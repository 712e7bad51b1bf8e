"""Pause a role if too many records become dead letters, so that a topic is not drained into its dead-letter topic.

The limits count a topic's last records, not the last minutes, so the speed of the stream does not matter. Misplaced keys
have a lower limit of their own, because they mean a wrong producer rather than bad data. This module reads no clock. Start
at DeadLetterLimit.count.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import structlog
from msgspec import Struct, field

from schemas.dead_letter import DeadLetter, Reason
from stream.fold.records import Output
from stream.kafka.alignment import Chunk

MISPLACED_WINDOW_RECORDS = 1_000

log = structlog.get_logger()


class _Window(Struct):
    """Count one topic's newest records, at least `size` once there are so many: (records, refused) of each recent chunk."""

    size: int
    chunks: deque[tuple[int, int]] = field(default_factory=deque)
    records: int = 0
    refused: int = 0

    def add(self, records: int, refused: int) -> None:
        """Add a chunk and drop the oldest ones."""
        self.chunks.append((records, refused))
        self.records += records
        self.refused += refused
        while self.records - self.chunks[0][0] >= self.size:
            oldest = self.chunks.popleft()
            self.records -= oldest[0]
            self.refused -= oldest[1]

    def exceeds(self, percent: float) -> bool:
        """Return whether more than a share of a whole window was refused; 0 sets no limit."""
        return bool(percent) and self.refused * 100 > percent * max(self.size, self.records)


class _Recent(Struct):
    """Count one topic's newest records: consecutive refused ones, all refused ones, and those with misplaced keys."""

    all: _Window
    misplaced: _Window
    in_a_row: int = 0


class DeadLetterLimit:
    """Pause a role once too many records of one topic are refused; `paused` is the reason, or empty."""

    def __init__(self, *, in_a_row: int, percent: float, window_records: int, misplaced_percent: float = 0.0) -> None:
        """Pause beyond `in_a_row` consecutive dead letters of a topic, or `percent` of `window_records`; 0 sets no limit.

        Also pause if over `misplaced_percent` of MISPLACED_WINDOW_RECORDS are dead letters for misplaced keys.
        """
        self._in_a_row, self._percent, self._window = in_a_row, percent, window_records
        self._misplaced_percent = misplaced_percent
        self._recent: dict[str, _Recent] = {}
        self._running = asyncio.Event()
        self._running.set()
        self.paused = ""
        self.letters: Counter[tuple[str, str]] = Counter()  # by topic and reason, since process start

    def count(self, chunk: Chunk, outputs: Sequence[Output]) -> None:
        """Count the records of a folded chunk and the dead letters in its outputs; pause beyond a limit."""
        refused: set[tuple[str, int, int]] = set()
        misplaced = Counter[str]()
        for output in outputs:
            letter = output.message
            if isinstance(letter, DeadLetter):
                refused.add((letter.topic, letter.partition, letter.offset))
                self.letters[letter.topic, letter.reason.value] += 1
                misplaced[letter.topic] += letter.reason is Reason.MISPLACED_KEY
        records = Counter[str]()
        for tp, end in chunk.ends.items():
            records[tp.topic] += end - chunk.starts[tp]
        bad = Counter(topic for topic, _, _ in refused)
        longest = self._longest_runs(chunk, refused) if refused else dict.fromkeys(records, 0)
        for topic, count in records.items():
            recent = self._recent_of(topic)
            if not refused:
                recent.in_a_row = 0
            recent.all.add(count, bad[topic])
            recent.misplaced.add(count, misplaced[topic])
            self._decide(topic, recent, longest.get(topic, 0))

    def _recent_of(self, topic: str) -> _Recent:
        if topic not in self._recent:
            self._recent[topic] = _Recent(_Window(self._window), _Window(MISPLACED_WINDOW_RECORDS))
        return self._recent[topic]

    def _longest_runs(self, chunk: Chunk, refused: set[tuple[str, int, int]]) -> Mapping[str, int]:
        """Update each topic's count of consecutive refused records; return its maximum in this chunk."""
        longest = Counter[str]()
        for record in chunk.records:
            recent = self._recent_of(record.topic)
            if (record.topic, record.partition, record.offset) in refused:
                recent.in_a_row += 1
                longest[record.topic] = max(longest[record.topic], recent.in_a_row)
            else:
                recent.in_a_row = 0
        return longest

    def _decide(self, topic: str, recent: _Recent, longest: int) -> None:
        misplaced, refused = recent.misplaced, recent.all
        if misplaced.exceeds(self._misplaced_percent):
            self.pause(
                f"{misplaced.refused} of the last {misplaced.records} records of {topic} are dead letters because their key "
                f"belongs to another partition (misplaced_key), expected at most {self._misplaced_percent:g} % of "
                f"{misplaced.size}: give all producers the same partitioner"
            )
        elif self._in_a_row and longest > self._in_a_row:
            self.pause(f"{longest} records of {topic} in a row are dead letters, expected at most {self._in_a_row}")
        elif refused.exceeds(self._percent):
            self.pause(
                f"{refused.refused} of the last {refused.records} records of {topic} are dead letters, "
                f"expected at most {self._percent:g} % of {self._window}"
            )

    def pause(self, why: str) -> None:
        """Pause the role until an operator resumes it; keep the first reason."""
        if not self.paused:
            self.paused = why
            self._running.clear()
            action = (
                "the role stopped reading; fix the cause, then run `footfall dlq resume URL` or restart the worker; URL is "
                "`health` in the line `started` of this worker"
            )
            log.error("paused", reason=why, action=action)

    async def wait_while_paused(self) -> None:
        """Block while the role is paused."""
        await self._running.wait()

    def resume(self) -> None:
        """Resume the role and reset the counts."""
        self._recent.clear()
        self.paused = ""
        self._running.set()
