"""Run role features: fold source events and review sentiment into user rows, and emit score requests.

The same code runs in the live worker, in a replay and when a dataset is cut. It gets records, a dictionary of rows and the
time as arguments, and returns messages. It never blocks and reads no clock. Start at FeaturesFold.fold.
"""

from collections.abc import Iterable, Mapping, MutableMapping

from models.features.recent_ids import id_hash
from models.features.row_codec import decode_row
from models.features.snapshot import snapshot
from models.features.spec import FEATURE_SPEC, KINDS, SENTIMENT
from models.features.user_state import DEFAULT_TTL_MS, PURCHASE, UserState, new_topic, new_user
from schemas.codec import decode_keyed, event_decoder
from schemas.dead_letter import Reason
from schemas.errors import DecodeError
from schemas.events import Event, Purchase, Review, Search
from schemas.ids import output_id, position_id
from schemas.scoring import ScoreRequest, SourcePosition, Timings
from schemas.signals import ReviewSentiment
from schemas.time_units import DAY_MS
from schemas.topics import SOURCES
from stream.fold.damaged_row import state_of_row
from stream.fold.placement import Placement
from stream.fold.records import (
    FUTURE_MS,
    Folded,
    Output,
    PartitionTotals,
    Record,
    Totals,
    check_not_future,
    dead_letter,
    resent_id,
)
from stream.roles.scoring_policy import ScoringPolicy

MILLIS_DIGITS = 13
SENT_AT = "sent-at-ms"  # record header: the producer's wall clock, if record timestamps are simulated
MAX_AMOUNT = 1e10  # of one purchase, in the reporting currency: sums then stay within 64 bits
GUARDED = (*KINDS, "review-sentiment")


