"""Kafka with TLS, SASL and ACLs: each wrong setting and missing ACL is told apart, and the documented ACLs suffice."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import SettingsError
from schemas.topics import DEAD_LETTERED, dlq
from stream.kafka.connection_check import connection_fault
from stream.kafka.topic_admin import apply, plan
from stream.process.settings import Settings, load_settings
from tests.chaos import secured_broker as acl
from tests.chaos.broker import kafka_script
from tests.chaos.secured_broker import SecuredBroker
from tests.harness import Deployment, until

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1500)]  # it starts a broker of its own


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    script = kafka_script()
    assert script is not None, "found no script that starts brokers: set FOOTFALL_KAFKA"
    broker = SecuredBroker(script, tmp_path_factory.mktemp("secured"))
    broker.first_up()
    yield broker
    broker.down()


@pytest.fixture
async def names(broker: SecuredBroker, request: pytest.FixtureRequest) -> AsyncIterator[dict[str, Any]]:
    """Give each test topics and groups of its own."""
    name = f"t{abs(hash(request.node.nodeid)):x}"
    yield {"topic_prefix": f"{name}.", "app_id": name}


def tls(broker: SecuredBroker, **changes: Any) -> Settings:
    given = {"kafka_bootstrap_servers": broker.tls, "kafka_security_protocol": "SSL", "kafka_ssl_ca_location": broker.ca}
    return load_settings(**given | changes)


async def test_wrong_settings_of_a_real_broker_are_told_apart(broker: SecuredBroker, tmp_path: Path) -> None:
    own = {"kafka_ssl_certificate_location": broker.ca, "kafka_ssl_key_location": broker.ca.parent / "key.pem"}
    host = {"kafka_bootstrap_servers": broker.tls.replace("127.0.0.1", "localhost")}
    cases = {
        "password": (broker.settings(kafka_sasl_password="no"), "setting kafka_sasl_username or kafka_sasl_password_file"),
        "mechanism": (broker.settings(kafka_sasl_mechanism="SCRAM-SHA-512"), "setting kafka_sasl_mechanism"),
        "no SASL": (broker.settings(kafka_security_protocol="PLAINTEXT"), "found PLAINTEXT, expected SASL_PLAINTEXT"),
        "SASL": (broker.settings(kafka_bootstrap_servers=broker.address), "found a listener without SASL"),
        "CA": (tls(broker, kafka_ssl_ca_location=None, **own), "setting kafka_ssl_ca_location"),
        "host": (tls(broker, **host, **own), "found a broker certificate for another host name"),
        "no TLS there": (tls(broker, kafka_bootstrap_servers=broker.address), "found a listener without TLS"),
        "TLS there": (load_settings(kafka_bootstrap_servers=broker.tls), "found PLAINTEXT, but the listener speaks TLS"),
        "no certificate": (tls(broker), "setting kafka_ssl_certificate_location"),
    }
    for case, (settings, text) in cases.items():
        fault = await connection_fault(settings)
        assert fault is not None and text in fault, (case, fault)
    for settings in (broker.settings(), tls(broker, **own)):
        assert await connection_fault(settings) is None


async def test_a_wrong_password_ends_a_worker_and_a_command_with_78(broker: SecuredBroker, tmp_path: Path) -> None:
    deployment = Deployment(broker.sasl, tmp_path)
    deployment.settings = broker.settings(kafka_sasl_password="no")

    worker, command = deployment.start("triggers"), deployment.command("topics", "plan")

    assert (worker.process.wait(60), command.returncode) == (78, 78)
    assert "kafka_sasl_password_file" in worker.tail()
    assert "kafka_sasl_password_file" in command.stderr
    assert "Traceback" not in worker.tail() + command.stderr


async def test_topics_apply_needs_the_documented_acls_and_names_the_missing_one(
    broker: SecuredBroker, names: dict[str, Any]
) -> None:
    settings = broker.settings(**names)

    with pytest.raises(SettingsError, match="expected Create on it or on the cluster"):
        await apply(settings)
    await broker.grant(acl.TOPIC, names["app_id"], acl.CREATE, pattern=acl.PREFIXED)
    with pytest.raises(SettingsError, match="does not list it, expected Describe"):
        await apply(settings)
    await broker.grant(acl.TOPIC, names["app_id"], acl.DESCRIBE, pattern=acl.PREFIXED)
    with pytest.raises(SettingsError, match="expected DescribeConfigs"):
        await apply(settings)
    await broker.grant(acl.TOPIC, names["app_id"], acl.DESCRIBE_CONFIGS, pattern=acl.PREFIXED)
    assert {change.action for change in await plan(settings)} == {"ok"}
    longer = broker.settings(**names, retention_ms=123_456_789)
    with pytest.raises(SettingsError, match="expected AlterConfigs"):
        await apply(longer)
    await broker.grant(acl.TOPIC, names["app_id"], acl.ALTER_CONFIGS, pattern=acl.PREFIXED)
    assert {change.action for change in await apply(longer)} == {"alter"}


async def test_a_worker_without_an_acl_ends_with_78_and_with_the_documented_ones_it_serves(
    broker: SecuredBroker, names: dict[str, Any], tmp_path: Path
) -> None:
    await apply(load_settings(kafka_bootstrap_servers=broker.address, partitions=2, replication_factor=1, **names))
    settings = broker.settings(**names)
    deployment = Deployment(broker.sasl, tmp_path)
    deployment.settings = settings
    topics, group = settings.topics(), settings.group("features")

    async def refused(text: str) -> None:
        worker = deployment.start("features")
        assert worker.process.wait(60) == 78, worker.tail()
        assert text in worker.tail()

    try:
        await refused("ACL of a topic: found no permission for")
        for kind in ("visit", "browse", "click", "search", "purchase", "review", "rating", "review-sentiment"):
            await broker.grant(acl.TOPIC, topics[kind].name, acl.READ)
            assert kind in DEAD_LETTERED
            await broker.grant(acl.TOPIC, topics[dlq(kind)].name, acl.WRITE)
        await broker.grant(acl.TOPIC, topics["score-request"].name, acl.WRITE)
        await broker.grant(acl.TOPIC, topics["feature-spec"].name, acl.WRITE)
        await broker.grant(acl.TOPIC, settings.changelog("features"), acl.READ, acl.WRITE)
        await refused(f"ACL of a consumer group: found no permission for {group}")
        await broker.grant(acl.GROUP, group, acl.READ)
        await refused("ACL of a transactional id")
        await broker.grant(acl.TRANSACTIONAL_ID, f"{group}-", acl.WRITE, acl.DESCRIBE, pattern=acl.PREFIXED)
        worker = deployment.start("features")
        await until("it is ready", worker.ready, seconds=60, worker=worker)
        assert worker.stop() == 0
    finally:
        deployment.stop()
