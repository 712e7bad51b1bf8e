"""Repeat buying is counted from purchases alone: no pure returns, nothing before the first purchase, no rounding to days."""

import mpmath  # torch requires it, through sympy
import msgspec
import numpy as np
import pytest

from models.data.examples import Example, Purchases, Slice
from models.evaluation.baselines.bg_nbd import Parameters, _purchases, bg_nbd, expected_purchases
from models.evaluation.baselines.churn_baselines import logistic, rfm_features, rfm_logistic
from models.evaluation.baselines.purchase_counts import actions_of, purchases_of
from models.evaluation.outcomes import stayed_away
from schemas.codec import encode_event
from schemas.errors import CannotFit
from schemas.events import Event
from schemas.time_units import DAY_MS
from stream.logs.event_log import LoggedEvent
from stream.offline.live_fold import LiveFold, numbered
from stream.process.settings import load_settings
from stream.roles.build import features_fold
from tests.builders import NOW_MS, purchase, purchase_line, visit
from tests.made_examples import made_examples

LANDMARK_MS = NOW_MS + 140 * DAY_MS
FITTED = Parameters(r=0.25, alpha=4.4, a=0.8, b=2.4)


def at(day: float) -> int:
    return NOW_MS + round(day * DAY_MS)


def bought(user: str, day: float, *, returned: bool = False, price: float = 10.0) -> Event:
    line = purchase_line(quantity=1, unit_price=price, returned=returned)
    return purchase(user_id=user, event_id=f"{user}-{day}", event_time_ms=at(day), lines=[line])


def seen(events: list[Event], user: str) -> Example:
    """The example of a user at the landmark, as a dataset without purchases carries it."""
    settings = load_settings(reporting_currency="EUR")
    live = LiveFold(features_fold(settings, settings.partition_count))
    log = [LoggedEvent(type(e).__name__.lower(), e.event_time_ms, e.user_id.encode(), encode_event(e)) for e in events]
    for kind, record in numbered(log, settings):
        live.fold(kind, record)
    request = live.snapshot(user.encode())
    assert request is not None
    return Example(request=request, landmark_ms=LANDMARK_MS, slice=Slice.TRAIN)


BUYERS: dict[str, tuple[list[Event], tuple[float, float, float]]] = {
    "visited-first": (
        [visit(user_id="visited-first", event_time_ms=NOW_MS), bought("visited-first", 100), bought("visited-first", 130)],
        (1, 30, 40),
    ),
    "returned-last": (
        [bought("returned-last", 100), bought("returned-last", 130), bought("returned-last", 131, returned=True)],
        (1, 30, 40),
    ),
    "returned-first": ([bought("returned-first", 90, returned=True), bought("returned-first", 100)], (0, 0, 40)),
    "returned-between": (
        [bought("returned-between", 100), bought("returned-between", 110, returned=True), bought("returned-between", 130)],
        (1, 30, 40),
    ),
    "bought-once": ([bought("bought-once", 100), bought("bought-once", 101, returned=True)], (0, 0, 40)),
    "same-day": ([bought("same-day", 100), bought("same-day", 100.25)], (1, 0.25, 40)),
    "free": ([bought("free", 100, price=0.0), bought("free", 120)], (1, 20, 40)),
}


@pytest.mark.parametrize("user", BUYERS)
def test_bg_nbd_reads_repeats_span_and_age_of_purchases_alone_even_of_a_request(user: str) -> None:
    events, expected = BUYERS[user]

    repeats, span, age = _purchases([seen(events, user)])

    assert (repeats[0], span[0], age[0]) == pytest.approx(expected)


def test_rfm_counts_no_return_as_a_purchase_and_starts_at_the_first_purchase() -> None:
    events = [visit(user_id="u", event_time_ms=NOW_MS), bought("u", 100), bought("u", 130), bought("u", 131, returned=True)]

    frequency, since, tenure, span, *_ = rfm_features([seen(events, "u")])[0]

    assert (np.expm1(frequency), since, tenure, span) == pytest.approx((2, 10, 40, 30))


def test_a_request_that_does_not_tell_purchases_from_returns_is_refused_and_not_guessed() -> None:
    mixed = purchase(
        user_id="u",
        event_id="mixed",
        event_time_ms=at(110),
        lines=[purchase_line(unit_price=5.0), purchase_line(unit_price=20.0, returned=True)],
    )
    many = [bought("u", day) for day in range(100, 120)]
    for events in ([bought("u", 100), mixed], [*many, bought("u", 121, returned=True)]):
        example = seen(events, "u")
        with pytest.raises(CannotFit, match="make the dataset again"):
            purchases_of(example)
        with pytest.raises(CannotFit, match="make the dataset again"):
            rfm_features([example])


