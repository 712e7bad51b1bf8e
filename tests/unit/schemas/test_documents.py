import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner

import schemas
from schemas.codec import encode
from schemas.dead_letter import headers_of
from schemas.documents import asyncapi, documents, stale, write
from schemas.topics import TABLE, dlq
from stream.cli.schemas import schemas_command
from stream.roles.table import ROLE_TOPICS
from tests.builders import ROOT, SAMPLES, dead_letter

PACKAGE = Path(schemas.__file__).parent

command = Typer()
command.command()(schemas_command)


@cache
def schema_of(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(documents(ROLE_TOPICS)[f"json/{name}.json"])
    return schema


def sample_of(kind: str) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads(encode(SAMPLES[kind]()))
    return sample


def references(node: Any) -> Iterator[str]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and isinstance(node.get("$ref"), str):
        yield node["$ref"]
    for child in children:
        yield from references(child)


def resolve(document: Any, reference: str) -> Any:
    node = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def component(name: str) -> jsonschema_rs.Draft7Validator:
    document = asyncapi(ROLE_TOPICS)
    return jsonschema_rs.Draft7Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


def test_committed_documents_are_what_the_code_says() -> None:
    assert stale(PACKAGE, ROLE_TOPICS) == [], "run footfall schemas"
    assert {f"json/{path.name}" for path in (PACKAGE / "json").iterdir()} == set(documents(ROLE_TOPICS)) - {"asyncapi.yaml"}


def test_documents_are_the_same_bytes_every_time_and_end_in_one_newline() -> None:
    assert documents(ROLE_TOPICS) == documents(ROLE_TOPICS)
    for content in documents(ROLE_TOPICS).values():
        assert content.endswith(b"\n") and not content.endswith(b"\n\n")


def test_a_missing_and_a_changed_document_are_stale_until_written(tmp_path: Path) -> None:
    write(tmp_path, ROLE_TOPICS)
    (tmp_path / "asyncapi.yaml").write_text("asyncapi: 3.0.0\n")
    (tmp_path / "json" / "click.json").unlink()
    assert stale(tmp_path, ROLE_TOPICS) == ["json/click.json", "asyncapi.yaml"]
    assert set(write(tmp_path, ROLE_TOPICS)) == set(documents(ROLE_TOPICS))
    assert stale(tmp_path, ROLE_TOPICS) == []


def test_every_kind_but_dead_letters_has_a_json_schema_of_its_own() -> None:
    kinds = {kind for kind in TABLE if not kind.endswith(".dlq")}
    assert {name for name in documents(ROLE_TOPICS) if name.startswith("json/")} == {
        f"json/{k}.json" for k in (*kinds, "dead-letter")
    }
    assert set(SAMPLES) == kinds
    assert len({schema_of(name)["$id"] for name in (*kinds, "dead-letter")}) == len(kinds) + 1


@pytest.mark.parametrize("name", [*SAMPLES, "dead-letter"])
def test_json_schema_is_valid_2020_12_with_a_title_and_a_description(name: str) -> None:
    schema = schema_of(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)
    assert schema["title"] and schema["description"]
    assert all(resolve(schema, reference) for reference in references(schema))


@pytest.mark.parametrize("kind", SAMPLES)
def test_json_schema_accepts_an_encoded_sample_of_its_struct_and_unknown_fields(kind: str) -> None:
    validator = jsonschema_rs.Draft202012Validator(schema_of(kind))
    validator.validate(sample_of(kind))
    validator.validate(sample_of(kind) | {"new_field": 1})


@pytest.mark.parametrize("kind", [kind for kind in SAMPLES if TABLE[kind].key == "user_id"])
@pytest.mark.parametrize(
    "change",
    [{"user_id": "u 1"}, {"user_id": "u\n"}, {"user_id": "u" * 65}, {"event_time_ms": -1}, {"event_time_ms": "1"}],
    ids=str,
)
def test_json_schema_refuses_a_bad_user_or_time(kind: str, change: dict[str, Any]) -> None:
    assert not jsonschema_rs.Draft202012Validator(schema_of(kind)).is_valid(sample_of(kind) | change)


@pytest.mark.parametrize("kind", SAMPLES)
def test_json_schema_refuses_a_message_without_any_one_of_its_required_fields(kind: str) -> None:
    schema, sample = schema_of(kind), sample_of(kind)
    validator = jsonschema_rs.Draft202012Validator(schema)
    for missing in schema["required"]:
        assert not validator.is_valid({name: value for name, value in sample.items() if name != missing}), missing


def test_no_pattern_needs_more_than_re2_knows() -> None:
    assert not [name for name, content in documents(ROLE_TOPICS).items() if re.search(rb"\(\?[!=<]", content)]


def test_dead_letter_schema_accepts_the_headers_of_a_dead_letter_and_refuses_others() -> None:
    validator = jsonschema_rs.Draft202012Validator(schema_of("dead-letter"))
    headers = {name: value.decode() for name, value in headers_of(dead_letter())}
    assert set(schema_of("dead-letter")["properties"]) == set(headers)
    validator.validate(headers)
    assert not validator.is_valid(headers | {"x-error-code": "because"})
    assert not validator.is_valid(headers | {"__streams.errors.offset": "last"})
    assert not validator.is_valid({})


def test_asyncapi_document_is_valid_3_0_0() -> None:
    specification = json.loads((ROOT / "tests/golden/asyncapi-3.0.0.json").read_text())
    validator = jsonschema_rs.Draft7Validator(specification)
    document = yaml.safe_load(documents(ROLE_TOPICS)["asyncapi.yaml"])
    validator.validate(document)
    document["operations"]["features.receive.click"]["action"] = "subscribe"
    assert not validator.is_valid(document)


def test_asyncapi_document_is_the_built_one_without_anchors_and_every_reference_resolves() -> None:
    text = documents(ROLE_TOPICS)["asyncapi.yaml"]
    document = yaml.safe_load(text)
    assert document == asyncapi(ROLE_TOPICS)
    assert not re.search(rb"[:-] [&*]\w", text)
    found = list(references(document))
    assert found and all(resolve(document, reference) for reference in found)


def test_asyncapi_document_has_every_topic_as_the_table_has_it() -> None:
    channels = asyncapi(ROLE_TOPICS)["channels"]
    assert list(channels) == list(TABLE)
    for kind, topic in TABLE.items():
        binding = channels[kind]["bindings"]["kafka"]
        assert (channels[kind]["address"], binding["topic"], binding["partitions"]) == (
            topic.name,
            topic.name,
            topic.partitions,
        )
        assert binding["topicConfiguration"] == {"cleanup.policy": [topic.cleanup], "retention.ms": topic.retention_ms}


def test_every_topic_is_sent_or_received_by_a_role_and_its_reader_sends_its_dead_letters() -> None:
    operations = asyncapi(ROLE_TOPICS)["operations"]
    assert {name.split(".", 2)[2] for name in operations} == set(TABLE)
    for role, kinds in {role: topics.reads for role, topics in ROLE_TOPICS.items()}.items():
        for kind in kinds:
            assert operations[f"{role}.receive.{kind}"]["action"] == "receive"
            assert operations[f"{role}.send.{dlq(kind)}"]["action"] == "send"


@pytest.mark.parametrize("kind", SAMPLES)
def test_asyncapi_component_accepts_a_sample_and_refuses_a_bad_one(kind: str) -> None:
    validator = component(TABLE[kind].struct.__name__)
    validator.validate(sample_of(kind))
    assert not validator.is_valid(sample_of(kind) | {TABLE[kind].key: None})


@pytest.mark.parametrize("kind", ["score-request", "interest"])
@pytest.mark.parametrize("span", [[1], [1, 2, 3], ["1", 2]], ids=str)
def test_asyncapi_component_refuses_a_guard_that_is_no_pair_of_offsets(kind: str, span: list[Any]) -> None:
    bad = sample_of(kind) | {"guard": {"shop.clicks.v1": span}}
    assert not component(TABLE[kind].struct.__name__).is_valid(bad)
    assert not jsonschema_rs.Draft202012Validator(schema_of(kind)).is_valid(bad)


def test_check_exits_1_and_names_the_stale_files_and_the_command_that_mends_them(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--check", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert f"stale {tmp_path}/asyncapi.yaml" in result.output
    assert f"run footfall schemas --out {tmp_path}" in result.output
    assert list(tmp_path.iterdir()) == []


def test_check_passes_after_the_documents_were_written(tmp_path: Path) -> None:
    assert CliRunner().invoke(command, ["--out", str(tmp_path / "new" / "folder")]).exit_code == 0
    result = CliRunner().invoke(command, ["--check", "--json", "--out", str(tmp_path / "new" / "folder")])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["stale"] == []
