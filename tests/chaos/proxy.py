"""Proxy a broker's TCP connections and inject network faults: resets, black holes, delays and lost responses.

It forwards whole frames of Kafka's protocol, and reads only their length, API key and correlation id. Start at Proxy.
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

    With `lose_every` = n, the response to every n-th produce request is lost: the broker appends the records, the
    connection is reset, and the client cannot know. `lost` counts these.
    """

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._links: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds, self.resets, self.swallowed = 0.0, 0, 0
        self.bytes_per_second = 0  # of each connection's responses; 0 means no limit
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
        """Become a black hole: connections are accepted and stay open, but no data passes."""
        self._open.clear()

    def heal(self) -> None:
        """Forward everything again, including held data."""
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        link = (writer, far_writer)
        self._links.add(link)
        pending = set[int]()  # correlation ids of produce requests without a response yet
        both = [
            asyncio.create_task(self._forward_requests(reader, link, pending)),
            asyncio.create_task(self._forward_responses(far_reader, link, pending)),
        ]
        self._tasks.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task, end in zip(both, (far_writer, writer), strict=True):
            task.cancel()
            end.close()
        self._tasks.difference_update(both)
        self._links.discard(link)

    async def _forward_requests(
        self, reader: asyncio.StreamReader, link: tuple[asyncio.StreamWriter, asyncio.StreamWriter], pending: set[int]
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await self._frame(reader)
                kind, _, number = struct.unpack_from(">hhi", frame, 4)
                if kind == PRODUCE:
                    pending.add(number)
                link[1].write(frame)
                await link[1].drain()

    async def _forward_responses(
        self, reader: asyncio.StreamReader, link: tuple[asyncio.StreamWriter, asyncio.StreamWriter], pending: set[int]
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await self._frame(reader)
                (number,) = struct.unpack_from(">i", frame, 4)
                if number in pending:
                    pending.remove(number)
                    self._appended += 1
                    if self.lose_every and self._appended % self.lose_every == 0:
                        self.lost += 1
                        abort(*link)
                        return
                if self.bytes_per_second:
                    await asyncio.sleep(len(frame) / self.bytes_per_second)
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
    """Reset connections: peers see an error instead of a clean close."""
    for writer in writers:
        sock = writer.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        writer.transport.abort()
