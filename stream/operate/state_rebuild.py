"""Fold a role's retained source records into the changelog of its next generation, while the current generation serves.

A generation is one version of a role's group and changelog (setting generations). The rebuild runs the role's own app. It
commits rows, totals and offsets as usual, but sends no outputs, because the serving generation has sent them or will. Only
records with misplaced keys become dead letters, because the serving generation may have accepted them. An interrupted
rebuild continues from its last commit. Start at rebuild.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from msgspec import Struct

from models.features.row_codec import encode_row
from schemas.dead_letter import DeadLetter, Reason
from schemas.errors import BrokerError
from stream.fold.damaged_row import DAMAGED_KIND
from stream.fold.records import Fold, Folded, PartitionTotals, Record, Totals
from stream.kafka.barrier import lag_of
from stream.kafka.changelog import PartitionRows, read_changelog
from stream.kafka.topic_admin import create_changelog
from stream.operate.retained import Survey, members, survey
from stream.process.settings import Settings
from stream.roles.table import Role
from stream.roles.trigger_row import encode_trigger_row
from stream.worker.app import FootfallApp
from stream.worker.build_app import build_app

POLL_SECONDS = 0.1


class Rebuilt(Struct, frozen=True, kw_only=True):
    """The result of a rebuild, read back from the new changelog and compared with the serving rows.

    `lost` counts offsets that the serving state has folded and the broker no longer retains. `ahead` counts records that
    the new generation has folded and the serving one has not committed: switch when it is 0.
    """

    role: str
    generation: int
    changelog: str
    rows: int
    equal: int
    different: int
    only_serving: int
    only_rebuilt: int
    totals: Totals
    lost: int
    ahead: int
    seconds: float


class SilentFold:
    """Wraps a fold and drops its outputs, except those that belong to the changelog and dead letters for misplaced keys."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold

    def fold(
        self, rows: Any, totals: PartitionTotals, records: Iterable[Record], folded_ms: int, folded: Folded | None = None
    ) -> Folded:
        """Fold, and drop the messages to send."""
        kept = self._fold.fold(rows, totals, records, folded_ms, folded)
        kept.outputs[:] = [
            output
            for output in kept.outputs
            if isinstance(output.message, DeadLetter) and output.message.reason is Reason.MISPLACED_KEY
        ]
        kept.with_rows[:] = [output for output in kept.with_rows if output.kind == DAMAGED_KIND]
        return kept

    def kind_and_key(self, record: Record) -> tuple[str, bytes | None]:
        """Return the kind of a record and the key of its row, as the wrapped fold does."""
        return self._fold.kind_and_key(record)


def next_generation(settings: Settings, role: Role) -> Settings:
    """Return the settings under which the role's next generation runs."""
    generations = {**settings.generations, role: settings.generations.get(role, 1) + 1}
    return settings.model_copy(update={"generations": generations})


async def plan_rebuild(settings: Settings, role: Role) -> tuple[dict[int, PartitionRows], Survey]:
    """Read the serving state and the retained offsets of its sources; changes nothing.

    Raises:
        BrokerError: the changelog cannot be read.
        BrokerError: a source topic cannot be read.
    """
    serving = await read_changelog(settings, settings.changelog(role))
    return serving, await survey(settings, role, serving)


