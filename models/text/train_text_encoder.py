"""Train a text encoder on reviews by a recipe; write a folder with the encoder, its heads, metrics and run card.

The steps in order: clean, check that the encoder reads the language, augment, tokenise, fine-tune, write, evaluate what was
written. An interrupted run resumes. Start at train_text.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct, structs

from models.data.examples import ReviewExample, Slice
from models.linear.linear_model import Indices
from models.linear.words import analysers, words
from models.network.encoder import Encoder
from models.network.encoder_parts import Parts, encoder_licence, load_parts
from models.serving.tuned_encoder import ENCODER, TunedManifest, load_tuned, save_manifest, save_weights
from models.text.augmentation import AugmentationConfig, augment_reviews, load_translation
from models.text.cleaning import DropConfig, clean_reviews, worth_training
from models.text.evaluate_text_encoder import evaluate_text
from models.text.few_labels import CurvePoint, few_labels_curve
from models.text.fine_tuning import TextConfig, Tuned, fine_tune
from models.text.language import check_readable
from models.text.review_files import Reviews
from models.text.synonyms import word_neighbours
from models.text.text_batches import ReviewRows, prepare
from models.training.run_card import RunCard, machine_facts, tensorboard, write_run_card

RUN_CARD, CURVES = "run_card.json", "tensorboard"


class TextRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a run except its reviews; None leaves a step out."""

    encoder: str
    config: TextConfig
    drop: DropConfig | None = DropConfig()
    augmentation: AugmentationConfig | None = None
    translation: str | None = None
    refuse_unreadable: bool = True
    ablations: bool = False


class TextRunResult(Struct, frozen=True, kw_only=True):
    """The result of a run."""

    manifest: TunedManifest
    card: RunCard
    cleaned: dict[str, int]
    warning: str | None


def train_text(
    reviews: Reviews, run: TextRun, out: Path, *, command: str, created_at: str, device: str = "cpu"
) -> TextRunResult:
    """Run all steps and write `out`; blocks until done. Resumes from the saved state if `out` has one of this very run.

    Raises:
        TrainingError: the reviews or a part of the recipe cannot be used.
        ModelError: the encoder cannot be used.
    """
    parts = load_parts(run.encoder, torch.float32)
    examples, cleaned, warning = prepare_reviews(reviews.examples, run, parts)
    rows = prepare(examples, parts, run.config.max_tokens)
    cuts = analysers(_language(examples)) if run.ablations else {}
    for cut in cuts.values():
        cut(examples[0].text)  # fail now, not after training, if the language is not supported
    state = out / f"state-{_run_id(reviews, run, parts)}"
    with tensorboard(out / CURVES) as curves:
        tuned = fine_tune(rows, parts, run.config, device=device, state_folder=state, curves=curves)
    licence = encoder_licence(run.encoder)
    save_weights(out, parts._replace(model=tuned.body.cpu()), tuned.heads.cpu(), licence)
    encoder = Encoder.load(str(out / ENCODER))
    metrics = evaluate_text(encoder, tuned.heads, rows, ablations=cuts)
    manifest = save_manifest(
        out,
        base_encoder_uri=run.encoder,
        base_encoder_id=parts.encoder_id,
        encoder_id=encoder.encoder_id,
        licence=licence,
        heads=tuned.heads_config,
        config=msgspec.to_builtins(run.config),
        metrics=metrics,
    )
    card = RunCard(
        command=command,
        created_at=created_at,
        data_fingerprint=reviews.fingerprint,
        settings=msgspec.to_builtins(run),
        parameters=tuned.parameters,
        examples={part: len(rows.slices[part]) for part in Slice},
        machine=machine_facts(device),
        fitted=tuned.fitted,
        examples_per_second=round(tuned.fitted.examples / max(tuned.fitted.seconds, 1e-9), 1),
        metrics=metrics,
    )
    write_run_card(out / RUN_CARD, card)
    load_tuned(out)  # check that the written folder loads
    shutil.rmtree(state, ignore_errors=True)
    return TextRunResult(manifest=manifest, card=card, cleaned=cleaned, warning=warning)


def prepare_reviews(
    examples: list[ReviewExample], run: TextRun, parts: Parts
) -> tuple[list[ReviewExample], dict[str, int], str | None]:
    """Clean, check and augment; return the examples, counts of cleaning by reason, and a warning about the language."""
    examples, counts = clean_reviews(examples)
    if run.drop is not None:
        examples, dropped = worth_training(examples, run.drop)
        counts += dropped
    cleaned = {str(reason): count for reason, count in counts.most_common()}
    encoder = Encoder(run.encoder, parts, 1)
    warning = check_readable(encoder, [example.text for example in examples], refuse=run.refuse_unreadable)
    if run.augmentation is not None:
        known = {word for e in examples if e.slice is Slice.TRAIN for word in words(e.text, e.language)}
        translate = load_translation(run.translation) if run.translation else None
        examples = augment_reviews(examples, run.augmentation, word_neighbours(encoder, known), translate)
    return examples, cleaned, warning


def few_labels(reviews: Reviews, run: TextRun, sizes: list[int], device: str = "cpu") -> list[CurvePoint]:
    """Train anew on more and more reviews, and measure each model on the same test slice; nothing is written."""
    parts = load_parts(run.encoder, torch.float32)
    examples, _, _ = prepare_reviews(reviews.examples, structs.replace(run, augmentation=None), parts)
    rows = prepare(examples, parts, run.config.max_tokens)
    return few_labels_curve(rows, sizes, run.config.loop.seed, _trainer(rows, run, device))


def _trainer(rows: ReviewRows, run: TextRun, device: str) -> Callable[[Indices], dict[str, Any]]:
    def train_and_measure(train_rows: Indices) -> dict[str, Any]:
        parts = load_parts(run.encoder, torch.float32)
        tuned: Tuned = fine_tune(rows, parts, run.config, device=device, train_rows=train_rows)
        encoder = Encoder(run.encoder, parts._replace(model=tuned.body.cpu()), len(rows.texts))
        return evaluate_text(encoder, tuned.heads.cpu(), rows, train_rows=train_rows)

    return train_and_measure


def _language(examples: list[ReviewExample]) -> str:
    """Return the language of most reviews."""
    languages = [example.language for example in examples]
    return max(sorted(set(languages)), key=languages.count)


def _run_id(reviews: Reviews, run: TextRun, parts: Parts) -> str:
    identity = msgspec.json.encode([reviews.fingerprint, run, parts.encoder_id])
    return hashlib.sha256(identity).hexdigest()[:12]
