"""Write tiny servable checkpoints for tests, with random weights and a random encoder. Start at tiny_checkpoint."""

from pathlib import Path
from typing import Any

import msgspec
import torch

from models.features.spec import FEATURE_SPEC
from models.network.encoder import Encoder
from models.network.encoder_parts import RANDOM_TINY
from models.network.inputs import Normalisation
from models.network.network import Network, NetworkConfig
from models.network.rhythm import RHYTHM_NAMES
from models.serving.checkpoint import ENCODER, OWN_ENCODER, Calibration, Contract, Manifest, Platt, Provenance, save_checkpoint
from models.serving.golden_users import Golden, RiskBounds, Step, Story

LABELS = ["books", "kitchen"]
HORIZONS = [1, 3, 7, 14, 30, 60]
EASY = Golden(  # any model passes
    stories={
        "anybody": Story(
            about="Somebody comes.",
            script=[Step(do="visit", at="0d"), Step(do="browse", at="1m", category="books")],
            risk=[RiskBounds(silent="1d", within="3d", at_least=0.0)],
        )
    }
)
IMPOSSIBLE = Golden(
    stories={
        "nobody": Story(
            about="Nobody.", script=[Step(do="visit", at="0d")], risk=[RiskBounds(silent="0d", within="1d", at_most=0.0)]
        )
    }
)


def tiny_checkpoint(folder: Path, *, seed: int = 0, encoder: Encoder | None = None, **changes: Any) -> Manifest:
    """Write a checkpoint with random weights; `changes` apply to its contract. Different seeds give different versions."""
    encoder, numbers = encoder or Encoder.load(RANDOM_TINY), len(FEATURE_SPEC.names) + len(RHYTHM_NAMES)
    horizons = changes.get("horizons_days", HORIZONS)
    sizes = {"text_dimension": encoder.dimension, "numbers": numbers, "labels": len(LABELS), "horizons": len(horizons)}
    config = NetworkConfig(**sizes, width=16, heads=2, blocks=1, max_events=8)
    contract = Contract(
        spec_version=FEATURE_SPEC.version,
        rhythm=list(RHYTHM_NAMES),
        returns="any",
        encoder_uri=encoder.uri,
        encoder_id=encoder.encoder_id,
        labels=LABELS,
        horizons_days=horizons,
        network=config,
        normalisation=Normalisation([4.0] * numbers, [2.0] * numbers),
        calibration=Calibration(interest=Platt(), hazards=[Platt()] * len(horizons), sentiment=Platt(1.5, 0.0)),
    )
    provenance = Provenance(
        command="footfall train dataset",
        created_at="2026-11-01T00:00:00Z",
        data_fingerprint="f",
        settings={},
        metrics={},
        licence="MIT",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(config).eval()
    contract = msgspec.structs.replace(contract, **changes)
    return save_checkpoint(folder, name="tiny", network=network, contract=contract, provenance=provenance)


def tuned_checkpoint(folder: Path) -> Manifest:
    """Write a checkpoint with its own encoder, whose text prefix differs from the random encoder's."""
    tiny, brought = Encoder.load(RANDOM_TINY), folder / ENCODER
    brought.mkdir(parents=True)
    tiny._model.float().save_pretrained(brought)
    tiny._tokenizer.save(str(brought / "tokenizer.json"))
    prompts = {"default_prompt_name": "q", "prompts": {"q": "query: "}}
    (brought / "config_sentence_transformers.json").write_bytes(msgspec.json.encode(prompts))
    return tiny_checkpoint(folder, encoder=Encoder.load(str(brought)), encoder_uri=OWN_ENCODER)


def report(folder: Path, **verdict: dict[str, Any]) -> None:
    """Write a report into a checkpoint folder, with the given verdict per head."""
    (folder / "report.json").write_bytes(msgspec.json.encode({"verdict": verdict}))


def flip_a_byte(path: Path) -> None:
    """Flip the last byte of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
