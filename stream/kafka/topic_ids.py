"""Look up the ids and partition counts of topics: Metadata request version 10, which aiokafka lacks.

A topic that is deleted and created again under its name has another id. Brokers that know no version 10 report no ids.
Start at describe_topics.
"""

import asyncio
import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import AbstractType, Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields
from msgspec import Struct

LOOKUP_SECONDS = 3.0
NO_ID = bytes(16)


class TopicFacts(Struct, frozen=True):
    """Hold a topic's id, in the form that Kafka's tools print, and its partition count; the id is "" if the broker has none."""

    topic_id: str
    partitions: int


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka has no types
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _Response(Response):  # type: ignore[misc]  # as above
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _Request(RequestStruct):  # type: ignore[misc]  # as above
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicsRequest(Request[MetadataRequest_v5 | _Request]):  # type: ignore[misc]  # as above
    """Ask for topics by name, with ids where the broker knows version 10; never creates a topic."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        """Ask for these topics."""
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        """Build the request in the version that was negotiated with the broker."""
        if request_struct_class is _Request:
            return _Request([(NO_ID, name, {}) for name in self._topics], False, False, False, {})
        return request_struct_class(topics=list(self._topics), allow_auto_topic_creation=False)


async def describe_topics(client: AIOKafkaClient, topics: Sequence[str]) -> dict[str, TopicFacts]:
    """Return the id and partition count of each topic that exists.

    Raises:
        KafkaError: no broker answered, or it reported an error for a topic that exists.
        TimeoutError: the broker did not answer within LOOKUP_SECONDS.
    """
    async with asyncio.timeout(LOOKUP_SECONDS):
        response = await client.send(client.get_random_node(), TopicsRequest(topics))
    found = {}
    for error_code, name, *rest in response.topics:
        if error_code == UnknownTopicOrPartitionError.errno:
            continue
        if error_code:
            raise for_code(error_code)(name)
        topic_id, partitions = (rest[0], rest[2]) if response.API_VERSION >= _Response.API_VERSION else (NO_ID, rest[1])
        text = base64.urlsafe_b64encode(topic_id).rstrip(b"=").decode()
        found[name] = TopicFacts("" if topic_id == NO_ID else text, len(partitions))
    return found