class FeaturesFold:
    """Fold source events and review sentiment into user rows and score requests."""

    def __init__(
        self,
        *,
        topics: Mapping[str, str],
        policy: ScoringPolicy,
        rates: Mapping[str, float],
        lateness_ms: int = DAY_MS,
        ttl_ms: int = DEFAULT_TTL_MS,
        placement: Placement | None = None,
        topic_ids: Mapping[str, str] | None = None,
    ) -> None:
        """Read topics named by `topics` (kind → name); `rates` maps each currency to its value in the reporting currency.

        Without a `placement`, keys may be in any partition. `topic_ids` (name → id) may be filled later, before the first fold.
        """
        self._kinds = {topics[kind]: index for index, kind in enumerate(KINDS)}
        self._kinds[topics["review-sentiment"]] = SENTIMENT
        self._decoders = [event_decoder(SOURCES[kind]) for kind in KINDS]
        self._policy, self._rates, self._lateness_ms, self._ttl_ms = policy, rates, lateness_ms, ttl_ms
        self._placement, self._topic_ids = placement, {} if topic_ids is None else topic_ids

    def fold(
        self,
        rows: MutableMapping[bytes, bytes | UserState],
        totals: PartitionTotals,
        records: Iterable[Record],
        folded_ms: int,
        folded: Folded | None = None,
    ) -> Folded:
        """Fold records of one partition, from any of the role's topics, into its rows, in the order given.

        `folded_ms`, the wall clock, only stamps outputs. A bad record becomes a dead letter and raises nothing. Results are
        added to `folded` if it is given. If this code itself raises, the record's row may be half-changed; the record is
        counted in events_in but has no outcome and no output.
        """
        folded = Folded() if folded is None else folded
        kinds, decoders, count, policy = self._kinds, self._decoders, totals.events, self._policy
        dirty, outputs, lateness_ms = folded.dirty, folded.outputs, self._lateness_ms
        for record in records:
            kind = kinds[record.topic]
            if kind == SENTIMENT:
                self._fold_feedback(rows, totals, record, folded, folded_ms)
                continue
            count.events_in += 1
            key, arrived = record.key, record.timestamp
            try:
                event = decoders[kind](key, record.value)
                at = event.event_time_ms
                if at > arrived + FUTURE_MS:  # as check_not_future, without its call
                    check_not_future(at, arrived)
                if kind == PURCHASE:
                    self._check_amount(event)  # type: ignore[arg-type]
            except DecodeError as error:
                _refuse(KINDS[kind], record, error, totals, count, folded, folded_ms)
                continue
            if at < arrived - lateness_ms:
                count.late_dropped += 1
                continue
            state = rows.get(key)  # type: ignore[arg-type]
            if type(state) is not UserState:
                state = rows[key] = state_of_row(decode_row, new_user, key, state, record, totals, folded)  # type: ignore[arg-type, index]
            topic = state.topics[kind]
            if topic is not None:
                if record.offset <= topic.guard:
                    count.replay_skipped += 1
                    continue
                if at - topic.newest_ms > self._ttl_ms:
                    topic = None
            event_id = event.event_id or (record.headers and resent_id(record))
            digest = id_hash(event_id) if event_id else None
            if digest is not None and topic is not None and topic.ids.has(digest):
                count.duplicate_dropped += 1
                continue
            if topic is None and self._placement is not None:  # a part of the row begins: the only time its key is checked
                try:
                    self._placement.check(record, folded)
                except DecodeError as error:
                    _refuse(KINDS[kind], record, error, totals, count, folded, folded_ms)
                    if all(part is None for part in state.topics):
                        del rows[key]  # type: ignore[arg-type]  # created for this record
                    continue
            due = policy.is_due(kind, event, arrived, topic)
            if topic is None:
                if state.topics[kind] is not None:
                    state.profile = None  # it counts events of the expired topic
                topic = state.topics[kind] = new_topic(kind, record.offset, at)
            if digest is not None:
                topic.ids.add(digest)
            topic.apply(kind, event, record.offset, self._rates, state.profile)
            if due is not None:
                topic.due_ms = at
                request = self.request(kind, event, record, state, due, folded_ms)
                outputs.append(Output("score-request", record.partition, folded_ms, key, request))
                totals.count_output("score-request")
            count.applied += 1  # nothing below can raise
            dirty[key] = state  # type: ignore[index]
        return folded

    def kind_and_key(self, record: Record) -> tuple[str, bytes | None]:
        """Return a record's kind and the key of its row, or None for the key if it has no row."""
        return GUARDED[self._kinds[record.topic]], record.key

    def _check_amount(self, event: Purchase) -> None:
        rate = self._rates.get(event.currency)
        if rate is None:
            known = ", ".join(sorted(self._rates))
            raise DecodeError(
                Reason.UNKNOWN_CURRENCY, f"found currency {event.currency}, expected one of {known}: add it to currency_rates"
            )
        amount = sum(line.unit_price * line.quantity for line in event.lines) * rate
        if amount > MAX_AMOUNT:
            raise DecodeError(
                Reason.OUT_OF_RANGE,
                f"found lines worth {amount:.0f} in the reporting currency, expected at most {MAX_AMOUNT:.0f}",
            )

    def request(self, kind: int, event: Event, record: Record, state: UserState, due: str, folded_ms: int) -> ScoreRequest:
        """Build the score request of a user from `state`; `event` and `record` caused it and are its newest input."""
        user = snapshot(state, self._ttl_ms)
        event_id = event.event_id or resent_id(record) or position_id(record.topic, record.partition, record.offset)
        text = event.text if isinstance(event, Review) else event.query if isinstance(event, Search) else None
        return ScoreRequest(
            request_id=output_id(event.user_id, KINDS[kind], event_id, "score-request"),
            user_id=event.user_id,
            event_id=event_id,
            event_time_ms=event.event_time_ms,
            kind=KINDS[kind],
            due=due,
            source=SourcePosition(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                timestamp_ms=record.timestamp,
                topic_id=self._topic_ids.get(record.topic, ""),
            ),
            guard={GUARDED[i]: span for i, span in user.guard.items()},
            spec_version=FEATURE_SPEC.version,
            features=user.features,
            history=user.history,
            categories=user.categories,
            timings=Timings(sent_ms=sent_ms(record), folded_ms=folded_ms),
            text=text,
            review_id=event.review_id if isinstance(event, Review) else None,
        )

    def _fold_feedback(
        self,
        rows: MutableMapping[bytes, bytes | UserState],
        totals: PartitionTotals,
        record: Record,
        folded: Folded,
        folded_ms: int,
    ) -> None:
        """Fold a review's sentiment into the tile of the review's time, once per review; it never causes a score request."""
        count = totals.feedback
        count.events_in += 1
        try:
            signal = decode_keyed(ReviewSentiment, record.key, record.value)
        except DecodeError as error:
            _refuse("review-sentiment", record, error, totals, count, folded, folded_ms)
            return
        key = signal.user_id.encode()
        state = rows.get(key)
        if type(state) is not UserState:
            state = rows[key] = state_of_row(decode_row, new_user, key, state, record, totals, folded)
        topic = state.topics[SENTIMENT]
        if topic is not None and record.offset > topic.guard and signal.event_time_ms - topic.newest_ms > self._ttl_ms:
            topic = None
        if topic is None:
            topic = state.topics[SENTIMENT] = new_topic(SENTIMENT, record.offset, signal.event_time_ms)
        digest = id_hash(signal.review_id)
        if record.offset <= topic.guard:
            count.replay_skipped += 1
        elif topic.ids.has(digest):
            count.duplicate_dropped += 1
        else:
            topic.ids.add(digest)
            topic.apply_sentiment(signal, record.offset)
            count.applied += 1
            folded.dirty[key] = state


def _refuse(
    kind: str, record: Record, error: DecodeError, totals: PartitionTotals, count: Totals, folded: Folded, folded_ms: int
) -> None:
    """Send a record to the dead letters and count it in `count`, which is a part of `totals`."""
    folded.outputs.append(dead_letter(kind, record, error, folded_ms))
    count.dead_lettered += 1
    totals.count_output("dead-letter")


def sent_ms(record: Record) -> int:
    """Return when the producer sent a record: its `sent-at-ms` header if valid, else its timestamp."""
    for name, value in record.headers:
        if name == SENT_AT and value and value.isdigit() and len(value) <= MILLIS_DIGITS:
            return int(value)
    return record.timestamp
