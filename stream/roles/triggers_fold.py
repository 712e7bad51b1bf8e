"""Run role triggers: fold interest and churn-risk signals into user rows, and emit triggers and suppressions.

Start at TriggersFold.fold.
"""

from collections.abc import Iterable, Mapping, MutableMapping

from models.features.recent_ids import RecentIds, id_hash
from schemas.codec import decode_keyed
from schemas.errors import DecodeError
from schemas.signals import AdTrigger, ChurnRisk, Interest
from stream.fold.damaged_row import state_of_row
from stream.fold.placement import Placement
from stream.fold.records import Folded, Output, PartitionTotals, Record, dead_letter
from stream.roles.trigger_policy import TriggerPolicy
from stream.roles.trigger_row import TriggerState, decode_trigger_row


class TriggersFold:
    """Fold interest and churn-risk signals into user rows, and emit decisions to commit with the rows."""

    def __init__(self, *, topics: Mapping[str, str], policy: TriggerPolicy, placement: Placement | None = None) -> None:
        """Read the signal topics named by `topics` (kind → name); without a `placement`, keys may be in any partition."""
        self._structs: dict[str, tuple[str, type[Interest] | type[ChurnRisk]]] = {
            topics["interest"]: ("interest", Interest),
            topics["churn-risk"]: ("churn-risk", ChurnRisk),
        }
        self._policy, self._placement = policy, placement

    def fold(
        self,
        rows: MutableMapping[bytes, bytes | TriggerState],
        totals: PartitionTotals,
        records: Iterable[Record],
        folded_ms: int,
        folded: Folded | None = None,
    ) -> Folded:
        """Decide on signals of one partition, in the order given; ignore a repeated signal id.

        Results are added to `folded` if it is given. An error has the same effect as in FeaturesFold.fold.
        """
        folded, count = Folded() if folded is None else folded, totals.events
        for record in records:
            kind, struct = self._structs[record.topic]
            count.events_in += 1
            try:
                signal = decode_keyed(struct, record.key, record.value)
                if record.key not in rows and self._placement is not None:  # a row begins: the only time its key is checked
                    self._placement.check(record, folded)
            except DecodeError as error:
                folded.outputs.append(dead_letter(kind, record, error, folded_ms))
                count.dead_lettered += 1
                totals.count_output("dead-letter")
                continue
            key = signal.user_id.encode()
            state = rows.get(key)
            if type(state) is not TriggerState:
                state = rows[key] = state_of_row(decode_trigger_row, TriggerState, key, state, record, totals, folded)
            digest = id_hash(signal.signal_id)
            if record.offset <= state.guard.get(kind, -1):
                count.replay_skipped += 1
                continue
            ids = state.ids.setdefault(kind, RecentIds())
            if ids.has(digest):
                count.duplicate_dropped += 1
                continue
            ids.add(digest)
            state.guard[kind] = record.offset
            decisions = self._policy.decide(signal, state.last_fired_ms)
            state.newest_ms = max(state.newest_ms, signal.event_time_ms)
            count.applied += 1  # nothing below can raise
            folded.dirty[key] = state
            for decision in decisions:
                output = "ad-trigger" if isinstance(decision, AdTrigger) else "suppression"
                totals.count_output(output)
                folded.with_rows.append(Output(output, record.partition, record.timestamp, key, decision))
        return folded

    def kind_and_key(self, record: Record) -> tuple[str, bytes | None]:
        """Return a record's kind and the key of its row, or None for the key if it has no row."""
        return self._structs[record.topic][0], record.key