async def rebuild(settings: Settings, role: Role, on_progress: Callable[[int, int], None]) -> Rebuilt:
    """Fold the retained records into the next generation's changelog, then read it back and compare.

    Raises:
        BrokerError: the next generation already runs, or the fold ended with an error.
    """
    if not settings.transactions:
        raise BrokerError("the embedded broker has no transactions: rebuild a state on Kafka only")
    new = next_generation(settings, role)
    if running := await members(new, role):
        raise BrokerError(f"group {new.group(role)} has {running} workers, expected none: this generation already serves")
    started = time.monotonic()
    serving, sources = await plan_rebuild(settings, role)
    partitions = len(serving)
    await create_changelog(new, role, partitions)
    app = build_app(new, role, partitions=partitions)
    app.fold = SilentFold(app.fold)
    rows = await _fold_to(app, sources, partitions, on_progress)
    found = await read_changelog(new, new.changelog(role), wait=True)
    if (read_back := _all_rows(found)) != rows:
        raise BrokerError(
            f"changelog {new.changelog(role)} holds {len(read_back)} rows, which differ from the {len(rows)} rows folded: "
            "stop the other process that writes to it"
        )
    totals, serving = Totals(), await read_changelog(settings, settings.changelog(role))
    for partition in found.values():
        totals.add(partition.totals.events)
    counted = totals.applied + totals.replay_skipped + totals.dead_lettered + totals.declared_dropped
    if counted != totals.events_in:
        raise BrokerError(
            f"totals do not add up: {totals.events_in} events in, {counted} with an outcome: report this as a defect"
        )
    old = _all_rows(serving)
    return Rebuilt(
        role=role,
        generation=new.generations[role],
        changelog=new.changelog(role),
        rows=len(rows),
        equal=sum(old.get(key) == row for key, row in rows.items()),
        different=sum(key in old and old[key] != row for key, row in rows.items()),
        only_serving=len(old.keys() - rows.keys()),
        only_rebuilt=len(rows.keys() - old.keys()),
        totals=totals,
        lost=sources.lost,
        ahead=_ahead(found, serving),
        seconds=time.monotonic() - started,
    )


async def _fold_to(
    app: FootfallApp, sources: Survey, partitions: int, on_progress: Callable[[int, int], None]
) -> dict[bytes, bytes]:
    """Run the app until all records retained at the start are committed; return its rows, encoded."""
    if app.store is None:
        raise BrokerError(f"role {app.role} has no rows, expected a role with rows: rebuild features or triggers")
    await app.outbox_producer.start()
    starting = asyncio.create_task(app.start())
    try:
        while not (starting.done() and len(app.store.owned) == partitions and not app.rebalancing and _reached(app, sources)):
            if app._crashed.is_set() or (starting.done() and starting.exception() is not None):
                raise BrokerError(
                    f"the fold ended with {app.crash_reason or starting.exception()!r}: run the rebuild again; it continues "
                    "from its last commit"
                )
            if app.limit.paused:
                raise BrokerError(
                    f"found the fold paused: {app.limit.paused}; to send them all to the dead letters, set "
                    "misplaced_max_percent=0 and run the rebuild again, it continues"
                )
            on_progress(sum(_done(app, tp, sources) for tp in sources.end), sources.retained)
            await asyncio.sleep(POLL_SECONDS)
        await app.drained()
        on_progress(sources.retained, sources.retained)
    finally:
        await app.stop()
        encode: Callable[[Any], bytes] = encode_row if app.role == "features" else encode_trigger_row
        rows = {
            key: row if isinstance(row, bytes) else encode(row)
            for partition in app.store.owned.values()
            for key, row in partition.rows.items()
        }
        await app.store.close()
        await app.outbox_producer.stop()
    return rows


def _done(app: FootfallApp, tp: TopicPartition, sources: Survey) -> int:
    owned = app.store.owned.get(tp.partition) if app.store is not None else None
    at = owned.offsets.get(tp.topic, 0) if owned is not None else 0
    return max(0, min(at, sources.end[tp]) - sources.begin[tp])


def _reached(app: FootfallApp, sources: Survey) -> bool:
    """Return whether every partition is folded to its end offset at the start, or to the last record before it."""
    lag = lag_of(app.consumer, app.alignment)
    return all(
        _done(app, tp, sources) >= sources.end[tp] - sources.begin[tp] or lag.get((tp.topic, tp.partition)) == 0
        for tp in sources.end
    )


def _all_rows(state: Mapping[int, PartitionRows]) -> dict[bytes, bytes]:
    return {key: row for partition in state.values() for key, row in partition.rows.items()}


def _ahead(found: Mapping[int, PartitionRows], serving: Mapping[int, PartitionRows]) -> int:
    return sum(
        max(0, offset - serving[number].offsets.get(topic, 0))
        for number, partition in found.items()
        for topic, offset in partition.offsets.items()
    )
