"""`footfall train` and `footfall tune`: what they write and what they refuse."""

from pathlib import Path
from shutil import rmtree
from typing import Any

import msgspec
import pytest
import torch
import typer
from typer.testing import CliRunner

from models.network.encoder_parts import RANDOM_TINY
from models.serving.checkpoint import OWN_ENCODER, Manifest, load_checkpoint
from models.serving.scorer import Scorer
from models.training.presets import TrainConfig
from models.training.run_card import RunCard
from stream.cli.dataset import app as dataset_app
from stream.cli.train import train_command
from stream.cli.tune import tune_command
from stream.logs.event_log import write_log
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from tests.checkpoints import tuned_checkpoint

TUNE = ("--encoder", RANDOM_TINY, "--epochs", 1, "--threads", 1)

app = typer.Typer()
app.command("train")(train_command)
app.command("tune")(tune_command)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("train")
    events = [event.logged for event in simulate(SimulatorConfig(seed=5, shoppers=90, days=120))]
    write_log(directory / "log", events, source="made")
    result = CliRunner().invoke(dataset_app, [str(directory / "log"), "--out", str(directory / "dataset"), "--landmarks", "3"])
    assert result.exit_code == 0, result.output
    return directory / "dataset"


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def trained(dataset: Path, folder: Path, *options: object) -> dict[str, Any]:
    """Train the smallest of models."""
    common = ("--encoder", RANDOM_TINY, "--epochs", 1, "--threads", 1, "--runs", folder / "runs", "--json")
    code, stdout, stderr = run("train", dataset, "--out", folder / "model", *common, *options)
    assert code == 0, stderr
    return msgspec.json.decode(stdout, type=dict[str, Any])


def test_a_model_is_written_with_a_card_that_says_how(dataset: Path, tmp_path: Path) -> None:
    facts = trained(dataset, tmp_path, "--objective", "decoder", "--optimiser", "sgd", "--learning-rate", 0.01, "--bf16")

    manifest: Manifest = load_checkpoint(tmp_path / "model").manifest
    card = msgspec.json.decode(Path(facts["run_card"]).read_bytes(), type=RunCard)
    assert Scorer.load(tmp_path / "model").model_version == facts["model_version"] == manifest.model_version
    assert manifest.contract.network.decoder
    assert card.data_fingerprint == manifest.provenance.data_fingerprint
    assert card.settings["optimiser"]["name"] == "sgd"
    assert card.settings["loop"]["bf16"]
    assert card.fitted.steps > 0
    assert list((tmp_path / "runs").rglob("events.out.tfevents*"))
    assert not list((tmp_path / "runs").rglob("state.json"))

    code, _, stderr = run("train", dataset, "--out", tmp_path / "model")
    assert (code, "found a model in" in stderr) == (2, True)
    assert load_checkpoint(tmp_path / "model").manifest == manifest


def test_a_file_in_place_of_the_model_is_found_before_training(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("notes")

    code, _, stderr = run("train", dataset, "--out", tmp_path / "model", "--encoder", RANDOM_TINY)

    assert (code, "expected a folder" in stderr, "examples" in stderr) == (2, True, False)


def test_an_encoder_of_a_folder_goes_with_the_model(dataset: Path, tmp_path: Path) -> None:
    tuned_checkpoint(tmp_path / "tuned")
    (tmp_path / "tuned" / "encoder" / "notes.pdf").write_bytes(b"no part of an encoder")

    trained(dataset, tmp_path, "--encoder", tmp_path / "tuned" / "encoder")
    rmtree(tmp_path / "tuned")

    manifest = load_checkpoint(tmp_path / "model").manifest
    assert manifest.contract.encoder_uri == OWN_ENCODER
    assert Scorer.load(tmp_path / "model").encoder.encoder_id == manifest.contract.encoder_id
    assert not (tmp_path / "model" / "encoder" / "notes.pdf").exists()


def test_tuned_settings_can_be_trained_with_and_a_study_goes_on(dataset: Path, tmp_path: Path) -> None:
    best, common = tmp_path / "best.json", (*TUNE, "--storage", tmp_path / "tune.db")
    code, _, stderr = run("tune", dataset, "--out", best, "--trials", 1, *common)
    assert code == 0, stderr
    assert "trial 0" in stderr

    code, stdout, stderr = run("tune", dataset, "--out", best, "--trials", 2, *common, "--json")

    assert code == 0, stderr
    assert "trial 0" not in stderr
    assert msgspec.json.decode(stdout)["trials"] == 2
    settings = msgspec.json.decode(best.read_bytes(), type=TrainConfig)
    trained(dataset, tmp_path, "--settings", best)
    assert load_checkpoint(tmp_path / "model").manifest.contract.network.width == settings.width


def test_few_labels_give_a_curve_and_no_model(dataset: Path, tmp_path: Path) -> None:
    facts = trained(dataset, tmp_path, "--few-labels", "1,0.5")

    assert [point["share"] for point in facts["points"]] == [0.5, 1.0]
    assert facts["points"][0]["examples"] < facts["points"][1]["examples"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["few_labels.json"]
    for wrong in ("2", "0", "half"):
        code, _, stderr = run("train", dataset, "--out", tmp_path / "model", "--few-labels", wrong)
        assert (code, f"found --few-labels {wrong}" in stderr) == (2, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_with_the_option_that_works(dataset: Path, tmp_path: Path) -> None:
    code, _, stderr = run("train", dataset, "--out", tmp_path / "model", "--device", "cuda")
    assert (code, "use --device cpu" in stderr) == (2, True)


def test_what_is_no_dataset_or_no_settings_is_refused_with_the_next_command(dataset: Path, tmp_path: Path) -> None:
    code, _, stderr = run("train", tmp_path, "--out", tmp_path / "model")
    assert (code, "footfall dataset LOG" in stderr) == (2, True)

    (tmp_path / "bad.json").write_text("{}]")
    code, _, stderr = run("train", dataset, "--out", tmp_path / "model", "--settings", tmp_path / "bad.json")
    assert (code, "footfall tune" in stderr) == (2, True)


def test_a_study_of_one_cut_of_a_log_is_not_gone_on_with_for_another(dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    log = dataset.parent / "log"
    made = CliRunner().invoke(dataset_app, [str(log), "--out", str(other), "--landmarks", "3", "--return", "purchase"])
    assert made.exit_code == 0, made.output
    common = (*TUNE, "--trials", 1, "--storage", tmp_path / "tune.db")
    for directory in (dataset, other):
        code, _, stderr = run("tune", directory, *common, "--out", tmp_path / "best.json")
        assert (code, "trial 0" in stderr) == (0, True), stderr
