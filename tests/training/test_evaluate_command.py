"""`footfall evaluate`: a trained model's report beside it, for people, for programs and for the registry."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.data.dataset_files import read_manifest, write_examples, write_manifest
from models.evaluation.report_document import read_report
from models.evaluation.served_scores import few_labels_points
from stream.cli.main import app
from stream.logs.event_log import write_log
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from tests.made_examples import made_reviews


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def succeed(*arguments: object) -> str:
    code, stdout, stderr = run(*arguments)
    assert code == 0, stderr
    return stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a made shop's dataset, made reviews, a user model and a tuned text encoder."""
    directory = tmp_path_factory.mktemp("evaluate")
    events = [event.logged for event in simulate(SimulatorConfig(seed=5, shoppers=90, days=120))]
    write_log(directory / "log", events, source="made")
    tiny = ("--encoder", "random:bert-tiny", "--epochs", 1)
    succeed("dataset", directory / "log", "--out", directory / "dataset", "--landmarks", "3")
    succeed("train", directory / "dataset", "--out", directory / "model", "--runs", directory / "runs", "--threads", 1, *tiny)
    write_examples(directory / "reviews", [], made_reviews(), {})
    write_manifest(directory / "reviews", read_manifest(directory / "dataset"))
    succeed("train", "texts", directory / "reviews", "--out", directory / "text", "--peft", "head", *tiny)
    return directory


def test_a_model_is_measured_and_its_report_lies_where_it_is_asked_for(folder: Path) -> None:
    out = folder / "model"
    printed = succeed(
        "evaluate", folder / "model", folder / "dataset", "--out", out, "--replicates", 20, "--threads", 1, "--json"
    )
    report = read_report(out)
    heads = {head.head for head in report.heads}
    assert {"churn", "churn curve", "categories"} <= heads
    assert report.data_fingerprint == read_manifest(folder / "dataset").fingerprint
    assert json.loads(printed)["model_version"] == report.model_version
    assert set(json.loads(printed)["verdict"]) == set(report.verdict) == heads - {"churn curve"}
    assert report.command.startswith("footfall evaluate ")
    assert "<svg" in (out / "report.html").read_text()


def test_another_checkpoint_stands_beside_the_model(folder: Path, tmp_path: Path) -> None:
    others = ("--beside", f"before={folder / 'model'}")
    succeed("evaluate", folder / "model", folder / "dataset", "--out", tmp_path, "--replicates", 20, *others)
    head = read_report(tmp_path).heads[0]
    difference = head.differences["before"]["auc"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_a_tuned_encoder_is_measured_beside_what_it_was_before(folder: Path, tmp_path: Path) -> None:
    succeed("evaluate", folder / "text", folder / "reviews", "--out", tmp_path, "--replicates", 20)
    heads = {head.head: head for head in read_report(tmp_path).heads}
    assert {"sentiment", "rating"} <= set(heads)
    assert set(heads["sentiment"].scorers) == {"model", "before fine-tuning", "majority", "tfidf_logistic"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("model", "log"), "footfall dataset LOG --out"),
        (("log", "dataset"), "footfall train"),
        (("model", "dataset", "--beside", "nothing"), "expected NAME=FOLDER"),
    ],
)
def test_bad_input_ends_with_2_and_names_the_next_command(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    model, dataset, *options = arguments
    code, _, stderr = run("evaluate", folder / model, folder / dataset, "--out", tmp_path, *options)
    assert (code, says in stderr) == (2, True), stderr


def test_a_model_that_learnt_from_the_time_of_the_test_slice_is_not_measured_on_it(folder: Path, tmp_path: Path) -> None:
    succeed("dataset", folder / "log", "--out", tmp_path / "earlier", "--landmarks", "1", "--shares", "0.2,0.1,0.1,0.6")
    code, _, stderr = run("evaluate", folder / "model", tmp_path / "earlier", "--out", tmp_path / "report")
    assert (code, "was trained on data until" in stderr) == (2, True), stderr


def test_few_label_curves_of_users_and_of_texts_become_lines_of_a_plot() -> None:
    of_users = {"examples": 40, "metrics": {"choices": {}, "churn": {"7d": {"auc": 0.7}, "30d": {"auc": None}}}}
    of_texts = {"examples": 90, "metrics": {"sentiment": {"model": {"accuracy": 0.9}, "tf_idf": {"accuracy": 0.8}}}}
    assert few_labels_points({"points": [of_users, of_texts]}) == [
        {"labels": 40.0, "churn 7d: AUC": 0.7},
        {"labels": 90.0, "sentiment: accuracy of model": 0.9, "sentiment: accuracy of tf_idf": 0.8},
    ]
