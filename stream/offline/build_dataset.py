"""Turn an event log into labelled examples: fold it, sample users at landmarks, label the samples by later events.

The log is read once, and folded bucket of users after bucket. A landmark is a time at which a user is sampled. Its sample is
the request that the live role would have sent at that time. A sample at an event is the request that the live role sends for
that event. Start at cut_dataset.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from models.data.examples import LANDMARK, Example, ReviewExample, Slice, seen_until_ms
from models.data.labels import Labelling, activities_of, by_time, label
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
from schemas.events import Event
from schemas.scoring import ScoreRequest
from stream.logs.event_log import LoggedEvent
from stream.offline.label_sources import LabelSources
from stream.offline.live_fold import LiveFold, numbered
from stream.offline.user_buckets import bucket_count, in_user_buckets
from stream.process.settings import Settings
from stream.roles.build import features_fold

AT_EVENT = "event"  # a kind of sample, beside LANDMARK
END_OF_LOG_MS = 1 << 62
USERS_KEPT = 100_000  # whose activities are held for labels, before those whose samples were displaced are dropped


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
