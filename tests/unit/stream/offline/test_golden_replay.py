"""Golden users: scripts become events, scores become findings, and the committed stories hold for the shipped model."""

from pathlib import Path

import msgspec
import pytest

from models.serving.golden_checks import TrainedOn, check_equal, check_probabilities, check_stories, counts, risk_after
from models.serving.golden_users import (
    SHOPPER,
    START_MS,
    Golden,
    Moment,
    Order,
    RiskBounds,
    Step,
    Story,
    TopInterest,
    events_of,
    load_golden,
    millis,
)
from models.serving.scorer import Scorer, Scores
from schemas.errors import EvaluationError
from schemas.time_units import DAY_MS
from stream.offline.golden_replay import check_golden, request_of
from stream.process.settings import load_settings
from tests.checkpoints import EASY, IMPOSSIBLE, tiny_checkpoint

ALL = TrainedOn(labels=frozenset({"books"}), horizons_days=(1, 3, 7), kinds=frozenset({"visit", "review"}), reviews=True)
VISIT = [Step(do="visit", at="0d")]
SCORES = Scores(interests=[("books", 0.9), ("pets", 0.2)], survival=[0.5, 0.25, 0.125], sentiment=-0.5)


def judged(story: Story, scores: Scores = SCORES, reads: TrainedOn = ALL) -> list[str]:
    return [found.outcome for found in check_stories(Golden(stories={"a": story}), {"a": scores}, reads)]


def test_a_step_happens_as_often_as_it_says_and_steps_are_told_in_order_of_time() -> None:
    script = [Step(do="visit", at="1d 2h", times=3, every="1d"), Step(do="click", at="0d", item="mug", category="kitchen")]

    events = events_of(Story(about="", script=script))

    assert [(kind, event.event_time_ms - START_MS) for kind, event in events] == [
        ("click", 0),
        *(("visit", n * DAY_MS + 7_200_000) for n in (1, 2, 3)),
    ]
    assert len({event.event_id for _, event in events}) == 4
    assert {event.user_id for _, event in events} == {SHOPPER}


def test_durations_are_days_hours_and_minutes() -> None:
    assert millis("3d 2h 5m") == 3 * DAY_MS + 7_500_000


def test_risk_interest_and_sentiment_are_held_against_what_a_story_expects() -> None:
    # survival 1/2 after a day, 1/4 after three: risk within two days after one is 1/2
    assert judged(Story(about="", script=VISIT, risk=[RiskBounds(silent="1d", within="2d", at_least=0.49)])) == ["passed"]
    assert judged(Story(about="", script=VISIT, risk=[RiskBounds(silent="1d", within="2d", at_least=0.51)])) == ["failed"]
    assert judged(Story(about="", script=VISIT, interest=[TopInterest(category="books", within_top=1)])) == ["passed"]
    assert judged(Story(about="", script=[Step(do="review", at="0d")], sentiment="negative")) == ["passed"]
    assert judged(Story(about="", script=[Step(do="review", at="0d")], sentiment="positive")) == ["failed"]


def test_a_story_about_what_a_model_never_met_is_skipped() -> None:
    click = [Step(do="click", at="0d")]
    assert judged(Story(about="", script=click, risk=[RiskBounds(silent="1d", within="2d")])) == ["skipped"]
    assert judged(Story(about="", script=VISIT, interest=[TopInterest(category="tents", within_top=1)])) == ["skipped"]
    review = Story(about="", script=[Step(do="review", at="0d")], sentiment="negative")
    assert judged(review, reads=msgspec.structs.replace(ALL, reviews=False)) == ["skipped"]
    assert judged(review, reads=msgspec.structs.replace(ALL, unreadable=frozenset({"a"}))) == ["skipped"]


