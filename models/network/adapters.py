"""Make a chosen part of a pretrained transformer trainable, and merge the result into plain weights for serving.

LoRA and AdaLoRA come from peft and merge into the weights. Bottleneck adapters cannot merge: they stay in a separate file,
which models.network.encoder_parts reads. This module knows neither texts nor labels. Start at adapt.
"""

import re
from enum import StrEnum
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn

from schemas.errors import TrainingError

ATTENTION = r".*\.(query|key|value|q_lin|k_lin|v_lin|q|k|v|q_proj|k_proj|v_proj|Wqkv)"
ADAPTER_PLACES = re.compile(r".*(attention\.output|\d+\.output)\.dense")  # of the BERT family, before each residual sum
PEFT_NAME = "default"


class Peft(StrEnum):
    """Which part of the encoder is trained; the heads always are."""

    NONE = "none"  # no adaptation method: the whole encoder is trained
    HEAD = "head"  # the encoder is frozen
    ADAPTER = "adapter"
    LORA = "lora"
    ADALORA = "adalora"


class AdaptationConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to train. AdaLoRA starts with ranks of 2 x `rank` and ends with `rank` on average.

    With `attention_only`, LoRA changes the attention projections only, else every linear layer. `train_word_embeddings` and
    `frozen_layers` (how many of the lowest layers are frozen) apply to Peft.NONE alone. Word embeddings are most of a
    multilingual encoder, and each batch uses few of them.
    """

    peft: Peft = Peft.LORA
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    attention_only: bool = False
    adapter_width: int = 32
    train_word_embeddings: bool = True
    frozen_layers: int = 0


class BottleneckAdapter(nn.Module):
    """A linear layer followed by a narrow correction of its output; the initial correction is zero."""

    def __init__(self, dense: nn.Linear, width: int) -> None:
        super().__init__()
        self.dense = dense
        self.down = nn.Linear(dense.out_features, width, dtype=dense.weight.dtype)
        self.up = nn.Linear(width, dense.out_features, dtype=dense.weight.dtype)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Map (..., D_in) to (..., D)."""
        mapped = self.dense(states)
        corrected: Tensor = mapped + self.up(torch.nn.functional.gelu(self.down(mapped)))
        return corrected


class RankAllocation:
    """AdaLoRA's rank budget, reallocated by gradient importance; models.training.loop calls it."""

    def __init__(self, model: Any) -> None:
        self._tuner = model.base_model
        self._device = next(model.parameters()).device

    def after_step(self, step: int) -> None:
        """Update importances and ranks from the gradients of step 1, 2, …."""
        self._tuner.update_and_allocate(step)

    def tensors(self) -> dict[str, Tensor]:
        """Return importances and ranks, for a resumed run."""
        allocator = self._tuner.rankallocator
        parts = {"ipt": allocator.ipt, "mean": allocator.exp_avg_ipt, "spread": allocator.exp_avg_unc}
        tensors = {f"{part}|{name}": tensor for part, by_name in parts.items() for name, tensor in by_name.items()}
        ranks = self._tuner.peft_config[PEFT_NAME].rank_pattern or {}
        return tensors | {f"ranks|{name}": torch.tensor(kept) for name, kept in ranks.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore the importances and ranks that `tensors` returned."""
        allocator = self._tuner.rankallocator
        parts = {"ipt": allocator.ipt, "mean": allocator.exp_avg_ipt, "spread": allocator.exp_avg_unc}
        ranks = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition("|")
            if part == "ranks":
                ranks[name] = tensor.tolist()
            else:
                parts[part][name] = tensor.to(self._device)
        self._tuner.peft_config[PEFT_NAME].rank_pattern = ranks or None


def adapt(model: Any, config: AdaptationConfig, total_steps: int) -> Any:
    """Return the model with gradients enabled for exactly the configured part; draws from torch's random state.

    Raises:
        TrainingError: adapters do not support the architecture.
    """
    if config.peft is Peft.NONE:
        model.requires_grad_(True)
        for part in _frozen(model, config):
            part.requires_grad_(False)
        return model
    model.requires_grad_(False)
    if config.peft is Peft.ADAPTER:
        insert_adapters(model, config.adapter_width)
    elif config.peft in (Peft.LORA, Peft.ADALORA):
        model = _low_rank(model, config, total_steps)
    return model


def _frozen(model: Any, config: AdaptationConfig) -> list[nn.Module]:
    parts = [] if config.train_word_embeddings else [model.get_input_embeddings()]
    if config.frozen_layers:
        layers = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)
        parts += [model.embeddings, *layers[: config.frozen_layers]]
    return parts


def _low_rank(model: Any, config: AdaptationConfig, total_steps: int) -> Any:
    import peft

    places = ATTENTION if config.attention_only else "all-linear"
    if config.peft is Peft.LORA:
        settings = peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=places, bias="none"
        )
    else:
        settings = peft.AdaLoraConfig(
            init_r=2 * config.rank,
            target_r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=places,
            total_step=max(total_steps, 3),
            tinit=total_steps // 10,
            tfinal=total_steps // 5,
            deltaT=max(total_steps // 50, 1),
        )
    return peft.get_peft_model(model, settings)


def insert_adapters(model: Any, width: int) -> None:
    """Insert a bottleneck adapter after the last linear layer of every attention and every feed-forward block.

    Raises:
        TrainingError: the model is not of the BERT family.
    """
    places = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ADAPTER_PLACES.fullmatch(name)
    ]
    if not places:
        raise TrainingError(
            f"found a {model.config.model_type} model, expected one of the BERT family for adapters: use --peft lora"
        )
    for name in places:
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, BottleneckAdapter(model.get_submodule(name), width))


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapters' own weights, by their full names; empty if there are no adapters."""
    names = [name for name, module in model.named_modules() if isinstance(module, BottleneckAdapter)]
    own = tuple(f"{name}.{part}." for name in names for part in ("down", "up"))
    return {name: tensor for name, tensor in model.state_dict().items() if own and name.startswith(own)}


def rank_allocation(model: Any, config: AdaptationConfig) -> RankAllocation | None:
    """Return AdaLoRA's rank allocation, to be called after every step; None for the other methods."""
    return RankAllocation(model) if config.peft is Peft.ADALORA else None


def orthogonality(model: nn.Module) -> Tensor:
    """Return the mean distance of AdaLoRA's factors from orthogonality; its ranks are meaningless without it."""
    distances = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            products = factor @ factor.T if "lora_A" in name else factor.T @ factor
            distances.append(torch.linalg.matrix_norm(products - torch.eye(len(products), device=products.device)))
    return torch.stack(distances).mean()


def merged(model: Any) -> Any:
    """Return the plain transformer with the low-rank corrections merged into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
