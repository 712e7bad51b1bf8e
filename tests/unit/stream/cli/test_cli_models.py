"""`footfall models` as a newcomer uses it: tables, JSON, and exit codes that a script can act on."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from models.serving.checkpoint import WEIGHTS
from stream.cli.models import app
from tests.checkpoints import EASY, IMPOSSIBLE, flip_a_byte, report, tiny_checkpoint


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("easy.yaml").write_bytes(msgspec.yaml.encode(EASY))
    Path("impossible.yaml").write_bytes(msgspec.yaml.encode(IMPOSSIBLE))


def models(*arguments: str) -> tuple[int, str, str]:
    ended = CliRunner().invoke(app, list(arguments))
    return ended.exit_code, ended.stdout, ended.stderr


def found(*arguments: str) -> Any:
    code, out, err = models(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def trained(name: str, seed: int, **verdict: dict[str, Any]) -> str:
    version = tiny_checkpoint(Path(name), seed=seed).model_version
    if verdict:
        report(Path(name), **verdict)
    return version


def promote(model: str, *arguments: str) -> Any:
    return found("promote", model, "--golden", "easy.yaml", *arguments)


def test_folders_are_promoted_listed_shown_and_gone_back_from() -> None:
    one, two = trained("a", 1, churn={"wins": True, "text": "AUC .81 against .78"}), trained("b", 2)

    assert promote("a")["promoted"] == one
    assert promote("b", "--force", "a trial")["promoted"] == two
    listed = found("ls")
    assert (listed["current"], [model["verdict"] for model in listed["models"] if model["model_version"] == one]) == (
        two,
        ["wins"],
    )
    shown = found("show", two)
    assert (shown["verdict"], shown["history"][0]["without_report"]) == (None, "a trial")
    assert found("rollback")["promoted"] == one
    assert f"* {one}" in models("ls")[1]
    assert "AUC .81 against .78" in models("show", one)[1]


def test_an_added_model_does_not_serve() -> None:
    version = trained("a", 1)

    assert found("add", "a") == {"model_version": version, "registry": "models-registry"}
    assert found("ls")["current"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--golden", "easy.yaml"), "no_report"),
        (("--golden", "impossible.yaml", "--force", "x"), "golden_user"),
    ],
)
def test_a_refused_promotion_ends_with_3_and_names_its_ground(arguments: tuple[str, ...], reason: str) -> None:
    trained("a", 1)

    code, out, err = models("promote", "a", "--json", *arguments)

    assert code == 3
    assert json.loads(out)["refused"] == reason
    assert err.startswith(f"refused: {reason}: ")


def test_a_baseline_that_wins_and_an_altered_model_are_refused() -> None:
    trained("a", 1, churn={"wins": False, "beaten_by": ["recency"]})
    trained("b", 2)
    flip_a_byte(Path("b") / WEIGHTS)

    assert models("promote", "a", "--golden", "easy.yaml")[::2] == (
        3,
        "refused: baseline_wins: churn: beaten by recency: train another model, or promote one that no baseline beats\n",
    )
    for command in ("promote", "check"):
        code, out, _ = models(command, "b", "--golden", "easy.yaml", "--json")
        assert (code, json.loads(out)["refused"]) == (3, "unusable")


def test_a_check_prints_what_each_story_found_and_ends_with_3_where_one_fails() -> None:
    trained("a", 1)

    code, out, _ = models("check", "a", "--golden", "easy.yaml", "--json")
    assert (code, json.loads(out)["counts"]) == (0, {"passed": 8, "failed": 0, "skipped": 0})
    code, out, err = models("check", "a", "--golden", "impossible.yaml")
    assert (code, "risk within 1d at most 0" in out, "1 failed" in err) == (3, True, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("show", "nothing"), "found no model nothing in models-registry, expected one of: none; see footfall models ls"),
        (("rollback",), "found no registry models-registry"),
        (("promote", "nothing"), "found no model nothing"),
        (("promote", "nothing", "--force", " "), "found --force without a reason"),
        (("check", "nothing", "--golden", "absent.yaml"), "found no model nothing"),
        (("ls", "--registry", "broken"), "expected what footfall models promote writes"),
    ],
)
def test_a_mistake_ends_with_2_and_one_line(arguments: tuple[str, ...], text: str) -> None:
    Path("broken").mkdir()
    Path("broken/production.json").write_text("{")

    code, out, err = models(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith("error: ") and text in err and err.count("\n") == 1
