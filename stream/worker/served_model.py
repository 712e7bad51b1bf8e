"""The model that role scorer uses: a checkpoint folder's, or a registry's current one, changed for the next when promoted.

The next model is loaded and warmed in a thread while the old one scores; the change is one assignment on the event loop,
which score_agent reads once a chunk. So no request waits, is lost or is scored twice. Start at ServedModel.watch.
"""

import asyncio
import time
from pathlib import Path

import structlog

from models.serving.load_scorer import load_scorer
from models.serving.registry import PRODUCTION
from models.serving.scorer import Scorer
from stream.process.exit_codes import crash_only

LOOK_SECONDS = 1.0
Note = tuple[int, int, int]  # inode, size and time of production.json, which is replaced by renaming

log = structlog.get_logger()


class ServedModel:
    """`scorer` is the model in use; `loaded` and `refused` count what was promoted while it served."""

    def __init__(self, folder: Path, *, threads: int | None) -> None:
        """Load and warm the model; takes seconds, call it in a thread.

        Raises:
            ModelError, RegistryError: there is no model to begin with.
        """
        self._folder, self._threads = folder, threads
        self._seen = _note(folder)  # before what it names is read: what is promoted meanwhile is noticed later
        self.loaded = self.refused = 0
        self.scorer = load_scorer(folder, threads=threads)
        self.scorer.warm_up()

    async def watch(self) -> None:
        """Look once a second, for ever, whether another model was promoted; an error of this code ends the process."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await crash_only("model watch", self.look())

    async def look(self) -> None:
        """Change to the promoted model where production.json is another than last time; keep the old one where it cannot be."""
        note = await asyncio.to_thread(_note, self._folder)
        if note is None or note == self._seen:
            return
        self._seen, was, started = note, self.scorer, time.monotonic()
        try:
            scorer = await asyncio.to_thread(self._load)
        except Exception as error:  # whatever a promoted folder holds: the model in use goes on
            self.refused += 1
            log.error(
                "model_refused",
                reason=str(error) or repr(error),
                in_use=was.model_version,
                action="the model in use goes on; promote one that loads, or roll back",
            )
            return
        if scorer is not None:
            self.scorer = scorer  # the next chunk reads it
            self.loaded += 1
            seconds = round(time.monotonic() - started, 2)
            log.info("model_changed", model_version=scorer.model_version, was=was.model_version, seconds=seconds)

    def _load(self) -> Scorer | None:
        """Load and warm the promoted model; None where it is the one in use."""
        old = self.scorer
        scorer = load_scorer(self._folder, threads=self._threads, encoder=old.encoder)
        if scorer.model_version == old.model_version:
            return None
        scorer.warm_up()
        return scorer


def _note(folder: Path) -> Note | None:
    """Tell one production.json from another; None where there is none, or its file system does not answer."""
    try:
        status = (folder / PRODUCTION).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
