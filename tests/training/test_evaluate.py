"""An evaluation measures every head beside its baselines, says who wins, and its page needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from models.data.examples import LANDMARK, Example, ReviewExample, Slice
from models.evaluation.baselines.category_baselines import rank_categories
from models.evaluation.baselines.churn_baselines import rfm_logistic
from models.evaluation.baselines.item_baselines import rank_items
from models.evaluation.candidates import Candidate, Setup
from models.evaluation.churn_evaluation import matching_examples
from models.evaluation.evaluate_model import Evaluated, evaluate
from models.evaluation.outcomes import stayed_away
from models.evaluation.report_diff import diff_reports
from models.evaluation.report_document import Report, read_report, write_report
from models.evaluation.report_page import render
from models.network.survival import HORIZONS_DAYS
from schemas.errors import EvaluationError
from stream.cli.main import app
from tests.made_examples import made_examples, made_reviews

LABELS = ("books", "garden", "kitchen", "toys")
HORIZONS = (7, 30)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return made_examples(160)


@pytest.fixture(scope="module")
def reviews() -> list[ReviewExample]:
    return made_reviews()


def parts(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    train = [example for example in examples if example.slice in (Slice.TRAIN, Slice.VALIDATION)]
    return train, [example for example in examples if example.slice is Slice.TEST]


def clairvoyant(examples: list[Example], reviews: list[ReviewExample], doubt: float = 0.55) -> Candidate:
    """Know what will come, but for some noise: better than any baseline can be."""
    train, test = parts(examples)
    rng = np.random.default_rng(0)
    risk = {}
    for days in HORIZONS:
        truth = np.nan_to_num(stayed_away(test, days), nan=0.5)
        risk[days] = np.clip((1 - doubt) * truth + doubt * rng.random(len(test)), 0, 1)
    asked = [review for review in reviews if review.slice is Slice.TEST]
    positive = np.array([0.9 if review.positive else 0.1 for review in asked])
    stars = np.full((len(asked), 5), 0.02)
    stars[np.arange(len(asked)), [int(review.stars or 1) - 1 for review in asked]] += 0.9
    return Candidate(
        risk=risk,
        hazards=np.full((len(test), len(HORIZONS_DAYS)), 0.2),
        horizons_days=HORIZONS_DAYS,
        labels=LABELS,
        categories=rank_categories(train, test, LABELS, {})["personal_frequency"],
        items=[[*(example.items or ()), "other"] for example in test],
        positive=positive,
        stars=stars,
        kind_labels=("books", "kitchen"),
        kinds=np.array([[0.9, 0.1] if review.category == "books" else [0.1, 0.9] for review in asked]),
    )


@pytest.fixture(scope="module")
def found(examples: list[Example], reviews: list[ReviewExample]) -> Evaluated:
    candidates = {"model": clairvoyant(examples, reviews)}
    return evaluate(examples, reviews, candidates, HORIZONS, {}, Setup(served="model", replicates=60))


@pytest.fixture(scope="module")
def report(found: Evaluated) -> Report:
    return Report(
        model_version="made-1",
        data_fingerprint="f" * 64,
        command="footfall evaluate made dataset --out report",
        created_at="2026-09-21T12:00:00Z",
        verdict=found.verdict,
        heads=found.heads,
        settings={"replicates": 60},
    )


def test_every_head_is_measured_beside_its_baselines(found: Evaluated) -> None:
    scorers = {head.title: set(head.scorers) for head in found.heads}
    churn = {"model", "majority", "recency", "rfm_logistic", "gradient_boosting", "bg_nbd"}
    texts = {"model", "majority", "tfidf_logistic"}
    assert scorers == {
        "churn 7 d": churn,
        "churn 30 d": churn,
        "churn curve": churn,
        "categories": {"model", "popularity", "personal_frequency", "co_occurrence", "logistic"},
        "items": {
            "model",
            "popularity",
            "personal_frequency",
            "personal_frequency_with_memory",
            "co_occurrence",
            "nearest_sequences",
        },
        "sentiment": texts,
        "rating": texts,
        "text category": texts,
    }


def test_every_number_has_an_interval_around_it(found: Evaluated) -> None:
    for head in found.heads:
        for name, scorer in head.scorers.items():
            for metric, value in scorer.metrics.items():
                where = (head.title, name, metric)
                assert value.value is not None and value.low is not None and value.high is not None, where
                assert value.low <= value.value + 1e-9, where
                assert value.value <= value.high + 1e-9, where


def test_a_model_that_knows_what_comes_beats_every_baseline_beyond_noise(found: Evaluated) -> None:
    churn = found.verdict["churn"]
    assert (churn.wins, churn.beaten_by) == (True, [])
    assert {entry.status for entry in churn.against} == {"beaten"}


def test_baselines_learn_from_questions_asked_as_the_tests_are(examples: list[Example]) -> None:
    train, test = parts(examples)
    drawn = [msgspec.structs.replace(one, request=msgspec.structs.replace(one.request, due=LANDMARK)) for one in test]

    assert matching_examples([*train, *drawn], test) == [*train, *drawn]
    assert matching_examples([*train, *drawn], drawn) == drawn
    assert matching_examples(train, drawn) == train


def test_a_model_of_shuffled_scores_loses(examples: list[Example]) -> None:
    good = clairvoyant(examples, [])
    rng = np.random.default_rng(1)
    shuffled = Candidate(risk={days: rng.permutation(risk) for days, risk in good.risk.items()})
    verdict = evaluate(examples, [], {"model": shuffled}, HORIZONS, {}, Setup(served="model", replicates=60)).verdict["churn"]
    assert not verdict.wins
    assert {"rfm_logistic", "gradient_boosting", "bg_nbd", "recency", "majority"} == set(verdict.beaten_by)


def test_a_baseline_measured_as_a_model_differs_by_nothing_from_itself(examples: list[Example]) -> None:
    train, test = parts(examples)
    same = Candidate(risk={30: rfm_logistic(train, test, 30)})
    (head,) = evaluate(examples, [], {"model": same}, (30,), {}, Setup(served="model", replicates=60)).heads
    difference = head.differences["rfm_logistic"]["auc"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_item_lists_of_a_baseline_measure_alike_under_another_name(examples: list[Example]) -> None:
    train, test = parts(examples)
    asked = [example for example in test if example.items]
    lists = dict(zip(map(id, asked), rank_items(train, asked)["co_occurrence"], strict=True))
    model = Candidate(items=[lists.get(id(example), []) for example in test])
    (head,) = evaluate(examples, [], {"model": model}, HORIZONS, {}, Setup(served="model", replicates=20)).heads
    assert head.scorers["model"].metrics == head.scorers["co_occurrence"].metrics


def test_the_state_before_tuning_stands_beside_the_model_and_judges_nothing(examples: list[Example]) -> None:
    good, worse = clairvoyant(examples, []), clairvoyant(examples, [], doubt=0.8)
    candidates = {"model": worse, "before": good}
    found = evaluate(examples, [], candidates, (30,), {}, Setup(served="model", replicates=60))
    assert found.heads[0].differences["before"]["auc"].value < 0  # type: ignore[operator]
    assert "before" not in {entry.baseline for entry in found.verdict["churn"].against}


def test_equal_seeds_give_equal_reports(examples: list[Example], reviews: list[ReviewExample], found: Evaluated) -> None:
    candidates = {"model": clairvoyant(examples, reviews)}
    assert evaluate(examples, reviews, candidates, HORIZONS, {}, Setup(served="model", replicates=60)) == found


def test_a_report_shows_no_user_and_cuts_texts(report: Report, examples: list[Example]) -> None:
    page = render(report)
    mistakes = [mistake for head in report.heads for mistake in head.mistakes]
    assert mistakes
    assert all(re.fullmatch("[0-9a-f]{10}", mistake.user) for mistake in mistakes)
    assert max(len(mistake.facts) for mistake in mistakes) < 100
    assert not re.search(r"\buser-\d|author-\d", page)


def test_examples_that_tell_nothing_are_refused(examples: list[Example]) -> None:
    train, _ = parts(examples)
    with pytest.raises(EvaluationError, match="found 0 test examples and 0 test reviews"):
        evaluate(train, [], {"model": Candidate()}, HORIZONS, {}, Setup(served="model"))


def test_a_report_is_read_as_it_was_written(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path, report)
    again = read_report(tmp_path)
    assert again.heads[0].scorers == report.heads[0].scorers
    assert again.verdict == report.verdict
    for verdict in json.loads((tmp_path / "report.json").read_bytes())["verdict"].values():
        assert {"wins", "beaten_by", "text"} <= verdict.keys()  # what a registry reads


def test_numbers_of_numpy_are_written_as_numbers_and_an_unknown_one_as_null(report: Report, tmp_path: Path) -> None:
    facts = {"share": np.float32(0.5), "count": np.int64(3), "curve": np.array([1.0, np.nan])}
    write_report(tmp_path, msgspec.structs.replace(report, dataset=facts))
    assert read_report(tmp_path).dataset == {"share": 0.5, "count": 3, "curve": [1.0, None]}


class Tags(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]


def test_the_page_needs_no_script_and_nothing_from_elsewhere(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path, report)
    page = render(read_report(tmp_path))
    found = Tags(page)
    assert "http:" not in page and "https:" not in page and "@import" not in page
    assert "script" not in found.tags
    assert all(address.startswith("#") for address in found.loaded)
    assert {"svg", "table", "details"} <= set(found.tags)


def test_every_plot_says_what_it_shows_and_has_its_figures_as_a_table(report: Report) -> None:
    page = render(report)
    plots = re.findall(r'<figure[^>]*aria-label="([^"]+)"', page)
    assert {"AUC by horizon", "Reliability", "ROC", "Precision and recall", "Gains and lift", "Survival", "Slices"} <= set(
        plots
    )
    assert page.count("<summary>as a table</summary>") == len(plots)
    assert page.count("<svg") == len(plots)


def changed(report: Report, tmp_path: Path, name: str, shift: float) -> Path:
    """Write the report with every value of the served scorer's AUC moved."""
    document = json.loads(msgspec.json.encode(report))
    document["model_version"] = name
    for head in document["heads"]:
        if "auc" in head["scorers"]["model"]["metrics"]:
            value = head["scorers"]["model"]["metrics"]["auc"]
            head["scorers"]["model"]["metrics"]["auc"] = {key: number + shift for key, number in value.items()}
    (tmp_path / name).mkdir()
    (tmp_path / name / "report.json").write_text(json.dumps(document))
    return tmp_path / name


