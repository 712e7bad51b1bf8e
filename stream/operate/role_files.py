"""List the files that a role reads at its start. Start at files_of."""

from pathlib import Path

from stream.process.settings import Settings, settings_file


def files_of(settings: Settings, role: str) -> list[Path]:
    """Return the files and folders whose change may end the refusal of a role; some may not exist yet."""
    own = {"scorer": [settings.checkpoint], "triggers": [settings.trigger_policy]}
    secrets = [
        settings.kafka_sasl_password_file,
        settings.kafka_ssl_ca_location,
        settings.kafka_ssl_certificate_location,
        settings.kafka_ssl_key_location,
        settings.kafka_ssl_key_password_file,
    ]
    return [settings_file(), *own.get(role, []), *(path for path in secrets if path is not None)]
