"""Rebuild some of a dataset's examples from only the records that had arrived by their landmark.

A landmark is the time at which a user was sampled. The live fold starts from an empty row and folds the user's records up to
the landmark. Labels use only events before the end of the slice. An example that differs from its rebuilt copy shows a leak
in the dataset. Start at rebuild_examples.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from models.data.examples import LANDMARK, Example, seen_until_ms
from models.data.labels import Activity, Labelling, activities_of, by_time, label
from models.data.landmarks import Period, Sample, priority
from stream.logs.event_log import LoggedEvent
from stream.offline.label_sources import LabelSources
from stream.offline.live_fold import LiveFold, numbered
from stream.offline.replay_log import LogRecord
from stream.process.settings import Settings
from stream.roles.build import features_fold

SAMPLE = 64


def rebuild_examples(
    events: Iterable[LoggedEvent],
    settings: Settings,
    examples: Sequence[Example],
    *,
    periods: Sequence[Period],
    labelling: Labelling,
    categories: Mapping[str, str],
    seed: int,
    sample: int = SAMPLE,
    fingerprint: str | None = None,
) -> dict[int, Example | None]:
    """Rebuild `sample` of the examples from the log, by their index; None where the log gives no such request.

    Raises:
        ValueError: the events are not those of `fingerprint`.
    """
    ranks = {place: priority(seed, "prefix", e.request.request_id, e.landmark_ms) for place, e in enumerate(examples)}
    places = sorted(ranks, key=lambda place: (ranks[place], place))[:sample]
    users = {examples[place].request.user_id.encode() for place in places}
    records: dict[bytes, list[tuple[str, LogRecord]]] = defaultdict(list)
    digest = hashlib.sha256()
    for kind, record in numbered(events, settings, digest):
        if record.key in users:
            records[record.key].append((kind, record))
    if fingerprint not in (None, digest.hexdigest()):
        raise ValueError(
            f"found a log with fingerprint {digest.hexdigest()}, expected {fingerprint}, which the dataset was cut from: "
            "give that log"
        )
    ends = {period.slice: period.end_ms for period in periods}
    activities = {user: by_time(_activities(of_user, settings)) for user, of_user in records.items()}
    rebuilt: dict[int, Example | None] = {}
    for place in places:
        example, until_ms = examples[place], ends[examples[place].slice]
        user = example.request.user_id.encode()
        unlabelled = _resample(example, records[user], settings)
        known = [activity for activity in activities.get(user, ()) if activity.event_time_ms < until_ms]
        rebuilt[place] = None if unlabelled is None else label(unlabelled, known, until_ms, labelling, categories)
    return rebuilt


def _resample(example: Example, records: Sequence[tuple[str, LogRecord]], settings: Settings) -> Sample | None:
    """Sample a user again, from only the records that had arrived by the landmark, or by the event scored."""
    wanted = example.request
    at_landmark = wanted.due == LANDMARK
    live, sources = LiveFold(features_fold(settings, settings.partition_count)), LabelSources()
    for kind, record in records:
        if at_landmark and record.timestamp > example.landmark_ms:
            break
        folded = live.fold(kind, record)
        if folded.event is not None:
            sources.add(folded.event, record.timestamp, applied=folded.applied)
        request = next((found for found in folded.requests if found.request_id == wanted.request_id), None)
        if request is not None and not at_landmark:
            return Sample(request, seen_until_ms(request), example.slice, sources.purchases_of(request.user_id))
    request = live.snapshot(wanted.user_id.encode()) if at_landmark else None
    if request is None:
        return None
    return Sample(request, example.landmark_ms, example.slice, sources.purchases_of(wanted.user_id))


def _activities(records: Iterable[tuple[str, LogRecord]], settings: Settings) -> list[Activity]:
    live = LiveFold(features_fold(settings, settings.partition_count))
    events = (live.fold(kind, record).event for kind, record in records)
    return [activity for event in events if event is not None for activity in activities_of(event)]
