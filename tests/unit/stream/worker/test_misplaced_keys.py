"""Misplaced keys are counted by topic; the first one is logged once, with the producer's setting."""

import pytest
from structlog.testing import capture_logs

from stream.fold.placement import Placement
from stream.fold.records import Misplaced
from stream.worker.misplaced_keys import MisplacedKeys

FIRST = Misplaced("clicks", 3, 7, 2)


def test_one_warning_names_the_first_misplaced_key_and_the_setting_to_change() -> None:
    keys = MisplacedKeys(Placement("murmur2", 4))

    with capture_logs() as logs:
        keys.count([])
        keys.count([FIRST, Misplaced("clicks", 3, 8, 1)])
        keys.count([Misplaced("visits", 3, 0, 1)])

    [line] = logs
    assert (line["event"], line["log_level"], line["topic"], line["partition"], line["offset"]) == (
        *("misplaced_key", "warning"),
        *("clicks", 3, 7),
    )
    assert (line["expected_partition"], line["partitions"], line["partitioner"]) == (2, 4, "murmur2")
    assert line["action"].startswith("sent it to the dead letters; set partitioner=murmur2_random in producers that use")
    assert keys.found == {"clicks": 2, "visits": 1}


@pytest.mark.parametrize(("accepts", "taken"), [(True, "accepted it; "), (False, "sent it to the dead letters; ")])
def test_the_warning_says_what_became_of_the_record(accepts: bool, taken: str) -> None:
    with capture_logs() as logs:
        MisplacedKeys(Placement("crc32", 4, accepts)).count([FIRST])

    assert logs[0]["action"].startswith(taken + "set partitioner=consistent_random")
