"""Features against a brute-force recount of raw events, and what order, duplicates and barriers may not change."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from random import Random
from statistics import median
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from models.features.row_codec import decode_row, encode_row
from models.features.snapshot import Snapshot, snapshot
from models.features.spec import (
    FEATURE_SPEC,
    HALF_LIFE_DAYS,
    HISTORY_EVENTS,
    HISTORY_EVENTS_PER_KIND,
    HISTORY_TEXT_CHARS,
    KIND_WEIGHTS,
    KINDS,
    MAX_CATEGORIES,
    MAX_ITEMS_PER_DAY,
    MAX_PURCHASE_TIMES,
    SENTIMENT,
    TOP_CATEGORIES,
)
from models.features.user_state import DEFAULT_TTL_MS, UserState
from models.features.windows import WINDOWS
from schemas.codec import encode
from schemas.errors import RowVersionError
from schemas.events import Event, Purchase
from schemas.scoring import HistoryEntry, ScoreRequest
from schemas.time_units import DAY_MS, HOUR_MS, MINUTE_MS
from schemas.topics import TABLE
from stream.fold.records import PartitionTotals, Totals
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.replay_log import LogRecord, Replay
from stream.process.settings import load_settings
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from tests.builders import browse, click, purchase, purchase_line, rating, review, review_sentiment, search, visit

START_MS = 1_790_000_000_000
USER, KEY = "u-1", b"u-1"
RATES = {"EUR": 1.0, "GBP": 1.25}
LATENESS_MS, FUTURE_MS = DAY_MS, 5 * MINUTE_MS
FEEDBACK = "review-sentiment"
TOPICS = {kind: TABLE[kind].name for kind in (*KINDS, FEEDBACK)}
BUILDERS = {
    "visit": visit,
    "browse": browse,
    "click": click,
    "search": search,
    "purchase": purchase,
    "review": review,
    "rating": rating,
}
LENGTHS = {window.name: (window.length_ms, window.tile_ms) for window in WINDOWS}
COMMON = settings(max_examples=200, deadline=None)


class Arrival(NamedTuple):
    """One event of one topic, and its record timestamp."""

    kind: str
    event: Any
    record_ms: int


class Folded(NamedTuple):
    """What folding some arrivals left of the one user."""

    state: UserState
    totals: PartitionTotals
    due: set[str]
    requests: list[ScoreRequest]


def folder(ttl_ms: int = DEFAULT_TTL_MS) -> FeaturesFold:
    return FeaturesFold(topics=TOPICS, policy=ScoringPolicy(), rates=RATES, lateness_ms=LATENESS_MS, ttl_ms=ttl_ms)


def records_of(arrivals: Iterable[Arrival]) -> list[LogRecord]:
    offsets: Counter[str] = Counter()
    records = []
    for kind, event, record_ms in arrivals:
        records.append(LogRecord(TOPICS[kind], 0, offsets[kind], record_ms, KEY, encode(event)))
        offsets[kind] += 1
    return records


def folded(arrivals: Iterable[Arrival], *, encode_after: Iterable[int] = (), ttl_ms: int = DEFAULT_TTL_MS) -> Folded:
    """Fold record by record; after those numbered `encode_after` the row goes through its bytes, as after a restart."""
    fold, rows, totals, moments = folder(ttl_ms), dict[bytes, Any](), PartitionTotals(), set(encode_after)
    requests = []
    for number, record in enumerate(records_of(arrivals)):
        outputs = fold.fold(rows, totals, [record], 0).outputs
        requests += [output.message for output in outputs if isinstance(output.message, ScoreRequest)]
        if number in moments and isinstance(state := rows.get(KEY), UserState):
            rows[KEY] = encode_row(state)
    row = rows.get(KEY)
    state = decode_row(row) if isinstance(row, bytes) else row
    return Folded(state, totals, {request.event_id for request in requests}, requests)


# ------------------------------------------------------------------------------------------- the brute-force recount


def accepted(arrivals: Iterable[Arrival]) -> dict[str, list[Any]]:
    """Keep of each topic the events that are neither late, from the future, nor known by id, in order of arrival."""
    kept: dict[str, list[Any]] = defaultdict(list)
    known: set[tuple[str, str]] = set()
    for kind, event, record_ms in arrivals:
        if kind != FEEDBACK and not record_ms - LATENESS_MS <= event.event_time_ms <= record_ms + FUTURE_MS:
            continue
        identity = event.review_id if kind == FEEDBACK else event.event_id
        if identity is not None and (kind, identity) in known:
            continue
        known.add((kind, identity))
        kept[kind].append(event)
    return kept


def in_window(at: int, now: int, window: str) -> bool:
    if window == "life":
        return True
    length, tile = LENGTHS[window]
    last = now // tile * tile
    return last - length < at // tile * tile <= last


def minor_units(line: Any, currency: str) -> int:
    return round(line.unit_price * line.quantity * RATES[currency] * 100)


def lines_of(event: Any) -> list[Any]:
    """Give the lines of a purchase, and any other event with an item as its one line."""
    if isinstance(event, Purchase):
        return event.lines
    return [event] if hasattr(event, "item_id") else []


def value_of(measure: str, event: Any) -> int:
    if measure == "browse.dwell_ms":
        return event.dwell_ms
    lines = [line for line in event.lines if line.returned == (measure != "purchase.amount")]
    return len(lines) if measure == "purchase.returned_lines" else sum(minor_units(line, event.currency) for line in lines)


def divided(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def sessions(active: set[int], first: int) -> int:
    """Count runs of consecutive half-hours, of those numbered `first` or later."""
    inside = {slot for slot in active if slot >= first}
    return sum(slot - 1 not in inside for slot in inside)


def recount(kept: dict[str, list[Any]]) -> dict[str, float | None]:
    """Compute every feature of the spec, by its name, from the raw accepted events."""
    every = [(kind, event) for kind in KINDS for event in kept[kind]]
    now = max(event.event_time_ms for _, event in every)
    today, windows = now // DAY_MS, [*LENGTHS, "life"]

    def total(kind: str, window: str, value: Any = lambda event: 1) -> int:
        return sum(value(event) for event in kept[kind] if in_window(event.event_time_ms, now, window))

    found: dict[str, float | None] = {}
    for window in windows:
        for kind in KINDS:
            found[f"{kind}.count.{window}"] = total(kind, window)
        for measure in ("browse.dwell_ms", "purchase.amount", "purchase.returned_lines", "purchase.returned_amount"):
            kind = measure.partition(".")[0]
            found[f"{measure}.{window}"] = total(kind, window, lambda event, measure=measure: value_of(measure, event))
    for window in ("30d", "life"):
        for name, kind, field in (("rating.mean", "rating", "rating"), ("review.sentiment_mean", FEEDBACK, "sentiment")):
            scaled = total(kind, window, lambda event, field=field: round(getattr(event, field) * 10_000))
            found[f"{name}.{window}"] = divided(scaled, total(kind, window) * 10_000)
    for window in ("7d", "30d"):
        lines = [line for _, event in every if in_window(event.event_time_ms, now, window) for line in lines_of(event)]
        found[f"items.distinct.{window}"] = len({line.item_id for line in lines})
        found[f"categories.distinct.{window}"] = len({line.category for line in lines} - {None})
    for kind in KINDS:
        times = [event.event_time_ms for event in kept[kind]]
        found[f"{kind}.recency_ms"] = now - max(times) if times else None
    found["user.tenure_ms"] = now - min(event.event_time_ms for _, event in every)
    bought = [event.event_time_ms for event in kept["purchase"] if not all(line.returned for line in event.lines)]
    bought = sorted(bought)[-MAX_PURCHASE_TIMES:]
    gaps, n = [later - earlier for earlier, later in zip(bought, bought[1:], strict=False)], len(bought) - 1
    found["purchase.gap_mean_hours"] = sum(gaps) / (n * HOUR_MS) if n >= 1 else None
    spread = n * sum(gap * gap for gap in gaps) - sum(gaps) ** 2  # n² times the population variance, exactly
    found["purchase.gap_variance_hours2"] = spread / (n * n * HOUR_MS * HOUR_MS) if n >= 2 else None
    active = {event.event_time_ms // 1_800_000 for _, event in every if in_window(event.event_time_ms, now, "30d")}
    found["sessions.count.24h"] = sessions(active, (now // HOUR_MS - 23) * 2)
    found["sessions.count.7d"] = sessions(active, (today - 6) * 48)
    found["sessions.count.30d"] = sessions(active, (today - 29) * 48)
    for measure, kinds in (("activity", KINDS), ("purchase", ("purchase",))):
        day, week, month = (sum(total(kind, window) for kind in kinds) for window in ("24h", "7d", "30d"))
        found[f"{measure}.trend.24h_7d"] = divided(day * 7, week)
        found[f"{measure}.trend.7d_30d"] = divided(week * 30, month * 7)
    for hour in range(0, 24, 3):
        share = sum(hour <= slot % 48 // 2 < hour + 3 for slot in active) / len(active)
        found[f"hours.{hour:02d}-{hour + 3:02d}.share"] = share
    shares = [share for _, share in category_shares(every, today)]
    for rank in range(TOP_CATEGORIES):
        found[f"categories.top{rank + 1}.share"] = shares[rank] if rank < len(shares) else None
    return found


def category_shares(every: Iterable[tuple[str, Any]], today: int) -> list[tuple[str, float]]:
    weights: Counter[str] = Counter()
    for kind, event in every:
        age = today - event.event_time_ms // DAY_MS
        if age < 30:
            for line in lines_of(event):
                if line.category is not None:
                    weights[line.category] += KIND_WEIGHTS[kind] * round(10_000 * 2 ** (-age / HALF_LIFE_DAYS))
    return [(name, weight / weights.total()) for name, weight in sorted(weights.items(), key=lambda w: (-w[1], w[0]))]


def entry_of(kind: str, event: Any) -> HistoryEntry:
    item, category = getattr(event, "item_id", None), getattr(event, "category", None)
    text = getattr(event, {"search": "query", "review": "text"}.get(kind, "title"), None)
    amount = event.dwell_ms if kind == "browse" else round(event.rating * 10_000) if kind == "rating" else 0
    if kind == "purchase":
        largest = max(event.lines, key=lambda line: minor_units(line, event.currency))
        item, category, text = largest.item_id, largest.category, largest.title
        amount = sum((-1 if line.returned else 1) * minor_units(line, event.currency) for line in event.lines)
    return HistoryEntry(event.event_time_ms, kind, item, category, amount, text and text[:HISTORY_TEXT_CHARS])


def recounted_history(kept: dict[str, list[Any]]) -> list[HistoryEntry]:
    newest: list[HistoryEntry] = []
    for kind in KINDS:
        entries = sorted(
            (entry_of(kind, event) for event in kept[kind]),
            key=lambda e: (e.event_time_ms, e.item_id or "", e.amount, e.text or ""),
        )
        newest += entries[-HISTORY_EVENTS_PER_KIND:]
    return sorted(newest, key=lambda entry: entry.event_time_ms)[-HISTORY_EVENTS:]


# ------------------------------------------------------------------------------------------------- random shoppers

ITEMS = [f"item-{number}" for number in range(12)]
CATEGORY_OF = {item: [None, "kitchen", "garden", "books", "toys"][number % 5] for number, item in enumerate(ITEMS)}


def any_lines(rng: Random) -> list[Any]:
    made = []
    for item in rng.choices(ITEMS, k=rng.randint(1, 3)):
        line = purchase_line(item_id=item, category=CATEGORY_OF[item], title=f"Title of {item}", quantity=rng.randint(1, 4))
        made.append(replace(line, unit_price=rng.randint(0, 20_000) / 100, returned=rng.random() < 0.25))
    return made


def any_event(rng: Random, kind: str) -> Event:
    span_ms = rng.choice((10 * MINUTE_MS, 2 * HOUR_MS, 2 * DAY_MS, 40 * DAY_MS))
    fields: dict[str, Any] = {
        "event_time_ms": START_MS - rng.randint(0, span_ms),
        "event_id": rng.choice((None, f"{kind}-{rng.randint(0, 40)}")),
    }
    if kind in ("browse", "click", "review", "rating"):
        fields["item_id"] = rng.choice(ITEMS)
        fields["category"] = CATEGORY_OF[fields["item_id"]]
    if kind == "browse":
        fields["dwell_ms"] = rng.randint(0, 600_000)
    elif kind == "search":
        fields["query"] = rng.choice(("mug", "a blue mug", "x" * 200))
    elif kind == "purchase":
        fields |= {"currency": rng.choice(sorted(RATES)), "lines": any_lines(rng)}
    elif kind == "rating":
        fields["rating"] = rng.choice((1.0, 2.5, 3.7, 5.0))
    elif kind == "review":
        fields["review_id"] = f"review-{rng.randint(0, 10)}"
    return BUILDERS[kind](**fields)


def any_delay_ms(rng: Random) -> int:
    edges = (0, 400, LATENESS_MS, LATENESS_MS + 1, -FUTURE_MS, -FUTURE_MS - 1)
    return rng.choice((rng.choice(edges), rng.randint(0, 3 * HOUR_MS), rng.randint(-2 * FUTURE_MS, 2 * DAY_MS)))


def shopper(seed: int, events: int) -> list[Arrival]:
    """Make arrivals in any order: most accepted, some repeated, late or from the future, and reviews fed back."""
    rng, made = Random(seed), list[Arrival]()
    favourites = rng.sample(KINDS, rng.randint(1, len(KINDS)))
    for kind in rng.choices(favourites, k=events):
        event = any_event(rng, kind)
        made.append(Arrival(kind, event, event.event_time_ms + any_delay_ms(rng)))
    made += rng.choices(made, k=rng.randint(0, 6))
    rng.shuffle(made)
    for event in rng.choices(accepted(made)["review"] or [None], k=rng.randint(0, 8)):
        if event is not None:  # a sentiment comes back at any time after its review
            score = rng.choice((-1.0, -0.33335, 0.0, 0.5, 1.0))
            signal = review_sentiment(review_id=event.review_id, event_time_ms=event.event_time_ms, sentiment=score)
            after = next(number for number, arrival in enumerate(made, start=1) if arrival.event is event)
            made.insert(rng.randint(after, len(made)), Arrival(FEEDBACK, signal, START_MS))
    return made


SHOPPERS = st.builds(shopper, seed=st.integers(0, 2**32), events=st.integers(1, 60))  # a seed draws 100 times faster
RETURNED_LONG_AGO = [
    Arrival("purchase", purchase(event_time_ms=at, event_id=None, lines=[purchase_line(returned=at == START_MS)]), at)
    for at in (START_MS, START_MS + 35 * DAY_MS, START_MS + 36 * DAY_MS)
]
MOMENTS = st.sets(st.integers(0, 75))  # numbers of records after which the row is encoded; beyond the last is never


def has_source(kept: dict[str, list[Any]]) -> bool:
    return any(kept[kind] for kind in KINDS)


def interleaved(arrivals: Sequence[Arrival], rng: Random) -> list[Arrival]:
    """Mix the topics anew; each keeps its own order."""
    queues: dict[str, list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        queues[arrival.kind].append(arrival)
    order = [arrival.kind for arrival in arrivals]
    rng.shuffle(order)
    pending = {kind: iter(queue) for kind, queue in queues.items()}
    return [next(pending[kind]) for kind in order]


def by_name(seen: Snapshot) -> dict[str, float | None]:
    return dict(zip(FEATURE_SPEC.names, seen.features, strict=True))


# ------------------------------------------------------------------------------------------------------ the sentences


@COMMON
@given(SHOPPERS)
@example(RETURNED_LONG_AGO)
def test_every_feature_equals_a_brute_force_recount_of_the_accepted_events(arrivals: list[Arrival]) -> None:
    kept = accepted(arrivals)

    result = folded(arrivals)

    assert result.totals.events.applied == sum(len(kept[kind]) for kind in KINDS)
    assert result.totals.feedback.applied == len(kept[FEEDBACK])
    if has_source(kept):
        seen = snapshot(result.state)
        assert by_name(seen) == recount(kept)  # exactly: both divide the same integers once
        assert snapshot(decode_row(encode_row(result.state))) == seen
        assert seen.history == recounted_history(kept)
        every = [(kind, event) for kind in KINDS for event in kept[kind]]
        assert seen.categories == category_shares(every, seen.at_ms // DAY_MS)


@COMMON
@given(SHOPPERS, MOMENTS)
@example(RETURNED_LONG_AGO, {0, 1, 2})
def test_every_score_request_carries_the_recount_of_what_had_been_accepted_by_then(
    arrivals: list[Arrival], moments: set[int]
) -> None:
    fold, rows, totals = folder(), dict[bytes, Any](), PartitionTotals()

    for number, record in enumerate(records_of(arrivals), start=1):
        for output in fold.fold(rows, totals, [record], 0).outputs:
            if isinstance(output.message, ScoreRequest):
                expected = recount(accepted(arrivals[:number]))
                assert dict(zip(FEATURE_SPEC.names, output.message.features, strict=True)) == expected
        if number in moments and isinstance(state := rows.get(KEY), UserState):
            rows[KEY] = encode_row(state)


@COMMON
@given(SHOPPERS, st.randoms(use_true_random=False))
def test_any_interleaving_of_topics_gives_the_same_row_and_the_same_due_events(arrivals: list[Arrival], rng: Random) -> None:
    one, other = folded(arrivals), folded(interleaved(arrivals, rng))

    assert other.due == one.due
    assert other.totals == one.totals
    if one.state is not None:
        assert encode_row(other.state) == encode_row(one.state)


@COMMON
@given(SHOPPERS, st.randoms(use_true_random=False))
def test_shuffling_accepted_events_within_their_topics_changes_no_feature(arrivals: list[Arrival], rng: Random) -> None:
    kept = [Arrival(kind, event, event.event_time_ms) for kind, found in accepted(arrivals).items() for event in found]
    shuffled = rng.sample(kept, len(kept))

    one, other = folded(kept), folded(shuffled)

    if has_source(accepted(arrivals)):
        assert by_name(snapshot(other.state)) == by_name(snapshot(one.state))
        assert snapshot(other.state).history == snapshot(one.state).history


@COMMON
@given(SHOPPERS, st.data())
def test_applying_a_duplicate_changes_nothing(arrivals: list[Arrival], data: st.DataObject) -> None:
    named = [a for a in arrivals if a.kind == FEEDBACK or a.event.event_id is not None]
    again = data.draw(st.lists(st.sampled_from(named), max_size=5)) if named else []

    one, other = folded(arrivals), folded([*arrivals, *again])

    if one.state is not None:
        assert encode_row(other.state) == encode_row(one.state)
    assert other.due == one.due
    assert other.totals.events.applied == one.totals.events.applied


@COMMON
@given(SHOPPERS, MOMENTS)
@example(RETURNED_LONG_AGO, {0, 1, 2})
def test_encoding_at_any_moments_never_changes_the_final_bytes(arrivals: list[Arrival], moments: set[int]) -> None:
    plain, through_bytes = folded(arrivals), folded(arrivals, encode_after=moments)

    assert through_bytes.due == plain.due
    assert through_bytes.requests == plain.requests
    if plain.state is not None:
        assert encode_row(through_bytes.state) == encode_row(plain.state)


@COMMON
@given(SHOPPERS)
def test_a_row_comes_back_from_its_bytes_as_it_was(arrivals: list[Arrival]) -> None:
    state = folded(arrivals).state
    if state is not None:
        row = encode_row(state)

        assert decode_row(row).topics == state.topics
        assert encode_row(decode_row(row)) == row


@COMMON
@given(SHOPPERS)
def test_a_profile_kept_event_by_event_equals_one_built_anew(arrivals: list[Arrival]) -> None:
    crowded = [a for n in range(20) for a in (Arrival("click", click(category=f"c-{n}", event_id=None), START_MS), *arrivals)]
    for made in (arrivals, crowded):
        state = folded(made).state
        if state is not None and has_source(accepted(made)):
            kept = snapshot(state)
            state.profile = None
            assert snapshot(state) == kept


def test_a_profile_forgets_a_topic_that_comes_back_after_more_than_its_ttl_on_the_same_day() -> None:
    midnight = START_MS // DAY_MS * DAY_MS
    clicks = [click(event_id=None, item_id=f"i-{h}", event_time_ms=midnight + h * HOUR_MS) for h in (10, 59)]
    searches = [search(event_id=None, event_time_ms=midnight + h * HOUR_MS) for h in (57, 60)]
    events = [("click", clicks[0]), ("search", searches[0]), ("click", clicks[1]), ("search", searches[1])]

    state = folded([Arrival(kind, event, event.event_time_ms) for kind, event in events], ttl_ms=2 * DAY_MS).state

    assert by_name(snapshot(state, 2 * DAY_MS))["items.distinct.7d"] == 1


@COMMON
@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_distinct_items_of_one_day_and_kind_are_exact_up_to_the_cap_of_the_spec(ones: set[int], others: set[int]) -> None:
    first = [Arrival("click", click(item_id=f"i-{n}", event_id=None), START_MS) for n in sorted(ones)]
    second = [Arrival("browse", browse(item_id=f"i-{n}", event_id=None), START_MS) for n in sorted(others)]
    if not first and not second:
        return

    found = by_name(snapshot(folded([*first, *second]).state))["items.distinct.7d"]

    if max(len(ones), len(others)) <= MAX_ITEMS_PER_DAY:
        assert found == len(ones | others)
    else:
        assert MAX_ITEMS_PER_DAY <= found <= min(2 * MAX_ITEMS_PER_DAY, len(ones | others))


@COMMON
@given(
    st.binary(max_size=60) | st.binary(max_size=60).flatmap(lambda block: st.sampled_from([b"\x01" + block, b"\x02" + block]))
)
def test_bytes_that_are_no_row_are_refused_as_such(row: bytes) -> None:
    with pytest.raises(RowVersionError, match="expected version|damaged row of version 1"):
        decode_row(row)


# --------------------------------------------------------------------------------------------------- fixed examples


def test_categories_of_one_kind_are_exact_up_to_the_cap_of_the_spec() -> None:
    arrivals = [Arrival("click", click(category=f"c-{n}", event_id=None), START_MS + n) for n in range(MAX_CATEGORIES)]

    assert by_name(snapshot(folded(arrivals).state))["categories.distinct.30d"] == MAX_CATEGORIES


def test_old_categories_give_way_to_new_ones() -> None:
    old = [Arrival("click", click(category=f"old-{n}", event_id=None, event_time_ms=START_MS), START_MS) for n in range(40)]
    later = START_MS + 5 * DAY_MS
    new = [Arrival("click", click(category=f"new-{n}", event_id=None, event_time_ms=later), later) for n in range(5)]

    names = {name for name, _ in snapshot(folded([*old, *new]).state).categories}

    assert {f"new-{n}" for n in range(5)} <= names


@pytest.mark.parametrize("window", [window.name for window in WINDOWS])
def test_a_window_lets_an_event_go_with_the_first_tile_that_it_no_longer_counts(window: str) -> None:
    length, tile = LENGTHS[window]
    leaves = START_MS // tile * tile + length
    found = []
    for now in (leaves - 1, leaves):
        arrivals = [Arrival("click", click(event_id=None), START_MS), Arrival("visit", visit(event_time_ms=now), now)]
        found.append(by_name(snapshot(folded(arrivals).state))[f"click.count.{window}"])

    assert found == [1, 0]


def test_an_event_as_late_as_allowed_counts_and_one_millisecond_later_does_not() -> None:
    on_time = click(event_time_ms=START_MS)

    results = [folded([Arrival("click", on_time, START_MS + LATENESS_MS + extra)]).totals.events for extra in (0, 1)]

    assert results == [Totals(events_in=1, applied=1), Totals(events_in=1, late_dropped=1)]


def test_a_duplicate_is_known_within_the_last_256_ids_of_its_topic_and_no_longer() -> None:
    first = [Arrival("click", click(event_id=f"e-{n}"), START_MS) for n in range(256)]
    newer, oldest = Arrival("click", click(event_id="e-256"), START_MS), first[0]

    assert folded([*first, oldest]).totals.events.duplicate_dropped == 1
    assert folded([*first, newer, oldest]).totals.events.duplicate_dropped == 0


def test_a_topic_silent_for_longer_than_the_ttl_starts_anew_and_the_others_stay() -> None:
    ttl_ms = 40 * DAY_MS
    quiet = [Arrival("click", click(event_id="old"), START_MS)]
    steady = [Arrival("visit", at_day(visit, day), START_MS + day * DAY_MS) for day in (0, 20, 40, 41)]
    back = [Arrival("click", click(event_id="new", event_time_ms=START_MS + ttl_ms + 1), START_MS + ttl_ms + 1)]

    state = folded([*quiet, *steady, *back], ttl_ms=ttl_ms).state
    seen = snapshot(state, ttl_ms)

    assert (by_name(seen)["click.count.life"], by_name(seen)["visit.count.life"]) == (1, 4)
    assert seen.guard == {0: (0, 3), 2: (1, 1)}


def test_a_topic_silent_for_exactly_the_ttl_goes_on() -> None:
    ttl_ms = 40 * DAY_MS
    arrivals = [Arrival("click", click(event_id=str(at), event_time_ms=START_MS + at), START_MS + at) for at in (0, ttl_ms)]

    seen = snapshot(folded(arrivals, ttl_ms=ttl_ms).state, ttl_ms)

    assert by_name(seen)["click.count.life"] == 2
    assert seen.guard == {2: (0, 1)}


def test_a_topic_that_has_been_silent_for_longer_than_the_ttl_counts_as_empty_and_leaves_the_guard() -> None:
    ttl_ms = 40 * DAY_MS
    later = START_MS + ttl_ms + 1
    arrivals = [Arrival("click", click(), START_MS), Arrival("visit", visit(event_time_ms=later), later)]

    seen = snapshot(folded(arrivals, ttl_ms=ttl_ms).state, ttl_ms)

    assert by_name(seen)["click.count.life"] == 0
    assert by_name(seen)["user.tenure_ms"] == 0
    assert seen.guard == {0: (0, 0)}


def test_fed_back_sentiment_silent_for_longer_than_the_ttl_starts_anew() -> None:
    ttl_ms = 40 * DAY_MS
    later = START_MS + 3 * ttl_ms
    old = review_sentiment(review_id="r-1", event_time_ms=START_MS, sentiment=-1.0)
    new = review_sentiment(review_id="r-2", event_time_ms=later, sentiment=1.0)
    arrivals = [Arrival("review", review(event_time_ms=later), later), Arrival(FEEDBACK, old, START_MS)]

    before = snapshot(folded(arrivals, ttl_ms=ttl_ms).state, ttl_ms)
    after = snapshot(folded([*arrivals, Arrival(FEEDBACK, new, later)], ttl_ms=ttl_ms).state, ttl_ms)

    assert by_name(before)["review.sentiment_mean.life"] is None
    assert by_name(after)["review.sentiment_mean.life"] == 1.0
    assert after.guard[SENTIMENT] == (1, 1)


def at_day(builder: Any, day: int) -> Event:
    return builder(event_id=f"day-{day}", event_time_ms=START_MS + day * DAY_MS)


def test_feedback_alone_leaves_a_row_and_no_score() -> None:
    result = folded([Arrival(FEEDBACK, review_sentiment(), START_MS)])

    assert result.due == set()
    assert decode_row(encode_row(result.state)) == result.state
    assert isinstance(result.state.topics[SENTIMENT].tiles.totals[0], int)


# ------------------------------------------------------------------------------------------------------- row sizes


def shopper_of(
    total: int, *, item: Any, category: Any, text: str, price: float = 7.5, days: int = 30, kinds: Sequence[str] = KINDS
) -> list[Arrival]:
    """Spread events over days, all too late to score; `item` and `category` turn an event's number into a name."""
    rng, made = Random(1), []
    for number, at in enumerate(sorted(START_MS - rng.randrange(days * DAY_MS) for _ in range(total))):
        kind = kinds[number % len(kinds)]
        fields: dict[str, Any] = {"event_id": f"{kind}-{number}", "event_time_ms": at}
        if kind in ("browse", "click", "review", "rating"):
            fields |= {"item_id": item(number), "category": category(number)}
        if kind in ("browse", "click"):
            fields["title"] = text
        if kind == "browse":
            fields["dwell_ms"] = 86_400_000
        if kind == "review":
            fields |= {"text": text, "review_id": f"review-{number}"}
        if kind == "search":
            fields["query"] = text
        if kind == "purchase":
            line = purchase_line(item_id=item(number), category=category(number), title=text, unit_price=price)
            fields["lines"] = [line, replace(line, returned=True)]
        made.append(Arrival(kind, BUILDERS[kind](**fields), at + HOUR_MS))
    return made


