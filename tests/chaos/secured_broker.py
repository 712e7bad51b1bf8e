"""Run an Apache Kafka broker with TLS, SASL and ACLs. The plain listener is for the test: its user may do everything.

Start at SecuredBroker.
"""

import subprocess
from pathlib import Path
from typing import Any

from aiokafka.protocol.admin import CreateAclsRequest

from stream.kafka.clients import admin_client
from stream.process.settings import Settings, load_settings
from tests.chaos.broker import Broker, free_ports

USER, PASSWORD = "shop", "hunter2"
TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID = 2, 3, 4, 5  # resource types of Kafka's protocol
LITERAL, PREFIXED = 3, 4
READ, WRITE, CREATE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS = 3, 4, 5, 8, 10, 11
ALLOW = 3
PROPERTIES = """
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl},TLS://127.0.0.1:{tls}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


class SecuredBroker(Broker):
    """A broker whose listeners are at `address`, `sasl` and `tls`; `ca` is the file of its CA."""

    def _choose(self) -> None:
        super()._choose()
        sasl, tls, controller = free_ports(3)
        self.sasl, self.tls, self.ca = f"127.0.0.1:{sasl}", f"127.0.0.1:{tls}", self._data.parent / "ca.pem"
        facts: dict[str, Any] = {"keystore": self._keystore(), "truststore": self.ca}
        ports = {"port": self.port, "sasl": sasl, "tls": tls, "controller": controller}
        self._conf.write_text(PROPERTIES.format(**facts, **ports, user=USER, password=PASSWORD))

    def _keystore(self) -> Path:
        folder = self._data.parent
        command = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out ca.pem -days 2 -subj /CN=broker"
        usage = "keyUsage=critical,keyCertSign,digitalSignature,keyEncipherment"  # Python 3.13 demands it
        names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", usage]
        subprocess.run(["openssl", *command.split(), *names], cwd=folder, check=True, capture_output=True)
        (folder / "keystore.pem").write_bytes((folder / "key.pem").read_bytes() + self.ca.read_bytes())
        return folder / "keystore.pem"

    def settings(self, **changes: Any) -> Settings:
        """Return settings of the user that ACLs are granted to."""
        sasl = {
            "kafka_bootstrap_servers": self.sasl,
            "kafka_security_protocol": "SASL_PLAINTEXT",
            "kafka_sasl_mechanism": "PLAIN",
            "kafka_sasl_username": USER,
            "kafka_sasl_password": PASSWORD,
        }
        return load_settings(**sasl | {"partitions": 2, "replication_factor": 1} | changes)

    async def grant(self, kind: int, name: str, *operations: int, pattern: int = LITERAL) -> None:
        """Let the user perform operations on a resource."""
        client = admin_client(load_settings(kafka_bootstrap_servers=self.address))
        await client.start()
        for operation in operations:
            request = CreateAclsRequest(kind, name, pattern, f"User:{USER}", "*", operation, ALLOW)
            answer = await client._send_request(request)
            assert answer.creation_responses[0][0] == 0, answer
        await client.close()
