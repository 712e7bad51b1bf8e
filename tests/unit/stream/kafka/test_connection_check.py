"""Why no broker answers: each wrong setting is named, and a broker that is down is none."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import errors

from schemas.errors import BrokerError, SettingsError
from stream.kafka.clients import admin_client
from stream.kafka.connection_check import broker_error, connection_fault
from stream.process.access_faults import access_fault
from stream.process.settings import load_settings
from tests.fakes import FakeListener

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two CAs, and broker certificates of the first: for 127.0.0.1, for another host, and an expired one.

    They have the extensions of RFC 5280 that Python 3.13 demands.
    """
    folder = tmp_path_factory.mktemp("certificates")
    for ca in ("ca", "other-ca"):
        openssl(folder, "req", "-x509", *KEY, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-days", "2", "-subj", f"/CN={ca}",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name, host, days in (
        ("broker", "IP:127.0.0.1", 2),
        ("elsewhere", "DNS:kafka.shop.example", 2),
        ("old", "IP:127.0.0.1", -1),
    ):
        openssl(folder, "req", *KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "san").write_text(f"subjectAltName={host}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", str(days), "-extfile", "san", "-out", f"{name}.pem")  # fmt: skip
    return folder


def server_context(certificates: Path, name: str, *, asks_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    if asks_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.pem")
    return context


@asynccontextmanager
async def listening(listener: FakeListener, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0, ssl=context)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()


def settings_for(broker: str, protocol: str, folder: Path, **more: Any) -> Any:
    sasl = {"kafka_sasl_username": "shop", "kafka_sasl_password": "hunter2"} if protocol.startswith("SASL") else {}
    tls = {"kafka_ssl_ca_location": folder / "ca.pem"} if protocol.endswith("SSL") else {}
    return load_settings(kafka_bootstrap_servers=broker, kafka_security_protocol=protocol, **{**sasl, **tls, **more})


TLS: dict[str, tuple[str, dict[str, Any], str]] = {  # case → the broker's certificate, settings, what the text says
    "another CA": ("broker", {"kafka_ssl_ca_location": "other-ca.pem"}, "setting kafka_ssl_ca_location: "),
    "another host": ("elsewhere", {}, "setting kafka_bootstrap_servers: found a broker certificate for another host name"),
    "expired": ("old", {}, "broker certificate: found certificate has expired"),
}


@pytest.mark.parametrize(("name", "changes", "text"), TLS.values(), ids=TLS)
async def test_what_is_wrong_with_a_brokers_certificate_is_told_apart(
    name: str, changes: dict[str, Any], text: str, certificates: Path
) -> None:
    changes = {setting: certificates / value for setting, value in changes.items()}
    async with listening(FakeListener(), server_context(certificates, name)) as broker:
        fault = await connection_fault(settings_for(broker, "SSL", certificates, **changes))
    assert fault is not None and fault.startswith(text), fault
    assert broker in fault


async def test_a_broker_that_wants_our_certificate_names_its_setting(certificates: Path) -> None:
    context = server_context(certificates, "broker", asks_certificate=True)
    async with listening(FakeListener(), context) as broker:
        fault = await connection_fault(settings_for(broker, "SSL", certificates))
        ours = {
            "kafka_ssl_certificate_location": certificates / "broker.pem",
            "kafka_ssl_key_location": certificates / "broker.key",
        }
        none = await connection_fault(settings_for(broker, "SSL", certificates, **ours))
    assert fault is not None and fault.startswith("setting kafka_ssl_certificate_location: "), fault
    assert none is None


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
async def test_a_listener_with_tls_that_gets_plaintext_is_recognised(protocol: str, certificates: Path) -> None:
    listener = FakeListener(mechanisms=["SCRAM-SHA-512"])
    async with listening(listener, server_context(certificates, "broker")) as broker:
        fault = await connection_fault(settings_for(broker, protocol, certificates))
    assert fault is not None and fault.startswith(f"setting kafka_security_protocol: found {protocol}, but"), fault
    assert listener.payloads == []


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
async def test_a_listener_without_tls_that_gets_tls_is_recognised(protocol: str, certificates: Path) -> None:
    listener = FakeListener(mechanisms=["SCRAM-SHA-512"] if protocol == "SASL_SSL" else [])
    async with listening(listener) as broker:
        fault = await connection_fault(settings_for(broker, protocol, certificates))
    assert fault is not None and fault.startswith("setting kafka_security_protocol: found a listener without TLS"), fault
    assert listener.payloads == []  # no password was sent in plaintext


SASL: dict[str, tuple[Sequence[str], int, str, str]] = {  # case → the listener's mechanisms, its error, protocol, text
    "wrong password": (["PLAIN"], 58, "SASL_PLAINTEXT", "setting kafka_sasl_username or kafka_sasl_password_file: "),
    "another mechanism": (["SCRAM-SHA-256"], 0, "SASL_PLAINTEXT", "setting kafka_sasl_mechanism: "),
    "no SASL there": ([], 0, "SASL_PLAINTEXT", "setting kafka_security_protocol: found a listener without SASL"),
    "SASL there": (["PLAIN"], 0, "PLAINTEXT", "setting kafka_security_protocol: found PLAINTEXT, expected SASL_PLAINTEXT"),
}


@pytest.mark.parametrize(("mechanisms", "refusal", "protocol", "text"), SASL.values(), ids=SASL)
async def test_what_is_wrong_with_sasl_is_told_apart(
    mechanisms: Sequence[str], refusal: int, protocol: str, text: str, tmp_path: Path
) -> None:
    async with listening(FakeListener(mechanisms=mechanisms, refusal=refusal)) as broker:
        fault = await connection_fault(settings_for(broker, protocol, tmp_path, kafka_sasl_mechanism="PLAIN"))
    assert fault is not None and fault.startswith(text), fault
    assert "hunter2" not in fault


async def test_one_server_that_answers_is_enough_and_one_that_is_down_is_no_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        down = f"127.0.0.1:{server.getsockname()[1]}"
    async with listening(FakeListener()) as broker:
        assert await connection_fault(settings_for(f"{down},{broker}", "PLAINTEXT", tmp_path)) is None
    assert await connection_fault(settings_for(down, "PLAINTEXT", tmp_path)) is None


async def test_a_server_without_a_route_or_with_two_addresses_that_refuse_is_no_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for away in (f"localhost:{port}", f"255.255.255.255:{port}"):
        assert await connection_fault(settings_for(away, "PLAINTEXT", tmp_path, allow_plaintext=True)) is None


async def test_an_error_of_a_client_becomes_a_setting_to_correct_or_a_broker_that_is_down(tmp_path: Path) -> None:
    async with listening(FakeListener(mechanisms=["PLAIN"], refusal=58)) as broker:
        settings = settings_for(broker, "SASL_PLAINTEXT", tmp_path, kafka_sasl_mechanism="PLAIN")
        client = admin_client(settings)
        with pytest.raises(errors.KafkaConnectionError) as raised:
            await client.start()
        await client.close()
        refused = await broker_error(settings, raised.value)
    down = await broker_error(settings, raised.value, "; not all records were sent")

    assert isinstance(refused, SettingsError) and "kafka_sasl_password_file" in str(refused)
    assert isinstance(down, BrokerError)
    assert str(down).startswith(f"no broker answers at {broker}") and str(down).endswith("; not all records were sent")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.TopicAuthorizationFailedError("clicks"), ["ACL of a topic", "clicks", "Read"]),
        (errors.TopicAuthorizationFailedError({"b", "a"}), ["a, b"]),
        (errors.GroupAuthorizationFailedError("footfall-features"), ["ACL of a consumer group", "footfall-features", "Read"]),
        (
            errors.TransactionalIdAuthorizationFailed("footfall-features-0"),
            ["transactional id", "footfall-features-0", "prefix"],
        ),
        (errors.ClusterAuthorizationFailedError(), ["ACL of a cluster", "Create"]),
    ],
    ids=["topic", "topics", "group", "transactional id", "cluster"],
)
def test_a_missing_acl_names_what_it_is_about(error: Exception, words: list[str]) -> None:
    outer = RuntimeError("wrapped")
    outer.__cause__ = error
    for raised in (error, outer):
        assert all(word in (access_fault(raised) or "") for word in words)


@pytest.mark.parametrize(
    "error", [None, OSError(), errors.KafkaConnectionError(), errors.NotLeaderForPartitionError(), ValueError()]
)
def test_any_other_error_is_no_fault_of_access(error: Exception | None) -> None:
    assert access_fault(error) is None
