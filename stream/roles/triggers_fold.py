"""Run role triggers: fold interest and churn-risk signals into user rows, and emit triggers and suppressions.

Start at TriggersFold.fold.
"""

from collections.abc import Iterable, Mapping, MutableMapping

from models.features.recent_ids import RecentIds, id_hash
from schemas.codec import decode_keyed
from schemas.dead_letter import Reason
from schemas.errors import DecodeError
from schemas.signals import AdTrigger, ChurnRisk, Interest
from schemas.time_units import MINUTE_MS
from stream.fold.damaged_row import state_of_row
from stream.fold.placement import Placement
from stream.fold.records import Folded, Output, PartitionTotals, Record, check_not_future, dead_letter, is_resent
from stream.roles.trigger_policy import AHEAD_MS, TriggerPolicy
from stream.roles.trigger_row import TriggerState, decode_trigger_row


class TriggersFold:
    """Fold interest and churn-risk signals into user rows, and emit decisions to commit with the rows."""

    def __init__(
        self,
        *,
        topics: Mapping[str, str],
        policy: TriggerPolicy,
        placement: Placement | None = None,
        ahead_ms: int = AHEAD_MS,
    ) -> None:
        """Read the signal topics named by `topics` (kind → name); without a `placement`, keys may be in any partition.

        The timestamp of a source record may be up to `ahead_ms` after the arrival of its signal.
        """
        self._structs: dict[str, tuple[str, type[Interest] | type[ChurnRisk]]] = {
            topics["interest"]: ("interest", Interest),
            topics["churn-risk"]: ("churn-risk", ChurnRisk),
        }
        self._policy, self._placement, self._ahead_ms = policy, placement, ahead_ms

    def fold(
        self,
        rows: MutableMapping[bytes, bytes | TriggerState],
        totals: PartitionTotals,
        records: Iterable[Record],
        folded_ms: int,
        folded: Folded | None = None,
    ) -> Folded:
        """Decide on signals of one partition, in the order given; ignore a signal that was decided before.

        A user's signals of one source topic come in the order of that topic, also when they are sent again after a crash. So
        one whose source offset is not above the highest one decided is a repeat. Results are added to `folded` if it is given.
        An error has the same effect as in FeaturesFold.fold.
        """
        folded, count = Folded() if folded is None else folded, totals.events
        for record in records:
            kind, struct = self._structs[record.topic]
            count.events_in += 1
            try:
                signal = decode_keyed(struct, record.key, record.value)
                check_not_future(signal.event_time_ms, signal.source.timestamp_ms)
                self._check_source_time(signal.source.timestamp_ms, record.timestamp)
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
            if record.offset <= state.guard.get(kind, -1):
                count.replay_skipped += 1
                continue
            if _is_decided(state, kind, signal, resent=signal.resent or is_resent(record)):
                count.duplicate_dropped += 1
                continue
            state.guard[kind] = record.offset
            arrived_ms = max(record.timestamp, signal.source.timestamp_ms)
            decisions = self._policy.decide(signal, state.last_fired_ms, arrived_ms, folded_ms)
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

    def _check_source_time(self, source_ms: int, arrived_ms: int) -> None:
        """Refuse a signal whose source record has a timestamp further ahead than the clocks of producers may be."""
        if source_ms > arrived_ms + self._ahead_ms:
            raise DecodeError(
                Reason.FROM_FUTURE,
                f"found a source record of {source_ms} ms, expected at most {self._ahead_ms / MINUTE_MS:g} minutes after the "
                f"arrival of its signal at {arrived_ms} ms: set the clock of the source's producer",
            )


def _is_decided(state: TriggerState, kind: str, signal: Interest | ChurnRisk, *, resent: bool) -> bool:
    """Return whether a signal was decided before, and note that it is now.

    A resent one comes after later ones, so its id is looked up, and the highest offset stays. The id of one without a topic
    id is kept as well: an older worker may have sent it, and its repeat by a newer one names the topic by its id.
    """
    source, ids = signal.source, state.ids.get(kind)
    if ids is not None and ids.has(id_hash(signal.signal_id)):
        return True
    if not resent:
        decided, origin = state.decided.setdefault(kind, {}), source.topic_id or source.topic
        if source.offset <= decided.get(origin, -1):
            return True
        decided[origin] = source.offset
    if resent or not source.topic_id:
        state.ids.setdefault(kind, RecentIds()).add(id_hash(signal.signal_id))
    return False
