"""Define Footfall's exception classes, in one tree.

An error's text says what was found, what was expected and what to do next. Some functions raise ValueError for an invalid
argument instead. Start at FootfallError.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line imports this file before it prints help
    from schemas.dead_letter import Reason


class FootfallError(Exception):
    """The root of the tree; any other exception is a defect or comes from a library."""


class DecodeError(FootfallError):
    """A record cannot be decoded and goes to the dead-letter topic. `reason` is its closed code."""

    def __init__(self, reason: "Reason", detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class LineRefused(FootfallError):
    """A line of an imported file cannot become an event. `reason` is the code it is counted under."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class SettingsError(FootfallError):
    """A setting is invalid; the text names it. A worker ends with exit code 78."""


class StartRefused(FootfallError):
    """A worker would lose or duplicate events if it continued from its state. A worker ends with exit code 78."""


class RowVersionError(FootfallError):
    """This version of Footfall cannot read a row. A worker ends with exit code 78."""


class DamagedRowError(RowVersionError):
    """A row of a known version cannot be decoded. Only its user starts again, with an empty row."""


class BrokerError(FootfallError):
    """A broker does not answer, refuses a request, lacks a topic, or is in a state that does not allow the operation."""


class LogError(FootfallError):
    """An event log, or files to import, cannot be read, written, replayed or verified."""


class DatasetError(FootfallError):
    """A dataset cannot be read or written."""


class TrainingError(FootfallError):
    """A model cannot be trained with these examples, settings or saved state."""


class CannotFit(TrainingError):
    """A plain model has too little data or does not converge. It is left out of the evaluation."""


class ModelError(FootfallError):
    """A checkpoint or an encoder must not be used: altered, incomplete, or of another feature spec."""


class RegistryError(FootfallError):
    """A model registry cannot perform an operation."""


class EvaluationError(FootfallError):
    """A report or golden users are invalid, or a model and a dataset cannot be evaluated together."""


class PromotionRefused(FootfallError):
    """A model must not be promoted to production. `reason` is the code of the reason."""

    def __init__(self, reason: StrEnum, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


class RunError(FootfallError):
    """A process of the demo or of a benchmark did not start, ended early or did not finish in time."""