def test_a_difference_tells_a_change_beyond_noise_from_one_within(report: Report, tmp_path: Path) -> None:
    a, same, better, worse = (
        read_report(changed(report, tmp_path, name, shift))
        for name, shift in (("a", 0), ("same", 0.001), ("better", 0.5), ("worse", -0.5))
    )
    changes = {
        other.model_version: {
            one.change
            for one in diff_reports(a, other).changes
            if (one.head, one.scorer, one.metric) == ("churn 30 d", "served", "auc")
        }
        for other in (same, better, worse)
    }
    assert changes == {"same": {"within noise"}, "better": {"better"}, "worse": {"worse"}}


def test_reports_of_one_log_cut_in_two_ways_are_of_different_data(report: Report) -> None:
    otherwise = msgspec.structs.replace(report, dataset=report.dataset | {"return": "purchase"})
    assert diff_reports(report, report).same_data
    assert not diff_reports(report, otherwise).same_data


def test_report_diff_prints_a_table_or_json_and_ends_with_0(report: Report, tmp_path: Path) -> None:
    a, b = changed(report, tmp_path, "a", 0), changed(report, tmp_path, "b", 0.5)
    shown = CliRunner().invoke(app, ["report", "diff", str(a), str(b)])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"churn 30 d\s+served\s+auc .* better", shown.output)
    as_json = CliRunner().invoke(app, ["report", "diff", str(a), str(b), "--json"])
    assert json.loads(as_json.stdout)["b"] == "b"


def test_report_diff_of_no_report_ends_with_2_and_names_the_next_command(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["report", "diff", str(tmp_path / "none"), str(tmp_path / "none")])
    assert ended.exit_code == 2
    assert "footfall evaluate MODEL DATASET --out" in ended.output
    with pytest.raises(EvaluationError, match="is not a report"):
        (tmp_path / "report.json").write_text("{}")
        read_report(tmp_path)
