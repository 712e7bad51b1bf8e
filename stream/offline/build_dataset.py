"""Turn an event log into labelled examples: fold it, sample users at landmarks, label the samples by later events.

The log is read once, and folded bucket of users after bucket. A landmark is a time at which a user is sampled. Its sample is
the request that the live role would have sent at that time. A sample at an event is the request that the live role sends for
that event. Start at cut_dataset.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct, field

from models.data.examples import LANDMARK, Example, Purchases, ReviewExample, Slice, seen_until_ms
from models.data.labels import Activity, Labelling, activities_of, by_time, label
from models.data.landmarks import (
    Period,
    Sample,
    SampleReservoir,
    Sampling,
    check_cuts,
    draw_landmarks,
    matcher,
    period_at,
    priority,
)
from models.data.review_labels import label_reviews
from models.data.title_clusters import cluster_titles
from models.features.spec import KINDS
from models.features.user_state import UserState
from schemas.codec import event_decoder
from schemas.dead_letter import DeadLetter
from schemas.events import Browse, Click, Event, Purchase, Rating, Review
from schemas.scoring import ScoreRequest
from schemas.topics import SOURCES
from stream.fold.records import PartitionTotals
from stream.logs.event_log import LoggedEvent
from stream.offline.log_order import in_fold_order
from stream.offline.replay_log import LogRecord, Replay
from stream.offline.user_buckets import bucket_count, in_user_buckets
from stream.process.settings import Settings
from stream.roles.build import features_fold
from stream.roles.features_fold import FeaturesFold

AT_EVENT = "event"  # a kind of sample, beside LANDMARK
END_OF_LOG_MS = 1 << 62
USERS_KEPT = 100_000  # whose activities are held for labels, before those whose samples were displaced are dropped


class FoldedRecord(NamedTuple):
    """The result of one fold: the event unless refused or repeated, whether the rows include it, the requests caused."""

    event: Event | None
    applied: bool = False
    requests: Sequence[ScoreRequest] = ()


class LiveFold:
    """Folds a log's records one by one, and keeps each user's row and newest event until `forget_users`."""

    def __init__(self, fold: FeaturesFold) -> None:
        """Start without rows."""
        self._fold, self._totals = fold, PartitionTotals()
        self._rows: dict[int, dict[bytes, bytes | UserState]] = defaultdict(dict)  # by partition: a split user has two rows
        self._newest: dict[bytes, tuple[int, Event, LogRecord]] = {}
        self._decoders = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}
        self.refused: Counter[str] = Counter()

    def fold(self, kind: str, record: LogRecord) -> FoldedRecord:
        """Fold one record; a late event is returned although the rows do not include it."""
        count = self._totals.events
        applied, late = count.applied, count.late_dropped
        outputs = self._fold.fold(self._rows[record.partition], self._totals, [record], record.timestamp).outputs
        if count.applied == applied and count.late_dropped == late:
            self.refused.update(output.message.reason for output in outputs if isinstance(output.message, DeadLetter))
            return FoldedRecord(None)
        event = self._decoders[kind](record.key, record.value)
        if count.applied > applied and record.key is not None:
            newest = self._newest.get(record.key)
            if newest is None or event.event_time_ms >= newest[1].event_time_ms:
                self._newest[record.key] = KINDS.index(kind), event, record
        return FoldedRecord(
            event, count.applied > applied, [output.message for output in outputs if isinstance(output.message, ScoreRequest)]
        )

    def forget_users(self) -> None:
        """Drop all users' rows; the counts of refused events stay."""
        self._rows.clear()
        self._newest.clear()

    def snapshot(self, key: bytes) -> ScoreRequest | None:
        """Return the request that a user's newest event would cause now; None before their first event."""
        if key not in self._newest:
            return None
        kind, event, record = self._newest[key]
        state = self._rows[record.partition][key]
        assert isinstance(state, UserState)  # these rows are never encoded
        return self._fold.request(kind, event, record, state, LANDMARK, record.timestamp)


