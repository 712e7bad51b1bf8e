"""Read one user's row from a changelog and render it: features by name, recent events, guard vector.

The guard vector names, per topic, the first and the last offset folded into the row. Start at read_user.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from models.features.row_codec import decode_row
from models.features.snapshot import snapshot
from models.features.spec import FEATURE_SPEC, SENTIMENT
from schemas.errors import BrokerError
from schemas.time_units import DAY_MS
from stream.fold.damaged_row import DamagedRow
from stream.fold.partitioner import compute_partition
from stream.kafka.changelog import PartitionRows, read_changelog
from stream.process.settings import Settings
from stream.roles.features_fold import GUARDED
from stream.roles.trigger_row import decode_trigger_row


class NamedFeature(Struct, frozen=True):
    """One number of a feature vector, with its unit and window."""

    name: str
    value: float | None
    unit: str
    window: str


class UserRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user's row as committed; `guard` is topic kind → offsets of the first and the last record folded into it.

    `reset` is true if an earlier row of the user was damaged and this one started empty; `damaged` is the error. Features
    are as of `at_ms`, the row's newest event time. A row of role triggers has no features.
    `other_partitions` have rows of the user too, because a topic's producer places keys by another partitioner.
    """

    user_id: str
    role: str
    partition: int
    row_bytes: int
    at_ms: int
    guard: dict[str, tuple[int | None, int]]
    spec_version: str | None = None
    features: list[NamedFeature] = []
    categories: list[tuple[str, float]] = []
    history: list[dict[str, Any]] = []
    last_fired_ms: dict[str, int] = {}
    reset: bool = False
    damaged: str | None = None
    other_partitions: list[int] = []


async def read_user(settings: Settings, role: str, user_id: str) -> UserRow:
    """Read a user's row from the role's changelog, committed records only; joins no group and causes no rebalance.

    It reads the partition that the partitioner names. Without a row there, and where misplaced keys are accepted, it reads
    all partitions and returns the first row that it finds.

    Raises:
        BrokerError: the user has no row, or the changelog cannot be read.
        BrokerError: the rows were folded with another partitioner, so this one names the wrong partition.
        RowVersionError: the row cannot be decoded.
    """
    key = user_id.encode()
    topic = settings.changelog(role)
    anywhere = settings.misplaced_keys == "accept"
    state = await read_changelog(settings, topic, of_key=None if anywhere else key)
    partition, others = place_of(key, state, settings)
    if key not in state[partition].rows and not anywhere:  # see whether the partitioner of the other partitions is another
        state = await read_changelog(settings, topic)
        partition, others = place_of(key, state, settings)
    found = state[partition]
    kept = found.damaged.get(key)
    damaged = None if kept is None else msgspec.json.decode(kept, type=DamagedRow).detail
    row = found.rows.get(key)
    if row is None:
        raise BrokerError(
            f"found no row of user {user_id!r} in {topic}: check the id; rows expire after ttl_days without events"
        )
    common: dict[str, Any] = {"user_id": user_id, "role": role, "partition": partition, "row_bytes": len(row)}
    common |= {"reset": damaged is not None, "damaged": damaged, "other_partitions": others}
    return _features_row(row, settings, common) if role == "features" else _triggers_row(row, common)


def place_of(key: bytes, state: Mapping[int, PartitionRows], settings: Settings) -> tuple[int, list[int]]:
    """Return the partition of a user's row, the one where it belongs first, and the other partitions with a row of theirs.

    Raises:
        BrokerError: the rows were folded with another partitioner.
    """
    if folded_with := {rows.partitioner for rows in state.values()} - {"", settings.partitioner}:
        raise BrokerError(
            f"found rows folded with partitioner={min(folded_with)}, expected {settings.partitioner}, as set: set "
            f"partitioner={min(folded_with)}"
        )
    home = compute_partition(key, len(state), settings.partitioner) if len(state) > 1 else min(state)
    having = sorted((number for number, rows in state.items() if key in rows.rows), key=lambda number: number != home)
    return (having[0], having[1:]) if having else (home, [])


def _features_row(row: bytes, settings: Settings, common: dict[str, Any]) -> UserRow:
    state = decode_row(row)
    if all(topic is None for topic in state.topics[:SENTIMENT]):
        return UserRow(**common, at_ms=0, guard={})
    current = snapshot(state, round(settings.ttl_days * DAY_MS))
    features = [
        NamedFeature(feature.name, value, feature.unit, feature.window)
        for feature, value in zip(FEATURE_SPEC.features, current.features, strict=True)
    ]
    return UserRow(
        **common,
        at_ms=current.at_ms,
        guard={GUARDED[index]: span for index, span in current.guard.items()},
        spec_version=FEATURE_SPEC.version,
        features=features,
        categories=current.categories,
        history=[msgspec.structs.asdict(entry) for entry in current.history],
    )


def _triggers_row(row: bytes, common: dict[str, Any]) -> UserRow:
    state = decode_trigger_row(row)
    guard: dict[str, tuple[int | None, int]] = {kind: (None, offset) for kind, offset in state.guard.items()}
    return UserRow(**common, at_ms=state.newest_ms, guard=guard, last_fired_ms=state.last_fired_ms)
