"""Load the model of role scorer from a checkpoint folder or a registry, and load another one when it is promoted.

A thread loads and warms up the new model while the old one scores. Then one assignment on the event loop replaces the
model. score_agent reads the model once per chunk, so no request waits, is lost or is scored twice. Start at
ServedModel.watch.
"""

import asyncio
import time
from collections import Counter
from pathlib import Path

import structlog

from models.serving.load_scorer import load_scorer
from models.serving.registry import PRODUCTION
from models.serving.scorer import Scorer
from schemas.signals import Unread
from stream.process.exit_codes import crash_only

POLL_SECONDS = 1.0
FileState = tuple[int, int, int]  # inode, size and modification time of production.json, which is replaced by renaming

log = structlog.get_logger()


class ServedModel:
    """Hold the model in use as `scorer`; `loaded` and `refused` count later promotions by outcome.

    `unread` counts the reviews that no model of this process could read, by reason.
    """

    def __init__(self, folder: Path, *, threads: int | None) -> None:
        """Load and warm up the model. This takes seconds: call it in a thread.

        Raises:
            ModelError, RegistryError: the first model is missing or invalid.
        """
        self._folder, self._threads = folder, threads
        self._checked_state = _file_state(folder)  # read before the model is loaded, so a promotion in between is noticed later
        self.loaded = self.refused = 0
        self.unread: Counter[Unread] = Counter()
        self.scorer = load_scorer(folder, threads=threads)
        self.scorer.warm_up()

    async def watch(self) -> None:
        """Check for a promoted model once a second, forever; an error of this code ends the process."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await crash_only("model watch", self.reload())

    async def reload(self) -> None:
        """Load the promoted model if production.json changed; keep the old model if the new one fails to load."""
        state = await asyncio.to_thread(_file_state, self._folder)
        if state is None or state == self._checked_state:
            return
        self._checked_state, was, started = state, self.scorer, time.monotonic()
        try:
            scorer = await asyncio.to_thread(self._load)
        except Exception as error:  # any fault of a promoted folder: keep the model in use
            self.refused += 1
            log.error(
                "model_refused",
                reason=str(error) or repr(error),
                in_use=was.model_version,
                action="the model in use keeps scoring; promote one that loads, or roll back, before you restart the worker",
            )
            return
        if scorer is not None:
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

    def _load(self) -> Scorer | None:
        """Load and warm up the promoted model; return None if it is the one in use."""
        old = self.scorer
        scorer = load_scorer(self._folder, threads=self._threads, encoder=old.encoder)
        if scorer.model_version == old.model_version:
            return None
        scorer.warm_up()
        return scorer


def _file_state(folder: Path) -> FileState | None:
    """Return inode, size and time of production.json; None if it is missing or its file system fails."""
    try:
        status = (folder / PRODUCTION).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
