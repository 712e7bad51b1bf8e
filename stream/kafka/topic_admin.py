"""Compare the broker's topics with the settings, and create or alter the topics that differ.

This module never deletes a topic. It never adds a partition, because keys would then map to other partitions than their
rows. Start at plan and apply.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from msgspec import Struct

from schemas.errors import BrokerError, FootfallError, SettingsError
from schemas.time_units import DAY_MS, MINUTE_MS
from schemas.topics import Topic
from stream.kafka.clients import admin_client
from stream.kafka.connection_check import broker_error
from stream.process.settings import Settings

CHANGELOG = "changelog"
STATEFUL_ROLES = ("features", "triggers")
CHANGELOG_CONFIGS: Mapping[str, str] = {
    "cleanup.policy": "compact",
    "delete.retention.ms": str(7 * DAY_MS),
    "max.compaction.lag.ms": str(7 * DAY_MS),
    "segment.ms": str(DAY_MS),
}
TIMESTAMP_TYPE, LOG_APPEND_TIME = "message.timestamp.type", "LogAppendTime"
TIMESTAMP_AHEAD = "message.timestamp.after.max.ms"  # the broker refuses records that are stamped further ahead of its clock
SET_ON_TOPIC = 1  # config_source of a value that was set on the topic itself
VISIBLE_SECONDS = 30.0
HIDDEN_SECONDS = 5.0  # for a topic that exists already: if it is not listed by then, we may not describe it

Action = Literal["create", "alter", "ok", "refused"]


class WantedTopic(Struct, frozen=True):
    """Describe one topic as the settings require it."""

    kind: str
    name: str
    partitions: int
    configs: Mapping[str, str]


class Change(Struct, frozen=True, kw_only=True):
    """Describe what one topic needs: the `configs` to set, and the reason as text in `detail`."""

    topic: str
    kind: str
    action: Action
    partitions: int
    configs: dict[str, str] = {}
    detail: str = ""


def wanted_topics(settings: Settings) -> list[WantedTopic]:
    """List every topic of a deployment, changelogs included."""
    topics = list(settings.topics().values())
    wanted = [
        WantedTopic(
            topic.kind,
            topic.name,
            topic.partitions,
            {"cleanup.policy": topic.cleanup, "retention.ms": str(topic.retention_ms)} | _timestamp_configs(settings, topic),
        )
        for topic in topics
    ]
    partitions = topics[0].partitions
    return wanted + [WantedTopic(CHANGELOG, settings.changelog(role), partitions, CHANGELOG_CONFIGS) for role in STATEFUL_ROLES]


def _timestamp_configs(settings: Settings, topic: Topic) -> dict[str, str]:
    if topic.timestamps == LOG_APPEND_TIME:
        return {TIMESTAMP_TYPE: LOG_APPEND_TIME}
    return {TIMESTAMP_TYPE: topic.timestamps, TIMESTAMP_AHEAD: str(round(settings.source_ahead_minutes * MINUTE_MS))}


async def plan(settings: Settings) -> list[Change]:
    """Compare the broker with the settings; changes nothing.

    Raises:
        BrokerError: no broker answers, or it denies the request.
    """
    return await _with_admin(settings, _plan)


async def apply(settings: Settings) -> list[Change]:
    """Create missing topics, set differing configs and return the changes. A second call changes nothing.

    Raises:
        BrokerError: a topic cannot be changed safely (then nothing was changed), or the broker refused a change.
    """
    return await _with_admin(settings, _apply)


async def create_changelog(settings: Settings, role: str, partitions: int) -> list[Change]:
    """Create a role's changelog if it is missing; change no other topic.

    Raises:
        BrokerError: the broker refused to create it.
    """

    async def create(client: AIOKafkaAdminClient, settings: Settings) -> list[Change]:
        name = settings.changelog(role)
        if name in await existing_partitions(client):
            return []
        change = Change(topic=name, kind=CHANGELOG, action="create", partitions=partitions, configs=dict(CHANGELOG_CONFIGS))
        await _create(client, [change], settings.replication_factor)
        return [change]

    return await _with_admin(settings, create)


async def existing_partitions(client: AIOKafkaAdminClient) -> dict[str, int]:
    """Return the partition count of every topic on the broker; a request by name could auto-create the topic."""
    return {topic["topic"]: len(topic["partitions"]) for topic in await client.describe_topics() if not topic["error_code"]}


async def topic_configs(client: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, tuple[str, bool]]] | None:
    """Return each config of each topic as (value, set on the topic itself); None if the broker lacks the request."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    try:
        responses = await client.describe_configs(resources)
    except IncompatibleBrokerVersion:
        return None
    found = {}
    for response in responses:
        for code, message, _, name, entries in response.resources:
            if code:
                raise _refusal(name, "read its configs", "DescribeConfigs", code, message)
            found[name] = {entry[0]: (str(entry[1]), entry[3] == SET_ON_TOPIC) for entry in entries}
    return found


