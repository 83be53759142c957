"""Ports to listen on, and words for those that cannot be had."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

_FIRST_FREE_PORT = 1024


async def listen(
    factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, backlog: int, *, keys: str
) -> asyncio.Server:
    """Listen with ``factory`` for each connection; ``keys`` are the settings of host and port.

    Raises OSError, which names both, when the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(factory, host, port, backlog=backlog, reuse_address=True)
    except OSError as error:
        words = f"cannot listen on {host}:{port} ({keys}): {_reason(error)}"
        if error.errno == errno.EACCES and port < _FIRST_FREE_PORT:
            words += f"; ports below {_FIRST_FREE_PORT} need the capability CAP_NET_BIND_SERVICE"
        raise OSError(error.errno, words) from None


def _reason(error: OSError) -> str:
    # The event loops put the address into theirs, each in its own way.
    if isinstance(error, socket.gaierror) or not error.errno:
        return str(error.strerror or error)
    return os.strerror(error.errno)
