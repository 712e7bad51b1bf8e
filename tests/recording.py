"""Turn events into the log that a recorder would write of a live run over them, without a broker.

The features role folds events in windows, and each window kind by kind, so that topics interleave unlike in a replay. A
scorer answers after each window, and its sentiment is fed back. Start at live_run.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from models.features.row_codec import encode_row
from schemas.codec import encode
from schemas.scoring import ScoreRequest
from stream.fold.ordering import aligned
from stream.fold.records import PartitionTotals
from stream.logs.event_log import LoggedEvent
from stream.offline.replay_log import LogRecord, Replay
from stream.process.settings import Settings
from stream.roles.scorer_fold import render_signals

PARTITIONS, WINDOW = 3, 60
Numbered = list[tuple[str, LogRecord]]


class LiveRun:
    """The rows, score requests and log so far."""

    def __init__(self, settings: Settings, scorer: Any) -> None:
        self.replay, self.scorer = Replay(settings, partitions=PARTITIONS), scorer
        self.rows: dict[int, dict[bytes, Any]] = defaultdict(dict)
        self.log: list[LoggedEvent] = []
        self.feedback: Numbered = []

    def send(self, kind: str, partition: int, at_ms: int, key: bytes | None, value: bytes | None) -> tuple[str, LogRecord]:
        """Append a record to its topic partition."""
        record = self.replay.record(kind, partition, at_ms, key, value)
        self.log.append(LoggedEvent(kind, at_ms, key, value, partition, record.offset))
        return kind, record

    def publish(self, events: Iterable[LoggedEvent]) -> Numbered:
        """Append events to their topics."""
        choose = self.replay.partition_of
        return [self.send(event.kind, choose(event.key), event.record_ms, event.key, event.value) for event in aligned(events)]

    def fold(self, records: Iterable[tuple[str, LogRecord]]) -> None:
        """Fold records and answer their score requests."""
        requests = []
        for _, record in records:
            outputs = self.replay.features.fold(self.rows[record.partition], PartitionTotals(), [record], 0).outputs
            requests += [output.message for output in outputs if isinstance(output.message, ScoreRequest)]
        for request in requests:
            self.send("score-request", request.source.partition, request.source.timestamp_ms, *_message(request))
        feedback = self.answer(requests)
        self.feedback += feedback
        self.fold_feedback(feedback)

    def fold_feedback(self, records: Numbered) -> None:
        """Fold sentiment, which causes no output."""
        for _, record in records:
            self.replay.features.fold(self.rows[record.partition], PartitionTotals(), [record], 0)

    def answer(self, requests: Sequence[ScoreRequest]) -> Numbered:
        """Append the signals of requests and return those that the features role reads."""
        heard = []
        for request, scores in zip(requests, self.scorer.score(requests), strict=True):
            rendered = render_signals(request, scores, scorer=self.scorer, received_ms=0, scored_ms=0)  # type: ignore[arg-type]
            for output in rendered:
                sent = self.send(output.kind, output.partition, request.source.timestamp_ms, *_message(output.message))
                if output.kind == "review-sentiment":
                    heard.append(sent)
        return heard


def live_run(
    settings: Settings, events: Iterable[LoggedEvent], scorer: Any, *, crashes: bool = False, window: int = WINDOW
) -> list[LoggedEvent]:
    """Record a run; a crash makes it fold two middle windows again in another order, from the rows before them."""
    run = LiveRun(settings, scorer)
    sent = run.publish(events)
    rows, heard = dict[int, dict[bytes, Any]](), 0
    windows = [sent[first : first + window] for first in range(0, len(sent), window)]
    middle = len(windows) // 2
    for number, together in enumerate(windows):
        if crashes and number == middle:
            rows = {partition: {key: encode_row(row) for key, row in found.items()} for partition, found in run.rows.items()}
            heard = len(run.feedback)
        run.fold(sorted(together, key=lambda sent: sent[0]))
        if crashes and number == middle + 1:
            run.rows = defaultdict(dict, rows)
            run.fold_feedback(run.feedback[heard:])
            for repeated in windows[middle : middle + 2]:
                run.fold(sorted(repeated, key=lambda sent: sent[0], reverse=True))
    return run.log


def _message(message: Any) -> tuple[bytes, bytes]:
    return message.user_id.encode(), encode(message)
