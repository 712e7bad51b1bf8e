"""A TCP proxy in front of a broker that breaks connections in the ways networks do: reset, silence, delay, a lost answer.

It forwards whole frames of Kafka's protocol, of which it reads the length, the kind of request and its number. Start at
Proxy.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close sends RST, not FIN
PRODUCE = 0  # the API key of requests that append records


class Proxy:
    """Forwards `port` to `target`; use it as an asynchronous context. `resets` counts connections reset.

    Where `lose_every` is set, that many produce requests apart the broker's answer is lost: the records are appended, the
    connection is reset, and the client cannot know. `lost` counts them.
    """

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._links: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds, self.resets, self.swallowed = 0.0, 0, 0
        self.lose_every, self.lost, self._appended = 0, 0, 0

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
            abort(*pair)
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
        asked = set[int]()  # the numbers of produce requests without an answer yet
        both = [asyncio.create_task(self._ask(reader, link, asked)), asyncio.create_task(self._answer(far_reader, link, asked))]
        self._tasks.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task, end in zip(both, (far_writer, writer), strict=True):
            task.cancel()
            end.close()
        self._tasks.difference_update(both)
        self._links.discard(link)

    async def _ask(
        self, reader: asyncio.StreamReader, link: tuple[asyncio.StreamWriter, asyncio.StreamWriter], asked: set[int]
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await self._frame(reader)
                kind, _, number = struct.unpack_from(">hhi", frame, 4)
                if kind == PRODUCE:
                    asked.add(number)
                link[1].write(frame)
                await link[1].drain()

    async def _answer(
        self, reader: asyncio.StreamReader, link: tuple[asyncio.StreamWriter, asyncio.StreamWriter], asked: set[int]
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await self._frame(reader)
                (number,) = struct.unpack_from(">i", frame, 4)
                if number in asked:
                    asked.remove(number)
                    self._appended += 1
                    if self.lose_every and self._appended % self.lose_every == 0:
                        self.lost += 1
                        abort(*link)
                        return
                link[0].write(frame)
                await link[0].drain()

    async def _frame(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(4)
        frame = head + await reader.readexactly(*struct.unpack(">i", head))
        if not self._open.is_set():
            self.swallowed += len(frame)
            await self._open.wait()
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        return frame


def abort(*writers: asyncio.StreamWriter) -> None:
    """Reset connections: the other sides see an error, not an end."""
    for writer in writers:
        sock = writer.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        writer.transport.abort()
