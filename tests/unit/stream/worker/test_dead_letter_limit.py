"""Too many dead letters pause a role: how many is counted in records, per topic, whatever the chunks."""

import asyncio
from collections.abc import Sequence

import pytest

from schemas.dead_letter import Reason
from stream.fold.records import Output
from stream.kafka.alignment import Chunk, TopicPartition
from stream.offline.replay_log import LogRecord
from stream.worker.dead_letter_limit import DeadLetterLimit
from tests.builders import NOW_MS, dead_letter, score_request

CLICKS, REVIEWS = "clicks", "reviews"


class Bench:
    """A limit and the offsets of its topics; `take` counts records of a pattern: x is refused, m is misplaced, . is neither."""

    def __init__(
        self, *, in_a_row: int = 0, percent: float = 0.0, window_records: int = 100, misplaced_percent: float = 0.0
    ) -> None:
        self.limit = DeadLetterLimit(
            in_a_row=in_a_row, percent=percent, window_records=window_records, misplaced_percent=misplaced_percent
        )
        self._next: dict[str, int] = {}

    def take(self, *parts: tuple[str, str]) -> None:
        """Count one chunk of parts (topic, pattern)."""
        records, outputs, starts = list[LogRecord](), list[Output](), dict[TopicPartition, int]()
        for topic, pattern in parts:
            starts.setdefault(TopicPartition(topic, 0), self._next.get(topic, 0))
            for what in pattern:
                offset = self._next.get(topic, 0)
                self._next[topic] = offset + 1
                records.append(LogRecord(topic, 0, offset, NOW_MS, b"u-1", b"{}"))
                if what in "xm":
                    reason = Reason.WRONG_TYPE if what == "x" else Reason.MISPLACED_KEY
                    letter = dead_letter(topic=topic, partition=0, offset=offset, reason=reason)
                    outputs.append(Output(f"{topic}.dlq", 0, NOW_MS, b"u-1", letter))
                else:
                    outputs.append(Output("score-request", 0, NOW_MS, b"u-1", score_request()))
        ends = {tp: self._next[tp.topic] for tp in starts}
        self.limit.count(Chunk(records, starts, ends, 0), outputs)

    def clicks(self, *patterns: str) -> None:
        for pattern in patterns:
            self.take((CLICKS, pattern))


@pytest.mark.parametrize("chunks", [["xxxx"], ["x", "x", "x", "x"], [".xx", "xx."], ["xxxx......"]], ids=str)
def test_one_more_in_a_row_than_the_limit_pauses_wherever_the_chunks_are_cut(chunks: Sequence[str]) -> None:
    bench = Bench(in_a_row=3)

    bench.clicks(*chunks)

    assert bench.limit.paused == "4 records of clicks in a row are dead letters, expected at most 3"


@pytest.mark.parametrize("chunks", [["xxx"], ["xx", ".xx", "x.", "xxx"], ["xxx", ".", "xxx"]], ids=str)
def test_rows_no_longer_than_the_limit_do_not_pause(chunks: Sequence[str]) -> None:
    bench = Bench(in_a_row=3)

    bench.clicks(*chunks)

    assert bench.limit.paused == ""


def test_good_records_of_another_topic_between_do_not_break_a_row() -> None:
    bench = Bench(in_a_row=3)

    bench.take((REVIEWS, "xx"), (CLICKS, "....."), (REVIEWS, "x"))
    bench.take((CLICKS, "....."))
    bench.take((CLICKS, "..."), (REVIEWS, "x"))

    assert bench.limit.paused.startswith("4 records of reviews in a row")


def test_a_share_of_the_last_records_over_the_limit_pauses_and_says_how_many() -> None:
    bench = Bench(percent=5.0, window_records=100)

    bench.clicks(*["x" + "." * 19] * 5)
    before = bench.limit.paused
    bench.clicks("xx" + "." * 18)

    assert before == ""
    assert bench.limit.paused == "6 of the last 100 records of clicks are dead letters, expected at most 5 % of 100"


def test_dead_letters_that_lie_further_back_than_the_window_no_longer_count() -> None:
    bench = Bench(percent=5.0, window_records=100)

    bench.clicks("xxxxx", *["." * 10] * 10, "xxxxx")

    assert bench.limit.paused == ""


def test_a_share_is_of_the_whole_window_so_that_a_few_first_records_do_not_pause() -> None:
    bench = Bench(percent=5.0, window_records=100)

    bench.clicks("xxxxx")

    assert bench.limit.paused == ""


def test_limits_of_zero_never_pause() -> None:
    bench = Bench(in_a_row=0, percent=0.0)

    bench.clicks("x" * 500)

    assert bench.limit.paused == ""


async def test_a_paused_role_waits_until_it_is_resumed_and_then_counts_anew() -> None:
    bench = Bench(in_a_row=3)
    bench.clicks("xxxx")

    waiting = asyncio.create_task(bench.limit.wait_while_paused())
    await asyncio.sleep(0)
    waited = not waiting.done()
    bench.limit.resume()
    await waiting
    bench.clicks("xxx")

    assert waited
    assert bench.limit.paused == ""
    bench.clicks("x")
    assert bench.limit.paused


def test_dead_letters_are_counted_by_topic_and_reason() -> None:
    bench = Bench()

    bench.take((CLICKS, "x.x"), (REVIEWS, "x"))

    assert bench.limit.letters == {(CLICKS, "wrong_type"): 2, (REVIEWS, "wrong_type"): 1}


@pytest.mark.parametrize("size", [1, 7, 50, 500], ids=str)
def test_mixed_partitioners_pause_within_a_thousand_records_however_they_are_cut(size: int) -> None:
    bench, pattern = Bench(misplaced_percent=1.0), ("." * 49 + "m") * 20

    bench.clicks(*(pattern[first : first + size] for first in range(0, 1000, size)))

    assert bench.limit.paused.endswith(
        "records of clicks are dead letters because their key belongs to another partition (misplaced_key), "
        "expected at most 1 % of 1000: give all producers the same partitioner"
    )


def test_a_few_misplaced_keys_do_not_pause_and_other_dead_letters_are_none_of_them() -> None:
    bench = Bench(misplaced_percent=1.0)

    bench.clicks(*["m" + "." * 99] * 30, "x" * 50)

    assert bench.limit.paused == ""


def test_a_chunk_of_more_records_than_the_window_is_judged_by_its_own_share() -> None:
    bench = Bench(misplaced_percent=1.0)

    bench.clicks("m" * 15 + "." * 1985)

    assert bench.limit.paused == ""
