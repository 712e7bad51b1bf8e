"""Recorded signals against new scores of their requests: the largest difference counts, another model's are left alone."""

from typing import Any

import pytest

from models.features.spec import FEATURE_SPEC
from schemas.scoring import ScoreRequest
from schemas.signals import Signal, Unread
from stream.offline.verify import differences
from stream.offline.verify_scores import NOT_COMPARABLE, distance, score_differences
from stream.roles.scorer_fold import render_signals
from tests.builders import USER, interest, review_sentiment, score_request
from tests.fakes import FixedScorer

WIDTH = len(FEATURE_SPEC.names)


def request(number: int = 0, **changes: Any) -> ScoreRequest:
    fields: dict[str, Any] = {"request_id": f"r-{number}", "spec_version": FEATURE_SPEC.version, "features": [0.0] * WIDTH}
    return score_request(**fields | changes)


def made(scorer: FixedScorer, asked: ScoreRequest) -> list[Any]:
    """Return the signals that a scorer sends of a request."""
    (scores,) = scorer.score([asked])
    rendered = render_signals(asked, scores, scorer=scorer, received_ms=1, scored_ms=2)  # type: ignore[arg-type]
    return [output.message for output in rendered]


def compared(scorer: Any, requests: list[ScoreRequest], signals: list[list[Signal]]) -> list[float | None]:
    return [found.difference for found in score_differences(requests, signals, scorer)]


def test_the_same_model_differs_by_nothing_in_either_batch_size() -> None:
    requests = [request(number) for number in range(100)]

    assert compared(FixedScorer(), requests, [made(FixedScorer(), asked) for asked in requests]) == [0.0] * 100


def test_the_largest_difference_of_all_signals_counts_sentiment_included() -> None:
    asked = request(kind="review", text="good", review_id="review-1")
    off = FixedScorer(off_by=0.25, user=USER)

    found = compared(FixedScorer(), [asked, request(1)], [made(off, asked), made(FixedScorer(), request(1))])

    assert len(made(off, asked)) == 3
    assert found == [pytest.approx(0.25), 0.0]


def test_signals_of_another_model_or_spec_are_named_and_not_compared() -> None:
    other, asked = FixedScorer("other"), request()

    (found,) = score_differences([asked], [made(other, asked)], FixedScorer())  # type: ignore[arg-type]

    assert (found.signals, found.model_versions, found.difference) == (2, ("other",), None)
    foreign = request(spec_version="other")
    assert compared(FixedScorer(), [foreign, asked], [made(FixedScorer(), foreign), []]) == [None, None]
    assert compared(None, [asked], [made(FixedScorer(), asked)]) == [None]


def test_a_signal_that_the_request_does_not_give_is_unlike_any() -> None:
    asked = request()

    assert compared(FixedScorer(), [asked], [[interest(signal_id="foreign", model_version="fixed-1")]]) == [NOT_COMPARABLE]


def test_a_null_sentiment_equals_a_null_one_and_is_unlike_any_number() -> None:
    null, number = review_sentiment(sentiment=None, unread=Unread.BLANK), review_sentiment(sentiment=0.5)

    assert (distance(null, null), distance(null, number), distance(number, null)) == (0.0, NOT_COMPARABLE, NOT_COMPARABLE)


def test_null_is_not_zero_and_zero_is_not_minus_zero() -> None:
    first, second = FEATURE_SPEC.names[:2]

    assert differences(request(features=[None, *[0.0] * (WIDTH - 1)]), request()) == [first]
    assert differences(request(features=[0.0, -0.0, *[0.0] * (WIDTH - 2)]), request()) == [second]
    assert differences(request(features=[0.0]), request()) == ["features"]
