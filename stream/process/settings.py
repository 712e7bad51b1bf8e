"""Read all settings from flags, environment, secret files and `footfall.toml`, and validate them before start.

Kafka's settings keep their usual names (`KAFKA_BOOTSTRAP_SERVERS`); ours begin with `FOOTFALL_`. Flags override the
environment, which overrides the file, which overrides the defaults. Start at load_settings.
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
    """Hold all settings of a deployment; each field is a flag (`--barrier-ms`), a variable and a key of the file."""

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
        "PLAINTEXT", alias="KAFKA_SECURITY_PROTOCOL", description="protocol of client connections"
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
        "https", alias="KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", description='"" disables the host name check'
    )
    kafka_client_id: str = Field("footfall", alias="KAFKA_CLIENT_ID", description="client id in the broker's logs and metrics")
    allow_plaintext: bool = Field(False, description="permit a remote broker without TLS")

    app_id: str = Field(
        "footfall", pattern=r"^[a-z][a-z0-9.-]*$", description="prefix of consumer groups and changelogs: keep it stable"
    )
    topic_prefix: str = Field("", description="prefix of every topic name")
    topic_names: dict[str, str] = Field({}, description='full topic names by kind, as JSON: {"click": "clicks"}')
    partitions: int | None = Field(None, ge=1, le=1000, description="partitions of every topic; empty: as in the topics table")
    partitioner: Literal["murmur2", "crc32"] = Field(
        "murmur2",
        description="how all producers place keys: murmur2 (Java, aiokafka), or crc32 (librdkafka's default)",
    )
    replication_factor: int = Field(3, ge=1, le=9, description="replicas of topics that `topics apply` creates")
    source_ahead_minutes: float = Field(
        60.0,
        gt=0.0,
        le=525_600.0,
        description="minutes by which a record of a source topic may be ahead of the broker's clock; `topics apply` sets it",
    )
    retention_ms: int | None = Field(
        None, ge=-1, description="retention of every topic; -1 keeps records forever, for a replayed log with old timestamps"
    )
    generations: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description='generation of a role\'s group and changelog after `state rebuild`, as JSON: {"features": 2}'
    )
    transactions: bool = Field(
        True, description="commit rows and offsets in Kafka transactions; off only for the embedded broker"
    )
    session_timeout_seconds: float = Field(
        15.0, ge=1, le=300, description="time without a heartbeat after which the broker reassigns partitions"
    )
    instance_id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="group.instance.id, one per process of a role: a restart within the session timeout moves no partition",
    )
    leave_on_stop: bool = Field(
        True,
        description="a planned stop leaves the consumer group; false, with an instance_id, keeps the partitions for a restart",
    )

    standbys: int = Field(
        0,
        ge=0,
        le=2,
        description="workers that follow the changelog of each partition beside its owner, to take over in seconds",
    )
    accept_lost_records: bool = Field(
        False, description="start although retention deleted unread records, and count them as lost"
    )
    ignore_group_offsets: bool = Field(
        False, description="resume from the rows although someone moved the group's offsets, and overwrite those"
    )

    barrier_ms: int = Field(200, ge=5, le=10_000, description="features: time between two barriers")
    triggers_barrier_ms: int = Field(40, ge=5, le=10_000, description="triggers: time between two barriers")
    barrier_timeout_seconds: float = Field(60.0, ge=1, le=3600, description="a barrier that takes longer ends the worker")
    max_pending_events: int = Field(50_000, ge=100, description="events folded but not durable, beyond which the fold waits")
    max_pending_mb: int = Field(64, ge=1, le=4096, description="megabytes folded but not durable, beyond which the fold waits")
    decoded_mb: int = Field(
        1024, ge=1, le=1 << 20, description="megabytes of decoded rows per worker; other rows are kept as bytes"
    )
    max_chunk_events: int = Field(2000, ge=1, description="maximum records of one chunk")
    scorer_chunk_requests: int = Field(64, ge=1, le=4096, description="maximum score requests of one micro-batch")
    buffer_events: int = Field(20_000, ge=100, description="maximum records of one partition in the alignment buffer")
    alignment_idle_ms: int = Field(
        0, ge=0, le=60_000, description="time for which a caught-up topic still holds back the others; 0 releases at once"
    )
    alignment_timeout_seconds: float = Field(
        30.0, gt=0, le=86_400, description="how long an unreachable partition may hold back the other topics"
    )
    drain_seconds: float = Field(8.0, gt=0, le=60, description="time to finish the chunks in flight after SIGTERM")

    dlq_max_in_a_row: int = Field(
        1000, ge=0, description="consecutive dead letters of one topic beyond which a worker pauses; 0: no limit"
    )
    dlq_max_percent: float = Field(
        5.0, ge=0, le=100, description="dead letters in a topic's last records, in %, that pause a worker; 0: no limit"
    )
    dlq_window_records: int = Field(50_000, ge=100, description="number of a topic's last records for dlq_max_percent")
    misplaced_keys: Literal["dead_letter", "accept"] = Field(
        "dead_letter", description="what to do with a record whose key belongs to another partition, by the partitioner"
    )
    misplaced_max_percent: float = Field(
        1.0,
        ge=0,
        le=100,
        description="dead letters for misplaced keys in a topic's last 1000 records, in %, that pause a worker; 0: no limit",
    )

    lateness_hours: float = Field(
        24.0, ge=0, le=87_600, description="allowed lateness of an event against its record timestamp"
    )
    ttl_days: float = Field(
        400.0,
        ge=31,
        le=36_500,
        description="inactivity after which one topic's part of a user's row is reset; inactive users are deleted",
    )
    reporting_currency: str = Field("GBP", pattern=r"^[A-Z]{3}$", description="currency of all amounts")
    currency_rates: dict[str, float] = Field({}, description='value of one unit in the reporting currency: {"EUR": 0.86}')
    arrival_kinds: list[Literal["visit", "browse", "click"]] = Field(
        ["visit"], description='kinds whose first event after a pause is scored; ["browse", "click"] without visits'
    )
    pause_minutes: float = Field(
        30.0, gt=0, le=525_600, description="inactivity that counts as a pause: the next event is scored"
    )
    every_clicks: int = Field(20, ge=1, description="score every n-th click of a user")
    min_gap_seconds: float = Field(60.0, ge=0, le=31_536_000, description="minimum time between two scores caused by one topic")
    score_lateness_minutes: float = Field(
        10.0, ge=0, le=5_256_000, description="lateness beyond which an event is folded but not scored"
    )

    checkpoint: Path = Field(
        Path(__file__).parents[2] / "models" / "checkpoints" / "demo", description="folder of a model, or of a model registry"
    )
    also_checkpoints: list[Path] = Field(
        [], description="folders of models that answer requests which the first model cannot read, in order"
    )
    registry: Path = Field(Path("models-registry"), description="folder of the model registry of `footfall models`")
    trigger_policy: Path = Field(
        Path(__file__).parents[1] / "roles" / "trigger_policy.yaml", description="YAML file of the campaigns"
    )
    model_threads: int = Field(1, ge=1, le=256, description="threads of one forward pass")
    http_host: str = Field("127.0.0.1", description="address of /livez, /readyz and /metrics")
    http_port: int = Field(0, ge=0, le=65535, description="port of /livez, /readyz and /metrics; 0 selects a free one")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="log line format; auto is text on a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum level of log lines")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Rank flags over the environment, and the environment over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, settings_file())

    @field_validator("topic_names", "currency_rates", "arrival_kinds", "generations", "also_checkpoints", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError as error:
            raise ValueError(f"valid JSON ({error})") from error

    @field_validator("currency_rates")
    @classmethod
    def _positive_rates(cls, rates: dict[str, float]) -> dict[str, float]:
        if wrong := {code: rate for code, rate in rates.items() if not 0 < rate < 1e9}:
            raise ValueError(f"rates between 0 and 1e9, not {wrong}")
        return rates

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            _ = self.ssl_key_password, self.sasl_password
        except SettingsError as error:  # pydantic collects ValueErrors alone
            raise ValueError(str(error)) from None
        if not self.leave_on_stop and self.instance_id is None:
            raise ValueError(
                "leave_on_stop is false: expected an instance_id too, under which the next process gets the partitions"
            )
        sasl = self.kafka_security_protocol.startswith("SASL")
        if sasl and not (self.kafka_sasl_username and self.sasl_password):
            raise ValueError(
                f"kafka_security_protocol is {self.kafka_security_protocol}: "
                "expected kafka_sasl_username and kafka_sasl_password_file too"
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
                "SASL_SSL for a remote broker (allow_plaintext=true permits plaintext)"
            )
        self._check_names()
        return self

    def _check_names(self) -> None:
        names = [topic.name for topic in self.topics().values()]
        changelogs = [self.changelog(role) for role in ("features", "triggers")]
        if wrong := [name for name in (*names, *changelogs) if not TOPIC_NAME.fullmatch(name) or name in (".", "..")]:
            raise ValueError(
                f"topic_prefix, topic_names or app_id result in the topic name {wrong[0][:300]!r}, "
                "expected 1 to 249 characters: letters, digits, '.', '_' or '-'"
            )
        if both := sorted({*names} & {*changelogs}):
            raise ValueError(f"topic_names: found {both[0]}, expected another name: a changelog already has this name")

    def group(self, role: str) -> str:
        """Name a role's consumer group; its transactional ids begin with it."""
        generation = self.generations.get(role, 1)
        return f"{self.app_id}-{role}" if generation == 1 else f"{self.app_id}-{role}-g{generation}"

    def changelog(self, role: str) -> str:
        """Name the changelog of a role's rows, as Faust names that of a table `users`."""
        return f"{self.group(role)}-{TABLE}-changelog"

    @property
    def sasl_password(self) -> str | None:
        """The SASL password, from its file if one is set."""
        return _secret("kafka_sasl_password_file", self.kafka_sasl_password, self.kafka_sasl_password_file)

    @property
    def ssl_key_password(self) -> str | None:
        """The password of the client key, from its file if one is set."""
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

    @property
    def partition_count(self) -> int:
        """The partition count of every topic, as these settings would create it."""
        return next(iter(self.topics().values())).partitions

    def printable(self) -> dict[str, Any]:
        """Return all settings for a log line, with masked secrets."""
        return self.model_dump(mode="json")


