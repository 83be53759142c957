"""What is said of ports that cannot be had."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from dicomnode.net.ports import listen

KEYS = "node.host, node.port"


async def refusal(host: str, port: int) -> str:
    with pytest.raises(OSError) as caught:
        await listen(asyncio.Protocol, host, port, 1, keys=KEYS)
    return str(caught.value.strerror)


async def test_a_port_that_another_has_is_named_with_its_keys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = await refusal("127.0.0.1", port)
    assert words == f"cannot listen on 127.0.0.1:{port} ({KEYS}): Address already in use"


async def test_a_host_that_is_none_of_ours_is_named() -> None:
    assert "192.0.2.1:0 (node.host, node.port): Cannot assign" in await refusal("192.0.2.1", 0)


async def test_a_port_for_the_privileged_says_what_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forbidden(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", forbidden)
    words = await refusal("127.0.0.1", 104)
    assert "denied; ports below 1024 need the capability CAP_NET_BIND_SERVICE" in words
