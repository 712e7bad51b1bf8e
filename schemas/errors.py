"""Every error that Footfall raises on purpose, in one tree; a person reads its text, so the text says what to do.

A text says what was found, what was expected, and what to do next. Start at FootfallError.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line imports this file before it prints help
    from schemas.dead_letter import Reason


class FootfallError(Exception):
    """The root: whatever else is raised is a defect, or comes from a library."""


class DecodeError(FootfallError):
    """A record that cannot become an event; it goes to the dead-letter topic. `reason` is its closed code."""

    def __init__(self, reason: "Reason", detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class LineRefused(FootfallError):
    """A line of an imported file that becomes no event. `reason` is the code by which it is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class SettingsError(FootfallError):
    """A setting that cannot be used; the text names it. The process ends with exit code 78."""


class StartRefused(FootfallError):
    """State that a worker must not continue from: it would lose or double events. The process ends with exit code 78."""


class RowVersionError(FootfallError):
    """A row that this version of Footfall cannot read. The process ends with exit code 78."""


class DamagedRowError(RowVersionError):
    """A row of a known version whose bytes cannot be decoded; only its user starts with an empty row."""


class BrokerError(FootfallError):
    """A broker that does not answer, refuses, or lacks a topic; or state on it that does not allow the operation."""


class LogError(FootfallError):
    """An event log, or files to import, that cannot be read, written, replayed or verified."""


class DatasetError(FootfallError):
    """A dataset that cannot be read or written."""


class TrainingError(FootfallError):
    """Examples, settings or a saved state that a model cannot be trained with."""


class CannotFit(TrainingError):
    """Too little data for a plain model, or a fit that does not converge; the model is left out."""


class ModelError(FootfallError):
    """A checkpoint or an encoder that must not be used: altered, incomplete, or of another feature spec."""


class RegistryError(FootfallError):
    """A model registry that cannot do what it is asked to do."""


class EvaluationError(FootfallError):
    """A report, golden users, or a model and a dataset that cannot be evaluated together."""


class PromotionRefused(FootfallError):
    """A model that must not serve. `ground` is the code of the reason."""

    def __init__(self, ground: StrEnum, text: str) -> None:
        super().__init__(f"{ground}: {text}")
        self.ground = ground


class RunError(FootfallError):
    """A process of the demo or of a benchmark that did not start, ended early or did not finish in time."""
