"""Restore rows outside the rebalance callback, so that the consumer sends heartbeats meanwhile.

Faust awaits its tables inside the callback, where aiokafka sends no heartbeat: a restore longer than the session timeout
would never end. Here the callback only starts the restore; Faust's own recovery follows it. Start at Recovery.on_rebalance.
"""

import asyncio
from typing import Any

from faust.tables.manager import TableManager as FaustTableManager
from faust.tables.recovery import Recovery as FaustRecovery

from schemas.errors import BrokerError


class Recovery(FaustRecovery):  # type: ignore[misc]  # Faust has no types
    """Let every table take over its partitions, then run Faust's recovery, which finds nothing left to read."""

    _take_over: asyncio.Task[None] | None = None

    async def on_rebalance(
        self, assigned: set[Any], revoked: set[Any], newly_assigned: set[Any], generation_id: int = 0
    ) -> None:
        """Start to restore the assigned partitions, and return at once."""
        await self.abandon()
        self._take_over = asyncio.create_task(self._restore(assigned, revoked, newly_assigned, generation_id))

    async def abandon(self) -> None:
        """End a restore in progress; partitions that it did not complete are restored again by their next owner."""
        task, self._take_over = self._take_over, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def on_stop(self) -> None:
        """End a restore in progress when the app stops."""
        await self.abandon()
        await super().on_stop()

    async def _restore(self, assigned: set[Any], revoked: set[Any], newly_assigned: set[Any], generation_id: int) -> None:
        try:
            for table in self.tables.values():
                await table.data.take_over()
        except asyncio.CancelledError:  # of abandon(), which clears _take_over first; or of a client that was closed
            if self._take_over is asyncio.current_task():
                await self.app.crash(BrokerError("found the restore cancelled, expected it to end: start the worker again"))
            raise
        except Exception as error:  # the top of a task: the app ends with it
            await self.app.crash(error)
            return
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)


class TableManager(FaustTableManager):  # type: ignore[misc]  # Faust has no types
    """Use our recovery in Faust's table manager."""

    _recovery: Recovery | None

    @property
    def recovery(self) -> Recovery:
        """Return the recovery service of this app's tables."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
