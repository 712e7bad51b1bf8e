"""Compare topics with what they were: recreated and extended ones are refused, deleted ones are named until they are back."""

import pytest

from schemas.errors import StartRefused
from stream.kafka.topic_ids import TopicFacts
from stream.kafka.topic_watch import TopicWatch


def watch() -> TopicWatch:
    made = TopicWatch(lambda: None, ["clicks", "visits"], 4, "run `footfall state reset features`")  # type: ignore[arg-type, return-value]
    made.compare({"clicks": TopicFacts("a", 4), "visits": TopicFacts("b", 4)})
    return made


def test_topics_with_the_same_ids_are_accepted() -> None:
    made = watch()
    made.compare({"clicks": TopicFacts("a", 4), "visits": TopicFacts("b", 4)})
    assert (made.ids, made.missing) == ({"clicks": "a", "visits": "b"}, frozenset())


def test_a_deleted_topic_is_missing_and_another_one_of_its_name_is_refused() -> None:
    made = watch()
    made.compare({"visits": TopicFacts("b", 4)})
    assert made.missing == {"clicks"}

    with pytest.raises(StartRefused, match=r"found id c of topic clicks, expected a, .*recreated; run `footfall state reset"):
        made.compare({"clicks": TopicFacts("c", 4), "visits": TopicFacts("b", 4)})


def test_new_partitions_are_refused() -> None:
    with pytest.raises(StartRefused, match="found 6 partitions in topic visits, expected 4"):
        watch().compare({"clicks": TopicFacts("a", 4), "visits": TopicFacts("b", 6)})


def test_a_broker_without_ids_shows_only_the_partition_count() -> None:
    made = TopicWatch(lambda: None, ["clicks"], 4, "")  # type: ignore[arg-type, return-value]
    made.compare({"clicks": TopicFacts("", 4)})
    made.compare({"clicks": TopicFacts("", 4)})
    assert made.ids == {"clicks": ""}
