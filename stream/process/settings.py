"""Every setting, from flags, environment, secret files and `footfall.toml`, checked before anything starts.

Kafka's own settings keep their usual names (`KAFKA_BOOTSTRAP_SERVERS`), ours begin with `FOOTFALL_`. Flags win over
the environment, the environment over the file, the file over defaults. Start at load_settings.
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError as SourceError

from schemas.errors import SettingsError
from schemas.topics import Topic, named_topics
from stream.process.setting_faults import explain, unknown_variables

TABLE = "users"
CONFIG = "FOOTFALL_CONFIG"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


class Settings(BaseSettings):
    """All settings of a deployment; each field is a flag (`--barrier-ms`), a variable and a line of the file."""

    model_config = SettingsConfigDict(
        env_prefix="FOOTFALL_",
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    kafka_bootstrap_servers: str = Field(
        "127.0.0.1:9092", alias="KAFKA_BOOTSTRAP_SERVERS", description="host:port, comma separated"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", alias="KAFKA_SECURITY_PROTOCOL", description="how clients connect"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", alias="KAFKA_SASL_MECHANISM", description="SASL mechanism"
    )
    kafka_sasl_username: str | None = Field(None, alias="KAFKA_SASL_USERNAME", description="SASL user")
    kafka_sasl_password: SecretStr | None = Field(
        None, alias="KAFKA_SASL_PASSWORD", description="SASL password; prefer the file"
    )
    kafka_sasl_password_file: Path | None = Field(
        None, alias="KAFKA_SASL_PASSWORD_FILE", description="file with the SASL password"
    )
    kafka_ssl_ca_location: Path | None = Field(None, alias="KAFKA_SSL_CA_LOCATION", description="CA certificates (PEM)")
    kafka_ssl_certificate_location: Path | None = Field(
        None, alias="KAFKA_SSL_CERTIFICATE_LOCATION", description="client certificate (PEM)"
    )
    kafka_ssl_key_location: Path | None = Field(None, alias="KAFKA_SSL_KEY_LOCATION", description="client key (PEM)")
    kafka_ssl_key_password: SecretStr | None = Field(
        None, alias="KAFKA_SSL_KEY_PASSWORD", description="password of the client key"
    )
    kafka_ssl_key_password_file: Path | None = Field(
        None, alias="KAFKA_SSL_KEY_PASSWORD_FILE", description="file with the password of the client key"
    )
    kafka_ssl_endpoint_identification_algorithm: Literal["https", ""] = Field(
        "https", alias="KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", description='"" does not check the host name'
    )
    kafka_client_id: str = Field("footfall", alias="KAFKA_CLIENT_ID", description="client id shown by the broker")
    allow_plaintext: bool = Field(False, description="permit a broker beyond loopback without TLS")

    app_id: str = Field(
        "footfall", pattern=r"^[a-z][a-z0-9.-]*$", description="prefix of consumer groups and changelogs: keep it stable"
    )
    topic_prefix: str = Field("", description="prefix of every topic name")
    topic_names: dict[str, str] = Field({}, description='whole names by kind, as JSON: {"click": "clicks"}')
    partitions: int | None = Field(
        None, ge=1, le=1000, description="partitions of every topic; empty: as the topics table says"
    )
    replication_factor: int = Field(3, ge=1, le=9, description="replicas of topics that `topics apply` creates")
    retention_ms: int | None = Field(
        None, ge=-1, description="retention of every topic; -1 keeps old timestamps, for a replayed log"
    )
    generations: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description='generation of a role\'s group and changelog that `state rebuild` made: {"features": 2}'
    )
    transactions: bool = Field(
        True, description="commit rows and offsets in Kafka transactions; off only for the embedded broker"
    )
    session_timeout_seconds: float = Field(
        15.0, ge=1, le=300, description="silence after which the broker gives partitions away"
    )

    accept_lost_records: bool = Field(
        False, description="go on where retention deleted records before they were read, and count them as lost"
    )
    ignore_group_offsets: bool = Field(
        False, description="go on from the rows where someone moved the group's offsets, and write them anew"
    )

    barrier_ms: int = Field(200, ge=5, le=10_000, description="features: time between two durable barriers")
    triggers_barrier_ms: int = Field(40, ge=5, le=10_000, description="triggers: time between two durable barriers")
    barrier_timeout_seconds: float = Field(60.0, ge=1, le=3600, description="a barrier that takes longer ends the worker")
    max_pending_events: int = Field(50_000, ge=100, description="events folded but not yet durable before the fold waits")
    max_pending_mb: int = Field(64, ge=1, le=4096, description="megabytes of events folded but not yet durable, likewise")
    decoded_mb: int = Field(
        1024, ge=1, le=1 << 20, description="megabytes that decoded rows of a worker may take; the others are held as bytes"
    )
    max_chunk_events: int = Field(2000, ge=1, description="records of one chunk")
    scorer_chunk_requests: int = Field(64, ge=1, le=4096, description="score requests of one micro-batch")
    buffer_events: int = Field(20_000, ge=100, description="records of one partition that alignment holds")
    alignment_idle_ms: int = Field(
        0, ge=0, le=60_000, description="how long a topic read to its end still holds the others; 0 passes live traffic at once"
    )
    alignment_timeout_seconds: float = Field(
        30.0, gt=0, le=86_400, description="how long an unreadable partition may hold its group"
    )
    drain_seconds: float = Field(8.0, gt=0, le=60, description="time to finish the chunk in work after SIGTERM")

    dlq_max_in_a_row: int = Field(
        1000, ge=0, description="dead letters of one topic in a row beyond which a worker pauses; 0: no limit"
    )
    dlq_max_percent: float = Field(
        5.0, ge=0, le=100, description="share of a topic's last records that may be dead letters before a worker pauses; 0: any"
    )
    dlq_window_records: int = Field(50_000, ge=100, description="records of a topic that dlq_max_percent is a share of")

    lateness_hours: float = Field(
        24.0, ge=0, le=87_600, description="allowed lateness of an event against its record timestamp"
    )
    ttl_days: float = Field(
        400.0,
        ge=31,
        le=36_500,
        description="silence after which a topic's part of a user's row starts anew; silent users are deleted",
    )
    reporting_currency: str = Field("GBP", pattern=r"^[A-Z]{3}$", description="currency of all amounts")
    currency_rates: dict[str, float] = Field({}, description='value of one unit in the reporting currency: {"EUR": 0.86}')
    arrival_kinds: list[Literal["visit", "browse", "click"]] = Field(
        ["visit"], description='kinds whose first event after a pause is scored; ["browse", "click"] for a shop without visits'
    )
    pause_minutes: float = Field(30.0, gt=0, le=525_600, description="silence after which the next event is scored")
    every_clicks: int = Field(20, ge=1, description="score every n-th click of a user")
    min_gap_seconds: float = Field(60.0, ge=0, le=31_536_000, description="least time between two scores that one topic causes")
    score_lateness_minutes: float = Field(
        10.0, ge=0, le=5_256_000, description="an event later than this is folded but not scored"
    )

    checkpoint: Path = Field(
        Path(__file__).parents[2] / "models" / "checkpoints" / "demo", description="a model's folder, or a registry of some"
    )
    registry: Path = Field(Path("models-registry"), description="folder in which `footfall models` keeps models")
    trigger_policy: Path = Field(
        Path(__file__).parents[1] / "roles" / "trigger_policy.yaml", description="file of campaigns (YAML)"
    )
    model_threads: int = Field(1, ge=1, le=256, description="threads of one forward pass")
    http_host: str = Field("127.0.0.1", description="address of /livez, /readyz and /metrics")
    http_port: int = Field(0, ge=0, le=65535, description="port of /livez, /readyz and /metrics; 0 takes a free one")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="log lines; auto is text on a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags, then the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file())

    @field_validator("topic_names", "currency_rates", "arrival_kinds", "generations", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError as error:
            raise ValueError(f"JSON, but {error}") from error

    @field_validator("currency_rates")
    @classmethod
    def _positive_rates(cls, rates: dict[str, float]) -> dict[str, float]:
        if wrong := {code: rate for code, rate in rates.items() if not 0 < rate < 1e9}:
            raise ValueError(f"rates above 0 are expected, found {wrong}")
        return rates

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _ = self.ssl_key_password  # its file must be readable
        sasl = self.kafka_security_protocol.startswith("SASL")
        if sasl and not (self.kafka_sasl_username and self.sasl_password):
            raise ValueError(
                f"kafka_security_protocol is {self.kafka_security_protocol}: "
                "expected kafka_sasl_username and kafka_sasl_password_file beside it"
            )
        hosts = [server.strip().rsplit(":", 1) for server in self.kafka_bootstrap_servers.split(",")]
        if wrong := [":".join(host) for host in hosts if len(host) != 2 or not host[0] or not _is_port(host[1])]:
            raise ValueError(
                "kafka_bootstrap_servers: expected host:port, comma separated, a port from 1 to 65535, "
                f"found {', '.join(wrong)!r}"
            )
        remote = [host for host, _ in hosts if host not in LOOPBACK]
        if remote and "SSL" not in self.kafka_security_protocol and not self.allow_plaintext:
            raise ValueError(
                f"kafka_security_protocol: found {self.kafka_security_protocol} for the broker {remote[0]}, expected SSL or "
                "SASL_SSL beyond loopback (allow_plaintext=true permits it)"
            )
        self._check_names()
        return self

    def _check_names(self) -> None:
        names = [topic.name for topic in self.topics().values()]
        changelogs = [self.changelog(role) for role in ("features", "triggers")]
        if wrong := [name for name in (*names, *changelogs) if not TOPIC_NAME.fullmatch(name) or name in (".", "..")]:
            raise ValueError(
                f"topic_prefix, topic_names or app_id make the topic name {wrong[0][:300]!r}, "
                "expected 1 to 249 letters, digits and ._-"
            )
        if both := sorted({*names} & {*changelogs}):
            raise ValueError(f"topic_names: found {both[0]}, expected another name: it is that of a changelog")

    def group(self, role: str) -> str:
        """Name a role's consumer group; its transactional ids begin with it."""
        generation = self.generations.get(role, 1)
        return f"{self.app_id}-{role}" if generation == 1 else f"{self.app_id}-{role}-g{generation}"

    def changelog(self, role: str) -> str:
        """Name the changelog of a role's rows, as Faust names that of a table `users`."""
        return f"{self.group(role)}-{TABLE}-changelog"

    @property
    def sasl_password(self) -> str | None:
        """The SASL password, from its file where one is named."""
        return _secret("kafka_sasl_password_file", self.kafka_sasl_password, self.kafka_sasl_password_file)

    @property
    def ssl_key_password(self) -> str | None:
        """The password of the client key, from its file where one is named."""
        return _secret("kafka_ssl_key_password_file", self.kafka_ssl_key_password, self.kafka_ssl_key_password_file)

    @property
    def rates(self) -> dict[str, float]:
        """The value of one unit of each currency in the reporting currency, itself included."""
        return {**self.currency_rates, self.reporting_currency: 1.0}

    def topics(self) -> dict[str, Topic]:
        """Return the topics of this deployment by kind."""
        return named_topics(
            prefix=self.topic_prefix, names=self.topic_names, partitions=self.partitions, retention_ms=self.retention_ms
        )

    def printable(self) -> dict[str, Any]:
        """Return every setting for a log line, secrets masked."""
        return self.model_dump(mode="json")


