"""Pause a role if too many records become dead letters, so that a topic is not drained into its dead-letter topic.

The limits count a topic's last records, not the last minutes, so the speed of the stream does not matter. This module reads
no clock. Start at DeadLetterLimit.count.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import structlog
from msgspec import Struct, field

from schemas.dead_letter import DeadLetter
from stream.fold.records import Output
from stream.kafka.alignment import Chunk

log = structlog.get_logger()


class _Recent(Struct):
    """Count one topic's newest records: consecutive refused ones, and (records, refused) of each recent chunk."""

    in_a_row: int = 0
    chunks: deque[tuple[int, int]] = field(default_factory=deque)
    records: int = 0
    refused: int = 0


class DeadLetterLimit:
    """Pause a role once too many records of one topic are refused; `paused` is the reason, or empty."""

    def __init__(self, *, in_a_row: int, percent: float, window_records: int) -> None:
        """Pause beyond `in_a_row` consecutive dead letters of a topic, or `percent` of `window_records`; 0 sets no limit."""
        self._in_a_row, self._percent, self._window = in_a_row, percent, window_records
        self._recent: dict[str, _Recent] = {}
        self._running = asyncio.Event()
        self._running.set()
        self.paused = ""
        self.letters: Counter[tuple[str, str]] = Counter()  # by topic and reason, since process start

    def count(self, chunk: Chunk, outputs: Sequence[Output]) -> None:
        """Count the records of a folded chunk and the dead letters in its outputs; pause beyond a limit."""
        refused: set[tuple[str, int, int]] = set()
        for output in outputs:
            letter = output.message
            if isinstance(letter, DeadLetter):
                refused.add((letter.topic, letter.partition, letter.offset))
                self.letters[letter.topic, letter.reason.value] += 1
        records = Counter[str]()
        for tp, end in chunk.ends.items():
            records[tp.topic] += end - chunk.starts[tp]
        bad = Counter(topic for topic, _, _ in refused)
        longest = self._longest_runs(chunk, refused) if refused else dict.fromkeys(records, 0)
        for topic, count in records.items():
            recent = self._recent.setdefault(topic, _Recent())
            if not refused:
                recent.in_a_row = 0
            recent.chunks.append((count, bad[topic]))
            recent.records += count
            recent.refused += bad[topic]
            while recent.records - recent.chunks[0][0] >= self._window:
                oldest = recent.chunks.popleft()
                recent.records -= oldest[0]
                recent.refused -= oldest[1]
            self._decide(topic, recent, longest.get(topic, 0))

    def _longest_runs(self, chunk: Chunk, refused: set[tuple[str, int, int]]) -> Mapping[str, int]:
        """Update each topic's count of consecutive refused records; return its maximum in this chunk."""
        longest = Counter[str]()
        for record in chunk.records:
            recent = self._recent.setdefault(record.topic, _Recent())
            if (record.topic, record.partition, record.offset) in refused:
                recent.in_a_row += 1
                longest[record.topic] = max(longest[record.topic], recent.in_a_row)
            else:
                recent.in_a_row = 0
        return longest

    def _decide(self, topic: str, recent: _Recent, longest: int) -> None:
        if self._in_a_row and longest > self._in_a_row:
            self.pause(f"{longest} records of {topic} in a row are dead letters, expected at most {self._in_a_row}")
        elif self._percent and recent.refused * 100 > self._percent * self._window:
            self.pause(
                f"{recent.refused} of the last {recent.records} records of {topic} are dead letters, "
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