def _refusal(topic: str, what: str, operation: str, code: int, message: str | None, hint: str = "") -> FootfallError:
    """Return the error of a request about a topic that the broker refused: a missing ACL, or anything else."""
    if code in (TopicAuthorizationFailedError.errno, ClusterAuthorizationFailedError.errno):
        return SettingsError(
            f"ACL of topic {topic}: found no permission to {what}, expected {operation}: grant it to this principal, see "
            "docs/how-to/run-on-kafka.md"
        )
    return BrokerError(f"topic {topic}: the broker refused to {what}: {message or for_code(code).description}{hint}")


async def _with_admin(settings: Settings, work: Any) -> list[Change]:
    client = admin_client(settings)
    try:
        await client.start()
        changes: list[Change] = await work(client, settings)
        return changes
    except (KafkaError, TimeoutError, OSError) as error:
        raise await broker_error(settings, error) from error
    finally:
        await client.close()


async def _plan(client: AIOKafkaAdminClient, settings: Settings) -> list[Change]:
    counts = await existing_partitions(client)
    wanted = wanted_topics(settings)
    configs = await topic_configs(client, [topic.name for topic in wanted if topic.name in counts])
    found = {counts[topic.name] for topic in wanted if topic.name in counts}
    all_have = next(iter(found)) if len(found) == 1 else None
    return [
        _compare(
            topic,
            counts.get(topic.name),
            None if configs is None else configs.get(topic.name, {}),
            all_have=all_have,
            may_lower=settings.retention_ms is not None,
        )
        for topic in wanted
    ]


def _compare(
    topic: WantedTopic,
    partitions: int | None,
    configs: Mapping[str, tuple[str, bool]] | None,
    *,
    all_have: int | None,
    may_lower: bool,
) -> Change:
    """Return what a topic needs; `all_have` is the partition count that all existing topics of the deployment share."""

    def change(action: Action, detail: str, to_set: dict[str, str] | None = None) -> Change:
        return Change(
            topic=topic.name, kind=topic.kind, action=action, partitions=topic.partitions, configs=to_set or {}, detail=detail
        )

    if partitions is None:
        return change("create", f"{topic.partitions} partitions, {_config_text(topic.configs)}", dict(topic.configs))
    if partitions != topic.partitions:
        remedy = (
            f"run with --partitions {all_have} (FOOTFALL_PARTITIONS={all_have})"
            if all_have is not None
            else f"copy it into a new topic of {topic.partitions} partitions and set that name in topic_names"
        )
        return change("refused", f"found {partitions} partitions, expected {topic.partitions}, as the settings say: {remedy}")
    if configs is None:
        return change("ok", "retention and cleanup not checked: this broker does not report them")
    differing = {name: value for name, value in topic.configs.items() if configs.get(name, ("", False))[0] != value}
    kept = ""
    if "retention.ms" in differing and not may_lower and _longer(configs.get("retention.ms", ("0", False))[0], differing):
        kept = f"keeps its longer retention.ms of {configs['retention.ms'][0]}; set retention_ms to shorten it"
        del differing["retention.ms"]
    if not differing:
        return change("ok", kept)
    words = ", ".join(f"{name} {configs.get(name, ('unset', False))[0]} → {value}" for name, value in differing.items())
    return change("alter", f"{words}{'; ' if kept else ''}{kept}", differing)