def test_without_purchases_all_events_count_from_the_first_to_the_last() -> None:
    events = [visit(user_id="u", event_id=f"v{day}", event_time_ms=at(day)) for day in (100, 110, 130)]

    assert actions_of(seen(events, "u")) == Purchases(3, at(100), at(130))


def high_precision(parameters: Parameters, x: float, last: float, tenure: float, days: float) -> float:
    """Equation 10 as printed, in 80 digits."""
    with mpmath.workdps(80):
        r, alpha, a, b, x, last, tenure, t = (mpmath.mpf(value) for value in (*parameters, x, last, tenure, days))
        series = mpmath.hyp2f1(r + x, b + x, a + b + x - 1, t / (alpha + tenure + t))
        grown = 1 - ((alpha + tenure) / (alpha + tenure + t)) ** (r + x) * series
        odds = a / (b + x - 1) * ((alpha + tenure) / (alpha + last)) ** (r + x) if x else 0
        return float((a + b + x - 1) / (a - 1) * grown / (1 + odds))


@pytest.mark.parametrize("days", [30, 180])
@pytest.mark.parametrize(
    "parameters",
    [FITTED, Parameters(0.8, 20.0, 1.9, 2.5), Parameters(0.3, 50.0, 60.0, 90.0), Parameters(0.01, 300.0, 0.01, 0.01)],
)
@pytest.mark.parametrize(
    ("repeats", "last", "tenure"),
    [(0, 0, 0), (0, 0, 40), (1, 0.25, 40), (5, 100, 120), (2000, 360, 365), (2000, 365, 365), (10_000, 364.9, 365)],
)
def test_expected_purchases_equal_equation_10_in_high_precision(
    parameters: Parameters, repeats: float, last: float, tenure: float, days: float
) -> None:
    with np.errstate(all="raise", under="ignore"):
        (found,) = expected_purchases(parameters, *(np.array([float(value)]) for value in (repeats, last, tenure)), days)

    assert found == pytest.approx(high_precision(parameters, repeats, last, tenure, days), rel=1e-9, abs=1e-300)


def test_the_heaviest_buyer_who_is_long_gone_expects_almost_nothing_and_an_active_one_their_rate() -> None:
    repeats = np.array([2000.0, 1e6, 1e6])
    gone, long_gone, active = expected_purchases(FITTED, repeats, np.array([360.0, 300.0, 365.0]), np.full(3, 365.0), 180)

    assert gone == pytest.approx(3e-6, rel=0.2)
    assert long_gone == 0
    assert 0.8 < active / (1e6 / 365 * 180) < 1  # some may leave


def test_values_that_are_missing_are_refused_and_not_replaced() -> None:
    known, labels = np.arange(40.0)[:, None], np.array([0, 1] * 20)

    with pytest.raises(CannotFit, match="found 1 of 42 examples"):
        logistic(known, labels, np.array([[1.0], [np.nan]]))


def test_who_bought_nothing_gets_the_churn_rate_where_too_few_such_users_teach_anything() -> None:
    examples = made_examples()
    train = [example for example in examples if example.slice in (Slice.TRAIN, Slice.VALIDATION)]
    test = [example for example in examples if example.slice is Slice.TEST]
    visitor = seen([visit(user_id="v", event_id=f"v{n}", event_time_ms=at(n / 10)) for n in range(500)], "v")

    alone = bg_nbd(train, test, 30)
    found = bg_nbd(train, [*test, visitor], 30)

    assert found[:-1].tolist() == alone.tolist()
    assert found[-1] == pytest.approx(np.nanmean(stayed_away(train, 30)))


def test_who_bought_nothing_is_fitted_apart_from_buyers() -> None:
    examples = [
        msgspec.structs.replace(example, purchases=Purchases()) if int(example.request.user_id[5:]) % 2 else example
        for example in made_examples()
    ]
    train = [example for example in examples if example.slice in (Slice.TRAIN, Slice.VALIDATION)]
    test = [example for example in examples if example.slice is Slice.TEST]

    found = bg_nbd(train, test, 30)

    for bought in (True, False):
        learnt, asked = ([e for e in part if (purchases_of(e).count > 0) == bought] for part in (train, test))
        rows = [row for row, example in enumerate(test) if (purchases_of(example).count > 0) == bought]
        assert found[rows].tolist() == bg_nbd(learnt, asked, 30).tolist()
        assert len(set(found[rows].tolist())) > 10


def test_a_baseline_of_an_older_dataset_says_what_to_do() -> None:
    examples = [msgspec.structs.replace(example, purchases=None) for example in made_examples()]

    for baseline in (bg_nbd, rfm_logistic):
        with pytest.raises(CannotFit, match="make the dataset again with footfall dataset"):
            baseline(examples, examples, 30)
