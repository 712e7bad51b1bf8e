"""Ask for topics with their ids: the bytes of version 10, and the request without ids for brokers that lack it."""

from io import BytesIO

from aiokafka.protocol.metadata import MetadataRequest_v5

from stream.kafka.topic_ids import TopicsRequest, _Request, _Response

ID = bytes(range(16))


def test_the_request_names_the_topics_and_permits_no_creation() -> None:
    request = TopicsRequest(["clicks"]).prepare({3: (0, 13)})

    assert type(request) is _Request
    # an array of one topic: no id, "clicks", no tags; then three flags that are off, and no tags
    assert request.encode() == b"\x02" + bytes(16) + b"\x07clicks\x00" + b"\x00\x00\x00" + b"\x00"


def test_a_broker_without_ids_is_asked_by_the_version_that_it_knows() -> None:
    request = TopicsRequest(["clicks"]).prepare({3: (0, 9)})

    assert type(request) is MetadataRequest_v5
    assert request.to_object() == {"topics": ["clicks"], "allow_auto_topic_creation": False}


def test_a_response_gives_ids_and_partitions() -> None:
    partition = (0, 3, 1, 7, [1], [1], [], {})
    topics = [(0, "clicks", ID, False, [partition], 0, {})]
    sent = _Response(0, [(1, "localhost", 9092, None, {})], "cluster", 1, topics, 0, {}).encode()

    found = _Response.decode(BytesIO(sent))

    assert found.topics == topics
