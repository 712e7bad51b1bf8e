"""Find out why no broker answers: down, or reached with a wrong setting. aiokafka's bootstrap hides the cause.

Connects to each bootstrap server once more, as the clients do, and probes what the listener speaks. Probes send no
credentials. Start at broker_error.
"""

import asyncio
import socket
import ssl
import struct

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from schemas.errors import BrokerError, FootfallError, SettingsError
from stream.kafka.clients import client_options
from stream.process.access_faults import access_fault, no_certificate_fault, no_tls_fault
from stream.process.settings import Settings

PROBE_SECONDS = 5.0
CONNECT_ERRORS = (OSError, KafkaError, TimeoutError, EOFError, ValueError, LookupError, AssertionError, struct.error)


async def broker_error(settings: Settings, error: BaseException, rest: str = "") -> FootfallError:
    """Turn an error of a Kafka client into ours: SettingsError if a person must correct a setting or an ACL.

    `rest` is appended to the text of any other error. Takes up to a few seconds per bootstrap server if no broker answers.
    """
    fault = access_fault(error)
    if fault is None and isinstance(error, KafkaConnectionError | TimeoutError | OSError):
        fault = await connection_fault(settings)
    if fault is not None:
        return SettingsError(fault)
    if isinstance(error, KafkaConnectionError | TimeoutError | OSError):
        found = f"no broker answers at {settings.kafka_bootstrap_servers}: start one, or set KAFKA_BOOTSTRAP_SERVERS"
    else:
        found = f"broker {settings.kafka_bootstrap_servers}: {error}"
    return BrokerError(f"{found}{rest}")


async def connection_fault(settings: Settings) -> str | None:
    """Return what is wrong with the settings; None if a server answers as they expect, or none is up."""
    faults: list[str] = []
    for host, port, _ in collect_hosts(settings.kafka_bootstrap_servers):
        try:
            fault = await _server_fault(settings, host, port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:
                faults.append(f"setting kafka_bootstrap_servers: found no address of {host}, expected the name of a broker")
            continue
        except OSError:  # refused, timed out, no route, or all of a name's addresses: the server is down or far away
            continue
        if fault is None:
            return None
        faults.append(f"{fault} (found at {host}:{port})")
    return faults[0] if faults else None


async def _server_fault(settings: Settings, host: str, port: int) -> str | None:
    """Return why one server does not serve us; raise the error of a TCP connection that cannot be opened."""
    async with asyncio.timeout(PROBE_SECONDS):
        await _close(await asyncio.open_connection(host, port))
    protocol, sasl = settings.kafka_security_protocol, settings.kafka_security_protocol.startswith("SASL")
    try:
        connection = await _connect(settings, host, port, protocol)
    except CONNECT_ERRORS as error:
        if fault := access_fault(error):
            return fault
        if isinstance(error, ValueError | LookupError) and sasl:  # a broker whose proof is not made with our password
            return f"setting kafka_sasl_password_file: found an answer to the SASL handshake that it does not fit ({error})"
        return await _protocol_fault(settings, host, port)
    try:
        await connection.send(MetadataRequest([]))
        return None
    except CONNECT_ERRORS as error:
        return access_fault(error) or await _sasl_fault(settings, host, port)
    finally:
        connection.close()


async def _protocol_fault(settings: Settings, host: str, port: int) -> str | None:
    """Compare what a listener speaks with what the settings ask for."""
    protocol = settings.kafka_security_protocol
    if "SSL" in protocol:
        try:
            (await _connect(settings, host, port, "PLAINTEXT")).close()
        except CONNECT_ERRORS:
            asks = settings.kafka_ssl_certificate_location is None and await _speaks_tls(host, port)
            return no_certificate_fault("the listener ended the connection after the TLS handshake") if asks else None
        return no_tls_fault()
    return _tls_listener(protocol) if await _speaks_tls(host, port) else None


async def _sasl_fault(settings: Settings, host: str, port: int) -> str | None:
    """Return a fault if the listener answers a SASL handshake, but the settings ask for none."""
    protocol = settings.kafka_security_protocol
    if protocol.startswith("SASL"):
        return None
    try:
        connection = await _connect(settings, host, port, protocol)
        try:
            answer = await connection.send(SaslHandShakeRequest(settings.kafka_sasl_mechanism))
        finally:
            connection.close()
    except CONNECT_ERRORS:
        return None
    offered = ", ".join(answer.enabled_mechanisms)
    if not offered:
        return None
    return (
        f"setting kafka_security_protocol: found {protocol}, expected SASL_{protocol}, since the listener asks for SASL with "
        f"{offered}: set it, kafka_sasl_mechanism, kafka_sasl_username and kafka_sasl_password_file"
    )


def _tls_listener(protocol: str) -> str:
    return (
        f"setting kafka_security_protocol: found {protocol}, but the listener speaks TLS, expected "
        f"{'SASL_SSL' if protocol.startswith('SASL') else 'SSL'}: set it, or use the port of the listener without TLS in "
        "kafka_bootstrap_servers"
    )


async def _connect(settings: Settings, host: str, port: int, protocol: str) -> AIOKafkaConnection:
    options = client_options(settings) | {"security_protocol": protocol}
    del options["bootstrap_servers"]
    return await create_conn(host, port, request_timeout_ms=int(PROBE_SECONDS * 1000), **options)


async def _speaks_tls(host: str, port: int) -> bool:
    """Return whether a listener answers a TLS handshake; its certificate does not matter, since nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await _close(await asyncio.open_connection(host, port, ssl=context))
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # only a TLS peer sends an alert
    except (OSError, TimeoutError, EOFError):
        return False
    return True


async def _close(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    streams[1].close()
