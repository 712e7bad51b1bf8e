"""The contract → the pages of topics, messages and features. Start at topics_page."""

import re
from collections.abc import Iterator

import msgspec
from msgspec import inspect as mi

from docs.reference_pages import markdown as md
from docs.reference_pages.comments import comments_of
from models.features.spec import FEATURE_SPEC
from models.features.windows import WINDOWS
from schemas.dead_letter import HEADER_NAMES, OPTIONAL, DeadLetter, Reason
from schemas.documents import is_dlq
from schemas.topics import TABLE, Topic, dlq
from stream.kafka.topic_admin import CHANGELOG, wanted_topics
from stream.process.settings import Settings
from stream.roles.table import ROLE_TOPICS

SHOP = "your shop"
PLAIN = Settings.model_construct()  # defaults alone: neither variables nor a file of this machine


def topics_page() -> str:
    """Render every topic with writer, readers, partitions, retention and cleanup; then what each role reads and writes."""
    topics = PLAIN.topics().values()
    rows = (
        [
            f"[{md.code(topic.kind)}](messages.md#{topic.kind})",
            md.code(topic.name),
            written_by(topic),
            ", ".join(role for role, of in ROLE_TOPICS.items() if topic.kind in of.reads),
            md.code(topic.key),
            *kept(topic),
        ]
        for topic in topics
        if not is_dlq(topic)
    )
    letters = ([md.code(t.kind), md.code(t.name), written_by(t), t.key, *kept(t)] for t in topics if is_dlq(t))
    changelogs = (
        [
            md.code(wanted.name),
            role,
            str(wanted.partitions),
            ", ".join(md.code(f"{name}={text}") for name, text in wanted.configs.items()),
        ]
        for wanted in wanted_topics(PLAIN)
        if wanted.kind == CHANGELOG
        for role in ROLE_TOPICS
        if wanted.name == PLAIN.changelog(role)
    )
    roles = (
        [
            role,
            md.code(PLAIN.group(role)),
            ", ".join(md.code(kind) for kind in ROLE_TOPICS[role].reads),
            ", ".join(md.code(kind) for kind in (*ROLE_TOPICS[role].sends, *map(dlq, ROLE_TOPICS[role].reads))),
        ]
        for role in ROLE_TOPICS
    )
    broker = ["partitions", "retention", "cleanup"]
    return md.page(
        "Topics",
        "A kind is the word that the code and the commands use; the name is what the broker calls the topic. The "
        "[settings](settings.md) `topic_prefix`, `topic_names`, `partitions` and `retention_ms` change names, partitions and "
        "retention; `app_id` changes groups and changelogs. Keys are UTF-8; the setting `partitioner` places them.",
        md.table(["kind", "name", "written by", "read by", "key", *broker], rows),
        "## Dead-letter topics\n\nThey hold the records that a role refused: [Dead letters](messages.md#dead-letters).",
        md.table(["kind", "name", "written by", "key", *broker], letters),
        "## Changelogs\n\nEach role with rows keeps them in a changelog of its own, one record per user.",
        md.table(["name", "written and read by", "partitions", "configuration"], changelogs),
        "## Roles\n\n" + md.table(["role", "consumer group", "reads", "writes"], roles),
    )


def kept(topic: Topic) -> list[str]:
    """Say how the broker keeps a topic: partitions, retention, cleanup."""
    return [str(topic.partitions), md.duration(topic.retention_ms), md.code(topic.cleanup)]


def written_by(topic: Topic) -> str:
    """Name the roles that write a topic; a source is written by the shop."""
    readers = [role for role, of in ROLE_TOPICS.items() if topic.kind.removesuffix(".dlq") in of.reads]
    writers = readers if is_dlq(topic) else [role for role, of in ROLE_TOPICS.items() if topic.kind in of.sends]
    return ", ".join(writers) or SHOP


def messages_page() -> str:
    """Render every field of every message, then the parts that messages share and the dead letters."""
    main = [topic for topic in TABLE.values() if not is_dlq(topic)]
    kinds = [
        f"## {topic.kind}\n\nTopic `{topic.name}`, struct `{topic.struct.__name__}`.\n\n{struct(topic.struct)}"
        for topic in main
    ]
    parts: dict[str, type] = {}
    for topic in main:
        parts |= nested(mi.type_info(topic.struct))
    headers = (
        [md.code(field), md.code(header), "no" if field in OPTIONAL else "yes"] for field, header in HEADER_NAMES.items()
    )
    reasons = ([md.code(reason.value), md.prose(comments_of(Reason)[reason.name])] for reason in Reason)
    return md.page(
        "Messages",
        "Values are JSON objects. Readers ignore unknown fields and refuse wrong types and values beyond a limit. "
        "`schemas/json/` and `schemas/asyncapi.yaml` hold the same as JSON Schemas and AsyncAPI. "
        "[Topics](topics.md) says who writes and reads each.",
        *kinds,
        "## Shared parts",
        *(f"### {name}\n\n{struct(part)}" for name, part in sorted(parts.items())),
        "## Dead letters\n\n" + md.paragraphs(DeadLetter.__doc__),
        "Key, value and the original headers stay as they are. These headers follow the original ones:",
        md.table(["field", "header", "always there"], headers),
        "### Reasons\n\n" + md.paragraphs(Reason.__doc__),
        md.table(["code", "a record is refused because"], reasons),
    )


def struct(found: type) -> str:
    """Render a struct: what it is, and each field with type, limits and meaning."""
    info = struct_type(found)
    form = "On the wire it is an array, in this order.\n\n" if info.array_like else ""
    rows = ([md.code(f.encode_name), kind(f.type), required(f), limit(f.type), description(f.type)] for f in info.fields)
    return f"{md.paragraphs(found.__doc__)}\n\n{form}{md.table(['field', 'type', 'default', 'limits', 'meaning'], rows)}"