def row_bytes(arrivals: list[Arrival]) -> int:
    """Fold with a barrier after every 2000 events, and return the size of the row."""
    fold, rows, records = folder(), dict[bytes, Any](), records_of(arrivals)
    row = b""
    for first in range(0, len(records), 2000):
        fold.fold(rows, PartitionTotals(), records[first : first + 2000], 0)
        row = encode_row(rows[KEY])
    return len(row)


def busy_shopper() -> list[Arrival]:
    """Make 60 events: 5 visits, 23 browses, 16 clicks, 8 searches, 4 purchases and 4 ratings, in a shop's usual names."""
    kinds = ("visit", *["browse"] * 5, *["click"] * 4, "search", "search", "purchase", "rating")
    return shopper_of(
        60, item=lambda n: f"kitchen-{n % 40:04d}", category=lambda n: f"category-{n % 5}", text="Blue mug", kinds=kinds
    )


def test_the_median_row_of_a_month_of_a_made_shop_takes_at_most_2_kb() -> None:
    replay = Replay(load_settings(), partitions=1)
    for _ in replay.fold(event.logged for event in simulate(SimulatorConfig(days=30))):
        pass

    assert median(len(encode_row(row)) for row in replay.rows[0].values()) <= 2_048


def test_the_row_of_a_shopper_of_60_events_in_a_month_takes_at_most_3_kb() -> None:
    assert row_bytes(busy_shopper()) <= 3 * 1024


