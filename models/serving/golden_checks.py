"""Compare a model's scores of the golden users (scripted shoppers) with their expectations: passed, failed or skipped.

An expectation is skipped if the model was not trained on the data that it is about. This module neither folds events nor
runs the network: it takes scores. Start at check_stories.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.network.survival import risk, survival_at
from models.serving.golden_users import Golden, Story, millis
from schemas.time_units import DAY_MS

if TYPE_CHECKING:  # importing the scorer needs torch, the checks do not
    from models.serving.scorer import Scores

FLOAT_SLACK = 1e-9
SILENT_DAYS = (0.0, 1.0, 3.0, 7.0, 14.0, 30.0, 60.0)
UNTIL_DAYS = 90.0


class TrainedOn(Struct, frozen=True, kw_only=True):
    """What a model was trained on; expectations about anything else are skipped."""

    labels: frozenset[str]
    horizons_days: tuple[int, ...]
    kinds: frozenset[str]
    reviews: bool
    unreadable: frozenset[str] = frozenset()  # stories in a language that the encoder cannot read


class Finding(Struct, frozen=True, kw_only=True):
    """The outcome of one expectation."""

    story: str
    rule: str
    outcome: Literal["passed", "failed", "skipped"]
    found: str


def check_stories(golden: Golden, scores: "Mapping[str, Scores]", reads: TrainedOn) -> list[Finding]:
    """Compare every story's scores with its expectations; skip those about data that the model was not trained on."""
    findings: list[Finding] = []
    for name, story in golden.stories.items():
        findings += _check_story(name, story, scores[name], reads)
    for order in golden.orders:
        names = order.lower.story, order.higher.story
        rule = f"{order.about} ({order.higher.silent} of silence against {order.lower.silent}, within {order.within})"
        both = " / ".join(dict.fromkeys(names))
        if missing := _unread(golden.stories[names[0]].kinds() | golden.stories[names[1]].kinds(), reads):
            findings.append(_skipped(both, rule, missing))
            continue
        lower, higher = (
            risk_after(scores[at.story], reads.horizons_days, at.silent, order.within) for at in (order.lower, order.higher)
        )
        findings.append(_judged(both, rule, higher > lower + order.by, f"{higher:.3f} against {lower:.3f}"))
    return findings


def _check_story(name: str, story: Story, found: "Scores", reads: TrainedOn) -> Iterator[Finding]:
    for bounds in story.risk:
        limit = f"at least {bounds.at_least:g}" if bounds.at_least else f"at most {bounds.at_most:g}"
        rule = f"{bounds.silent} of silence: risk within {bounds.within} {limit}"
        if missing := _unread(story.kinds(), reads):
            yield _skipped(name, rule, missing)
        else:
            value = risk_after(found, reads.horizons_days, bounds.silent, bounds.within)
            yield _judged(name, rule, bounds.at_least <= value <= bounds.at_most, f"{value:.3f}")
    for interest in story.interest:
        rule = f"{interest.category} among the top {interest.within_top} interests"
        if interest.category not in reads.labels:
            yield _skipped(name, rule, f"{interest.category} is not a label of the model")
        else:
            top = [label for label, _ in found.interests[: interest.within_top]]
            yield _judged(name, rule, interest.category in top, ", ".join(top))
    if story.sentiment is not None:
        rule = f"{story.sentiment} sentiment"
        if not reads.reviews or name in reads.unreadable:
            yield _skipped(name, rule, "the encoder cannot read it" if reads.reviews else "trained on no labelled reviews")
        else:
            value = 0.0 if found.sentiment is None else found.sentiment
            yield _judged(name, rule, value > 0 if story.sentiment == "positive" else value < 0, f"{value:+.3f}")


def check_probabilities(scores: "Mapping[str, Scores]", horizons_days: Sequence[int]) -> list[Finding]:
    """Check invariants of every user: probabilities in [0, 1], survival never increases, more silence never lowers risk.

    The last one is the risk of no return until a fixed day. Risk within a fixed horizon may fall with silence: a user who
    comes every Sunday is more likely to return after six days of silence than after one.
    """
    findings = []
    for name, found in scores.items():
        values = [*(probability for _, probability in found.interests), *found.survival]
        within = all(0 <= value <= 1 for value in values)
        findings.append(_judged(name, "probabilities are in [0, 1]", within, f"{min(values):.3f} to {max(values):.3f}"))
        falls = all(after <= before + FLOAT_SLACK for before, after in zip(found.survival, found.survival[1:], strict=False))
        findings.append(_judged(name, "survival never increases", falls, _curve(found.survival)))
        hazards = np.repeat(hazards_of(found), len(SILENT_DAYS), 0)
        away = survival_at(hazards, SILENT_DAYS, horizons_days)
        until = (survival_at(hazards[:1], [UNTIL_DAYS], horizons_days) / away).tolist()
        rises = all(after >= before - FLOAT_SLACK for before, after in zip(until, until[1:], strict=False))
        rule = f"more silence never lowers the risk of staying away until day {UNTIL_DAYS:g}"
        findings.append(_judged(name, rule, rises and not any(math.isnan(value) for value in until), _curve(until)))
    return findings


def check_equal(rule: str, before: "Mapping[str, Scores]", after: "Mapping[str, Scores]", tolerance: float) -> list[Finding]:
    """Check that an irrelevant change of the stories moves no probability by more than `tolerance`."""
    return [
        _judged(name, rule, (moved := _distance(found, after[name])) <= tolerance, f"moved by {moved:.4f}")
        for name, found in before.items()
    ]


def risk_after(found: "Scores", horizons_days: Sequence[int], silent: str, within: str) -> float:
    """Return the probability of no return `within` a time, after `silent` of silence."""
    return float(risk(hazards_of(found), [millis(silent) / DAY_MS], millis(within) / DAY_MS, horizons_days)[0])


def hazards_of(found: "Scores") -> NDArray[np.float64]:
    """Return (1, H) hazards from a survival curve."""
    before = [1.0, *found.survival[:-1]]
    return np.array([[1 - after / at if at > 0 else 0.0 for at, after in zip(before, found.survival, strict=True)]])


def counts(findings: list[Finding]) -> dict[str, int]:
    """Count findings by outcome."""
    found = Counter(finding.outcome for finding in findings)
    return {outcome: found[outcome] for outcome in ("passed", "failed", "skipped")}


def _unread(kinds: frozenset[str], reads: TrainedOn) -> str:
    missing = sorted(kinds - reads.kinds)
    return f"trained without {', '.join(missing)} events" if missing else ""


def _judged(story: str, rule: str, holds: bool, found: str) -> Finding:
    return Finding(story=story, rule=rule, outcome="passed" if holds else "failed", found=found)


def _skipped(story: str, rule: str, why: str) -> Finding:
    return Finding(story=story, rule=rule, outcome="skipped", found=why)


def _distance(one: "Scores", other: "Scores") -> float:
    interests = dict(other.interests)
    pairs = [(probability, interests[label]) for label, probability in one.interests]
    pairs += zip(one.survival, other.survival, strict=True)
    pairs.append((one.sentiment or 0.0, other.sentiment or 0.0))
    return max(abs(a - b) for a, b in pairs)


def _curve(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
