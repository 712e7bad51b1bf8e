"""Counts of folded and refused records → whether a role may go on, so that no topic is drained into its dead letters.

The last records, not the last minute, decide: the same stream pauses at the same record, at any speed. Knows no clock.
Start at DeadLetterLimit.count.
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
    """One topic's newest records: how many of the last were refused in a row, and (records, refused) of the last chunks."""

    in_a_row: int = 0
    chunks: deque[tuple[int, int]] = field(default_factory=deque)
    records: int = 0
    refused: int = 0


class DeadLetterLimit:
    """Pauses a role once too many records of one topic were refused; `paused` then says why."""

    def __init__(self, *, in_a_row: int, percent: float, window_records: int) -> None:
        """Pause beyond `in_a_row` dead letters of a topic, or beyond `percent` of `window_records`; 0 sets no limit."""
        self._in_a_row, self._percent, self._window = in_a_row, percent, window_records
        self._recent: dict[str, _Recent] = {}
        self._open = asyncio.Event()
        self._open.set()
        self.paused = ""
        self.letters: Counter[tuple[str, str]] = Counter()  # topic and reason, since the process began

    def count(self, chunk: Chunk, outputs: Sequence[Output]) -> None:
        """Count a folded chunk and those of its outputs that are dead letters."""
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
        longest = self._rows_of_refused(chunk, refused) if refused else dict.fromkeys(records, 0)
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

    def _rows_of_refused(self, chunk: Chunk, refused: set[tuple[str, int, int]]) -> Mapping[str, int]:
        """Count on each topic's refused records in a row, and return the most that a topic reached in this chunk."""
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
        """Pause the role until an operator resumes it; the first reason stays."""
        if not self.paused:
            self.paused = why
            self._open.clear()
            log.error("paused", reason=why, action="nothing more is read until an operator resumes or restarts this worker")

    async def passable(self) -> None:
        """Wait while the role is paused."""
        await self._open.wait()

    def resume(self) -> None:
        """Go on, counting anew."""
        self._recent.clear()
        self.paused = ""
        self._open.set()
