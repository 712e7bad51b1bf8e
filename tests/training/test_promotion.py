"""Promotion: only a model that is whole, beats its baselines and is right about golden users comes to serve."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.data.examples import Slice
from models.data.labels import Labelling
from models.data.landmarks import DEFAULT_SHARES, Sampling, periods_of
from models.evaluation.report_document import REPORT
from models.network.encoder import Encoder
from models.network.encoder_parts import RANDOM_TINY
from models.serving.checkpoint import WEIGHTS, Manifest, Provenance, save_checkpoint
from models.serving.golden_users import Golden, load_golden
from models.serving.registry import Registry
from models.training.loop import LoopConfig
from models.training.presets import TrainConfig
from models.training.train_user_model import train
from schemas.errors import PromotionRefused, RegistryError
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig
from stream.offline.build_dataset import Plan, cut_dataset, slice_ends
from stream.offline.promotion import Promoted, RefusalReason, promote
from stream.process.settings import load_settings
from tests.checkpoints import EASY, IMPOSSIBLE, flip_a_byte, report, tiny_checkpoint

WINS = {"wins": True}
LOSES = {"wins": False, "beaten_by": ["recency"], "text": "AUC 0.51 against 0.70 of recency"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def ask(registry: Registry, model: Path | str, golden: Golden = EASY, **how: Any) -> Promoted:
    return promote(registry, str(model), golden, at="2026-11-01", command="promote", **how)


def refused(registry: Registry, model: Path | str, **how: Any) -> tuple[RefusalReason, str]:
    before = registry.production(), registry.versions()
    with pytest.raises(PromotionRefused) as caught:
        ask(registry, model, **how)
    assert (registry.production(), registry.versions()) == before
    return caught.value.reason, str(caught.value)


def test_a_folder_that_wins_is_added_and_serves_and_so_does_a_version(registry: Registry, tmp_path: Path) -> None:
    one, two = (tiny_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    for name in "ab":
        report(tmp_path / name, churn=WINS, interest=WINS)

    promoted = ask(registry, tmp_path / "a")
    registry.add(tmp_path / "b")

    assert promoted.model_version == promoted.production.current == one.model_version
    assert ask(registry, two.model_version).production.current == two.model_version


def test_a_model_without_a_report_is_promoted_for_a_stated_reason_alone(registry: Registry, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "a")

    reason, text = refused(registry, tmp_path / "a")
    promoted = ask(registry, tmp_path / "a", without_report="the first model")

    assert reason == RefusalReason.NO_REPORT
    assert "run footfall evaluate on this model, or promote it with --force REASON" in text
    assert promoted.production.history[-1].without_report == "the first model"


def test_no_reason_overrules_a_report_that_a_baseline_wins(registry: Registry, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "a")
    report(tmp_path / "a", interest=WINS, churn=LOSES)

    reason, text = refused(registry, tmp_path / "a", without_report="please")

    assert reason == RefusalReason.BASELINE_WINS
    assert text.startswith("baseline_wins: churn: AUC 0.51 against 0.70 of recency")


def test_a_folder_without_the_report_that_was_added_with_it_does_not_escape_that(registry: Registry, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "a")
    report(tmp_path / "a", churn=LOSES)
    registry.add(tmp_path / "a")
    (tmp_path / "a" / REPORT).unlink()

    assert refused(registry, tmp_path / "a", without_report="please")[0] == RefusalReason.BASELINE_WINS


def test_a_report_from_elsewhere_is_kept_beside_the_model(registry: Registry, tmp_path: Path) -> None:
    version = tiny_checkpoint(tmp_path / "a").model_version
    (tmp_path / "reports").mkdir()
    report(tmp_path / "reports", churn=WINS)

    promote(registry, str(tmp_path / "a"), EASY, at="", command="", report=tmp_path / "reports" / REPORT)

    assert (registry.checkpoint(version) / REPORT).read_bytes() == (tmp_path / "reports" / REPORT).read_bytes()


def test_a_named_report_that_is_not_there_is_missing_whatever_the_reason(registry: Registry, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "a")

    reason, text = refused(registry, tmp_path / "a", report=tmp_path / "nothing.json", without_report="please")

    assert (reason, "found no" in text, "nothing.json" in text) == (RefusalReason.NO_REPORT, True, True)


def test_the_report_that_was_judged_is_kept_though_adding_the_folder_replaces_it(registry: Registry, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "a")
    report(tmp_path / "a", churn=WINS)
    kept = registry.checkpoint(registry.add(tmp_path / "a")) / REPORT
    judged = kept.read_bytes()
    report(tmp_path / "a", churn=LOSES)

    ask(registry, tmp_path / "a", report=kept)

    assert kept.read_bytes() == judged


def test_nothing_is_added_where_nothing_can_be_promoted(registry: Registry, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "a")
    registry.folder.mkdir()
    (registry.folder / "production.json").write_bytes(b"{")

    with pytest.raises(RegistryError, match="move it away"):
        ask(registry, tmp_path / "a", without_report="the first model")

    assert registry.versions() == []


@pytest.mark.parametrize(
    "content", [b"{", b"{}", b'{"verdict": {}}', b'{"verdict": {"a": {"wins": true}}, "model_version": "other"}']
)
def test_a_report_that_says_nothing_of_the_model_is_refused(registry: Registry, tmp_path: Path, content: bytes) -> None:
    tiny_checkpoint(tmp_path / "a")
    (tmp_path / "a" / REPORT).write_bytes(content)

    assert refused(registry, tmp_path / "a", without_report="please")[0] == RefusalReason.BAD_REPORT


def test_no_reason_overrules_a_golden_user(registry: Registry, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "a")

    reason, text = refused(registry, tmp_path / "a", golden=IMPOSSIBLE, without_report="please")

    assert reason == RefusalReason.GOLDEN_USER
    assert "nobody: expected 0d of silence: risk within 1d at most 0, found" in text


def test_an_altered_model_and_one_that_signals_cannot_be_made_of_are_refused(registry: Registry, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "altered")
    flip_a_byte(tmp_path / "altered" / WEIGHTS)
    tiny_checkpoint(tmp_path / "short", horizons_days=[1, 7])

    assert refused(registry, tmp_path / "altered", without_report="x")[0] == RefusalReason.UNUSABLE
    reason, text = refused(registry, tmp_path / "short", without_report="x")
    assert (reason, "expected 30 days" in text) == (RefusalReason.UNUSABLE, True)


def test_what_is_neither_a_version_nor_a_folder_is_no_refusal_but_a_mistake(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="found no model nothing"):
        ask(registry, "nothing")


def trained_on_shuffled_labels(folder: Path) -> Manifest:
    """Train on a made shop in which everybody has the future of somebody else."""
    log = [event.logged for event in simulate(SimulatorConfig(shoppers=120, days=120, seed=5))]
    ends = slice_ends(log[0].record_ms, log[-1].record_ms + 1, DEFAULT_SHARES)
    plan = Plan(
        periods=tuple(periods_of(log[0].record_ms, ends)),
        sampling=Sampling(landmarks=0, at_events=16, max_examples=2_000),
        labelling=Labelling(),
        cluster_categories=0,
    )
    examples = cut_dataset(log, load_settings(), plan).examples
    shuffled = []
    for kind in Slice:
        known = [example for example in examples if example.slice is kind]
        others = random.Random(1).sample(known, len(known))
        for one, other in zip(known, others, strict=True):
            request, landmark_ms = one.request, one.landmark_ms
            shuffled.append(msgspec.structs.replace(other, request=request, landmark_ms=landmark_ms, since_ms=one.since_ms))
    config = TrainConfig(loop=LoopConfig(epochs=2), width=32, blocks=1, heads=2, max_events=16)
    trained = train(shuffled, [], "any", Encoder.load(RANDOM_TINY), config)
    provenance = Provenance(command="", created_at="", data_fingerprint="", settings={}, metrics=trained.metrics, licence="")
    return save_checkpoint(folder, name="shuffled", network=trained.network, contract=trained.contract, provenance=provenance)


def test_a_model_trained_on_shuffled_labels_is_not_promoted(registry: Registry, tmp_path: Path) -> None:
    metrics = trained_on_shuffled_labels(tmp_path / "shuffled").provenance.metrics
    churn = metrics["churn"]["7d"]

    assert abs(churn["auc"] - 0.5) < 0.1
    reason, text = refused(registry, tmp_path / "shuffled", golden=load_golden(), without_report="please")
    assert reason == RefusalReason.GOLDEN_USER, text
