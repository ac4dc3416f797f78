"""How kiln.sync waits: by blocking. kiln._asyncio has the same names."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ._wire import REPLY_MAX, Link, too_long_error

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Channel:
    """Messages to and from kilnd."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._received = bytearray()

    def send(self, message: bytes) -> None:
        try:
            self._link.socket.sendall(message)
        except OSError:
            raise self._link.why() from None

    def receive(self) -> bytes:
        searched = 0
        while (end := self._received.find(0, searched)) < 0:
            searched = len(self._received)
            try:
                part = self._link.socket.recv(1 << 16)
            except OSError:
                part = b""
            if not part:
                raise self._link.why()
            if searched > REPLY_MAX:
                raise too_long_error()
            self._received += part
        message = bytes(self._received[:end])
        del self._received[: end + 1]
        return message

    def close(self) -> None:
        """Ends what was asked for here. Another thread that waits for a reply gets an error."""
        try:
            self._link.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._link.socket.close()
        self._link.end()


def away(function: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    """Calls what takes a while."""
    return function(*args, **options)


class Beside:
    """A call that goes on beside the caller."""

    def __init__(self, function: Callable[_P, None], *args: _P.args, **options: _P.kwargs) -> None:
        self._error: BaseException | None = None

        def run() -> None:
            try:
                function(*args, **options)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Waits for its end, and raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
