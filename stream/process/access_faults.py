"""Tell apart why a broker refuses a client: CA, host name, protocol, password, mechanism or a missing ACL.

Reads the errors of ssl and aiokafka, not the network. A person must correct each of them. Start at access_fault.
"""

import ssl
from collections.abc import Iterator

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

OTHER_HOST = (62, 64)  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH
OTHER_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
OLD_TLS = ("UNSUPPORTED_PROTOCOL", "ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE")
OUR_CERTIFICATE = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "ALERT_UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED")
ACLS = {  # error → what it is about, and the operations that the principal needs
    TopicAuthorizationFailedError: ("topic", "Read on what a role reads, Write on what it sends, Describe for tools"),
    GroupAuthorizationFailedError: ("consumer group", "Read"),
    TransactionalIdAuthorizationFailed: ("transactional id", "Write and Describe, on the prefix"),
    ClusterAuthorizationFailedError: ("cluster", "Create for `topics apply`"),
}


def access_fault(error: BaseException | None) -> str | None:
    """Describe an error that comes from a wrong setting or a missing ACL; None for any other error."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return _tls_fault(cause)
        if isinstance(cause, SaslAuthenticationFailed):
            return (
                f"setting kafka_sasl_username or kafka_sasl_password_file: found them refused by the broker ({_text(cause)}), "
                "expected a user that it knows and that user's password"
            )
        if isinstance(cause, UnsupportedSaslMechanismError):
            return f"setting kafka_sasl_mechanism: found one that the listener does not offer ({_text(cause)}): set another one"
        if isinstance(cause, IllegalSaslStateError):
            return (
                "setting kafka_security_protocol: found a listener without SASL, expected one with SASL: set PLAINTEXT or SSL, "
                "or use the port of the SASL listener in kafka_bootstrap_servers"
            )
        for kind, (what, needed) in ACLS.items():
            if isinstance(cause, kind):
                return (
                    f"ACL of a {what}: found no permission for {_names(cause) or 'it'}, expected {needed}: "
                    "grant it to this principal, see docs/how-to/run-on-kafka.md"
                )
    return None


def _tls_fault(error: ssl.SSLError) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        found = error.verify_message
        if error.verify_code in OTHER_HOST:
            return (
                f"setting kafka_bootstrap_servers: found a broker certificate for another host name ({found}), expected one "
                "of its names as the host: set that name, or kafka_ssl_endpoint_identification_algorithm to empty"
            )
        if error.verify_code in OTHER_TIME:
            return f"broker certificate: found {found}, expected a valid one: renew it on the broker, or correct this clock"
        return (
            f"setting kafka_ssl_ca_location: found a broker certificate that it does not vouch for ({found}), expected the CA "
            "that signed it: set the file with that CA's certificate"
        )
    reason = error.reason or ""
    if reason in NO_TLS:
        return no_tls_fault()
    if reason.endswith(OLD_TLS):
        return f"broker TLS: found {reason}, expected TLS 1.2 or newer: enable it on the broker"
    if reason.endswith(OUR_CERTIFICATE):
        return no_certificate_fault(reason)
    return None


def no_certificate_fault(reason: str) -> str:
    """Describe a listener that asks for a client certificate and did not get one that it accepts."""
    return (
        f"setting kafka_ssl_certificate_location: found our certificate missing or refused ({reason}), expected one that the "
        "broker's trust store accepts"
    )


def no_tls_fault() -> str:
    """Describe a listener that does not speak TLS although the settings ask for it."""
    return (
        "setting kafka_security_protocol: found a listener without TLS, expected one with TLS: use the port of that listener "
        "in kafka_bootstrap_servers, or set PLAINTEXT or SASL_PLAINTEXT"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _names(error: BaseException) -> str:
    """Return the names in an error of the broker: aiokafka passes one, or a set of them."""
    names = [[arg] if isinstance(arg, str) else arg for arg in error.args if isinstance(arg, str | set | list | tuple)]
    return ", ".join(sorted({str(name) for inner in names for name in inner}))


def _text(error: BaseException) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__