def test_a_state_that_is_never_encoded_holds_no_more_tiles_than_its_windows_count() -> None:
    arrivals = [Arrival("click", click(event_id=None, event_time_ms=START_MS + n * MINUTE_MS), START_MS) for n in range(2_000)]

    tiles = folded([a._replace(record_ms=a.event.event_time_ms) for a in arrivals]).state.topics[2].tiles

    assert len(tiles.starts) <= 5 + 12 + 24 + 30 + 60  # of all windows, and slack to join tiles now and then


def test_the_row_of_an_extreme_shopper_takes_at_most_64_kb() -> None:
    arrivals = shopper_of(50_000, item=lambda n: f"item-{n % 10_000}", category=lambda n: f"category-{n % 1000}", text="x" * 80)

    assert row_bytes(arrivals) <= 64 * 1024


@pytest.mark.parametrize("letters", [range(33, 127), range(0x1F300, 0x1F600)], ids=["1-byte letters", "4-byte letters"])
def test_the_row_of_an_extreme_shopper_with_the_longest_names_takes_at_most_64_kb(letters: range) -> None:
    def name(number: int, length: int = 64) -> str:
        return "".join(map(chr, Random(number).choices(letters, k=length)))  # nothing that compression finds

    arrivals = shopper_of(10_000, item=name, category=lambda n: name(n % 15), text=name(-1, 2000), price=1e9)

    assert row_bytes(arrivals) <= 64 * 1024
