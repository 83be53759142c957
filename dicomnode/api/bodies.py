"""The bodies of requests, read within bounds."""

from __future__ import annotations

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request


async def read_json(request: Request, max_bytes: int) -> Any:
    """Return the JSON value that a request carries; raises HTTPException 400 or 413.

    No more than ``max_bytes`` of it are taken into memory.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body is longer than {max_bytes} bytes")
    return await run_in_threadpool(_parsed, bytes(body))


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        raise HTTPException(400, "the JSON is nested too deeply") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
