"""Every kind of poison is refused for its own reason, leaves no row, and keeps its bytes."""

import pytest

from schemas.fields import MAX_EVENT_BYTES
from schemas.topics import TABLE
from stream.fold.records import PartitionTotals
from stream.offline.replay_log import LogRecord
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from tests.builders import NOW_MS
from tests.poison import POISON


@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_for_its_reason_and_keeps_its_bytes(name: str) -> None:
    poison, topics = POISON[name], {kind: topic.name for kind, topic in TABLE.items()}
    fold, rows = FeaturesFold(topics=topics, policy=ScoringPolicy(), rates={"GBP": 1.0}), dict[bytes, bytes]()
    record = LogRecord(topics[poison.kind], 0, 0, NOW_MS, poison.key, poison.value)

    [output] = fold.fold(rows, PartitionTotals(), [record], NOW_MS).outputs

    letter = output.message
    assert (letter.reason, rows) == (poison.reason, {})
    whole = len(poison.value or b"") <= MAX_EVENT_BYTES
    assert (letter.key, letter.value) == (poison.key, poison.value if whole else None)