def _file() -> Path:
    return Path(os.environ.get(CONFIG) or "footfall.toml")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535


def _secret(setting: str, value: SecretStr | None, path: Path | None) -> str | None:
    if path is not None:
        try:
            return path.read_text("utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "bytes that are no UTF-8"
            raise ValueError(f"{setting} ({setting.upper()}): found {path}, {said}; expected a readable text file") from None
    return None if value is None else value.get_secret_value()


def load_settings(**flags: Any) -> Settings:
    """Read and check all settings; flags that are None count as not given.

    Raises:
        SettingsError: naming each bad setting, what was found and what is expected.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    variables = [info.alias or f"FOOTFALL_{name.upper()}" for name, info in Settings.model_fields.items()]
    if unknown := unknown_variables(os.environ, variables):
        raise SettingsError("; ".join(unknown))
    if os.environ.get(CONFIG) and not _file().exists():
        raise SettingsError(f"variable {CONFIG}: found {_file()}, which does not exist, expected a file of settings (TOML)")
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(explain(problem) for problem in error.errors())) from error
    except SourceError as error:  # a variable that is not the JSON it should be
        raise SettingsError(f"setting {str(error).split(chr(34))[1]}: {error.__cause__ or error}, expected JSON") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{_file()}: found {error}, expected TOML") from error
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}, expected a readable file") from error
