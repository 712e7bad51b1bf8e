"""Where settings come from, which one wins, and how each bad one names itself."""

from pathlib import Path
from typing import Any

import pytest

from schemas.errors import SettingsError
from stream.process.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name, info in Settings.model_fields.items():
        monkeypatch.delenv(info.alias or f"FOOTFALL_{name.upper()}", raising=False)
    monkeypatch.delenv("FOOTFALL_CONFIG", raising=False)


def write_file(text: str) -> None:
    Path("footfall.toml").write_text(text)


def test_defaults_hold_where_nothing_is_said() -> None:
    settings = load_settings()
    assert (settings.barrier_ms, settings.kafka_bootstrap_servers) == (200, "127.0.0.1:9092")


def test_the_file_wins_over_defaults() -> None:
    write_file('barrier_ms = 300\nKAFKA_BOOTSTRAP_SERVERS = "127.0.0.1:9100"\nkafka_client_id = "shop"\n')
    settings = load_settings()
    assert (settings.barrier_ms, settings.kafka_bootstrap_servers, settings.kafka_client_id) == (300, "127.0.0.1:9100", "shop")


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_file('barrier_ms = 300\nkafka_bootstrap_servers = "127.0.0.1:9100"\n')
    monkeypatch.setenv("FOOTFALL_BARRIER_MS", "400")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9200")
    settings = load_settings()
    assert (settings.barrier_ms, settings.kafka_bootstrap_servers) == (400, "127.0.0.1:9200")


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    write_file('barrier_ms = 300\nKAFKA_BOOTSTRAP_SERVERS = "127.0.0.1:9100"\n')
    monkeypatch.setenv("FOOTFALL_BARRIER_MS", "400")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9200")
    settings = load_settings(barrier_ms="500", kafka_bootstrap_servers="127.0.0.1:9300")
    assert (settings.barrier_ms, settings.kafka_bootstrap_servers) == (500, "127.0.0.1:9300")


def test_a_flag_that_is_not_given_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOOTFALL_BARRIER_MS", "400")
    assert load_settings(barrier_ms=None).barrier_ms == 400


def test_the_file_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "other.toml"
    elsewhere.write_text("barrier_ms = 700\n")
    monkeypatch.setenv("FOOTFALL_CONFIG", str(elsewhere))
    assert load_settings().barrier_ms == 700


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("barrier_ms", "3"),
        ("partitions", "many"),
        ("replication_factor", "0"),
        ("retention_ms", "-2"),
        ("app_id", "Foot Fall"),
        ("log_level", "loud"),
        ("http_port", "70000"),
        ("reporting_currency", "pounds"),
        ("transactions", "perhaps"),
        ("kafka_security_protocol", "TLS"),
        ("kafka_bootstrap_servers", "broker"),
        ("currency_rates", "{"),
        ("currency_rates", '{"EUR": 0}'),
        ("topic_names", '{"clack": "clicks"}'),
        ("topic_names", '{"click": "same", "visit": "same"}'),
        ("ttl_days", "1"),
        ("drain_seconds", "0"),
        ("kafka_bootstrap_servers", "127.0.0.1:0"),
        ("kafka_bootstrap_servers", "127.0.0.1:65536"),
        ("kafka_bootstrap_servers", "127.0.0.1:²"),
        ("topic_prefix", "a b"),
        ("topic_prefix", "x" * 250),
        ("topic_prefix", "ü."),
        ("topic_names", '{"click": ""}'),
        ("topic_names", '{"click": "footfall-features-users-changelog"}'),
    ],
)
def test_a_bad_setting_names_itself_and_what_was_found(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(**{name: value})
    told = str(error.value)
    named = name in told or "topic name same" in told or "kind clack" in told
    assert named and "xpected" in told or "give each kind" in told


NUMBERS = sorted(name for name, info in Settings.model_fields.items() if info.annotation is float)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e300"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_none_or_beyond_sense_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"setting {name} "):
        load_settings(**{name: value})


def test_a_wrong_value_within_a_setting_names_the_settings_variable() -> None:
    with pytest.raises(SettingsError, match=r"setting currency_rates \(FOOTFALL_CURRENCY_RATES\), at EUR: found 'much'"):
        load_settings(currency_rates='{"EUR": "much"}')


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("FOOTFALL_BARIER_MS", "FOOTFALL_BARRIER_MS"),
        ("FOOTFALL_KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BOOTSTRAP_SERVERS"),
        ("FOOTFALL_CONF", "FOOTFALL_CONFIG"),
    ],
)
def test_an_unknown_variable_is_refused_and_the_nearest_known_one_named(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "300")
    with pytest.raises(SettingsError, match=f"variable {name}: no such setting, the nearest is {nearest};"):
        load_settings()


