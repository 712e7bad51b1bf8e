import pytest

from schemas.topics import DEAD_LETTERED, SOURCES, TABLE, dlq, named_topics


def test_without_arguments_topics_are_those_of_the_table() -> None:
    assert named_topics() == dict(TABLE)


def test_prefix_stands_before_every_name() -> None:
    topics = named_topics(prefix="eu.")
    assert {kind: topic.name for kind, topic in topics.items()} == {kind: f"eu.{topic.name}" for kind, topic in TABLE.items()}


def test_a_name_of_its_own_wins_over_the_prefix() -> None:
    topics = named_topics(prefix="eu.", names={"click": "web-clicks"})
    assert topics["click"].name == "web-clicks"
    assert topics["visit"].name == "eu.shop.visits.v1"


def test_dead_letters_follow_the_name_of_their_topic() -> None:
    topics = named_topics(prefix="eu.", names={"click": "web-clicks"})
    assert topics[dlq("click")].name == "web-clicks.dlq"
    assert topics[dlq("visit")].name == "eu.shop.visits.v1.dlq"


def test_dead_letters_can_be_named_themselves() -> None:
    topics = named_topics(names={"click": "web-clicks", dlq("click"): "refused"})
    assert (topics["click"].name, topics[dlq("click")].name) == ("web-clicks", "refused")


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"found no topic of kind clicks, expected one of visit, browse, click"):
        named_topics(names={"clicks": "web-clicks"})


@pytest.mark.parametrize(
    "names",
    [{"click": "events", "visit": "events"}, {"click": "shop.visits.v1"}, {"interest": "shop.clicks.v1.dlq"}],
    ids=["two overrides", "an override and a default", "a dead-letter topic"],
)
def test_one_name_for_two_kinds_is_refused(names: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="for two kinds, expected one name"):
        named_topics(names=names)


def test_two_topics_may_swap_their_names() -> None:
    topics = named_topics(names={"click": "shop.visits.v1", "visit": "shop.clicks.v1"})
    assert (topics[dlq("click")].name, topics[dlq("visit")].name) == ("shop.visits.v1.dlq", "shop.clicks.v1.dlq")


def test_partitions_and_retention_apply_to_every_topic_so_that_they_stay_co_partitioned() -> None:
    topics = named_topics(partitions=3, retention_ms=-1)
    assert {(topic.partitions, topic.retention_ms) for topic in topics.values()} == {(3, -1)}


def test_sources_are_co_partitioned_and_keyed_by_user_in_the_table() -> None:
    assert {(TABLE[kind].partitions, TABLE[kind].key) for kind in (*SOURCES, "review-sentiment")} == {(12, "user_id")}
    assert {kind: TABLE[kind].struct for kind in SOURCES} == dict(SOURCES)


def test_every_topic_that_a_role_reads_has_a_dead_letter_topic_and_no_other_has() -> None:
    assert {kind for kind in TABLE if kind.endswith(".dlq")} == {dlq(kind) for kind in DEAD_LETTERED}
    assert not {dlq("ad-trigger"), dlq("suppression")} & set(TABLE)
