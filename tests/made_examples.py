"""Generate labelled examples from purchases of users with known rates, folded as the features role folds them.

Start at made_examples. `examples_of` also takes real purchases.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from random import Random

from models.data.examples import Example, Purchases, ReviewExample, Slice
from models.features.snapshot import snapshot
from models.features.spec import FEATURE_SPEC
from models.features.user_state import PURCHASE, new_topic, new_user
from schemas.events import Purchase
from schemas.time_units import DAY_MS
from tests.builders import NOW_MS, purchase, purchase_line, score_request

SLICE_ENDS = ((Slice.TRAIN, 200), (Slice.VALIDATION, 240), (Slice.CALIBRATION, 280), (Slice.TEST, 400))
LANDMARKS = ((60, 90, 120), (210,), (250,), (290, 310, 330))  # days, per slice


def made_purchases(users: int, seed: int) -> dict[str, list[Purchase]]:
    """Simulate users who each buy at their own rate from one or two favourite categories until they churn."""
    rng = Random(seed)
    made: dict[str, list[Purchase]] = {}
    for number in range(users):
        rate, leaves = rng.choice((0.01, 0.04, 0.15)), rng.choice((120, 250, 400, 400))
        favourites = rng.sample(("kitchen", "garden", "toys", "books"), 2)
        day, bought = rng.uniform(0, 50), []
        while day < leaves:
            kind = favourites[rng.random() < 0.2]
            line = purchase_line(item_id=f"{kind}-{int(6 * rng.random() ** 2)}", category=kind)
            at = NOW_MS + int(day * DAY_MS)
            name = f"user-{number}"
            bought.append(purchase(user_id=name, event_time_ms=at, event_id=f"{name}-{len(bought)}", lines=[line]))
            day += rng.expovariate(rate)
        if bought:
            made[f"user-{number}"] = bought
    return made


def made_examples(users: int = 250, seed: int = 1) -> list[Example]:
    """Return examples of simulated users at landmarks in every slice, labelled until the slice ends."""
    made = made_purchases(users, seed)
    found = []
    for (name, end), days in zip(SLICE_ENDS, LANDMARKS, strict=True):
        for day in days:
            found += examples_of(made, NOW_MS + day * DAY_MS, NOW_MS + end * DAY_MS, name)
    return found


def examples_of(purchases: Mapping[str, Sequence[Purchase]], landmark_ms: int, until_ms: int, name: Slice) -> list[Example]:
    """Return one example per user who bought before the landmark, labelled with events between it and `until_ms`."""
    found = []
    for user, bought in purchases.items():
        seen = bisect_right(bought, landmark_ms, key=lambda event: event.event_time_ms)
        if not seen:
            continue
        state = new_user()
        topic = state.topics[PURCHASE] = new_topic(PURCHASE, 0, bought[0].event_time_ms)
        counted = Purchases()
        for offset, event in enumerate(bought[:seen]):
            if not all(line.returned for line in event.lines):
                counted = counted.with_one_at(event.event_time_ms)
            topic.apply(PURCHASE, event, offset, {"EUR": 1.0, "GBP": 1.0})
        shot = snapshot(state)
        request = score_request(
            user_id=user,
            kind="purchase",
            event_time_ms=shot.at_ms,
            features=shot.features,
            history=shot.history,
            categories=shot.categories,
            spec_version=FEATURE_SPEC.version,
        )
        after = [event for event in bought[seen:] if event.event_time_ms < until_ms]
        lines = [line for event in after for line in event.lines][:10]
        found.append(
            Example(
                request=request,
                landmark_ms=landmark_ms,
                slice=name,
                categories=tuple(dict.fromkeys(line.category for line in lines if line.category)) or None,
                items=tuple(dict.fromkeys(line.item_id for line in lines)) or None,
                observed_ms=until_ms - shot.at_ms,
                absent_ms=after[0].event_time_ms - shot.at_ms if after else None,
                purchases=counted,
            )
        )
    return found


def made_reviews(count: int = 400, seed: int = 1) -> list[ReviewExample]:
    """Generate short reviews whose words mostly match their star rating."""
    rng = Random(seed)
    words = {True: ("lovely", "fine", "sturdy"), False: ("broken", "poor", "late")}
    found = []
    for number in range(count):
        positive = rng.random() < 0.6
        shown = positive if rng.random() < 0.9 else not positive
        text = " ".join(["the", rng.choice(("mug", "book")), *rng.choices(words[shown], k=3), f"n{rng.randrange(50)}"])
        name = Slice.TRAIN if number < count * 0.6 else Slice.VALIDATION if number < count * 0.7 else Slice.TEST
        stars = float(rng.choice((4, 5) if positive else (1, 2)))
        found.append(
            ReviewExample(
                text=text,
                slice=name,
                user_id=f"author-{number % 90}",
                event_time_ms=NOW_MS + number,
                language="en",
                stars=stars,
                positive=positive,
                category="kitchen" if "mug" in text else "books",
            )
        )
    return found
