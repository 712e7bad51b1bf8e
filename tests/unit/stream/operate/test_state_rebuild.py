"""A rebuild sends nothing that the serving generation sends, but no record may vanish in it."""

from schemas.codec import encode
from schemas.dead_letter import DeadLetter, Reason
from schemas.topics import TABLE
from stream.fold.placement import Placement
from stream.fold.records import PartitionTotals
from stream.offline.replay_log import LogRecord
from stream.operate.state_rebuild import SilentFold
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from tests.builders import NOW_MS, search

TOPICS = {kind: topic.name for kind, topic in TABLE.items()}


def test_a_rebuild_sends_only_the_dead_letters_of_records_that_the_serving_rows_may_have_accepted() -> None:
    fold = FeaturesFold(topics=TOPICS, policy=ScoringPolicy(), rates={}, placement=Placement("murmur2", 4))
    records = [
        LogRecord(TOPICS["search"], 2, 0, NOW_MS, b"crc-1", encode(search(user_id="crc-1"))),  # scored
        LogRecord(TOPICS["search"], 2, 1, NOW_MS, b"crc-1", b"{"),
        LogRecord(TOPICS["search"], 2, 2, NOW_MS, b"u-1", encode(search(user_id="u-1"))),  # belongs to partition 3
    ]

    [output] = SilentFold(fold).fold({}, PartitionTotals(), records, NOW_MS).outputs

    assert isinstance(output.message, DeadLetter)
    assert (output.message.reason, output.message.offset) == (Reason.MISPLACED_KEY, 2)