def struct_type(found: type) -> mi.StructType:
    """Return what msgspec knows of a struct."""
    info = mi.type_info(found)
    if not isinstance(info, mi.StructType):
        raise TypeError(f"found {found.__name__}, expected a msgspec.Struct")
    return info


def required(field: mi.Field) -> str:
    """Say whether a field must be there, or what it is where it is not."""
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        return md.code(md.value(field.default_factory()))
    return "null" if field.default is None else md.code(md.value(field.default))


def bare(found: mi.Type) -> mi.Type:
    """Strip descriptions and `| null` from a type."""
    if isinstance(found, mi.Metadata):
        return bare(found.type)
    if isinstance(found, mi.UnionType):
        (only,) = (part for part in found.types if not isinstance(part, mi.NoneType))
        return bare(only)
    return found


def kind(found: mi.Type) -> str:
    """Name a field's type; a struct is linked to its fields."""
    nullable = " or null" if isinstance(found, mi.UnionType) else ""
    match bare(found):
        case mi.StructType(cls=cls):
            return f"[{cls.__name__}](#{cls.__name__.lower()}){nullable}"
        case mi.ListType(item_type=item):
            return f"list of {kind(item)}{nullable}"
        case mi.DictType(key_type=key, value_type=values):
            return f"object of {kind(key)} → {kind(values)}{nullable}"
        case mi.TupleType(item_types=items):
            return f"\\[{', '.join(kind(item) for item in items)}\\]{nullable}"
        case mi.EnumType(cls=cls):
            return f"one of {', '.join(md.code(member.value) for member in cls)}{nullable}"
        case mi.LiteralType(values=values):
            return f"one of {', '.join(md.code(str(text)) for text in values)}{nullable}"
        case other:
            words = {mi.StrType: "text", mi.IntType: "integer", mi.FloatType: "number", mi.BoolType: "boolean"}
            return words[type(other)] + nullable


def limit(found: mi.Type) -> str:
    """Say what a value may be: its range, its length, its pattern."""
    match bare(found):
        case mi.IntType(ge=lowest, le=highest) | mi.FloatType(ge=lowest, le=highest):
            return md.limits(number(lowest), number(highest))
        case mi.StrType(min_length=shortest, max_length=longest, pattern=pattern):
            written = md.code(str(pattern or extra(found).get("pattern", "")))
            length = md.limits(shortest, longest)
            return ", ".join(filter(None, (f"{length} characters" if length else "", written)))
        case mi.ListType(min_length=shortest, max_length=longest) | mi.DictType(min_length=shortest, max_length=longest):
            length = md.limits(shortest, longest)
            return f"{length} entries" if length else ""
        case _:
            return ""


def number(found: float | None) -> str | None:
    """Render a limit; the largest whole numbers as powers of two."""
    powers = {2**53: "2^53", -(2**53): "-2^53", 2**63 - 1: "2^63 - 1"}
    return None if found is None else powers.get(int(found), f"{found:,.0f}" if found == int(found) else f"{found:g}")


def extra(found: mi.Type) -> dict[str, object]:
    """Return what a type says beside its limits, through `| null`."""
    if isinstance(found, mi.UnionType):
        return {name: text for part in found.types for name, text in extra(part).items()}
    return dict(found.extra_json_schema or {}) if isinstance(found, mi.Metadata) else {}


def description(found: mi.Type) -> str:
    """Render what a field's type says of itself."""
    return md.prose(str(extra(found).get("description", "")))


def nested(found: mi.Type) -> dict[str, type]:
    """Return the structs inside a type by name, those inside them included."""
    match bare(found):
        case mi.StructType(fields=fields):
            inside = [field.type for field in fields]
        case mi.ListType(item_type=item):
            inside = [item]
        case mi.DictType(value_type=values):
            inside = [values]
        case mi.TupleType(item_types=items):
            inside = list(items)
        case _:
            inside = []
    parts: dict[str, type] = {}
    for part in inside:
        if isinstance(named := bare(part), mi.StructType):
            parts[named.cls.__name__] = named.cls
        parts |= nested(part)
    return parts


def features_page() -> str:
    """Render every feature of the spec by what it measures, and the rolling windows."""
    windows = ([md.code(w.name), md.duration(w.length_ms), md.duration(w.tile_ms)] for w in WINDOWS)
    return md.page(
        "Features",
        f"A feature vector holds {len(FEATURE_SPEC.features)} numbers; a position counts from 0. Feature spec "
        f"`{FEATURE_SPEC.version}` names their order and definitions. A checkpoint reads vectors of its own spec only.",
        "## Windows\n\nA rolling window ends with the user's newest event and moves by whole tiles. "
        "`life` counts all that is kept of the user.",
        md.table(["window", "length", "tile"], windows),
        *(f"## {group}\n\n{rows}" for group, rows in feature_groups()),
    )


def feature_groups() -> Iterator[tuple[str, str]]:
    """Yield the features in tables, one for each first word of their names."""
    numbered = list(enumerate(FEATURE_SPEC.features))
    for group in dict.fromkeys(re.split(r"\.", feature.name)[0] for feature in FEATURE_SPEC.features):
        rows = (
            [str(position), md.code(feature.name), md.prose(feature.unit), md.code(feature.window), md.prose(feature.null)]
            for position, feature in numbered
            if feature.name.split(".")[0] == group
        )
        yield group, md.table(["position", "feature", "unit", "window", "null when"], rows)
