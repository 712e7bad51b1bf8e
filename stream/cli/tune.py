"""Define `footfall tune`, which searches for the hyperparameters with the lowest validation loss. Start at tune_command."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from schemas.errors import FootfallError
from stream.cli.options import AsJson
from stream.cli.train import DEFAULT_ENCODER


def tune_command(
    dataset: Annotated[Path, typer.Argument(help="Directory of a dataset from footfall dataset.")],
    out: Annotated[Path, typer.Option("--out", help="File for the best hyperparameters, for footfall train --settings.")],
    preset: Annotated[Literal["demo", "uci", "yoochoose"], typer.Option(help="Preset to start the search from.")] = "demo",
    trials: Annotated[int, typer.Option(min=1, help="Trials of the study, including those of earlier runs.")] = 20,
    minutes: Annotated[float, typer.Option(min=0, help="Start no trial after this many minutes.")] = 30.0,
    storage: Annotated[Path, typer.Option(help="SQLite file of trials; the same study resumes from it.")] = Path(
        "runs/tune.db"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Maximum epochs per trial; default: the preset's.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed draws the same trials.")] = 1,
    encoder: Annotated[str, typer.Option(help="Text encoder: pkg:PACKAGE or a Hugging Face folder.")] = DEFAULT_ENCODER,
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads; default: torch's own choice.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search for the hyperparameters with the lowest validation loss. Never reads the test slice. Can be resumed."""
    import hashlib

    import msgspec
    from msgspec.structs import replace

    from models.data.dataset_files import read_categories, read_examples, read_manifest
    from models.data.examples import Slice
    from models.network.encoder import Encoder
    from models.training.presets import PRESETS
    from models.training.tuning import tune

    def say(number: int, loss: float | None) -> None:
        typer.echo(f"trial {number}: " + ("pruned" if loss is None else f"validation loss {loss:.4f}"), err=True)

    try:
        manifest = read_manifest(dataset)
        loaded = Encoder.load(encoder, threads=threads)
        start = PRESETS[preset]
        start = replace(start, loop=replace(start.loop, epochs=epochs or start.loop.epochs))
        inputs = msgspec.json.encode([manifest, start, loaded.encoder_id])  # losses compare only within equal inputs
        found = tune(
            read_examples(dataset, (Slice.TRAIN, Slice.VALIDATION)),
            manifest.labelling.returns,
            loaded,
            start,
            storage=storage,
            study=f"{preset}-{hashlib.sha256(inputs).hexdigest()[:12]}",
            trials=trials,
            minutes=minutes,
            seed=seed,
            item_categories=read_categories(dataset),
            after_trial=say,
        )
        out.write_bytes(msgspec.json.format(msgspec.json.encode(found.settings)) + b"\n")
    except (FootfallError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(
        f"{out}: validation loss {found.loss:.4f}, the best of {found.trials} trials ({found.ended_early} pruned); "
        f"next: footfall train {dataset} --settings {out} --out MODEL",
        err=True,
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