def test_an_order_needs_the_higher_risk_to_be_higher_by_its_margin() -> None:
    story = Story(about="", script=VISIT)
    calm, alarming = SCORES, msgspec.structs.replace(SCORES, survival=[0.9, 0.8, 0.7])

    def outcome(by: float) -> list[str]:
        lower, higher = Moment(story="a", silent="0d"), Moment(story="b", silent="0d")
        golden = Golden(
            stories={"a": story, "b": story}, orders=[Order(about="", lower=lower, higher=higher, within="1d", by=by)]
        )
        return [found.outcome for found in check_stories(golden, {"a": calm, "b": alarming}, ALL)]

    assert outcome(0.3) == ["passed"]
    assert outcome(0.5) == ["failed"]


def test_a_curve_that_rises_and_a_probability_above_one_fail() -> None:
    def failed(scores: Scores) -> set[str]:
        return {found.rule[:13] for found in check_probabilities({"a": scores}, (1, 3, 7)) if found.outcome == "failed"}

    assert failed(SCORES) == set()
    assert "survival neve" in failed(msgspec.structs.replace(SCORES, survival=[0.5, 0.6, 0.1]))
    assert failed(msgspec.structs.replace(SCORES, interests=[("books", 1.1)])) == {"probabilities"}


def test_a_change_that_must_not_matter_fails_where_it_moves_a_probability() -> None:
    moved = msgspec.structs.replace(SCORES, survival=[0.5, 0.25, 0.1])

    assert check_equal("rule", {"a": SCORES}, {"a": SCORES}, 0.01)[0].outcome == "passed"
    (found,) = check_equal("rule", {"a": SCORES}, {"a": moved}, 0.01)
    assert (found.outcome, found.found) == ("failed", "moved by 0.0250")


def test_the_risk_of_a_silence_is_a_ratio_of_survival_also_within_a_bin_and_beyond_the_last() -> None:
    assert risk_after(SCORES, (1, 3, 7), "0d", "1d") == pytest.approx(0.5)
    assert risk_after(SCORES, (1, 3, 7), "12h", "12h") == pytest.approx(0.5**0.5)
    assert risk_after(SCORES, (1, 3, 7), "7d", "4d") == pytest.approx(0.5)  # the last bin's four days halve, and so on


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("stories: {a: {about: '', script: []}}", "length >= 1"),
        ("stories: {a: {about: '', script: [{do: visit, at: soon}]}}", "matching regex"),
        ("stories: {a: {about: '', script: [{do: dance, at: 0d}]}}", "dance"),
        ("stories: {a: {about: '', script: [{do: rating, at: 0d}]}}", "other than a rating as its last"),
        ("stories: {a: {about: '', script: [{do: visit, at: 0d}], sentiment: negative}}", "a review as its last"),
        ("stories: {a: {about: '', script: [{do: visit, at: 0d}], ending: bad}}", "ending"),
        (
            "stories: {}\norders: [{about: x, within: 1d, lower: {story: a, silent: 1d}, higher: {story: a, silent: 2d}}]",
            "no story 'a'",
        ),
    ],
)
def test_a_file_that_is_no_golden_users_is_refused_by_name(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "stories.yaml").write_text(text)

    with pytest.raises(EvaluationError, match=f"stories.yaml: .*{error}"):
        load_golden(tmp_path / "stories.yaml")


def test_the_request_of_a_story_is_what_the_fold_makes_of_its_newest_event() -> None:
    story = load_golden().stories["tents"]

    request = request_of(events_of(story))

    assert (request.user_id, request.kind) == (SHOPPER, "click")
    assert request.event_time_ms == START_MS + millis("6d 4m")
    assert request.categories == [("camping", 1.0)]
    assert len(request.history) == 16


def test_a_model_answers_for_every_story_and_a_wrong_one_fails(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    scorer = Scorer.load(tmp_path)

    assert counts(check_golden(scorer, EASY)) == {"passed": 8, "failed": 0, "skipped": 0}
    assert counts(check_golden(scorer, IMPOSSIBLE))["failed"] == 1


def test_the_shipped_model_is_right_about_the_committed_stories() -> None:
    findings = check_golden(Scorer.load(load_settings().checkpoint), load_golden())

    assert [found for found in findings if found.outcome == "failed"] == []
    assert {found.story for found in findings if found.outcome == "skipped"} == {
        "angry-review-in-chinese",
        "happy-review-in-chinese",
    }
