"""Search hyperparameters for a preset on a dataset, trial by trial; the study is a file from which the next run resumes.

Optuna's TPE sampler draws each trial from the results of earlier ones. A trial that is worse than their median is pruned.
Only the train and validation slices are used. Start at tune.
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

WARM_TRIALS = 4  # trials that are never pruned


class Tuned(Struct, frozen=True, kw_only=True):
    """The best settings so far and their validation loss; `trials` counts the whole study, earlier runs included."""

    settings: TrainConfig
    loss: float
    trials: int
    ended_early: int


class TrialCurves:
    """Reports a trial's validation loss to optuna, and ends the trial if optuna prunes it."""

    def __init__(self, trial: "optuna.Trial") -> None:
        """Follow one trial."""
        self._trial = trial

    def add(self, name: str, value: float, step: int) -> None:
        """Report one point of a curve."""
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
    """Run trials until the study has `trials` of them or `minutes` have passed; the first one is `start` itself.

    Raises:
        TrainingError: the examples cannot train a model.
        ValueError: no trial finished in time.
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
    fitted_on = [example for example in examples if example.slice in (Slice.TRAIN, Slice.VALIDATION)]

    def value(trial: "optuna.Trial") -> float:
        config, curves = draw(trial, start), TrialCurves(trial)
        return train(fitted_on, [], returns, encoder, config, item_categories=item_categories, curves=curves).fitted.best_value

    left = trials - sum(trial.state.is_finished() for trial in found.trials)
    if left > 0:
        callbacks = [lambda study, trial: after_trial(trial.number, trial.value)]
        found.optimize(value, n_trials=left, timeout=minutes * 60, callbacks=callbacks)
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in found.trials)
    if not any(trial.state == optuna.trial.TrialState.COMPLETE for trial in found.trials):
        raise ValueError(f"found no completed trial after {minutes:g} minutes, expected one: increase --minutes")
    best = found.best_trial
    return Tuned(settings=draw(best, start), loss=best.values[0], trials=len(found.trials), ended_early=pruned)


def draw(trial: "optuna.Trial | optuna.trial.FrozenTrial", start: TrainConfig) -> TrainConfig:
    """Draw the hyperparameters of a trial; everything else comes from `start`."""
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
