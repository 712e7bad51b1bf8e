"""Load a scorer that the scorer role can serve, from a checkpoint folder or a registry. Start at load_scorer."""

from pathlib import Path

from models.network.encoder import Encoder
from models.serving.scorer import Scorer
from schemas.errors import ModelError


def load_scorer(folder: Path, *, threads: int | None = None, encoder: Encoder | None = None) -> Scorer:
    """Load a model and check that it has the horizon that churn-risk events report.

    Raises:
        ModelError: the model cannot be loaded, or lacks the horizon.
        RegistryError: no model of the registry is in production.
    """
    scorer = Scorer.load(folder, threads=threads, encoder=encoder)
    if scorer.churn_days not in scorer.horizons_days:
        raise ModelError(
            f"model {scorer.model_version} has horizons of {list(scorer.horizons_days)} days, expected "
            f"{scorer.churn_days} days among them, as churn-risk events report that horizon: train it on a longer log, or with "
            "another --churn-days"
        )
    return scorer