class LabelSources(Struct):
    """Collects from the log, by user or by item, what labels need beside the rows.

    `titles` maps an item without a category to its first title: place in the log, time of arrival, title. `first_seen_ms`
    maps an item to the time of its first activity. `ratings` are complete once `forget_users` was called.
    """

    activities: dict[str, list[Activity]] = field(default_factory=lambda: defaultdict(list))
    purchases: dict[str, Purchases] = {}
    titles: dict[str, tuple[int, int, str]] = {}
    first_seen_ms: dict[str, int] = {}
    has_categories: bool = False
    reviews: dict[tuple[str, str], Review] = {}
    ratings: dict[tuple[str, str], list[tuple[int, float]]] = {}
    rated: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    reviewed: set[tuple[str, str]] = set()

    def add(self, event: Event, arrived_ms: int, *, applied: bool, place: int = 0) -> None:
        """Add the event at a `place` of the log; one that came too late for the rows is not `applied`."""
        user = event.user_id
        for activity in activities_of(event):
            self.activities[user].append(activity)
            if (item := activity.item_id) is not None:
                self.has_categories |= bool(activity.category)
                at_ms = activity.event_time_ms
                self.first_seen_ms[item] = min(at_ms, self.first_seen_ms.get(item, at_ms))
        if isinstance(event, Purchase):
            if applied and not all(line.returned for line in event.lines):
                self.purchases[user] = self.purchases_of(user).with_one_at(event.event_time_ms)
            for line in event.lines:
                self._title(line.item_id, line.category, line.title, place, arrived_ms)
        elif isinstance(event, Browse | Click):
            self._title(event.item_id, event.category, event.title, place, arrived_ms)
        elif isinstance(event, Review):
            self.reviews.setdefault((user, event.review_id), event)
            self.reviewed.add((user, event.item_id))
        elif isinstance(event, Rating):
            self.rated[user, event.item_id].append((event.event_time_ms, event.rating))

    def purchases_of(self, user: str) -> Purchases:
        """Return a user's purchases so far."""
        return self.purchases.get(user, Purchases())

    def forget_users(self, kept: Collection[str]) -> None:
        """Drop what is known of users, except activities of those `kept`, reviews, and ratings of what their user reviewed."""
        self.activities = defaultdict(list, {user: found for user, found in self.activities.items() if user in kept})
        self.purchases.clear()
        self.ratings |= {pair: self.rated[pair] for pair in self.reviewed & self.rated.keys()}
        self.rated.clear()
        self.reviewed.clear()

    def _title(self, item_id: str, category: str | None, title: str | None, place: int, arrived_ms: int) -> None:
        if category is None and title and (item_id not in self.titles or place < self.titles[item_id][0]):
            self.titles[item_id] = place, arrived_ms, title


class Plan(Struct, frozen=True, kw_only=True):
    """How a log is cut: time slices, sampling, labels, and how many clusters of titles replace missing categories."""

    periods: tuple[Period, ...]
    sampling: Sampling
    labelling: Labelling = Labelling()
    cluster_categories: int = 0


class Cut(NamedTuple):
    """The examples of a log in order of slice, landmark and user; derived item categories; the log's fingerprint.

    `refused` counts by reason the events that the features role refuses.
    """

    examples: list[Example]
    reviews: list[ReviewExample]
    reviews_left_out: dict[str, int]
    categories: dict[str, str]
    fingerprint: str
    refused: dict[str, int]


