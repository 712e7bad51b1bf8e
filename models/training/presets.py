"""Define named presets for training a user model, each sized for the data it is named after. Start at PRESETS."""

from msgspec import Struct

from models.serving.checkpoint import DEFAULT_CHURN_DAYS
from models.training.loop import LoopConfig
from models.training.objective import Weights
from models.training.optimisation import OptimiserConfig


class TrainConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train a user model; equal configurations, datasets, encoders and thread counts give equal weights.

    `items` bounds the vocabulary of the item head; 0 disables it. Each of its items has `least_item_users` users; other items
    share rows by hash. `next_items` is how many following items are predicted. `negatives` is how many items are sampled for
    a batch's softmax; 0 takes all. `fade_days` is the half-life of item counts. `label_share` is the share of training users
    whose labels are used, for few-label curves. `copies` of every training example get a randomly changed history.
    `churn_days` is the horizon that churn-risk events report.
    """

    loop: LoopConfig = LoopConfig(epochs=6, patience=2)
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=1e-3, weight_decay=0.1)
    weights: Weights = Weights()
    decoder: bool = False
    causal: bool = False
    batch_rows: int = 128
    dropout: float = 0.3
    width: int = 128
    blocks: int = 2
    heads: int = 4
    max_events: int = 32
    max_labels: int = 64
    least_label_examples: int = 5
    items: int = 0
    least_item_users: int = 5
    next_items: int = 10
    negatives: int = 0
    fade_days: float = 60.0
    label_share: float = 1.0
    copies: int = 0
    churn_days: int = DEFAULT_CHURN_DAYS


PRESETS = {
    "demo": TrainConfig(),
    "uci": TrainConfig(
        loop=LoopConfig(epochs=8, patience=2),
        optimiser=OptimiserConfig(learning_rate=1e-3, weight_decay=1.0),
        weights=Weights(interest=0.5, hazards=1.0, items=0.1),
        batch_rows=256,
        dropout=0.5,
        width=48,
        blocks=1,
        heads=2,
        max_events=32,
        items=4_000,
        negatives=512,
    ),
    "yoochoose": TrainConfig(
        loop=LoopConfig(epochs=8, patience=2),
        optimiser=OptimiserConfig(learning_rate=4e-3, weight_decay=0.01),
        weights=Weights(interest=0.2, hazards=0.2, items=1.0),
        causal=True,
        batch_rows=256,
        dropout=0.3,
        width=64,
        blocks=1,
        heads=2,
        max_events=20,
        items=40_000,
        least_item_users=1,
        next_items=1,
        negatives=1_024,
        fade_days=3.0,
    ),
}
