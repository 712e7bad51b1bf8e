"""Provide an embedded broker per test module, and settings with a separate topic prefix per test."""

import secrets
from collections.abc import Iterator

import pytest

from stream.demo.local_broker import LocalBroker
from stream.process.settings import Settings, load_settings


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalBroker]:
    with LocalBroker() as broker:
        yield broker


@pytest.fixture
def settings(broker: LocalBroker) -> Settings:
    name = f"t{secrets.token_hex(4)}"
    return load_settings(
        kafka_bootstrap_servers=broker.bootstrap_servers,
        topic_prefix=f"{name}.",
        app_id=name,
        partitions=4,
        replication_factor=1,
        retention_ms=-1,
        transactions=False,
    )
