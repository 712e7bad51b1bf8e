"""A TCP proxy in front of a broker that breaks connections in the ways networks do: reset, silence, delay.

Start at Proxy.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close sends RST, not FIN


class Proxy:
    """Forwards `port` to `target`; use it as an asynchronous context. `resets` counts connections reset."""

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._links: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds, self.resets, self.swallowed = 0.0, 0, 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()

    def reset(self) -> int:
        """Reset every open connection on both sides and return how many there were."""
        links, self._links = self._links, set()
        for pair in links:
            for writer in pair:
                sock = writer.get_extra_info("socket")
                if sock is not None:
                    with suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                writer.transport.abort()
        self.resets += len(links)
        return len(links)

    def swallow(self) -> None:
        """Become a black hole: connections stay open and are accepted, nothing passes any more."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything through again, what was held included."""
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        link = (writer, far_writer)
        self._links.add(link)
        both = [asyncio.create_task(self._pump(reader, far_writer)), asyncio.create_task(self._pump(far_reader, writer))]
        self._tasks.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task, end in zip(both, (far_writer, writer), strict=True):
            task.cancel()
            end.close()
        self._tasks.difference_update(both)
        self._links.discard(link)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if not self._open.is_set():
                    self.swallowed += len(data)
                    await self._open.wait()
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                writer.write(data)
                await writer.drain()