def cut_dataset(
    events: Iterable[LoggedEvent],
    settings: Settings,
    plan: Plan,
    *,
    expected: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cut:
    """Replay a log, sample its users as the plan says, and label the samples.

    A log of `expected` events is folded bucket of users after bucket, so memory does not grow with the number of users;
    `progress` gets the buckets done and their number.

    Raises:
        ValueError: a cut is in no slice, or there are too few titles to cluster.
        LogError: the log is damaged, or there is no room for temporary files.
    """
    digest, sources = hashlib.sha256(), LabelSources()
    live = LiveFold(features_fold(settings, settings.partition_count))
    sampler = Sampler(plan, live, sources)
    is_selected = matcher(plan.sampling.users)
    records = (
        (place, kind, record)
        for place, (kind, record) in enumerate(numbered(events, settings, digest))
        if record.key is None or is_selected(record.key.decode(errors="replace"))
    )
    for count, bucket in enumerate(in_user_buckets(records, expected), start=1):
        for place, kind, record in bucket:
            if record.key is not None:
                sampler.before(record.key, record.timestamp)
            folded = live.fold(kind, record)
            if folded.event is not None and record.key is not None:
                sources.add(folded.event, record.timestamp, applied=folded.applied, place=place)
                sampler.after(record.key, folded.event, record.timestamp, folded.requests)
        sampler.forget_users()
        progress(count, bucket_count(expected))
    samples = sampler.samples()
    categories = _categories(sources, plan)
    activities = {user: by_time(sources.activities[user]) for user in {sample.request.user_id for sample in samples}}
    ends = {period.slice: period.end_ms for period in plan.periods}
    order = {period.slice: place for place, period in enumerate(plan.periods)}
    examples = [
        label(sample, activities[sample.request.user_id], ends[sample.slice], plan.labelling, categories) for sample in samples
    ]
    examples.sort(key=lambda e: (order[e.slice], e.landmark_ms, e.request.user_id, e.request.due, e.request.request_id))
    reviews, left_out = label_reviews(sources.reviews.values(), sources.ratings, plan.periods)
    reviews.sort(key=lambda review: order[review.slice])  # stable: by time within a slice
    return Cut(examples, reviews, left_out, categories, digest.hexdigest(), dict(live.refused))


class Sampler:
    """Samples users during a replay: at their landmarks and cuts, and at the events that the live role scores."""

    def __init__(self, plan: Plan, live: LiveFold, sources: LabelSources) -> None:
        """Start without samples."""
        self._sampling, self._periods, self._live, self._sources = plan.sampling, plan.periods, live, sources
        self._by_cuts = check_cuts(plan.periods, plan.sampling.cuts_ms)
        sizes = {LANDMARK: plan.sampling.landmarks, AT_EVENT: plan.sampling.at_events}
        self._draws = SampleReservoir(sizes=sizes, limit=plan.sampling.max_examples)
        self._waiting: dict[bytes, list[int]] = {}
        self._cuts: list[Sample] = []
        self._arrived_ms: dict[bytes, int] = {}
        self._before_record: Sample | None = None  # the user of the next record, just before it
        self._before_last: dict[tuple[bytes, Slice], Sample] = {}
        self._sampled = set[str]()  # users with a sample that was kept when it was drawn
        self._check_at = USERS_KEPT

    def before(self, key: bytes, record_ms: int) -> None:
        """Sample a user at every landmark that passed before their next record arrived."""
        landmarks = self._waiting.get(key, [])
        while landmarks and landmarks[-1] < record_ms:
            self._sample_landmark(key, landmarks.pop())
        if self._sampling.before_last_item:
            self._before_record = self._sample_now(key)

    def after(self, key: bytes, event: Event, record_ms: int, requests: Iterable[ScoreRequest]) -> None:
        """Add a record's requests as samples; draw a new user's landmarks and keep only those still to come."""
        user, seed = event.user_id, self._sampling.seed
        if key not in self._waiting:
            drawn = draw_landmarks(user, self._periods, self._sampling)
            self._waiting[key] = [at_ms for at_ms in reversed(drawn) if at_ms >= record_ms]
        self._arrived_ms[key] = record_ms
        self._keep_before_last(key, event)
        for request in requests:
            at_ms = seen_until_ms(request)
            period = period_at(self._periods, at_ms)
            if period is None or period.slice in self._by_cuts or not period.start_ms <= record_ms < period.end_ms:
                continue
            if self._eligible(user):
                sample = Sample(request, at_ms, period.slice, self._sources.purchases_of(user))
                self._offer(AT_EVENT, priority(seed, request.request_id), sample)

    def forget_users(self) -> None:
        """Sample the users at all remaining landmarks, at the end of their records, and keep nothing but the samples."""
        for key in self._waiting:
            self.before(key, END_OF_LOG_MS)
        self._waiting.clear()
        self._arrived_ms.clear()
        self._before_record = None
        self._live.forget_users()
        if len(self._sampled) > self._check_at:
            self._sampled = {sample.request.user_id for sample in self.samples()}
            self._check_at = max(USERS_KEPT, 2 * len(self._sampled))
        self._sources.forget_users(self._sampled)

    def samples(self) -> list[Sample]:
        """Return the samples kept."""
        return self._cuts + list(self._before_last.values()) + self._draws.kept()

    def _offer(self, sort: str, rank: int, sample: Sample) -> None:
        if self._draws.accepts(sort, rank):
            self._draws.offer(sort, rank, sample)
            self._sampled.add(sample.request.user_id)

    def _sample_landmark(self, key: bytes, at_ms: int) -> None:
        user, period = key.decode(), period_at(self._periods, at_ms)
        by_cut = period is not None and period.slice in self._by_cuts
        rank = priority(self._sampling.seed, user, at_ms)
        if period is None or not self._eligible(user) or not (by_cut or self._draws.accepts(LANDMARK, rank)):
            return
        request = self._live.snapshot(key)
        if request is None or seen_until_ms(request) > at_ms:  # a producer's clock ran ahead
            return
        sample = Sample(request, at_ms, period.slice, self._sources.purchases_of(user))
        if by_cut:
            self._cuts.append(sample)
            self._sampled.add(user)
        else:
            self._offer(LANDMARK, rank, sample)

    def _sample_now(self, key: bytes) -> Sample | None:
        """Sample a user whose history has an item, at the time their newest record arrived."""
        user, request = key.decode(), self._live.snapshot(key) if key in self._arrived_ms else None
        if request is None or not self._eligible(user) or all(entry.item_id is None for entry in request.history):
            return None
        at_ms = max(seen_until_ms(request), self._arrived_ms[key])
        period = period_at(self._periods, at_ms)
        if period is None or period.slice in self._by_cuts:
            return None
        return Sample(request, at_ms, period.slice, self._sources.purchases_of(user))

    def _keep_before_last(self, key: bytes, event: Event) -> None:
        """Keep the sample just before an event with an item in the same slice; a later one replaces it."""
        sample = self._before_record
        if sample is None or event.event_time_ms <= sample.landmark_ms:
            return
        period = period_at(self._periods, event.event_time_ms)
        if period is not None and period.slice is sample.slice and any(activity.item_id for activity in activities_of(event)):
            self._before_last[key, sample.slice] = sample
            self._sampled.add(event.user_id)

    def _eligible(self, user: str) -> bool:
        return self._sampling.eligible == "seen" or user in self._sources.purchases


def numbered(
    events: Iterable[LoggedEvent], settings: Settings, digest: "hashlib._Hash | None" = None
) -> Iterator[tuple[str, LogRecord]]:
    """Yield a log's records in replay order: each kind, and the record with its partition and offset in the replay."""
    replay = Replay(settings, partitions=settings.partition_count)
    for event in in_fold_order(events):
        if digest is not None:
            digest.update(repr((event.kind, event.record_ms, event.key, event.value)).encode())
        yield event.kind, replay.number(event)


def _categories(sources: LabelSources, plan: Plan) -> dict[str, str]:
    """Derive categories for items without one: by title clusters, or, if no event has a category, one per item."""
    train_end_ms = plan.periods[0].end_ms
    if not plan.cluster_categories:
        if sources.has_categories:
            return {}
        return {item: item for item, at_ms in sorted(sources.first_seen_ms.items()) if item and at_ms < train_end_ms}
    titles = sorted(sources.titles.items(), key=lambda found: found[1][0])
    known = {item: title for item, (_, at_ms, title) in titles if at_ms < train_end_ms}
    later = {item: title for item, (_, at_ms, title) in titles if at_ms >= train_end_ms}
    return cluster_titles(known, later, clusters=plan.cluster_categories, seed=plan.sampling.seed)


def slice_ends(first_ms: int, end_ms: int, shares: Sequence[float]) -> list[int]:
    """Cut a log's time by shares.

    Raises:
        ValueError: the shares are not four that add up to one.
    """
    if len(shares) != 4 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"found shares {list(shares)}, expected four that add up to 1: train, validation, calibration, test")
    ends, total = list[int](), 0.0
    for share in shares:
        total += share
        ends.append(first_ms + round((end_ms - first_ms) * min(1.0, total)))
    ends[-1] = end_ms
    return ends