@pytest.mark.parametrize(
    "name",
    [
        "FOOTFALL_STATUS_FILE",
        "FOOTFALL_FAULT",
        "FOOTFALL_FAUST_TIMEZONE",
        "FOOTFALL_CHAOS_SEED",
        "FOOTFALL_BENCH_BROKER",
        "FOOTFALL_SCORER_SERVICE_HOST",
        "FOOTFALL_SCORER_PORT_8080_TCP_ADDR",
    ],
)
def test_variables_of_our_tools_and_those_kubernetes_sets_for_services_are_passed_over(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "7")
    assert load_settings() == Settings()


def test_a_settings_file_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOOTFALL_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match=r"FOOTFALL_CONFIG: found nowhere.toml, which does not exist"):
        load_settings()


def test_all_bad_settings_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match="barrier_ms.*; .*drain_seconds"):
        load_settings(barrier_ms=1, drain_seconds=0)


def test_an_unknown_key_in_the_file_is_refused() -> None:
    write_file("barier_ms = 300\n")
    with pytest.raises(SettingsError, match="barier_ms: no such setting"):
        load_settings()


def test_a_file_that_is_no_toml_is_refused_by_name() -> None:
    write_file("barrier_ms: 300\n")
    with pytest.raises(SettingsError, match="footfall.toml"):
        load_settings()


SASL: dict[str, Any] = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "shop"}


def test_a_secret_comes_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    assert load_settings(**SASL, kafka_sasl_password_file=tmp_path / "password").sasl_password == "hunter2"


@pytest.mark.parametrize("setting", ["kafka_sasl_password_file", "kafka_ssl_key_password_file"])
@pytest.mark.parametrize("path", ["nowhere", ".", "latin-1"])
def test_a_secret_file_that_cannot_be_read_is_named_with_its_setting(setting: str, path: str) -> None:
    Path("latin-1").write_bytes(b"h\xe4nter2")
    with pytest.raises(SettingsError, match=f"setting {setting} .*found {path},") as error:
        load_settings(**SASL, **{setting: path})
    assert "nter2" not in str(error.value)


def test_secrets_are_masked_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("KAFKA_SSL_KEY_PASSWORD", "hunter2")
    settings = load_settings(**SASL)
    assert settings.sasl_password == "hunter2"
    assert "hunter2" not in f"{settings!r} {settings} {settings.printable()}"


def test_sasl_without_user_or_password_is_refused() -> None:
    with pytest.raises(SettingsError, match="kafka_sasl_password_file"):
        load_settings(**SASL)


def test_a_bad_secret_is_not_quoted() -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(kafka_sasl_password=["hunter2"])
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("servers", ["kafka.example.com:9092", "127.0.0.1:9092,10.0.0.7:9092"])
def test_a_broker_beyond_loopback_without_tls_is_refused(servers: str) -> None:
    with pytest.raises(SettingsError, match="allow_plaintext"):
        load_settings(kafka_bootstrap_servers=servers)
    assert load_settings(kafka_bootstrap_servers=servers, allow_plaintext=True).kafka_bootstrap_servers == servers
    assert load_settings(kafka_bootstrap_servers=servers, kafka_security_protocol="SSL").kafka_bootstrap_servers == servers


def test_prefix_and_whole_names_apply_to_topics() -> None:
    topics = load_settings(topic_prefix="eu.", topic_names='{"click": "clicks"}', partitions=4).topics()
    assert (topics["visit"].name, topics["click"].name, topics["click.dlq"].name) == (
        "eu.shop.visits.v1",
        "clicks",
        "clicks.dlq",
    )
    assert {topic.partitions for topic in topics.values()} == {4}
