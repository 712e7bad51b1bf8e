"""Render the message contract as documents: JSON Schemas of all messages, and one AsyncAPI document of all topics.

The input is the structs and the table of topics. The output is the content of files; equal input gives equal bytes.
This module knows neither the command line nor a broker. Start at documents.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from schemas.dead_letter import HEADER_NAMES, MAX_HEADER_BYTES, OPTIONAL, DeadLetter
from schemas.fields import UserId
from schemas.topics import TABLE, RoleTopics, Topic, dlq

Schema = dict[str, Any]

CONTRACT_VERSION = "1.0.0"
JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
KAFKA_BINDING = "0.5.0"
Roles = Mapping[Any, RoleTopics]  # by role name


def documents(roles: Roles) -> dict[str, bytes]:
    """Render every document; keys are paths relative to the output folder."""
    files = {f"json/{topic.kind}.json": json_bytes(topic_schema(topic)) for topic in TABLE.values() if not is_dlq(topic)}
    files["json/dead-letter.json"] = json_bytes(identified("dead-letter", headers_schema()))
    files["asyncapi.yaml"] = yaml_bytes(asyncapi(roles))
    return files


def stale(directory: Path, roles: Roles) -> list[str]:
    """Return the documents that are missing below `directory` or differ from what the code renders."""
    return [name for name, content in documents(roles).items() if content_of(directory / name) != content]


def write(directory: Path, roles: Roles) -> list[str]:
    """Write every document below `directory` and return their names; create folders, keep other files."""
    files = documents(roles)
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(files)


def topic_schema(topic: Topic) -> Schema:
    """Describe the value of a topic's records as one self-contained JSON Schema 2020-12."""
    (_,), components = msgspec.json.schema_components([topic.struct], ref_template="#/$defs/{name}")
    parts = tidy(components)
    root = parts.pop(topic.struct.__name__)
    return identified(topic.name, root | ({"$defs": parts} if parts else {}))


def headers_schema() -> Schema:
    """Describe the headers of a dead letter, each as text; its key and value are the original bytes."""
    _, components = msgspec.json.schema_components([DeadLetter], ref_template="#/$defs/{name}")
    parts = tidy(components)
    fields = parts["DeadLetter"]["properties"]
    headers = {header: as_text(fields[field]) for field, header in HEADER_NAMES.items()}
    headers[HEADER_NAMES["reason"]] = parts["Reason"]
    for field in ("detail", "exception", "stacktrace"):
        headers[HEADER_NAMES[field]] = {"type": "string", "maxLength": MAX_HEADER_BYTES}
    return {
        "title": "DeadLetterHeaders",
        "description": f"{parts['DeadLetter']['description']}\n\nThese are the record's headers.",
        "type": "object",
        "properties": headers,
        "required": [header for field, header in HEADER_NAMES.items() if field not in OPTIONAL],
    }


def asyncapi(roles: Roles) -> Schema:
    """Describe all topics, who reads and writes them, and their messages as one AsyncAPI 3.0.0 document."""
    main = [topic for topic in TABLE.values() if not is_dlq(topic)]
    _, components = msgspec.json.schema_components([topic.struct for topic in main], ref_template="#/components/schemas/{name}")
    headers = headers_schema()
    parts = dict(sorted((components | {headers["title"]: headers}).items()))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Footfall",
            "version": CONTRACT_VERSION,
            "description": "Interest and churn-risk events from a shop's event streams. Topic names, partitions and "
            "retention are defaults that a deployment may change.",
        },
        "defaultContentType": "application/json",
        "channels": {topic.kind: channel(topic) for topic in TABLE.values()},
        "operations": operations(roles),
        "components": {
            "schemas": as_draft_07(tidy(parts)),
            "messages": {topic.kind: message(topic) for topic in main} | {"dead-letter": dead_letter_message()},
        },
    }