def settings_file() -> Path:
    """Return the file of settings, which need not exist."""
    return Path(os.environ.get(CONFIG) or "footfall.toml")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535


def _secret(setting: str, value: SecretStr | None, path: Path | None) -> str | None:
    if path is not None:
        try:
            return path.read_text("utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise SettingsError(f"{setting} ({setting.upper()}): found {path}, {why}; expected a text file") from None
    return None if value is None else value.get_secret_value()


def load_settings(**flags: Any) -> Settings:
    """Read and validate all settings; a flag of None counts as not given.

    Raises:
        SettingsError: the text names each invalid setting, the value found and the value expected.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    variables = [info.alias or f"FOOTFALL_{name.upper()}" for name, info in Settings.model_fields.items()]
    if unknown := unknown_variables(os.environ, variables):
        raise SettingsError("; ".join(unknown))
    if os.environ.get(CONFIG) and not settings_file().exists():
        raise SettingsError(
            f"variable {CONFIG}: found {settings_file()}, which does not exist, expected a file of settings (TOML)"
        )
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(explain(problem) for problem in error.errors())) from error
    except SourceError as error:  # a variable with invalid JSON
        raise SettingsError(f"setting {str(error).split(chr(34))[1]}: {error.__cause__ or error}, expected JSON") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{settings_file()}: found {error}, expected TOML") from error
    except OSError as error:
        raise SettingsError(f"{error.filename}: found {error.strerror}, expected a readable file") from error
