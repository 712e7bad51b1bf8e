"""Build every Kafka client from the settings: servers, TLS and SASL are set only here.

Start at client_options.
"""

import ssl
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from schemas.errors import SettingsError
from stream.process.settings import Settings


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Build the TLS context (1.2 or newer); return None for a protocol without TLS.

    Raises:
        SettingsError: a certificate or key file cannot be loaded.
    """
    if "SSL" not in settings.kafka_security_protocol:
        return None
    ca, certificate, key = (
        settings.kafka_ssl_ca_location,
        settings.kafka_ssl_certificate_location,
        settings.kafka_ssl_key_location,
    )
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = settings.kafka_ssl_endpoint_identification_algorithm == "https"
        if certificate is not None:
            context.load_cert_chain(certificate, key, settings.ssl_key_password)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (ca, certificate, key) if path is not None)
        raise SettingsError(
            f"setting kafka_ssl_*: found {error} in {files or 'the system store'}, expected readable PEM files"
        ) from error
    return context


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the options of every aiokafka client: servers, client id, TLS and SASL."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "client_id": settings.kafka_client_id,
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.sasl_password,
        }
    return options


def faust_credentials(settings: Settings) -> Any:
    """Return the same credentials in Faust's form, or None for plaintext."""
    context = ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.sasl_password,
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def output_producer(settings: Settings) -> AIOKafkaProducer:
    """Build the producer for at-least-once outputs: all replicas acknowledge, and retries write no duplicates."""
    return AIOKafkaProducer(
        **client_options(settings),
        acks="all",
        enable_idempotence=settings.transactions,
        linger_ms=2,
        max_batch_size=1 << 18,
        max_request_size=8 << 20,
    )


def letter_producer(settings: Settings) -> AIOKafkaProducer:
    """Build the producer that sends dead letters again: all replicas acknowledge.

    It is not idempotent. A broker that refuses one record would otherwise refuse all later ones of that partition, because
    their sequence numbers no longer fit.
    """
    return AIOKafkaProducer(
        **client_options(settings),
        acks="all",
        enable_idempotence=False,
        linger_ms=2,
        max_batch_size=1 << 18,
        max_request_size=8 << 20,
    )


def rows_producer(settings: Settings, transactional_id: str | None) -> AIOKafkaProducer:
    """Build the producer for one partition's rows; a transactional id fences the previous owner."""
    transactional = {} if transactional_id is None else {"transactional_id": transactional_id, "transaction_timeout_ms": 10_000}
    return AIOKafkaProducer(
        **client_options(settings),
        acks="all",
        linger_ms=0,
        retry_backoff_ms=20,
        max_batch_size=1 << 20,
        max_request_size=8 << 20,
        **transactional,
    )


def plain_consumer(settings: Settings, **options: Any) -> AIOKafkaConsumer:
    """Build a consumer without a group; with transactions enabled, it reads only committed records."""
    defaults = {
        "max_partition_fetch_bytes": 8 << 20,
        "isolation_level": "read_committed" if settings.transactions else "read_uncommitted",
    }
    return AIOKafkaConsumer(**client_options(settings), enable_auto_commit=False, fetch_max_wait_ms=50, **defaults | options)


def admin_client(settings: Settings) -> AIOKafkaAdminClient:
    """Build an admin client."""
    return AIOKafkaAdminClient(**client_options(settings))
