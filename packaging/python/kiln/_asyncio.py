"""How kiln.aio waits: by asyncio. kiln._threads has the same names."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from ._wire import REPLY_MAX, Link, too_long_error

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Channel:
    """Messages to and from kilnd."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            opened = self._link.socket
            self._streams = await asyncio.open_unix_connection(sock=opened, limit=REPLY_MAX)
        return self._streams

    async def send(self, message: bytes) -> None:
        _, writer = await self._opened()
        try:
            writer.write(message)
            await writer.drain()
        except OSError:
            raise self._link.why() from None

    async def receive(self) -> bytes:
        reader, _ = await self._opened()
        try:
            return (await reader.readuntil(b"\0"))[:-1]
        except (OSError, asyncio.IncompleteReadError):
            raise self._link.why() from None
        except asyncio.LimitOverrunError:
            raise too_long_error() from None

    async def close(self) -> None:
        """Ends what was asked for here."""
        try:
            # Whatever the loop does next, the other end hears of it now.
            self._link.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if self._streams is None:
            self._link.socket.close()
        else:
            self._streams[1].transport.abort()
        if self._link.client is not None:
            await asyncio.to_thread(self._link.end)


async def away(function: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    """Calls what takes a while, in a thread."""
    return await asyncio.to_thread(function, *args, **options)


class Beside:
    """A call that goes on beside the caller."""

    def __init__(
        self,
        function: Callable[_P, Coroutine[Any, Any, None]],
        *args: _P.args,
        **options: _P.kwargs,
    ) -> None:
        self._task = asyncio.create_task(function(*args, **options))

    async def join(self) -> None:
        """Waits for its end, and raises what it raised."""
        await self._task