def channel(topic: Topic) -> Schema:
    """Describe one topic: its name, its one message and its broker configuration."""
    name = message_name(topic)
    return {
        "address": topic.name,
        "description": f"Keyed by {topic.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {"cleanup.policy": topic.cleanup.split(","), "retention.ms": topic.retention_ms},
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def operations(roles: Roles) -> Schema:
    """Describe what each role receives and sends; a role sends the dead letters of the topics it receives."""
    described: Schema = {}
    for role, topics in roles.items():
        group = {"groupId": {"type": "string", "enum": [f"footfall-{role}"]}, "bindingVersion": KAFKA_BINDING}
        for kind in topics.reads:
            described[f"{role}.receive.{kind}"] = operation("receive", kind) | {"bindings": {"kafka": group}}
        for kind in (*topics.sends, *map(dlq, topics.reads)):
            described[f"{role}.send.{kind}"] = operation("send", kind)
    return described


def operation(action: str, kind: str) -> Schema:
    """Describe one action on the channel and the message of a topic kind."""
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{kind}"},
        "messages": [{"$ref": f"#/channels/{kind}/messages/{message_name(TABLE[kind])}"}],
    }


def message(topic: Topic) -> Schema:
    """Describe the records of a topic: JSON of its struct, keyed by the user id in UTF-8."""
    return {
        "name": topic.kind,
        "title": topic.struct.__name__,
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{topic.struct.__name__}"},
        "bindings": {"kafka": {"key": tidy(msgspec.json.schema(UserId)), "bindingVersion": KAFKA_BINDING}},
    }


def dead_letter_message() -> Schema:
    """Describe a refused record: original key and value, with position and reason in headers."""
    key = {"description": "The original key, unchanged; absent if the record had none."}
    return {
        "name": "dead-letter",
        "title": "DeadLetter",
        "contentType": "application/octet-stream",
        "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
        "payload": {"description": "The original value, unchanged; empty if it exceeded the event size limit."},
        "bindings": {"kafka": {"key": key, "bindingVersion": KAFKA_BINDING}},
    }


def is_dlq(topic: Topic) -> bool:
    """Return whether a topic carries dead letters; every other topic carries a struct as JSON."""
    return topic.struct is DeadLetter


def message_name(topic: Topic) -> str:
    """Return the name of a topic's message; all dead-letter topics share one."""
    return "dead-letter" if is_dlq(topic) else topic.kind


def identified(name: str, schema: Schema) -> Schema:
    """Add a schema's dialect, and an id that needs no web server."""
    return {"$schema": JSON_SCHEMA, "$id": f"urn:footfall:{name}", **schema}


def as_text(field: Schema) -> Schema:
    """Describe a field of a struct as the text of a header."""
    return {"type": "string", "pattern": "^-?[0-9]+$"} if field.get("type") == "integer" else dict(field)


def tidy(node: Any) -> Any:
    r"""Remove Python specifics from a schema: docstring indentation and the `(?!\n)` before a pattern's end.

    JSON Schema's `$` never matches before a newline, and RE2, which many validators use, has no lookahead.
    """
    if isinstance(node, list):
        return [tidy(child) for child in node]
    if not isinstance(node, dict):
        return node
    clean = {name: tidy(child) for name, child in node.items()}
    if isinstance(text := clean.get("description"), str):
        clean["description"] = inspect.cleandoc(text)
    if isinstance(pattern := clean.get("pattern"), str):
        clean["pattern"] = pattern.replace(r"(?!\n)$", "$")
    return clean


def as_draft_07(node: Any) -> Any:
    """Rewrite tuples to draft 07, which AsyncAPI uses: `items` lists the entries, `additionalItems` covers the rest."""
    if isinstance(node, list):
        return [as_draft_07(child) for child in node]
    if not isinstance(node, dict):
        return node
    old = {name: as_draft_07(child) for name, child in node.items()}
    if "prefixItems" not in old:
        return old
    rest = {"additionalItems": old.pop("items")} if "items" in old else {}
    return {"items" if name == "prefixItems" else name: child for name, child in old.items()} | rest


def json_bytes(document: Schema) -> bytes:
    """Render a document as indented JSON."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def yaml_bytes(document: Schema) -> bytes:
    """Render a document as YAML in the order it was built, without anchors."""
    unshared = json.loads(json.dumps(document))  # copies shared objects, for which PyYAML would write anchors
    text: str = yaml.safe_dump(unshared, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()


def content_of(path: Path) -> bytes | None:
    """Return a file's content, or None if there is no file."""
    return path.read_bytes() if path.is_file() else None
