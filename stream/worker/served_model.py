"""Load the model of role scorer from a checkpoint folder or a registry, and load another one when it is promoted.

A thread loads and warms up the new model while the old one scores. Then one assignment on the event loop replaces the
model. score_agent reads the model once per chunk, so no request waits, is lost or is scored twice. A refused
model is loaded again once a file of its folder changes. Start at ServedModel.watch.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from models.serving.load_scorer import load_scorer
from models.serving.registry import PRODUCTION
from models.serving.scorer import Scorer
from schemas.signals import Unread
from stream.process.exit_codes import crash_only
from stream.process.file_states import FileState, file_state, file_states

POLL_SECONDS = 1.0

log = structlog.get_logger()


class ServedModel:
    """Hold the model in use as `scorer`; `loaded` and `refused` count later promotions by outcome.

    A model that is replaced by one that reads other features goes on answering the requests without those. `unread` counts
    the reviews that no model of this process could read, by reason.
    """

    def __init__(self, folder: Path, *, also: Sequence[Path] = (), threads: int | None) -> None:
        """Load and warm up the model, and those of `also`. This takes seconds: call it in a thread.

        Raises:
            ModelError, RegistryError: the first model is missing or invalid.
        """
        self._folder, self._threads = folder, threads
        self._promotion = file_state(folder / PRODUCTION)  # read before the model is loaded: a promotion in between counts
        self._refused_files: Mapping[Path, FileState | None] | None = None  # of the folder when a model was last refused
        self._last_files: Mapping[Path, FileState | None] = {}
        self.loaded = self.refused = 0
        self.unread: Counter[Unread] = Counter()
        self.scorer = load_scorer(folder, threads=threads)
        self.scorer.warm_up()
        self._also = [load_scorer(other, threads=threads, encoder=self.scorer.encoder) for other in also]
        self._previous: Scorer | None = None  # in use until a model that reads other features was promoted

    def scorers(self) -> list[Scorer]:
        """Return the models in use: the first that reads a request answers it."""
        return [self.scorer, *([] if self._previous is None else [self._previous]), *self._also]

    async def watch(self) -> None:
        """Check for a promoted model once a second, forever; an error of this code ends the process."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await crash_only("model watch", self.reload())

    async def reload(self) -> None:
        """Load the promoted model if production.json changed, or if files changed since it was refused.

        Keep the old model if the new one fails to load.
        """
        promotion = await asyncio.to_thread(file_state, self._folder / PRODUCTION)
        if promotion is None or (promotion == self._promotion and not await self._repaired()):
            return
        files = await asyncio.to_thread(file_states, [self._folder])  # before the load: a change during it is noticed later
        self._promotion, was, started = promotion, self.scorer, time.monotonic()
        try:
            scorer = await asyncio.to_thread(self._load)
        except Exception as error:  # any fault of a promoted folder: keep the model in use
            self.refused += 1
            self._refused_files = self._last_files = files
            log.error(
                "model_refused",
                reason=str(error) or repr(error),
                in_use=was.model_version,
                action="the model in use keeps scoring; the refused one is loaded again once a file of the folder changes",
                folder=str(self._folder),
            )
            return
        self._refused_files = None
        if scorer is not None:
            if set(scorer.features) - set(was.features):  # requests of a role features that is not upgraded yet
                self._previous = was
            self.scorer = scorer  # the next chunk reads it
            self.loaded += 1
            seconds = round(time.monotonic() - started, 2)
            log.info(
                "model_changed",
                model_version=scorer.model_version,
                previous_version=was.model_version,
                load_seconds=seconds,
                action="scoring with the new model from the next chunk",
            )

    async def _repaired(self) -> bool:
        """Return whether files changed since a model was refused, and nothing changed since the last call: a copy is done."""
        if self._refused_files is None:
            return False
        files = await asyncio.to_thread(file_states, [self._folder])
        settled, self._last_files = files == self._last_files, files
        return settled and files != self._refused_files

    def _load(self) -> Scorer | None:
        """Load and warm up the promoted model; return None if it is the one in use."""
        old = self.scorer
        scorer = load_scorer(self._folder, threads=self._threads, encoder=old.encoder)
        if scorer.model_version == old.model_version:
            return None
        scorer.warm_up()
        return scorer
