"""Publish the feature spec of role features, and learn the specs that other releases published: the scorer reads their vectors.

The topic is compacted, with one record per spec in partition 0. Start at publish_spec and FeatureSpecs.
"""

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition

from models.features.spec import FEATURE_SPEC
from schemas.codec import decode, encode
from schemas.errors import DecodeError
from schemas.feature_spec import PublishedSpec, SpecFeature
from stream.kafka.clients import plain_consumer
from stream.kafka.topic_reader import open_reader
from stream.process.settings import Settings

KIND = "feature-spec"

log = structlog.get_logger()


async def publish_spec(settings: Settings, producer: AIOKafkaProducer) -> None:
    """Send the spec of this release; return once all replicas have it."""
    features = [
        SpecFeature(name=one.name, unit=one.unit, window=one.window, null=one.null, reference=reference)
        for one, reference in zip(FEATURE_SPEC.features, FEATURE_SPEC.references, strict=True)
    ]
    spec = PublishedSpec(version=FEATURE_SPEC.version, features=features)
    await producer.send_and_wait(settings.topics()[KIND].name, encode(spec), key=spec.version.encode(), partition=0)


class FeatureSpecs:
    """Hold the references of the features of every known spec, by version; the spec of this release is known."""

    def __init__(self, settings: Settings) -> None:
        """Start with the spec of this release."""
        self._settings = settings
        self.known: dict[str, tuple[str, ...]] = {FEATURE_SPEC.version: FEATURE_SPEC.references}

    async def learn(self) -> None:
        """Read the topic of specs to its end.

        Raises:
            BrokerError: the topic delivers nothing although it is not read to its end.
        """
        consumer = plain_consumer(self._settings)
        await consumer.start()
        try:
            reader = await open_reader(consumer, [TopicPartition(self._settings.topics()[KIND].name, 0)])
            async for record in reader.records():
                try:
                    spec = decode(PublishedSpec, record.value)
                except DecodeError as error:
                    log.error("feature_spec_unreadable", offset=record.offset, reason=str(error), action="ignoring this record")
                    continue
                if spec.version not in self.known:
                    log.info("feature_spec", version=spec.version, features=len(spec.features), action="learnt from its topic")
                    self.known[spec.version] = tuple(feature.reference for feature in spec.features)
        finally:
            await consumer.stop()