def _longer(found: str, differing: Mapping[str, str]) -> bool:
    """Return whether the retention found is longer than the one wanted; -1 keeps records forever."""
    found_ms, wanted_ms = int(found), int(differing["retention.ms"])
    return wanted_ms != -1 and (found_ms == -1 or found_ms > wanted_ms)


def _config_text(configs: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in configs.items())


async def _apply(client: AIOKafkaAdminClient, settings: Settings) -> list[Change]:
    changes = await _plan(client, settings)
    refused: dict[str, list[str]] = {}
    for change in changes:
        if change.action == "refused":
            refused.setdefault(change.detail, []).append(change.topic)
    if refused:
        reasons = "; ".join(f"{', '.join(names)}: {detail}" for detail, names in refused.items())
        raise BrokerError(f"nothing was changed: {reasons}")
    done = []
    if to_create := [change for change in changes if change.action == "create"]:
        await _create(client, to_create, settings.replication_factor)
        done += to_create
    if to_alter := [change for change in changes if change.action == "alter"]:
        done += await _alter(client, to_alter)
    return done


async def _create(client: AIOKafkaAdminClient, changes: Sequence[Change], replication_factor: int) -> None:
    response = await client.create_topics(
        [NewTopic(change.topic, change.partitions, replication_factor, topic_configs=change.configs) for change in changes]
    )
    existing = [name for name, code, _ in response.topic_errors if code == TopicAlreadyExistsError.errno]
    for name, code, message in response.topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):
            hint = (
                ": set --replication-factor to at most the number of brokers" if "replication" in f"{message}".lower() else ""
            )
            raise _refusal(name, "create it", "Create on it or on the cluster", code, message, hint)
    wanted = {change.topic: change.partitions for change in changes}

    async def visible() -> bool:
        return wanted.items() <= (await existing_partitions(client)).items()

    if not await _becomes(visible, HIDDEN_SECONDS if existing else VISIBLE_SECONDS):
        raise SettingsError(
            f"ACL of topic {(existing or [*wanted])[0]}: found that it exists but that the broker does not list it, expected "
            "Describe: grant it to this principal, see docs/how-to/run-on-kafka.md"
        )


async def _alter(client: AIOKafkaAdminClient, changes: Sequence[Change]) -> list[Change]:
    """Set differing configs; resend all other configs set on the topic, because the request replaces all of them."""
    found = await topic_configs(client, [change.topic for change in changes]) or {}
    resources = []
    for change in changes:
        kept = {name: value for name, (value, on_topic) in found.get(change.topic, {}).items() if on_topic}
        resources.append(ConfigResource(ConfigResourceType.TOPIC, change.topic, kept | change.configs))
    try:
        responses = await client.alter_configs(resources)
    except IncompatibleBrokerVersion:
        return [
            Change(
                topic=change.topic,
                kind=change.kind,
                action="ok",
                partitions=change.partitions,
                detail=f"not set, since this broker cannot change a topic: {change.detail}",
            )
            for change in changes
        ]
    for response in responses:
        for code, message, _, name in response.resources:
            if code:
                raise _refusal(name, "change its configs", "AlterConfigs", code, message)

    async def visible() -> bool:
        now = await topic_configs(client, [change.topic for change in changes]) or {}
        return all(
            now[change.topic].get(name, ("", False))[0] == value for change in changes for name, value in change.configs.items()
        )

    if not await _becomes(visible, VISIBLE_SECONDS):
        raise BrokerError(f"found no changed settings within {VISIBLE_SECONDS:g} s, expected them: check the broker's log")
    return list(changes)


async def _becomes(visible: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Wait until the brokers report what the controller accepted, for at most `seconds`; return whether they do."""
    deadline = time.monotonic() + seconds
    while not await visible():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True
