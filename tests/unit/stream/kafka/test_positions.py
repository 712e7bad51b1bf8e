"""A take-over reads on where its rows say, and refuses what would lose or double events without a trace."""

import aiokafka
import pytest
from structlog.testing import capture_logs

from schemas.errors import StartRefused
from stream.kafka.positions import check_partition_count, resume_positions, stable_group_offsets
from stream.kafka.store import Partition
from stream.process.settings import load_settings

CLICKS = aiokafka.TopicPartition("clicks", 3)
SETTINGS = load_settings()


def owned(**offsets: int) -> dict[int, Partition]:
    return {3: Partition(3, None, offsets=offsets)}  # type: ignore[arg-type]


def test_where_group_and_rows_agree_reading_goes_on_there() -> None:
    assert resume_positions(SETTINGS, "features", {CLICKS: 7}, owned(clicks=7)) == {CLICKS: 7}


def test_a_group_that_forgot_its_offsets_goes_on_from_the_rows() -> None:
    assert resume_positions(SETTINGS, "features", {CLICKS: None}, owned(clicks=7)) == {CLICKS: 7}


def test_without_rows_and_offsets_reading_begins_at_the_beginning() -> None:
    assert resume_positions(SETTINGS, "features", {CLICKS: None}, owned()) == {CLICKS: None}


def test_offsets_that_someone_moved_ahead_are_refused_unless_they_may_be_ignored() -> None:
    with pytest.raises(
        StartRefused, match=r"found offset 8 .* expected 7, the offset committed with the rows: .*ignore_group_offsets"
    ):
        resume_positions(SETTINGS, "features", {CLICKS: 8}, owned(clicks=7))

    settings = SETTINGS.model_copy(update={"ignore_group_offsets": True})
    assert resume_positions(settings, "features", {CLICKS: 8}, owned(clicks=7)) == {CLICKS: 7}


@pytest.mark.parametrize("behind", [0, 6])
def test_offsets_behind_the_rows_are_logged_and_reading_resumes_at_the_rows(behind: int) -> None:
    with capture_logs() as lines:
        assert resume_positions(SETTINGS, "features", {CLICKS: behind}, owned(clicks=7)) == {CLICKS: 7}

    assert [(line["event"], line["group_offset"], line["row_offset"]) for line in lines] == [
        ("group_offset_behind_rows", behind, 7)
    ]


def test_offsets_without_rows_are_refused_since_the_rows_are_lost() -> None:
    with pytest.raises(StartRefused, match="the changelog footfall-features-users-changelog was deleted"):
        resume_positions(SETTINGS, "features", {CLICKS: 7}, owned())


def test_lost_records_that_were_counted_are_no_move_of_the_offsets() -> None:
    partitions = owned(clicks=17)
    partitions[3].skipped["clicks"] = 10
    assert resume_positions(SETTINGS, "features", {CLICKS: 7}, partitions) == {CLICKS: 17}


def test_a_partition_of_the_next_generation_is_left_to_its_own_take_over() -> None:
    assert resume_positions(SETTINGS, "features", {aiokafka.TopicPartition("clicks", 1): 7}, owned(clicks=7)) == {}


def test_rows_of_another_partition_count_are_refused() -> None:
    partition = Partition(3, None, partitions=4)  # type: ignore[arg-type]
    check_partition_count(partition, 4)
    with pytest.raises(StartRefused, match="folded from 4 partitions, the topics have 8"):
        check_partition_count(partition, 8)


def test_rows_that_were_never_committed_fit_any_partition_count() -> None:
    check_partition_count(Partition(3, None), 8)  # type: ignore[arg-type]


async def test_offsets_whose_transaction_is_just_being_ended_are_waited_for() -> None:
    answers = iter([{CLICKS: 6}, {CLICKS: 6}, {CLICKS: 7}])

    async def ask() -> dict[aiokafka.TopicPartition, int | None]:
        return next(answers)

    assert await stable_group_offsets(ask, owned(clicks=7)) == {CLICKS: 7}
    assert next(answers, None) is None


async def test_offsets_that_stay_behind_are_returned_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.kafka.positions.STABLE_SECONDS", 0.1)

    async def ask() -> dict[aiokafka.TopicPartition, int | None]:
        return {CLICKS: 6}

    assert await stable_group_offsets(ask, owned(clicks=7)) == {CLICKS: 6}


@pytest.mark.parametrize("copy", [None, 7, 8, 17])
async def test_offsets_that_are_not_behind_are_asked_for_once(copy: int | None) -> None:
    asked = []
    partitions = owned(clicks=17)
    partitions[3].skipped["clicks"] = 10

    async def ask() -> dict[aiokafka.TopicPartition, int | None]:
        asked.append(copy)
        return {CLICKS: copy, aiokafka.TopicPartition("clicks", 1): 0}

    await stable_group_offsets(ask, partitions)
    assert asked == [copy]
