"""A dataset and a preset → the settings that validate best, trial by trial, in a file that the next run goes on from.

Trials are drawn by optuna's TPE from their forerunners; one that falls behind the middle of them is ended early. Only the
train and validation slices are looked at. Start at tune.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from models.data.examples import Example, Slice
from models.network.encoder import Encoder
from models.training.presets import TrainConfig
from models.training.train_user_model import train

if TYPE_CHECKING:
    import optuna

WARM_TRIALS = 4  # trials that are never ended early


class Tuned(Struct, frozen=True, kw_only=True):
    """The best settings so far and their validation loss; `trials` counts all of the study, also those of earlier runs."""

    settings: TrainConfig
    loss: float
    trials: int
    ended_early: int


class TrialCurves:
    """Tells optuna how a trial validates, and ends it where optuna says so."""

    def __init__(self, trial: "optuna.Trial") -> None:
        """Follow one trial."""
        self._trial = trial

    def add(self, name: str, value: float, step: int) -> None:
        """Take a point of a curve."""
        from optuna import TrialPruned

        if name == "loss/validation":
            self._trial.report(value, step)
            if self._trial.should_prune():
                raise TrialPruned


def tune(
    examples: Sequence[Example],
    returns: Literal["any", "purchase"],
    encoder: Encoder,
    start: TrainConfig,
    *,
    storage: Path,
    study: str,
    trials: int,
    minutes: float,
    seed: int = 1,
    item_categories: Mapping[str, str] | None = None,
    after_trial: Callable[[int, float | None], None] = lambda number, loss: None,
) -> Tuned:
    """Run trials until so many are in the study or so many minutes are over; the first one is `start` as it is.

    Raises:
        TrainingError: the examples teach nothing.
        ValueError: no trial was finished in the time given.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage.parent.mkdir(parents=True, exist_ok=True)
    found = optuna.create_study(
        storage=f"sqlite:///{storage}",
        study_name=study,
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=WARM_TRIALS),
        load_if_exists=True,
    )
    if not found.trials:
        found.enqueue_trial(_as_drawn(start))
    learnt_from = [example for example in examples if example.slice in (Slice.TRAIN, Slice.VALIDATION)]

    def value(trial: "optuna.Trial") -> float:
        config, curves = draw(trial, start), TrialCurves(trial)
        return train(
            learnt_from, [], returns, encoder, config, item_categories=item_categories, curves=curves
        ).fitted.best_value

    left = trials - sum(trial.state.is_finished() for trial in found.trials)
    if left > 0:
        callbacks = [lambda study, trial: after_trial(trial.number, trial.value)]
        found.optimize(value, n_trials=left, timeout=minutes * 60, callbacks=callbacks)
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in found.trials)
    if not any(trial.state == optuna.trial.TrialState.COMPLETE for trial in found.trials):
        raise ValueError(f"found no finished trial after {minutes:g} minutes: give more --minutes")
    best = found.best_trial
    return Tuned(settings=draw(best, start), loss=best.values[0], trials=len(found.trials), ended_early=pruned)


def draw(trial: "optuna.Trial | optuna.trial.FrozenTrial", start: TrainConfig) -> TrainConfig:
    """Draw what is searched for; everything else is as `start` has it."""
    return replace(
        start,
        optimiser=replace(
            start.optimiser,
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
            weight_decay=trial.suggest_float("weight_decay", 1e-3, 2.0, log=True),
        ),
        dropout=trial.suggest_float("dropout", 0.0, 0.6),
        width=trial.suggest_categorical("width", [32, 48, 64, 128]),
        blocks=trial.suggest_int("blocks", 1, 2),
        max_events=trial.suggest_categorical("max_events", [8, 16, 20, 32, 50]),
    )


def _as_drawn(config: TrainConfig) -> dict[str, float]:
    return {
        "learning_rate": config.optimiser.learning_rate,
        "weight_decay": config.optimiser.weight_decay,
        "dropout": config.dropout,
        "width": config.width,
        "blocks": config.blocks,
        "max_events": config.max_events,
    }
